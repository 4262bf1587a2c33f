"""Recipes by name, for the entry ``preset`` of a matrix's recipe."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # LfD section 5.1; the defaults of a recipe.
    "paper": {},
    # BackdoorBench's attack prototype for CIFAR-10 (config/attack/prototype/cifar10.yaml), which its forks PDB and CGD
    # keep; the public tables of attacks and defenses use it.
    "backdoorbench": {
        "epochs": 100,
        "optimizer": "sgd",
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "augment": ["crop4", "hflip"],
    },
    # What ABL, DBD, CBD and V&B train their victims with, in the longer of their two lengths.
    "sgd-long": {
        "epochs": 200,
        "optimizer": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "augment": ["crop4", "hflip"],
    },
    # After cifar10-airbench (Jordan 2024), for the model airbench; docs/speed.md says which entries are ours.
    "fast": {
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
    },
}
