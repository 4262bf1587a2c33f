"""The optimiser, and the state that a training needs to resume as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from benchbd.core.recipe import Recipe


def make_optimizer(net: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """Make a fused Adam or SGD with its state already allocated; on CUDA its learning rate is a tensor, for graphs."""
    cuda = device.type == "cuda"
    lr = torch.tensor(recipe.lr, dtype=torch.float32, device=device) if cuda else recipe.lr
    params = [p for p in net.parameters() if p.requires_grad]
    fused = device.type in ("cpu", "cuda")
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adam":
        optimizer = torch.optim.Adam(
            params, lr, betas=(0.9, 0.999), weight_decay=recipe.weight_decay, fused=fused, capturable=cuda
        )
        for p in params:
            # Adam creates these at its first step; a graph and a resumed training need them earlier.
            optimizer.state[p] = {
                "step": torch.zeros((), dtype=torch.float32, device=device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }
    else:
        optimizer = torch.optim.SGD(
            params, lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov, fused=fused
        )
        for p in params:
            # A first step from zero gives momentum * 0 + gradient, as torch computes without a buffer.
            optimizer.state[p] = {"momentum_buffer": torch.zeros_like(p)} if recipe.momentum else {}
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate, in place if it is a tensor that a graph reads."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


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
