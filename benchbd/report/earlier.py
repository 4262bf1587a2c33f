"""Parameters that records of earlier plugin versions lack, with the values that those versions implied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Implied = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]
"""(parameters, recipe) -> the value that a record without the parameter implies."""


def _recipe_augment(params: Mapping[str, Any], recipe: Mapping[str, Any]) -> Any:
    return recipe.get("augment")


EARLIER: dict[tuple[str, str], dict[str, Any | Implied]] = {
    ("attack", "lfd-adaptive"): {"verify": False},
    ("defense", "abl"): {"unlearn_steps": 80},  # without effect, because these records have unlearn_epochs
    ("defense", "asd"): {"augment": _recipe_augment},
    ("defense", "dbd"): {"augment": _recipe_augment},
    ("defense", "lfd"): {"teachers": 1, "teacher_steps": 4000},  # the latter without effect beside teacher_epochs
    ("defense", "lfd-ensemble"): {"rungs": lambda params, recipe: [params.get("teacher")], "teacher_steps": 4000},
    ("defense", "spectral"): {"scored": "centred"},
}
"""By kind and name of a plugin: each parameter that was added, with the value that it had before."""


def completed(kind: str, name: str, params: Mapping[str, Any], recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of a record's component, with those that its plugin did not have yet."""
    younger = EARLIER.get((kind, name))
    if younger is None:
        return params
    missing = {k: v for k, v in younger.items() if k not in params}
    return {**params, **{k: v(params, recipe) if callable(v) else v for k, v in missing.items()}} if missing else params
