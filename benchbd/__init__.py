"""benchbd: compare training-time defenses against backdoor attacks on image classifiers.

What plugin authors and library users import. Nothing heavy is imported here: ``TrainedModel`` and ``TrainSet``, which
need torch, are imported when first asked for; ``run_matrix`` and ``load_results`` import what they need when called.
"""

from __future__ import annotations

# Comes first: the imports below take most of the start, and Ctrl-C during them is no error.
import benchbd.core.early_interrupt  # noqa: F401

# isort: split
from typing import TYPE_CHECKING, Any

from benchbd import deprecated
from benchbd.core.images import DatasetInfo, Images, Normalisation
from benchbd.core.recipe import Recipe
from benchbd.core.transform import Patch, TestTransform
from benchbd.errors import BenchbdError, Diverged, Impossible, UsageError
from benchbd.plugins.contract import (
    UNDEFENDED,
    Attack,
    Budget,
    Dataset,
    Defense,
    Model,
    StampContext,
    Training,
    Work,
    attack,
    dataset,
    defense,
    model,
    share_of,
)
from benchbd.plugins.scorer import Scorer

if TYPE_CHECKING:
    from benchbd.api import load_results, run_matrix
    from benchbd.plugins import registry
    from benchbd.plugins.handles import Lab, Workbench, Workshop
    from benchbd.plugins.train_set import TrainSet
    from benchbd.plugins.trained import TrainedModel

_LAZY = {
    **dict.fromkeys(("Lab", "Workbench", "Workshop"), "benchbd.plugins.handles"),
    "TrainSet": "benchbd.plugins.train_set",
    "TrainedModel": "benchbd.plugins.trained",
    "registry": "benchbd.plugins.registry",
    **dict.fromkeys(("load_results", "run_matrix"), "benchbd.api"),
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
    "Patch",
    "Recipe",
    "Scorer",
    "StampContext",
    "TestTransform",
    "TrainSet",
    "TrainedModel",
    "Training",
    "UsageError",
    "Work",
    "Workbench",
    "Workshop",
    "attack",
    "dataset",
    "defense",
    "load_results",
    "model",
    "registry",
    "run_matrix",
    "share_of",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        module = importlib.import_module(_LAZY[name])
        return module if name == "registry" else getattr(module, name)
    raise AttributeError(f"module 'benchbd' has no attribute {name!r}")


deprecated.old_names(__name__, Stamp="StampContext", Trained="TrainedModel")
deprecated.find_old_modules()
