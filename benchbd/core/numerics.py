"""What a cell computes with: the precision and the number of CPU threads that its user asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from benchbd.errors import UsageError, did_you_mean, shown

FORMATS = ("auto", "fp32", "bf16")
"""Numbers of a training step; auto takes bf16 where the hardware multiplies it faster."""
MODES = ("fast", "strict", "eager", "compile")
"""How a GPU runs a training step. They have no effect on a CPU, which has only one way."""
NUMERICS = ("precision", "threads")
"""Entries of a matrix, of a cell's spec and of ``--filter``."""
MOST_THREADS = 1024
"""Maximum number of threads, about the largest core count of a machine; OpenMP crashes with a million."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Environment variables from which numeric libraries take their number of threads when they are loaded."""


class Numerics(NamedTuple):
    """The precision and the threads of a cell. Both change how results are rounded.

    Attributes:
        precision: words of FORMATS and MODES in their canonical order, such as ``bf16-strict``; ``auto`` by default.
        threads: CPU threads; 1 by default.
    """

    precision: str = "auto"
    threads: int = 1

    @classmethod
    def parse(cls, given: Mapping[str, Any], prefix: str = "") -> Numerics:
        """Read the entries ``precision`` and ``threads`` of a mapping; a missing one or null means the default.

        Args:
            given: the mapping; its other entries are ignored.
            prefix: of the entries' names in messages, such as ``--``.

        Raises:
            UsageError: an entry has another type, an unknown or contradicting word, or a number out of range.
        """
        precision, threads = given.get("precision"), given.get("threads")
        return cls(
            "auto" if precision is None else canonical_precision(precision, f"{prefix}precision"),
            1 if threads is None else _checked_threads(threads, f"{prefix}threads"),
        )

    def spec(self) -> dict[str, Any]:
        """The entries that are not the default, ready for JSON."""
        return {name: value for name, value in self._asdict().items() if value != getattr(USUAL, name)}

    @property
    def text(self) -> str:
        """``precision=bf16,threads=2``; empty for the defaults."""
        return numerics_text(self.spec())


USUAL = Numerics()
"""The numerics of a cell whose user asks for nothing. They are not in its ID."""


def numerics_text(spec: Mapping[str, Any]) -> str:
    """The numerics in a cell's spec as text: ``precision=bf16,threads=2``; empty for the defaults."""
    return ",".join(f"{name}={spec[name]}" for name in NUMERICS if isinstance(spec.get(name), (str, int)))


def precision_class(record: Mapping[str, Any]) -> str | None:
    """The precision class in which a record's cell was measured, such as ``cpu-fp32-t4``; None if it names none.

    Records of earlier releases have a CPU's threads in ``env.threads`` only.
    """
    env = record.get("env")
    name = env.get("precision") if isinstance(env, Mapping) else None
    if not isinstance(name, str) or not isinstance(env, Mapping):
        return None
    threads = env.get("threads")
    suffix = f"-t{threads}"
    more = name.startswith("cpu") and isinstance(threads, int) and threads > 1 and not name.endswith(suffix)
    return f"{name}{suffix}" if more else name


def canonical_precision(wish: Any, name: str = "precision") -> str:
    """The canonical form of a precision: ``strict-bf16`` and ``bf16-fast-strict`` are ``bf16-strict``.

    Args:
        wish: one of FORMATS, one or more of MODES, or both, joined by hyphens.
        name: where the wish was given, for messages.

    Raises:
        UsageError: a word is unknown, or two words contradict each other.
    """
    if not isinstance(wish, str):
        raise UsageError(f"{name} must be a word such as bf16 or fp32-strict, not {shown(wish)}")
    words = wish.split("-")
    for word in words:
        if word not in FORMATS + MODES:
            raise UsageError(f"{name} {shown(wish)}: {shown(word)} is unknown{did_you_mean(word, FORMATS + MODES)}")
    formats = {word for word in words if word in FORMATS}
    if len(formats) > 1 or ("strict" in words and {"fast", "compile"} & {*words}):
        raise UsageError(f"{name} {shown(wish)} contradicts itself")
    # auto and fast are what happens without them.
    return "-".join(word for word in FORMATS[1:] + MODES[1:] if word in words) or "auto"


def _checked_threads(given: Any, name: str) -> int:
    if not isinstance(given, int) or isinstance(given, bool):
        raise UsageError(f"{name} must be a whole number, not {shown(given)}")
    if given < 1:
        raise UsageError(f"{name} must be more than 0, not {shown(given)}")
    if given > MOST_THREADS:
        raise UsageError(f"{name} {shown(given)}: at most {MOST_THREADS:,} are allowed")
    return given


def gpu_words(precision: str) -> list[str]:
    """The words of a precision that have no effect on a CPU."""
    return [word for word in precision.split("-") if word in MODES]
