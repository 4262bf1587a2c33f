"""What follows a batch's loss: gradients, their clipping, the optimiser's step, the average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from benchbd.core.recipe import Recipe
from benchbd.engine.state import live_tensors

RAMP = 10
"""The average's decay after t steps is (1 + t) / (RAMP + t) at most: the first steps soon leave it."""


class Average:
    """Exponential moving average of a network's weights and buffers, float32 on the network's device.

    Averages are computed in place from tensors alone, so that a graph can capture them. Buffers that count, such as
    batch norm's number of batches, are copied.

    Args:
        net: the network that is trained.
        decay: share of the average that a step keeps, in (0, 1).
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self._decay = decay
        self._live = {name: tensor.detach() for name, tensor in net.state_dict(keep_vars=True).items()}
        self._mean = {name: tensor.clone() for name, tensor in self._live.items()}
        self._steps = torch.zeros((), device=next(iter(self._live.values())).device)

    def update(self) -> None:
        """Count the present weights in."""
        self._steps += 1
        weight = 1 - ((1 + self._steps) / (RAMP + self._steps)).clamp(max=self._decay)
        for name, mean in self._mean.items():
            if mean.is_floating_point():
                mean.lerp_(self._live[name], weight.to(mean.dtype))
            else:
                mean.copy_(self._live[name])

    def swap(self) -> None:
        """Exchange average and present weights, in place."""
        for name, mean in self._mean.items():
            live = self._live[name]
            present = live.clone()
            live.copy_(mean)
            mean.copy_(present)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the network compute with the average for a while."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that :meth:`update` changes, by name."""
        return {**{f"average.{name}": mean for name, mean in self._mean.items()}, "average steps": self._steps}

    def saved(self) -> dict[str, Tensor]:
        """A checkpoint's entries: contiguous copies on the CPU."""
        return {
            name: tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in self.tensors().items()
        }

    def restore(self, saved: Mapping[str, object]) -> None:
        """Write a checkpoint's entries back in place.

        Raises:
            KeyError: the checkpoint belongs to another network or recipe.
        """
        for name, tensor in self.tensors().items():
            value = saved[name]
            if not isinstance(value, Tensor) or value.shape != tensor.shape:
                raise KeyError(f"checkpoint holds another training: {name} does not fit")
            tensor.copy_(value)


class Update:
    """Updates a network from a loss; it reads no value back.

    Args:
        net: the network that is trained.
        optimizer: its optimiser.
        recipe: clipping and averaging.
        models: number of models that the network packs; the gradients of each are clipped for themselves.

    Attributes:
        average: the average of the weights; None if the recipe asks for none.
    """

    def __init__(self, net: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, models: int = 1) -> None:
        self._net, self._optimizer, self._models, self._longest = net, optimizer, models, recipe.clip_norm
        self._params = [p for group in optimizer.param_groups for p in group["params"]]
        self.average = Average(net, recipe.ema) if recipe.ema else None

    def __call__(self, loss: Tensor) -> None:
        """Do one step on a scalar loss. The network has no gradients before and after."""
        # torch annotates neither of these two.
        loss.backward()  # type: ignore[no-untyped-call]
        if self._longest is not None:
            clip(self._params, self._longest, self._models)
        self._optimizer.step()
        # Now, not before the next backward pass: gradients then take no memory while activations pile up.
        self._optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that an update changes, by name: weights, buffers, the optimiser's state, averages."""
        average = {} if self.average is None else self.average.tensors()
        return {**live_tensors(self._net, self._optimizer), **average}


@torch.no_grad()
def clip(params: list[nn.Parameter], longest: float, models: int = 1) -> None:
    """Shorten each model's gradients to a norm of ``longest`` together, as ``torch.nn.utils.clip_grad_norm_`` does.

    Args:
        params: parameters; with several models, their first axis holds those of one model after another.
        longest: the norm.
        models: number of models.
    """
    found = [p.grad for p in params if p.grad is not None]
    gradients = [g.unsqueeze(0) if models == 1 else torch.unflatten(g, 0, (models, -1)) for g in found]
    if not gradients:
        return
    norms = torch.stack([g.square().reshape(models, -1).sum(1) for g in gradients]).sum(0).sqrt()
    factors = (longest / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))
