"""Slots: the number of cells that run at once on this machine, and the device and threads of each."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchbd.core.allocator import KEEP_MEMORY
from benchbd.core.environment import cores
from benchbd.core.numerics import MOST_THREADS, THREAD_VARIABLES
from benchbd.core.user_variables import user_variables
from benchbd.errors import UsageError, counted, shown
from benchbd.run.settings import RunSettings

MOST_SLOTS, MOST_PER_CORE = 256, 16
"""Maximum number of slots on one machine: MOST_SLOTS, or MOST_PER_CORE per core if that is more. A larger number is a
typo, and the machine would do nothing but start workers."""
_PROBE = "import torch; print('gpus', torch.cuda.device_count() if torch.cuda.is_available() else 0)"


WORKER_THREADS = 1
"""Threads of a worker, and of every library that it loads: it forks. Each cell's process sets its own number."""


class Slot(NamedTuple):
    """A place where one cell at a time runs.

    Attributes:
        number: number shown to the user, from 0.
        gpu: value of CUDA_VISIBLE_DEVICES, or None on the CPU.
        share: number of slots on the same GPU (1: alone).
        threads: CPU threads of the worker.
    """

    number: int
    gpu: str | None
    share: int
    threads: int

    @property
    def device(self) -> str:
        """The torch device name inside the worker."""
        return "cpu" if self.gpu is None else "cuda"

    @property
    def name(self) -> str:
        """The name of the slot in the display."""
        return (
            f"cpu{self.number}"
            if self.gpu is None
            else f"gpu {self.gpu}" + (f".{self.number}" if self.share > 1 else "")
        )

    def environment(self, workers: int = 1) -> dict[str, str]:
        """Variables that must be set before the worker imports anything numeric.

        Args:
            workers: number of slots in use on this machine.
        """
        # An idle OpenMP thread that spins occupies a core that another worker needs.
        variables = thread_variables(self.threads) | {"OMP_WAIT_POLICY": "PASSIVE"}
        given = user_variables()
        variables |= {name: given.get(name, str(size)) for name, size in KEEP_MEMORY.items()}
        variables["CUDA_VISIBLE_DEVICES"] = "" if self.gpu is None else self.gpu
        if self.gpu is not None and self.gpu.isdigit():
            # Use the numbers of nvidia-smi, not CUDA's own fastest-first order.
            variables["CUDA_DEVICE_ORDER"] = given.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        # The next two are only recorded: times on shared devices and busy machines are not comparable.
        variables["BENCHBD_GPU_SHARE"] = "" if self.gpu is None else str(self.share)
        variables["BENCHBD_WORKERS"] = str(workers)
        # A file called random.py in the current folder must not shadow the standard library's.
        variables["PYTHONSAFEPATH"] = "1"
        return variables


def thread_variables(threads: int) -> dict[str, str]:
    """Variables that tell numerical libraries their number of threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def visible_gpus() -> tuple[str, ...]:
    """IDs of the GPUs that torch can use. An inherited CUDA_VISIBLE_DEVICES is respected.

    Torch counts them in a separate process, because a process that has initialised CUDA cannot undo that. Without any
    sign of a GPU, torch is not imported at all: the import takes seconds.
    """
    given = user_variables()
    inherited = given.get("CUDA_VISIBLE_DEVICES")
    if inherited is not None and inherited.strip() in ("", "-1", "NoDevFiles"):
        return ()
    if not (shutil.which("nvidia-smi") or any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()):
        return ()
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=120, check=False, env=given
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    words = answer.stdout.split()
    count = int(words[1]) if len(words) == 2 and words[0] == "gpus" and words[1].isdigit() else 0
    if inherited is not None:
        return tuple(name.strip() for name in inherited.split(",") if name.strip())[:count]
    return tuple(str(index) for index in range(count))


def chosen_gpus(settings: RunSettings) -> tuple[str, ...]:
    """The GPUs a run may use.

    Raises:
        UsageError: a requested GPU does not exist.
    """
    if settings.device == "cpu":
        if settings.gpus:
            raise UsageError("--gpus and --device cpu contradict each other")
        return ()
    found = visible_gpus()
    if settings.gpus is None:
        if settings.device == "cuda" and not found:
            raise UsageError("--device cuda: torch sees no GPU here (`benchbd env` shows what it sees)")
        return found
    missing = [name for name in settings.gpus if name not in found and not name.startswith(("GPU-", "MIG-"))]
    if missing or not found:
        seen = ", ".join(found) or "none"
        raise UsageError(f"--gpus {','.join(missing or settings.gpus)}: no such GPU; visible: {seen}")
    return settings.gpus


def check_numbers(settings: RunSettings) -> None:
    """Check that the numbers of slots and threads are plausible.

    Raises:
        UsageError: a number is too large; the message names the flag and the limit.
    """
    most = max(MOST_SLOTS, MOST_PER_CORE * cores())
    # Slurm and Ray run jobs on other machines, whose core counts are unknown here.
    here = settings.executor in ("inline", "local")
    for flag, value, limit in (
        ("--jobs", settings.jobs if here else None, most),
        ("--jobs-per-gpu", settings.jobs_per_gpu, most),
        ("--threads", settings.threads, MOST_THREADS),
    ):
        if value is not None and value > limit:
            where = f" on a machine of {counted(cores(), 'core')}" if limit == most else ""
            raise UsageError(f"{flag} {shown(value)}: at most {limit:,} are allowed{where}")


def make_slots(settings: RunSettings) -> list[Slot]:
    """The slots of this machine: visible GPUs x jobs_per_gpu, or cores / threads; ``jobs`` overrides the number.

    On the CPU each slot has one thread unless its cells ask for more, whatever the number of slots: two OpenMP threads
    that share cores with others can be ten times slower than one, and the result of a sum depends on their number.

    Raises:
        UsageError: a GPU does not exist, or there are more slots than :func:`check_numbers` allows.
    """
    check_numbers(settings)
    gpus = chosen_gpus(settings)
    if not gpus:
        threads = settings.threads or 1
        count = settings.jobs or max(1, cores() // threads)
        return [Slot(i, None, 1, threads) for i in range(count)]
    count = settings.jobs or len(gpus) * settings.jobs_per_gpu
    threads = settings.threads or max(1, cores() // count)
    # Round robin, so that fewer jobs than places still use every GPU.
    places = [gpus[i % len(gpus)] for i in range(count)]
    return [Slot(i, gpu, places.count(gpu) * settings.gpu_share, threads) for i, gpu in enumerate(places)]
