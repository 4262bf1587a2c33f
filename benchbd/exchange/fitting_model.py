"""Which model of benchbd a file's weights fit, for messages about one that they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from benchbd.core.images import DatasetInfo, Normalisation
from benchbd.engine.outside_state import COUNTER, renamed_state
from benchbd.errors import BenchbdError
from benchbd.plugins import registry
from benchbd.plugins.identity import part_of
from benchbd.plugins.trained import ModelSpec

CANDIDATES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("preactresnet18", {}),
    ("resnet18", {}),
    ("resnet34", {}),
    ("resnet18", {"stem_kind": "cifar"}),
    ("wrn-16-1", {}),
    ("vgg11", {}),
    ("torchvision", {"network": "resnet18"}),
    ("torchvision", {"network": "resnet34"}),
    ("torchvision", {"network": "resnet50"}),
)
"""The networks that public backdoored checkpoints mostly are."""


def fitting_model(state: Mapping[str, Tensor], info: DatasetInfo) -> str | None:
    """The spec of the first of ``CANDIDATES`` whose names and shapes are those of the weights; None if none is.

    The number of classes may differ.

    Args:
        state: tensors by the names in the file.
        info: size and classes of the data set.
    """
    for name, params in CANDIDATES:
        try:
            model = registry.make("models", name, **params)
            model.check(info)
            part = part_of(model)
            pixels = Normalisation((0.0,) * 3, (1.0,) * 3)
            net = ModelSpec(model, part, info.classes, info.size, pixels).build_to_load()
        except BenchbdError:  # not for images of this size, or a package is missing
            continue
        if _shapes(renamed_state(state, net)) == _shapes(net.state_dict()):
            return part.text
    return None


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name, without those that a file may lack and without the number of classes."""
    skipped = ("mean", "std", "channel_mask")
    found = {
        name: () if value.is_nested else tuple(value.shape)  # a nested tensor has no shape
        for name, value in state.items()
        if not name.endswith(COUNTER)
    }
    return {
        name: shape[1:] if name.startswith("net.head.") else shape
        for name, shape in found.items()
        if name not in skipped
    }
