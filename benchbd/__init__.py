"""benchbd: compare training-time defenses against backdoor attacks on image classifiers.

What plugin authors and library users import. Nothing heavy is imported here: ``Lab``, ``Trained``, ``TrainSet`` and
``Workshop``, which need torch, are found when first asked for; ``run_matrix`` and ``load_results`` import what they
need when called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchbd.components import (
    UNDEFENDED,
    Attack,
    Budget,
    Dataset,
    DatasetInfo,
    Defense,
    Images,
    Model,
    Normalisation,
    Stamp,
    Training,
    attack,
    dataset,
    defense,
    model,
)
from benchbd.errors import BenchbdError, Diverged, Impossible, UsageError
from benchbd.recipe import Recipe

if TYPE_CHECKING:
    from benchbd.lab import Lab, Trained, TrainSet
    from benchbd.library import load_results, run_matrix
    from benchbd.workshop import Workshop

_LAZY = {
    **dict.fromkeys(("Lab", "Trained", "TrainSet"), "benchbd.lab"),
    **dict.fromkeys(("load_results", "run_matrix"), "benchbd.library"),
    "Workshop": "benchbd.workshop",
}

__all__ = [
    "UNDEFENDED",
    "Attack",
    "BenchbdError",
    "Budget",
    "Dataset",
    "DatasetInfo",
    "Defense",
    "Diverged",
    "Images",
    "Impossible",
    "Lab",
    "Model",
    "Normalisation",
    "Recipe",
    "Stamp",
    "TrainSet",
    "Trained",
    "Training",
    "UsageError",
    "Workshop",
    "attack",
    "dataset",
    "defense",
    "load_results",
    "model",
    "run_matrix",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'benchbd' has no attribute {name!r}")
