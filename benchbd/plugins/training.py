"""A training as a plugin declares it before anything runs, so that plans can count it and cells can share it."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from benchbd import deprecated

COUNTED = ("full", "feature-model", "teacher", "fine-tune")
"""Kinds of trainings that records count."""


class Training(NamedTuple):
    """One training that a defense or an attack will ask for, as plans count it.

    Attributes:
        kind: ``full`` (the base recipe on the student), ``feature-model``, ``teacher`` or ``fine-tune``. Attacks also
            have ``loop``: a loop of the attack's own, which records do not count.
        shared: what besides the row and seed determines it, hashable; equal tuples are computed once. Of a ``loop``:
            what other variants of the attack with the same ``trigger_seed`` share, () where its result is the trigger.
        recipe: entries of the recipe that it changes and that count as if the matrix had changed them, such as
            ``(("epochs", 5),)``. What else it changes belongs into ``shared``.
    """

    kind: Literal["full", "feature-model", "teacher", "fine-tune", "loop"]
    shared: tuple[Any, ...]
    recipe: tuple[tuple[str, Any], ...] = ()


deprecated.old_attributes(Training, what="kind")
deprecated.old_keywords(Training, what="kind")

UNDEFENDED = Training("full", ("undefended",))
"""The base recipe on the whole set of the row: the model of the cell without a defense."""
