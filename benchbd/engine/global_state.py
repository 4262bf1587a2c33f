"""Guards trainings against what plugins change for the whole process.

A training is stored under a key that names its data, model, recipe and seed. Other cells take it from there, so it must
not depend on what a plugin has done to torch before. Settings (threads, autocast, grad mode, default type, oneDNN,
precision, deterministic kernels) are put right for the time of a training. Changed code
(:mod:`benchbd.engine.watched_code`) and hooks for all modules, optimizers or saved tensors cannot be put right without
breaking the plugin: the training is refused.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch

from benchbd.engine.watched_code import CodeTable
from benchbd.errors import Misused

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
_KERNELS = ("aten/", "_/")
"""Start of the names of kernels in ``torch.library`` that replace torch's own."""

_warm: CodeTable | None = None
_current: CodeTable | None = None
_kernels: set[str] = set()


def remember() -> None:
    """Take the table that the cells forked from this process use, or add to it the modules that are new since.

    Only a worker, which runs no plugins, calls this.
    """
    global _warm
    _warm = CodeTable() if _warm is None else _warm
    _warm.add()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """A context in which :func:`check` finds code that was replaced or changed since its beginning."""
    global _current, _kernels
    _settle_libraries()
    before = _current, _kernels
    _current, _kernels = CodeTable() if _warm is None else _warm.copy(), set(torch.library._impls)
    _current.add()
    try:
        yield
    finally:
        _current, _kernels = before


@functools.cache
def _settle_libraries() -> None:
    """Have oneDNN and MKL read the variables that choose their kernels, such as MKL_CBWR, before a plugin sets one.

    They read these once, at their first use. A worker does not call this, since it must not start threads.
    """
    ones = torch.ones(1, 1, 8, 8)
    torch.conv2d(ones, ones)
    torch.mm(ones[0, 0], ones[0, 0])


def watch_too(plugins: Collection[str]) -> None:
    """Have :func:`check` find changes in these modules of users' plugins, too, and in built-in ones imported since."""
    if _current is not None:
        _current.add(plugins)


def check() -> None:
    """Raise :class:`Misused` if a plugin has changed something that a training depends on.

    Does nothing outside :func:`watched`.
    """
    if _current is None:
        return
    if change := _current.changed():
        raise Misused(
            f"{change} for the whole process, so other trainings would differ too; change a copy of your own, or pass "
            "it to lab.train as part of loss=, perturb= or training_loop="
        )
    hooks = [(torch.nn.modules.module, name) for name in _HOOKS]
    hooks += [(sys.modules["torch.optim.optimizer"], name) for name in _OPTIMIZER_HOOKS]
    if found := next((name for owner, name in hooks if getattr(owner, name, None)), None):
        kind = "optimizers" if "optimizer" in found else "modules"
        raise Misused(f"a hook for all {kind} is registered; remove it before trainings, or register it on one network")
    if torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack():
        raise Misused("a mode that changes all torch functions is active (such as torch.set_default_device); leave it")
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
        raise Misused("hooks for all saved tensors are active (torch.autograd.graph.saved_tensors_hooks); leave them")
    if new := sorted(filter(_is_of_torch, torch.library._impls - _kernels)):
        raise Misused(
            f"the kernel {new[0]} of torch was replaced by torch.library; give an operator of your own a name"
        )


def _is_of_torch(kernel: str) -> bool:
    """Whether a kernel, such as ``aten/relu/CPU``, is one of those that compute torch's own operators.

    torch registers others when it needs them: those of ``torch.func.vmap``, for one.
    """
    device = kernel.rpartition("/")[2]
    return kernel.startswith(_KERNELS) and device.startswith(("CPU", "CUDA", "Composite", "Autograd"))


@contextlib.contextmanager
def usual_settings(threads: int | None) -> Iterator[None]:
    """A context with torch's and numpy's default settings, whatever a plugin has set. The former settings return.

    Args:
        threads: number of CPU threads; None leaves it.
    """
    mkldnn: Any = torch.backends.mkldnn
    products = _precise_products()
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
            for backend, precision in products:
                backend.fp32_precision = precision
            torch.use_deterministic_algorithms(before["deterministic"], warn_only=before["warn"])
            torch.set_default_dtype(before["dtype"])
            for kind, enabled in before["autocast"].items():
                torch.set_autocast_enabled(kind, enabled)


def _precise_products() -> list[tuple[Any, str]]:
    """Have oneDNN compute in float32 again. Returns which backends had another precision (torch 2.9 or newer)."""
    mkldnn: Any = torch.backends.mkldnn
    backends = [torch.backends, mkldnn, *(getattr(mkldnn, name, mkldnn) for name in ("matmul", "conv", "rnn"))]
    known = [(backend, getattr(backend, "fp32_precision", "none")) for backend in backends]
    found = [(backend, precision) for backend, precision in known if precision not in ("none", "ieee")]
    for backend, _ in found:
        backend.fp32_precision = "ieee"
    return found
