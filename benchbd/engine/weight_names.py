"""Names that other code gives the weights of networks that benchbd has too.

The networks compute the same; only the names differ, and how blocks are grouped into stages. The names are those of
kuangliu's pytorch-cifar (BackdoorBench, BackdoorBox, backdoor-toolbox), of torchvision's ResNets and of xternalz's
WideResNet (NAD, ABL, CBD).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set

import torch
from torch import Tensor

_BLOCK = r"(?:layer|block)(?P<stage>\d{1,9})\.(?:layer\.)?(?P<place>\d{1,9})\."
Rules = tuple[tuple[str, str], ...]
"""Start of a name in other code, as a pattern, and in benchbd. The first that fits applies."""

PRE_ACTIVATION: Rules = (
    (_BLOCK + r"(?:shortcut\.0|convShortcut)\.", "blocks.{block}.shortcut."),
    (_BLOCK, "blocks.{block}."),
    (r"conv1\.", "stem."),
    (r"bn1\.", "last."),
)
"""PreActResNet and WideResNet; blocks are numbered through all stages."""
RESIDUAL: Rules = (
    (_BLOCK + r"downsample\.", "stages.{stage}.{place}.shortcut."),
    (_BLOCK, "stages.{stage}.{place}."),
    (r"conv1\.", "stem.0."),
    (r"bn1\.", "stem.1."),
)
"""ResNets of basic blocks; their names do not depend on the stem."""
CHAIN: Rules = ((r"features\.", "convolutions."),)
"""VGG."""
LAYOUTS = (PRE_ACTIVATION, RESIDUAL, CHAIN)


def own_names(state: Mapping[str, Tensor], own: Set[str]) -> dict[str, Tensor]:
    """A state under the names of a network, if one of ``LAYOUTS`` gives it more of them than it has.

    Args:
        state: tensors by the names of other code.
        own: the network's names.
    """
    best, most = dict(state), len(state.keys() & own)
    for rules in LAYOUTS:
        renamed = _renamed(state, rules)
        if (hits := len(renamed.keys() & own)) > most and len(renamed) == len(state):
            best, most = renamed, hits
    return best


def _renamed(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    places = {(int(m["stage"]), int(m["place"])) for name in state if (m := re.match(_BLOCK, name))}
    block = {place: number for number, place in enumerate(sorted(places))}
    return {_name(name, rules, block): value for name, value in state.items()}


def _name(name: str, rules: Rules, block: Mapping[tuple[int, int], int]) -> str:
    for pattern, start in rules:
        if m := re.match(pattern, name):
            numbers = {}
            if "{" in start:
                stage, place = int(m["stage"]), int(m["place"])
                numbers = {"stage": stage - 1, "place": place, "block": block[stage, place]}
            return start.format(**numbers) + name[m.end() :]
    return name


def without_pruning(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state in which ``x_orig`` and ``x_mask``, as ``torch.nn.utils.prune`` keeps them, are their product ``x``."""
    found = dict(state)
    for name in state:
        plain = name.removesuffix("_orig")
        mask, value = state.get(f"{plain}_mask"), state[name]
        if plain != name and mask is not None and plain not in state and _multiply(value, mask):
            del found[name], found[f"{plain}_mask"]
            found[plain] = value * mask
    return found


def _multiply(value: Tensor, mask: Tensor) -> bool:
    """Whether both are plain floats of one shape that a file holds in full: a product of repeated ones may be huge."""
    both = (value, mask)
    if any(t.is_nested or t.layout != torch.strided or t.device.type != "cpu" for t in both):
        return False
    full = all(t.is_floating_point() and t.numel() * t.element_size() <= t.untyped_storage().nbytes() for t in both)
    return full and value.shape == mask.shape
