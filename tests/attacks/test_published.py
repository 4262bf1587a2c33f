"""Every default of every attack, and every number of its own training, as literals: a change here is a new version."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchbd.attacks import (
    _generator,
    _input_aware,
    _inversion,
    _patterns,
    _watermark,
    adaptive,
    dynamic,
    trojan,
)
from benchbd.attacks._generator import Generator
from benchbd.attacks._pgd import PGD
from benchbd.core.recipe import Recipe
from benchbd.plan import matrix
from benchbd.plugins import registry
from benchbd.plugins.contract import Attack

SHARED = {"target": None, "rate": 0.1, "rate_of": "set", "pool": "all", "trigger_seed": 0}
DRAWN = {**SHARED, "trigger_seed": None}
"""Triggers that are drawn or trained follow the cell's seed."""
CLEAN_LABEL = {**SHARED, "rate": 0.8, "rate_of": "class"}
TROJAN = {**DRAWN, "mode": "inverted", "apply": "add", "neurons": 2, "activation": 100.0, "iterations": 1000}

DEFAULTS = {
    "none": SHARED,
    "bn-g": {**SHARED, "cell": None},
    "bn-w": {**SHARED, "size": None, "margin": None},
    "blend": {**DRAWN, "alpha": 0.2, "mode": "fixed", "channels": 1},
    "tj-sq": {**TROJAN, "size": None, "margin": None},
    "tj-wm": TROJAN,
    "dynamic": {
        **DRAWN,
        "mask_epochs": 25,
        "joint_epochs": 100,
        "drops": "scaled",
        "classifier_lr": 0.01,
        "batch": 128,
        "width": 32,
        "stages": 3,
        "hflip": True,
        "fit_images": None,
        "cross_in_train": False,
        "quantize": "round",
    },
    "cl": {
        **CLEAN_LABEL,
        "trigger_seed": None,
        "eps": 8.0,
        "step": 1.5,
        "steps": 100,
        "surrogate": "robust",
        "robust_eps": 8.0,
        "robust_step": 2.0,
        "robust_steps": 10,
        "robust_epochs": None,
        "trigger": "grid",
        "amplitude": 255,
    },
    "sig": {**CLEAN_LABEL, "variant": "additive", "delta": 40.0, "f": 6.0, "delta_test": None},
    "l2": {
        **DRAWN,
        "mode": "optimised",
        "tau": 3.22,
        "cap": 68.0,
        "nonnegative": True,
        "c": 10.0,
        "k": 10,
        "steps": 2000,
        "lr": 0.01,
        "penalty": 0.1,
        "batch": 128,
    },
    # WaNet (Nguyen and Tran 2021): rho_a is the rate, rho_n = 2 rho_a.
    "wanet": {**DRAWN, "k": 4, "s": 0.5, "grid_rescale": 1.0, "cross_ratio": 2.0},
    # backdoor-toolbox (Qi et al. 2023): its quick-start commands, and config.py for the opacities of the patches.
    "adap-blend": {
        **DRAWN,
        "rate": 0.003,
        "cover_ratio": 1.0,
        "alpha": 0.15,
        "alpha_test": 0.2,
        "pieces": 16,
        "mask_rate": 0.5,
        "cells": 8,
    },
    "adap-patch": {
        **DRAWN,
        "rate": 0.003,
        "cover_ratio": 2.0,
        "alphas": [0.5, 0.2, 0.5, 0.3],
        "alpha_test": 1.0,
        "tested": "corners+grid",
    },
    # BackdoorBench's config/attack: ftrojannn/default.yaml, bpp/default.yaml.
    "ftrojan": {
        **SHARED,
        "magnitude": 30.0,
        "positions": [15, 15, 31, 31],
        "window": 32,
        "channels": [1, 2],
        "space": "ycrcb",
        "cast": "round",
    },
    "bpp": {**SHARED, "levels": 8, "dithering": False, "negative_ratio": 1.0},
    "bn-a2a": {**SHARED, "cell": None, "smoothing": 0.0, "spread": "uniform"},
    "lfd-adaptive": {
        **DRAWN,
        "of": "lfd",
        "alpha": None,
        "alphas": [0.2, 0.1, 0.07, 0.05, 0.03],
        "alpha_test": 0.2,
        "cover_ratio": 0.0,
        "verify": True,
    },
}

CONSTANTS = [
    # Input-aware (Nguyen and Tran 2020): density and weight of its punishment, shares of a batch, augmentation.
    (_input_aware, "DENSITY", 0.032),
    (_input_aware, "NORM_WEIGHT", 100.0),
    (_input_aware, "SHARE", 0.1),
    (_input_aware, "CROP", 5),
    (_input_aware, "DEGREES", 10.0),
    (_input_aware, "MASK_DROPS", (10 / 25, 20 / 25)),
    (_input_aware, "CLASSIFIER_DROPS", (100 / 575, 200 / 575, 300 / 575, 400 / 575)),
    (_input_aware, "PATTERN_DROPS", (200 / 575, 300 / 575, 400 / 575, 500 / 575)),
    (dynamic, "ENOUGH", 0.97),
    (_generator, "_SOFTEN", 2 + 1e-7),
    # I-BAU's public square trigger.
    (trojan, "MEANS", (95.0, 98.0, 106.0)),
    (trojan, "DEVIATION", 100.0),
    (_patterns, "CELLS", 32),
    (_watermark, "CANVAS", 224),
    (adaptive, "CLOSED", 0.9),
]


def made(name: str) -> Attack:
    return registry.make("attacks", name)


def built_in() -> set[str]:
    here = Path(registry.find("attacks", "bn-g").file or "").parent
    return {e.name for e in registry.entries("attacks") if e.file and Path(e.file).parent == here}


def test_the_table_holds_every_built_in_attack():
    made_elsewhere = {"imported"}
    assert set(DEFAULTS) == built_in() - made_elsewhere


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_the_published_ones(name):
    assert made(name).params() == DEFAULTS[name]


@pytest.mark.parametrize(("module", "name", "value"), CONSTANTS, ids=[name for _, name, _ in CONSTANTS])
def test_constants_are_the_published_ones(module, name, value):
    assert getattr(module, name) == value


def test_only_clean_label_attacks_keep_labels():
    assert {name for name in DEFAULTS if made(name).clean_label} == {"cl", "sig"}


def test_generators_have_the_published_sizes():
    # The same widths and stages as the defaults above.
    for channels, parameters in ((3, 723_273), (1, 722_691)):
        net = Generator(channels, DEFAULTS["dynamic"]["width"], DEFAULTS["dynamic"]["stages"])
        assert sum(p.numel() for p in net.parameters()) == parameters


def test_cl_trains_its_surrogate_and_makes_its_noise_as_published():
    asked = {}

    def train(clean, **given):
        asked.update(given)
        raise InterruptedError

    workshop = SimpleNamespace(recipe=Recipe(), clean=None, train=train, indices=np.arange(3))
    with pytest.raises(InterruptedError):
        made("cl").prepare(workshop)
    assert asked == {"name": "robust-surrogate", "perturb": PGD(8.0, 2.0, 10), "epochs": 80}


def test_cl_noise_is_made_with_the_given_radius_step_and_steps(open_workshop, monkeypatch):
    attack, asked = made("cl(surrogate='standard')"), []

    def spy(net, images, labels, noise, device):
        asked.append(noise)
        return images

    monkeypatch.setattr("benchbd.attacks._pgd.perturbed", spy)
    attack.prepare(open_workshop(attack, count=8, indices=np.array([1, 5])))
    assert asked == [PGD(8.0, 1.5, 100)]


class _Spy:
    """Notes with what groups optimisers are made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple] = []
        for name, keys in (("Adam", ("lr", "betas")), ("SGD", ("lr", "momentum", "weight_decay"))):
            monkeypatch.setattr(torch.optim, name, self._of(name, getattr(torch.optim, name), keys))

    def _of(self, name, cls, keys):
        def make(*args, **kwargs):
            optimizer = cls(*args, **kwargs)
            self.asked.append((name, *(optimizer.param_groups[0][key] for key in keys)))
            return optimizer

        return make


@pytest.mark.filterwarnings("ignore:dynamic", "ignore:Detected call")
def test_dynamic_optimises_as_published(open_workshop, monkeypatch):
    spy = _Spy(monkeypatch)
    monkeypatch.setattr(_input_aware, "pairs", lambda *a: iter([]))
    monkeypatch.setattr(_input_aware, "_finite", lambda *a: 0.0)
    attack = made("dynamic(mask_epochs=1, joint_epochs=1, width=2, stages=1)")
    attack.prepare(open_workshop(attack, count=20))
    assert spy.asked == [("Adam", 0.01, (0.5, 0.9)), ("SGD", 0.01, 0.9, 5e-4), ("Adam", 0.01, (0.5, 0.9))]


def test_dynamic_augments_by_five_pixels_and_ten_degrees(monkeypatch):
    draws = []
    monkeypatch.setattr(_input_aware, "_turned", lambda images, draw: draws.append(draw) or images)
    images, device = torch.zeros(2000, 3, 8, 8, dtype=torch.uint8), torch.device("cpu")
    plan = _input_aware.Schedule(0, 1, 1000, True, device, lambda *a, **k: None)
    list(_input_aware.pairs(images, torch.zeros(2000, dtype=torch.int64), plan, "mask", 0))
    down, right, angle, mirror = torch.cat(draws).unbind(1)
    for shift in (down, right):
        assert sorted(shift.unique().tolist()) == list(range(-5, 6))
    assert 0.99 * math.radians(10) < float(angle.abs().max()) <= math.radians(10)
    assert float(mirror.mean()) == pytest.approx(0.5, abs=0.04)


def test_trojan_inversion_optimises_as_published(open_workshop, monkeypatch):
    workshop = open_workshop(made("tj-sq"), count=8)
    net = workshop.network(0)
    spy, asked = _Spy(monkeypatch), []
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR
    monkeypatch.setattr(
        torch.optim.lr_scheduler,
        "CosineAnnealingLR",
        lambda optimizer, steps: asked.append(steps) or cosine(optimizer, steps),
    )
    options = {"neurons": 2, "activation": 100.0, "iterations": 3, "seed": 0, "device": workshop.device}
    _inversion.excite(net, np.ones((32, 32)), **options, progress=lambda step, loss: None)
    assert [one[:2] for one in spy.asked] == [("Adam", 0.1)]
    assert asked == [3]


def test_table2_has_the_settings_the_paper_gives_for_each_data_set():
    found = {
        (cell.dataset.name, cell.attack.name): cell.components().attack.params()
        for cell in matrix.load("table2", seeds=[0]).cells
    }
    cifar = {"none", "bn-g", "bn-w", "blend", "tj-sq", "tj-wm", "dynamic", "cl", "sig", "l2"}
    gtsrb = {"none", "bn-g", "blend", "tj-sq", "dynamic", "cl", "sig"}
    changed = {
        # 9.5 % is not met by any GTSRB class, hence 95 % of the class; mirrored images on CIFAR only.
        ("gtsrb", "cl"): {"rate": 0.95},
        ("gtsrb", "sig"): {"rate": 0.95},
        ("gtsrb", "dynamic"): {"hflip": False},
    }
    assert {name for data, name in found if data == "cifar10"} == cifar
    assert {name for data, name in found if data == "gtsrb"} == gtsrb
    for (data, name), params in found.items():
        assert params == {**DEFAULTS[name], **changed.get((data, name), {})}, (data, name)
