"""Recipes by name, for the entry ``preset`` of a matrix's recipe."""

from __future__ import annotations

from typing import Any, NamedTuple

_FAST: dict[str, Any] = {
    "epochs": 8,
    "batch_size": 256,
    "optimizer": "sgd",
    "lr": 0.375,
    "momentum": 0.85,
    "nesterov": True,
    "weight_decay": 1.33e-3,
    "schedule": "onecycle",
    "peak": 0.23,
    "lr_start": 0.2,
    "lr_end": 0.07,
    "bias_lr": 64.0,
    "label_smoothing": 0.2,
    "ema": 0.99,
    "augment": ["translate2", "flip_alternate"],
}

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "backdoorbench": {
        "epochs": 100,
        "optimizer": "sgd",
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "augment": ["crop4", "hflip"],
    },
    "sgd-long": {
        "epochs": 200,
        "optimizer": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "augment": ["crop4", "hflip"],
    },
    "fast": _FAST,
    "muon": {**_FAST, "epochs": 6, "optimizer": "muon", "muon_lr": 0.04, "ema": 0.98},
}


class About(NamedTuple):
    """What a preset is, in a line, and its source."""

    summary: str
    source: str


ABOUT = {
    "paper": About("The default of a recipe: 80 epochs of Adam.", "LfD section 5.1."),
    "backdoorbench": About(
        "100 epochs of SGD, as the public tables of attacks and defenses train.",
        "BackdoorBench's attack prototype for CIFAR-10 (config/attack/prototype/cifar10.yaml), which its forks PDB and "
        "CGD keep.",
    ),
    "sgd-long": About("200 epochs of SGD.", "ABL, DBD, CBD and V&B: the longer of their two trainings of a victim."),
    "fast": About(
        "A few epochs for the model airbench: whole CIFAR-10 in minutes on a core.",
        "cifar10-airbench (Jordan 2024); docs/speed.md says which entries are ours.",
    ),
    "muon": About(
        "The recipe fast with Muon for the filters: fewer epochs for the model airbench.",
        "The Muon variant of cifar10-airbench (Jordan 2024); docs/speed.md says which entries are ours.",
    ),
}
"""Summary and source of each preset."""
