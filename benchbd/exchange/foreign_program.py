"""A program of any origin as a module: images in [0, 1] to logits, with what it returns checked on every call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchbd.core.images import Normalisation
from benchbd.engine.foreign import single_tensor
from benchbd.errors import BenchbdError, UsageError, one_line, with_article


class ForeignProgram(nn.Module):
    """Normalises images, runs a program on them, and checks what it returns.

    Args:
        call: a function, float32 (B, 3, H, W) to logits.
        path: the file, for messages.
        classes: number of classes that the logits must have.
        normalisation: applied first; None for nothing.
        inner: the module behind ``call``, so that it moves with this one; None if there is none.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        call: Any,
        path: Path,
        classes: int,
        normalisation: Normalisation | None,
        inner: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self._call, self._path, self._classes = call, path, classes
        self.inner = inner
        self._plain = normalisation is None
        mean, std = normalisation or ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))

    def forward(self, x01: Tensor) -> Tensor:
        """Compute logits float32 (N, C)."""
        x = x01 if self._plain else (x01 - self.mean) / self.std
        return self._logits(x) if len(x) else x.new_zeros(0, self._classes)

    def _logits(self, x: Tensor) -> Tensor:
        try:
            out = single_tensor(self._call(x.contiguous()))
        except BenchbdError as error:
            raise UsageError(f"{self._path}: {error}") from None
        except Exception as error:
            why = f"{type(error).__name__}: {one_line(error)[-300:]}"
            raise UsageError(f"{self._path} fails on images of {x.shape[-1]} pixels ({why})") from None
        if not isinstance(out, Tensor) or not out.is_floating_point() or out.shape != (len(x), self._classes):
            got = f"{out.dtype} {tuple(out.shape)}" if isinstance(out, Tensor) else with_article(type(out).__name__)
            raise UsageError(
                f"{self._path} gives {got} for {len(x)} images, not logits ({len(x)}, {self._classes}), one for each "
                "class of the data set"
            )
        return out.float()


class FixedMode(nn.Module):
    """Holds an exported program, whose mode is fixed: torch refuses train() and eval() on it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def train(self, mode: bool = True) -> FixedMode:
        """Change nothing but the flag of this holder."""
        self.training = mode
        return self
