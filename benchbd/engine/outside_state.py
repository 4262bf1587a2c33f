"""Weights of other programs under the names of a classifier, and loading them with every misfit in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchbd.engine.network import Classifier
from benchbd.engine.weight_names import own_names, without_pruning
from benchbd.errors import Diverged, UsageError, shown

HEADS = ("fc", "linear", "classifier", "last_linear")
"""Names that other code gives the last linear layer."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "1.")
"""What DataParallel, torch.compile, Lightning, benchbd and a Sequential (resize, network) put before every name."""
COUNTER = "num_batches_tracked"
"""End of the names of batch norm's counters, which nothing computes with."""


def renamed_state(state: Mapping[str, Tensor], net: Classifier) -> dict[str, Tensor]:
    """A state under the names of a classifier.

    Args:
        state: tensors by the names of the classifier, of the network in it, of its library or of other code
            (:mod:`benchbd.engine.weight_names`); its last layer may have one of ``HEADS`` as its name.
        net: the classifier.
    """
    known = net.state_dict()
    own = {name.removeprefix("net.") for name in known}
    found = dict(state) if any(name.endswith("_orig") for name in own) else without_pruning(state)
    while prefix := next((prefix for prefix in PREFIXES if _before_all(prefix, found, own)), ""):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    if (library := getattr(net.net, "library_names", None)) is not None:
        named = library()
        found = {named.get(name, name): value for name, value in found.items()}
    else:
        found = own_names(found, own)
    unused = getattr(net.net, "unused_names", ())
    found = {name: value for name, value in found.items() if not name.startswith(tuple(unused))}
    if not any(name.startswith("net.") for name in found):
        whole = {name for name in ("mean", "std", "channel_mask") if f"net.{name}" not in known}
        found = {name if name in whole else f"net.{name}": value for name, value in found.items()}
    if "net.head.weight" not in found:
        heads = [name for name in HEADS if f"net.{name}.weight" in found and f"net.{name}.weight" not in known]
        for part in ("weight", "bias") if len(heads) == 1 else ():
            if f"net.{heads[0]}.{part}" in found:
                found[f"net.head.{part}"] = found.pop(f"net.{heads[0]}.{part}")
    return found


def _before_all(prefix: str, state: Mapping[str, Tensor], own: set[str]) -> bool:
    """Whether a prefix stands before all names of a state, and before none of the network's own."""
    given = bool(state) and all(name.startswith(prefix) for name in state)
    return given and not any(name.startswith(prefix) for name in own)


def odd_tensor(value: Tensor, own: Tensor, name: str) -> str | None:
    """Say why a tensor cannot stand for one of a network, whatever its shape; None if it can.

    Args:
        value: the tensor.
        own: the network's.
        name: its name.
    """
    if value.is_nested or value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
        return "is not a plain array of numbers"
    if own.is_floating_point() != value.is_floating_point() and not name.endswith(COUNTER):
        return f"is {value.dtype}, not {own.dtype}"
    return "is complex" if value.is_complex() else None


def load_outside_state(net: Classifier, state: Mapping[str, Tensor], misfit: str) -> None:
    """Load a state whose mean, std, channel mask and counts of batches may be missing: those of ``net`` stay.

    Args:
        net: gets the state.
        state: tensors by the names of the classifier.
        misfit: how the message begins.

    Raises:
        UsageError: names or shapes differ, or a value is not a plain number.
        Diverged: a value is not finite.
    """
    wanted = net.state_dict()
    optional = {"mean", "std", "channel_mask", *(name for name in wanted if name.endswith(COUNTER))}
    missing = [name for name in wanted if name not in state and name not in optional]
    unknown = [name for name in state if name not in wanted]
    if missing or unknown:
        parts = [f"{what} {_some(names)}" for what, names in (("lacks", missing), ("has unknown", unknown)) if names]
        raise UsageError(f"{misfit}: it {' and '.join(parts)}")
    for name, value in state.items():
        short = name.removeprefix("net.")
        if not value.is_nested and value.shape != wanted[name].shape:
            raise UsageError(f"{misfit}: {short} is {tuple(value.shape)}, not {tuple(wanted[name].shape)}")
        if odd := odd_tensor(value, wanted[name], name):
            raise UsageError(f"{misfit}: {short} {odd}")
        if not torch.isfinite(value.float()).all():
            raise Diverged(f"{misfit}: {short} has values that are not finite")
    net.load_state_dict({**wanted, **state})


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(name.removeprefix("net.") for name in names[:3]) + rest


def state_tensors(state: Any, name: str) -> dict[str, torch.Tensor]:
    """Tensors by name on the CPU. Raises UsageError, which begins with ``name``, for anything but arrays by name."""
    if not isinstance(state, Mapping) or not state:
        raise UsageError(f"{name}: a state is a dict of arrays by name, as state_dict() returns, not {shown(state)}")
    found = {}
    for key, value in state.items():
        tensor = value.detach().cpu() if isinstance(value, torch.Tensor) else value
        if not isinstance(tensor, torch.Tensor):
            try:
                tensor = torch.from_numpy(np.array(value))
            except (TypeError, ValueError):
                raise UsageError(f"{name}: {shown(str(key))} is {shown(value)}, not an array of numbers") from None
        found[str(key)] = tensor
    return found
