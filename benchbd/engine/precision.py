"""The precision class that a training computes in. Its name is part of artifact keys, so classes are never mixed."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchbd.core.numerics import MODES, canonical_precision
from benchbd.errors import UsageError


class Precision(NamedTuple):
    """A precision class.

    Attributes:
        name: its name in artifact keys and records, for example ``cpu-fp32``, ``cpu-fp32-t4`` (four threads) or
            ``cuda-bf16-strict``.
        dtype: the autocast type of training steps; None for plain float32. Whole-set passes always use float32.
        channels_last: store images and filters in channels_last layout.
        strict: be bitwise repeatable on the same GPU and versions, at some cost. (A CPU always is.)
        graph: replay a training step as one CUDA graph; False launches its operations one by one.
        compile: fuse operations with torch.compile (CUDA only; it rounds differently, so it is part of the name).
    """

    name: str
    dtype: torch.dtype | None = None
    channels_last: bool = True
    strict: bool = False
    graph: bool = True
    compile: bool = False


class Autocast(torch.autocast):
    """``torch.autocast`` for one forward pass, whose casts of weights end with it.

    torch keeps these casts until the outermost autocast context ends. Within another context, even a disabled one,
    every later step would compute with the weights of the first.

    Args:
        device: the device that computes.
        dtype: the type to compute in; None for plain float32.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype | None) -> None:
        super().__init__(device.type, dtype=dtype, enabled=dtype is not None)

    def __enter__(self) -> Autocast:
        torch.clear_autocast_cache()
        super().__enter__()  # type: ignore[no-untyped-call]  # torch annotates neither
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.clear_autocast_cache()


def choose_precision(device: torch.device, wish: str = "auto", threads: int = 1) -> Precision:
    """Choose the precision class of a device from the capabilities that its hardware reports, and nothing else.

    It does not time the hardware: two equal machines must agree, whatever else runs on them.

    Args:
        device: where trainings run.
        wish: ``auto``, ``fp32`` or ``bf16``; on CUDA also ``fast``, ``strict``, ``eager`` or ``compile``, alone
            (``strict``) or after it (``bf16-strict``). ``auto`` means bf16 if the hardware multiplies it faster, else
            fp32.
        threads: CPU threads of the training. More than one sum in another order, which is part of a CPU class's name.

    Raises:
        UsageError: the wish is unknown or contradicts itself, or the device cannot compute in bf16.
    """
    return _choose(torch.device(device).type, canonical_precision(wish), threads)


@functools.cache
def _choose(kind: str, wish: str, threads: int) -> Precision:
    words = wish.split("-")
    cuda = kind == "cuda"
    # NVIDIA GPUs have bf16 units since compute capability 8; on older ones torch emulates them.
    fast_bf16 = torch.cuda.get_device_capability()[0] >= 8 if cuda else cpu_multiplies_bf16()
    if "bf16" in words and cuda and not fast_bf16:
        raise UsageError("precision 'bf16': this GPU cannot compute in bf16; use fp32")
    bf16 = "bf16" in words or ("fp32" not in words and fast_bf16)
    # A CPU has only one mode: the rest of the wish has no effect there and stays out of the key.
    tags = [word for word in words if word in MODES] if cuda else []
    tags += [f"t{threads}"] if threads > 1 and not cuda else []
    return Precision(
        "-".join([kind, "bf16" if bf16 else "fp32", *tags]),
        torch.bfloat16 if bf16 else None,
        channels_last=True,
        strict="strict" in tags,
        graph=cuda and "eager" not in tags,
        compile="compile" in tags,
    )


@functools.cache
def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has bf16 instructions (AMX or AVX512-BF16); without them bf16 is slower than fp32."""
    wanted = ("amx_bf16", "avx512_bf16")
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        found = capabilities()
        return any(bool(found.get(flag)) for flag in wanted)
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return any(flag in words for flag in wanted)


@contextlib.contextmanager
def arithmetic(device: torch.device, *, strict: bool, search: bool) -> Iterator[None]:
    """Set torch's global switches for one training or pass, and restore them afterwards.

    float32 means float32: TF32 is off.

    Args:
        device: the device that computes; switches change only if it is a CUDA device.
        strict: insist on deterministic kernels.
        search: let cuDNN time several kernels and keep the fastest, which may differ in the next process.
    """
    if device.type != "cuda":
        yield
        return
    memory: Any = torch.utils.deterministic  # a module with a property, which type checkers do not see
    filling = memory.fill_uninitialized_memory
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    tf32 = torch.backends.cuda.matmul.allow_tf32
    if strict:
        # cuBLAS reads this when it creates its handle; without it, deterministic mode raises at the first product.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.use_deterministic_algorithms(strict)
        # Filling memory first would not make results more repeatable: our kernels write all the memory they allocate.
        memory.fill_uninitialized_memory = False
        torch.backends.cuda.matmul.allow_tf32 = False
        with torch.backends.cudnn.flags(enabled=True, benchmark=search, deterministic=strict, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        memory.fill_uninitialized_memory = filling
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
