"""A guard on what a lab or workshop hands out: its attributes stay, its sets are intact, its models are its own."""

from __future__ import annotations

from typing import Any

from benchbd.errors import Misused, shown, with_article
from benchbd.plugins.train_set import TrainSet
from benchbd.plugins.trained import Origin, TrainedModel

_FIXED = (
    *("poisoned", "clean", "truth", "indices", "info", "target", "seed", "recipe", "device", "classes", "size"),
    *("model", "normalisation"),
)
"""Attributes that a plugin must not assign: keys and the evaluation rely on them."""


class Guarded:
    """The base of lab and workshop: attributes that stay, sets that are intact, models of its own."""

    def __init__(self) -> None:
        self._origin = Origin()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED and (name in vars(self) or isinstance(getattr(type(self), name, None), property)):
            raise Misused(f"{name} cannot be assigned; pass another set, model or recipe entry to train() instead")
        super().__setattr__(name, value)

    def _intact(self, *sets: TrainSet) -> None:
        """Raise Misused if a set was changed in place, or is not a training set."""
        for data in sets:
            if not isinstance(data, TrainSet):
                raise Misused(f"{shown(data)} is not a training set; pass lab.poisoned, or its subset() or replace()")
            data.check()

    def _own(self, trained: Any, what: str) -> TrainedModel:
        """The model, if it comes from this lab. Another cell's would make the result depend on what ran before.

        Raises:
            Misused: it does not, or is not a trained model.
        """
        if not isinstance(trained, TrainedModel):
            raise Misused(f"{what} is {with_article(type(trained).__name__)}, not what train or prune gave")
        if trained._origin is not self._origin:
            raise Misused(f"{what} is a model of another cell or read from a file; train it with this cell's lab")
        return trained
