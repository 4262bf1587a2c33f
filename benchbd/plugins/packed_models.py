"""The models that a defense says it packs."""

from __future__ import annotations

from typing import Any

from benchbd.errors import UsageError, shown
from benchbd.plugins import registry
from benchbd.plugins.contract import Defense, Model


def packed_models(defense: Defense) -> list[Model]:
    """The models that a defense packs.

    Raises:
        UsageError: ``packed_models()`` raises, or returns anything but specs of models.
    """
    with registry.blame("defenses", defense.name):
        specs: Any = defense.packed_models()
        if not isinstance(specs, (tuple, list)) or not all(isinstance(spec, str) for spec in specs):
            raise TypeError(f"packed_models() must return a tuple of specs such as ('resnet-s',), not {shown(specs)}")
    try:
        return [registry.make("models", spec) for spec in specs]
    except UsageError as error:
        raise UsageError(f"defense {defense.name!r}: packed_models(): {error}") from error
