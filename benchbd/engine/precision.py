"""Which arithmetic a training runs in. The name goes into artifact keys: results of two classes are never mixed."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchbd.errors import UsageError, did_you_mean

KINDS = ("auto", "fp32", "bf16")
WAYS = ("fast", "strict", "eager", "compile")


class Precision(NamedTuple):
    """A precision class.

    Attributes:
        name: what artifact keys and records say, for example ``cpu-fp32`` or ``cuda-bf16-strict``.
        dtype: the autocast type of training steps, None for plain float32. Whole-set passes are float32 always.
        channels_last: lay images and filters out channel by channel last.
        strict: bitwise repeatable on the same GPU and versions, at some cost. (A CPU always is.)
        graph: replay a training step as one CUDA graph; False launches its operations one by one.
        compile: fuse operations with torch.compile first (CUDA only; other rounding, so part of the name).
    """

    name: str
    dtype: torch.dtype | None = None
    channels_last: bool = True
    strict: bool = False
    graph: bool = True
    compile: bool = False


def choose_precision(device: torch.device, wish: str = "auto") -> Precision:
    """Decide the precision class of a device, from what its hardware says of itself and nothing else.

    Timing would be the other way to decide, but two equal machines must agree, whatever else runs on them.

    Args:
        device: where trainings run.
        wish: ``auto``, ``fp32`` or ``bf16``, and on CUDA any of ``fast``, ``strict``, ``eager``, ``compile`` after it
            (``bf16-strict``, ``strict``). ``auto`` is bf16 where the hardware multiplies it faster, else fp32.

    Raises:
        UsageError: the wish is unknown, contradicts itself, or the device cannot compute in bf16.
    """
    return _choose(torch.device(device).type, wish)


@functools.cache
def _choose(kind: str, wish: str) -> Precision:
    words = wish.split("-")
    for word in words:
        if word not in KINDS + WAYS:
            raise UsageError(f"precision {wish!r}: {word!r} is unknown{did_you_mean(word, KINDS + WAYS)}")
    numbers = [word for word in words if word in KINDS] or ["auto"]
    strict, compiled = "strict" in words, "compile" in words
    if len(numbers) > 1 or (strict and ("fast" in words or compiled)):
        raise UsageError(f"precision {wish!r} contradicts itself")
    cuda = kind == "cuda"
    # NVIDIA's bf16 units came with compute capability 8; before, torch only emulates them.
    fast_bf16 = torch.cuda.get_device_capability()[0] >= 8 if cuda else cpu_multiplies_bf16()
    if numbers[0] == "bf16" and cuda and not fast_bf16:
        raise UsageError("precision 'bf16': this GPU cannot compute in bf16; say fp32")
    bf16 = numbers[0] == "bf16" or (numbers[0] == "auto" and fast_bf16)
    # A CPU has one way to do things, so that the rest of the wish means nothing there and leaves no trace in the key.
    tags = [tag for tag, on in (("strict", strict), ("eager", "eager" in words), ("compile", compiled)) if on and cuda]
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
    """Whether this CPU has bf16 matrix instructions (AMX or AVX512-BF16); without them bf16 is slower than fp32."""
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
    """Set torch's global switches for one training or pass, and put them back.

    float32 means float32: TF32 is off.

    Args:
        device: nothing is changed unless it is a CUDA device.
        strict: insist on deterministic kernels.
        search: let cuDNN time several kernels and keep the quickest, which may be another one in the next process.
    """
    if device.type != "cuda":
        yield
        return
    memory: Any = torch.utils.deterministic  # a module with a property, which type checkers cannot see
    filling = memory.fill_uninitialized_memory
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    tf32 = torch.backends.cuda.matmul.allow_tf32
    if strict:
        # cuBLAS reads this when its handle is made; without it, deterministic mode raises at the first product.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.use_deterministic_algorithms(strict)
        # Writing every output twice would not make it more repeatable: our kernels write all they allocate.
        memory.fill_uninitialized_memory = False
        torch.backends.cuda.matmul.allow_tf32 = False
        with torch.backends.cudnn.flags(enabled=True, benchmark=search, deterministic=strict, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        memory.fill_uninitialized_memory = filling
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
