"""Guards trainings against what plugins change for the whole process.

A training is stored under a key that names its data, model, recipe and seed. Other cells take it from there, so it must
not depend on what a plugin has done to torch before. Settings (threads, autocast, grad mode, default type, oneDNN,
deterministic kernels) are put right for the time of a training. A replaced function and a hook for all modules or
optimizers cannot be put right without breaking the plugin: the training is refused.
"""

from __future__ import annotations

import contextlib
import math
import operator
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchbd.errors import Misused

_TORCH = str(Path(torch.__file__).parent)
AUTOCAST = ("cpu", "cuda")
"""Devices whose autocast a plugin may leave switched on."""
_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
    "_global_buffer_registration_hooks",
    "_global_module_registration_hooks",
    "_global_parameter_registration_hooks",
)
_OPTIMIZER_HOOKS = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")
_MODULES = ("torch", "torch.autograd", "torch.fft", "torch.linalg", "torch.random", "torch.special", "numpy.random")
_PACKAGES = (
    "torch.nn.",
    "torch.optim",
    "benchbd.core.",
    "benchbd.engine.",
    "benchbd.lab.",
    "benchbd.models.",
    "benchbd.pipeline.",
    "benchbd.storage.",
)

Table = list[tuple[Any, tuple[str, ...], tuple[Any, ...]]]
"""(module or class, names, functions and classes of these names) of everything that a plugin could replace."""

_warm: Table | None = None
_current: Table | None = None


def remember() -> None:
    """Take the table that the cells forked from this process use. Only a worker, which runs no plugins, calls this."""
    global _warm
    _warm = _take()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """A context in which :func:`check` finds functions that were replaced since its beginning."""
    global _current
    before, _current = _current, _take() if _warm is None else _warm
    try:
        yield
    finally:
        _current = before


def _take() -> Table:
    table: Table = []
    for name, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or not (name in _MODULES or name.startswith(_PACKAGES)):
            continue
        table.append(_entries(module))
        classes = (cls for cls in list(vars(module).values()) if isinstance(cls, type) and cls.__module__ == name)
        table += map(_entries, classes)
    return [*table, *map(_entries, (torch.Tensor, np, np.linalg, math))]


def _entries(owner: Any) -> tuple[Any, tuple[str, ...], tuple[Any, ...]]:
    found = {name: value for name, value in list(vars(owner).items()) if _counts(value)}
    return owner, tuple(found), tuple(found.values())


def _counts(value: Any) -> bool:
    return callable(value) or isinstance(value, (staticmethod, classmethod, property))


def check() -> None:
    """Raise :class:`Misused` if a plugin has changed something that a training depends on.

    Does nothing outside :func:`watched`.
    """
    if _current is None:
        return
    for owner, names, values in _current:
        now = vars(owner).get
        if all(map(operator.is_, map(now, names), values)):
            continue
        for name, value in zip(names, values, strict=True):
            if now(name) is not value and not _wrapped_by_torch(now(name), value):
                raise Misused(
                    f"{_name_of(owner)}.{name} was replaced for the whole process, so other trainings would differ "
                    "too; change a copy of your own, or pass loss=, perturb= or training_loop= to lab.train"
                )
    hooks = [(torch.nn.modules.module, name) for name in _HOOKS]
    hooks += [(sys.modules["torch.optim.optimizer"], name) for name in _OPTIMIZER_HOOKS]
    if found := next((name for owner, name in hooks if getattr(owner, name, None)), None):
        kind = "optimizers" if "optimizer" in found else "modules"
        raise Misused(f"a hook for all {kind} is registered; remove it before trainings, or register it on one network")
    if torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack():
        raise Misused("a mode that changes all torch functions is active (such as torch.set_default_device); leave it")


def _wrapped_by_torch(now: Any, before: Any) -> bool:
    """Whether torch itself has wrapped a function, as it does with an optimizer's step at its first use."""
    code = getattr(now, "__code__", None)
    return code is not None and code.co_filename.startswith(_TORCH) and getattr(now, "__wrapped__", None) is before


def _name_of(owner: Any) -> str:
    return owner.__name__ if isinstance(owner, ModuleType) else f"{owner.__module__}.{owner.__qualname__}"


@contextlib.contextmanager
def usual_settings(threads: int | None) -> Iterator[None]:
    """A context with torch's and numpy's default settings, whatever a plugin has set. The former settings return.

    Args:
        threads: number of CPU threads; None leaves it.
    """
    mkldnn: Any = torch.backends.mkldnn
    before: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn": torch.is_deterministic_algorithms_warn_only_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "mkldnn": mkldnn.enabled,
        # Not a context: within one, torch keeps its casts of weights from one step to the next.
        "autocast": {kind: torch.is_autocast_enabled(kind) for kind in AUTOCAST},
    }
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"),
    ):
        try:
            for kind in AUTOCAST:
                torch.set_autocast_enabled(kind, False)
            torch.set_default_dtype(torch.float32)
            torch.use_deterministic_algorithms(False)
            torch.set_float32_matmul_precision("highest")
            torch.set_flush_denormal(False)
            if not mkldnn.enabled:
                mkldnn.enabled = True
            if threads is not None and threads != before["threads"]:
                torch.set_num_threads(threads)
            yield
        finally:
            torch.set_num_threads(before["threads"])
            if mkldnn.enabled != before["mkldnn"]:
                mkldnn.enabled = before["mkldnn"]
            torch.set_float32_matmul_precision(before["matmul"])
            torch.use_deterministic_algorithms(before["deterministic"], warn_only=before["warn"])
            torch.set_default_dtype(before["dtype"])
            for kind, enabled in before["autocast"].items():
                torch.set_autocast_enabled(kind, enabled)
