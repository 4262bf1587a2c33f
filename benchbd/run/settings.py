"""Settings of a run, and parsers for their text forms: ``2h``, ``25m``, ``1/4``, ``0,1``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchbd.errors import UsageError

EXECUTE = "benchbd.pipeline.run_cell:execute"
EXECUTORS = ("inline", "local", "slurm", "ray")
RERUN = ("failed", "stale", "all")

_UNITS = (86400.0, 3600.0, 60.0, 1.0)
_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", re.ASCII
)


class Shard(NamedTuple):
    """Part ``number`` (from 1) of ``of`` parts."""

    number: int
    of: int


def parse_duration(text: str, flag: str = "--timeout") -> float:
    """Read ``90``, ``45s``, ``25m``, ``2h`` or ``1h30m`` as seconds.

    Raises:
        UsageError: the text has another form, or the time is zero.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    seconds = 0.0
    if found:
        seconds = sum(float(part) * unit for part, unit in zip(found.groups(), _UNITS, strict=True) if part)
    if not 0.0 < seconds < 1e9:
        raise UsageError(f"{flag} must be a time like 90s, 25m, 2h or 1h30m, not {text!r}")
    return seconds


def duration_text(seconds: float) -> str:
    """Format seconds for people: ``8s``, ``2m05s``, ``1h02m``, ``3d04h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def parse_shard(text: str) -> Shard:
    """Read ``2/8``: the second of eight parts. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip(), re.ASCII)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"--shard must be i/n with 1 <= i <= n, like 1/4, not {text!r}")
    return Shard(int(found[1]), int(found[2]))


def parse_gpus(text: str) -> tuple[str, ...]:
    """Read ``0,1`` or device ids (``GPU-...``, ``MIG-...``) separated by commas. Raises UsageError."""
    names = tuple(part.strip() for part in text.split(","))
    if not all(re.fullmatch(r"\d+|(?:GPU|MIG)-[\w/-]+", name, re.ASCII) for name in names):
        raise UsageError(f"--gpus must be numbers or device ids separated by commas, like 0,1, not {text!r}")
    if len(set(names)) != len(names):
        raise UsageError(f"--gpus names a device twice: {text!r}")
    return names


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How to run a plan's cells. None of this is part of a cell's identity."""

    output: Path
    """Folder of records, logs and the store."""
    data_root: str | None = None
    """Folder of the data sets; None: the user's cache."""
    plugins: tuple[str, ...] = ()
    """Plugin files from ``--plugin``; workers load them too."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` uses the visible GPUs, or the CPU if there are none."""
    executor: Literal["inline", "local", "slurm", "ray"] = "local"
    executor_config: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Cluster settings of slurm and ray, from ``--executor-config``."""
    jobs: int | None = None
    """Number of slots; None: GPUs x jobs_per_gpu, or cores."""
    gpus: tuple[str, ...] | None = None
    """GPUs to use; None: all visible ones."""
    jobs_per_gpu: int = 1
    """Number of cells that share a GPU. Times of shared runs are not comparable, so the default is 1."""
    threads: int | None = None
    """CPU threads of a slot; None: the most that a cell asks for, which by default is 1, or cores / slots with GPUs.

    A cell on a CPU computes with the number in its own spec."""
    timeout: float | None = None
    """Time limit of a cell in seconds, excluding waits for shared stages."""
    retries: int = 0
    """Number of further attempts at a cell without a result, including those of earlier runs."""
    fail_fast: bool = False
    """Stop at the first cell that ends without a result."""
    budget: float | None = None
    """Seconds after which the run stops cleanly; a later run continues it."""
    shard: Shard | None = None
    rerun: Literal["failed", "stale", "all"] | None = None
    stale: frozenset[str] = frozenset()
    """IDs of cells whose plugin source or data has changed since their record (for ``rerun='stale'``)."""
    changed_inputs: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)
    """The changed data and weights of these cells (:meth:`benchbd.storage.staleness.InputFiles.changed`)."""
    unknown_inputs: tuple[str, ...] = ()
    """A line for each data set or model whose files could not be compared with the records."""
    gpu_share: int = 1
    """Number of cells on this run's GPU, as set by the cluster executor; only recorded."""
    execute: str = EXECUTE
    """``module:function`` that workers call for a cell; tests substitute their own."""

    def __post_init__(self) -> None:
        for name in ("jobs", "threads", "timeout", "budget"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"--{name} must be more than 0, not {value}")
        if self.jobs_per_gpu < 1:
            raise UsageError(f"--jobs-per-gpu must be 1 or more, not {self.jobs_per_gpu}")
        if self.retries < 0:
            raise UsageError(f"--retries must be 0 or more, not {self.retries}")
        if self.executor not in EXECUTORS:
            raise UsageError(f"--executor must be one of {', '.join(EXECUTORS)}, not {self.executor!r}")

    def log_path(self, cell_id: str) -> Path:
        """Path of a cell's log."""
        return self.output / "logs" / f"{cell_id}.log"
