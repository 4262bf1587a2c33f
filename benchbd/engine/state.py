"""The optimiser, and the state that a training needs to resume as if it had never stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchbd.core.recipe import Recipe
from benchbd.engine.muon import Muon

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
"""Layers whose scale and shift train at the rate of biases."""
FILTERS_NDIM = 4
"""Axes of the filters of a convolution, which Muon trains: (out, in, height, width)."""


class SGDW(torch.optim.SGD):
    """SGD whose weight decay, ``decoupled_decay`` of each group, is decoupled from the gradients.

    As in Loshchilov and Hutter 2019 and torch's AdamW: a step multiplies weights by 1 - lr * decay, then does SGD.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Shrink the weights that have a gradient, then step."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params and group["decoupled_decay"]:
                torch._foreach_mul_(params, 1 - group["lr"] * group["decoupled_decay"])
        super().step(closure)


SGDS: dict[str, Callable[..., torch.optim.SGD]] = {"sgd": torch.optim.SGD, "sgdw": SGDW, "muon": Muon}
"""Optimisers that are SGD for some or all weights."""


def _groups(net: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups: one, or two if biases and norms have a rate of their own; with Muon, one more for filters.

    ``lr_factor`` scales the recipe's learning rate; the weight decay of a step, its product with the rate, stays.
    """
    trainable = [p for p in net.parameters() if p.requires_grad]
    filters = [p for p in trainable if p.ndim == FILTERS_NDIM] if recipe.optimizer == "muon" else []
    orthogonal = {id(p) for p in filters}
    biases = {
        id(p)
        for module in net.modules()
        for name, p in module.named_parameters(recurse=False)
        if isinstance(module, NORMS) or name in ("bias", "head_bias")  # a pack's head is not a layer
    }
    apart = biases if recipe.bias_lr != 1 else set()
    parts = [
        ([p for p in trainable if id(p) not in apart | orthogonal], 1.0, False),
        ([p for p in trainable if id(p) in apart], recipe.bias_lr, False),
        (filters, recipe.muon_lr / recipe.lr if filters and recipe.lr else 1.0, True),
    ]
    return [
        {
            "params": params,
            "lr_factor": factor,
            "weight_decay": 0.0 if of_filters else recipe.weight_decay / factor,
            "orthogonal": of_filters,
        }
        for params, factor, of_filters in parts
        if params
    ]


def make_optimizer(net: nn.Module, recipe: Recipe, device: torch.device, models: int = 1) -> torch.optim.Optimizer:
    """Make the recipe's optimiser, fused, with its state allocated; on CUDA its rate is a tensor, for graphs.

    Args:
        net: the network that is trained.
        recipe: names the optimiser and its settings.
        device: where the network is.
        models: number of models that the network packs.
    """
    cuda = device.type == "cuda"
    groups = _groups(net, recipe)
    for group in groups:
        lr = recipe.lr * group["lr_factor"]
        group["lr"] = torch.tensor(lr, dtype=torch.float32, device=device) if cuda else lr
    params = [p for group in groups for p in group["params"]]
    fused = device.type in ("cpu", "cuda")
    optimizer: torch.optim.Optimizer
    if recipe.optimizer in ("adam", "adamw"):
        kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
        optimizer = kind(groups, betas=(0.9, 0.999), fused=fused, capturable=cuda)
        for p in params:
            # Adam creates these at its first step; a graph and a resumed training need them earlier.
            optimizer.state[p] = {
                "step": torch.zeros((), dtype=torch.float32, device=device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }
    else:
        how: dict[str, Any] = {"momentum": recipe.momentum, "nesterov": recipe.nesterov, "fused": fused}
        if recipe.optimizer == "sgdw":
            for group in groups:
                group["decoupled_decay"] = group.pop("weight_decay")
        if recipe.optimizer == "muon":
            how["models"] = models
        optimizer = SGDS[recipe.optimizer](groups, **how)
        for p in params:
            # A first step from zero gives momentum * 0 + gradient, as torch computes without a buffer.
            optimizer.state[p] = {"momentum_buffer": torch.zeros_like(p)} if recipe.momentum else {}
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate, in place if it is a tensor that a graph reads. A group's ``lr_factor`` multiplies it."""
    for group in optimizer.param_groups:
        rate = lr * group.get("lr_factor", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def live_tensors(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return every tensor that a training step changes, by name: weights, buffers and the optimiser's state."""
    found = {f"net.{name}": tensor for name, tensor in net.state_dict(keep_vars=True).items()}
    names = {id(p): name for name, p in net.named_parameters()}
    for p, slots in optimizer.state.items():
        for slot, value in slots.items():
            if isinstance(value, Tensor):
                found[f"optimizer.{slot}.{names[id(p)]}"] = value
    return found


def snapshot(net: nn.Module, optimizer: torch.optim.Optimizer, on_cpu: bool = True) -> dict[str, Tensor]:
    """Copy :func:`live_tensors`: to contiguous CPU tensors, for a file, or on their device in their own layout."""
    live = live_tensors(net, optimizer)
    if not on_cpu:
        return {name: tensor.detach().clone() for name, tensor in live.items()}
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in live.items()
    }


def restore(net: nn.Module, optimizer: torch.optim.Optimizer, saved: Mapping[str, object]) -> None:
    """Write a snapshot back in place, keeping addresses and memory layout: fused kernels and graphs rely on them.

    Raises:
        KeyError: the snapshot belongs to another network or optimiser.
    """
    with torch.no_grad():
        for name, tensor in live_tensors(net, optimizer).items():
            value = saved[name]
            if not isinstance(value, Tensor) or value.shape != tensor.shape:
                raise KeyError(f"checkpoint holds another training: {name} does not fit")
            tensor.copy_(value)
