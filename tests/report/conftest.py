"""Synthetic records: small and exact, in the format that runs write."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from benchbd.core import params
from benchbd.core.recipe import Recipe
from benchbd.errors import BenchbdError
from benchbd.plan.cell import identity
from benchbd.plugins import registry
from benchbd.report.published import table2

KINDS = ("dataset", "attack", "defense", "model")


def full(kind: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Every parameter of a registered plugin; only the given ones for an unknown plugin."""
    try:
        resolved = params.resolve(registry.load(f"{kind}s", name), given, name)
    except BenchbdError:
        return dict(given)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in resolved.items()}


def record(
    attack: str = "bn-g",
    defense: str = "none",
    seed: int = 0,
    ca: float | None = 0.9,
    asr: float | None = 0.8,
    *,
    dataset: str = "cifar10",
    model: str = "resnet18",
    epochs: int = 80,
    version: int = 1,
    given: dict[str, dict[str, Any]] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A record; ``given`` holds parameters by component kind, ``more`` replaces fields."""
    names = {"dataset": dataset, "attack": attack, "defense": defense, "model": model}
    parts = {kind: full(kind, names[kind], (given or {}).get(kind, {})) for kind in KINDS}
    recipe = Recipe(epochs=epochs).spec()
    spec: dict[str, Any] = {"schema": 1, "recipe": recipe, "seed": seed}
    spec |= {k: {"name": names[k], "version": version, "params": parts[k]} for k in KINDS}
    result: dict[str, Any] = {
        "id": identity(spec),
        **names,
        "seed": seed,
        "label": "/".join(names.values()),
        "matrix": "some",
        "params": parts,
        "recipe": recipe,
        "status": "done",
        "error": None,
        "ca": ca,
        "asr": None if attack == "none" else asr,
        "ra": None,
        "detection": None,
        "poison": {"count": 0 if attack == "none" else 5000, "share_of_set": 0.0 if attack == "none" else 0.1},
        "time": {"total": 100.0, "own": 50.0, "stages": {"train": 90.0, "score": 10.0}},
        "peak_memory_bytes": 10**9,
        "epochs_trained": epochs,
        "trainings": {"full": 1},
        "trainings_computed": {"full": 1},
        "env": {"device": "Processor X", "precision": "cpu-fp32", "threads": 1, "versions": {"torch": "2.13.0"}},
        "artifacts": {},
        "notes": {},
        "needs": [],
        "control": False,
        "spec": spec,
        "sources": {},
    }
    result |= more
    if result["status"] != "done":
        result |= {"ca": None, "asr": None}
    return result


def as_published(seeds: int = 2, noise: float = 0.0001) -> list[dict[str, Any]]:
    """The paper's Table 2 as records, each number with a little noise by seed."""
    rng = random.Random(0)
    found = []
    for (dataset, attack, defense), cell in table2().items():
        for seed in range(seeds):
            ca, asr = (min(1.0, max(0.0, v + rng.uniform(-noise, noise))) for v in cell)
            single = {"teachers": 1, **({"alpha": 0.2, "beta": 0.003} if dataset == "gtsrb" else {})}
            lfd = {"defense": single} if defense == "lfd" else {}
            model = "resnet34" if dataset == "imagenet-subset" else "resnet18"
            found.append(record(attack, defense, seed, ca, asr, dataset=dataset, model=model, given=lfd))
    return found


@pytest.fixture(scope="session")
def make_record() -> Callable[..., dict[str, Any]]:
    """:func:`record`."""
    return record


@pytest.fixture(scope="session")
def published_records() -> list[dict[str, Any]]:
    """:func:`as_published`."""
    return as_published()
