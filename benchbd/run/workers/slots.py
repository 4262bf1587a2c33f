"""Slots: how many cells run at once on this machine, on which device each, with how many threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchbd.core.environment import cores
from benchbd.errors import UsageError, shown
from benchbd.run.settings import RunSettings

MOST_SLOTS, MOST_PER_CORE = 256, 16
"""Slots on one machine at most: so many, or so many for each of its cores where that is more. Beyond is a typo, which
would keep the machine busy with nothing but making them."""
MOST_THREADS = 1024
"""Threads of a worker at most, the most cores that machines have; OpenMP dies of a million."""
_PROBE = "import torch; print('gpus', torch.cuda.device_count() if torch.cuda.is_available() else 0)"


KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": (1 << 22) + 1, "MALLOC_TRIM_THRESHOLD_": 1 << 31, "MALLOC_TOP_PAD_": 1 << 26}
"""Bytes, for glibc: keep freed activations for the next step instead of handing each back to the kernel and faulting it
in again, which takes a tenth of the time a thin ResNet-18 trains on a CPU. Tensors above 4 MiB go back all the same:
their holes would make a full ResNet-18 at batch 128 take 1,690 MiB instead of 1,370, and the kernel's pages cost a step
of that size little. What the user has set stays."""


class Slot(NamedTuple):
    """A place where one cell at a time runs.

    Attributes:
        number: number shown to the user, from 0.
        gpu: what CUDA_VISIBLE_DEVICES is set to, or None on the CPU.
        share: slots on the same GPU (1: alone).
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
        """How the slot is called in the display."""
        return (
            f"cpu{self.number}"
            if self.gpu is None
            else f"gpu {self.gpu}" + (f".{self.number}" if self.share > 1 else "")
        )

    def environment(self, workers: int = 1) -> dict[str, str]:
        """Variables that must be set before the worker imports anything numeric.

        Args:
            workers: slots in use on this machine.
        """
        threads = str(self.threads)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
        # An idle OpenMP thread that spins takes the core its neighbour needs.
        variables = {name: threads for name in names} | {"OMP_WAIT_POLICY": "PASSIVE"}
        variables |= {name: os.environ.get(name, str(size)) for name, size in KEEP_MEMORY.items()}
        variables["CUDA_VISIBLE_DEVICES"] = "" if self.gpu is None else self.gpu
        if self.gpu is not None and self.gpu.isdigit():
            # The numbers that nvidia-smi shows, and not CUDA's own fastest-first order.
            variables["CUDA_DEVICE_ORDER"] = os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        # What follows is only recorded: times of shared devices and of busy machines are not comparable.
        variables["BENCHBD_GPU_SHARE"] = "" if self.gpu is None else str(self.share)
        variables["BENCHBD_WORKERS"] = str(workers)
        # A file called random.py in the folder where a run is started must not replace Python's own.
        variables["PYTHONSAFEPATH"] = "1"
        return variables


def visible_gpus() -> tuple[str, ...]:
    """Ids of the GPUs torch can use, an inherited CUDA_VISIBLE_DEVICES respected.

    Torch is asked in a process of its own: a parent that has touched CUDA cannot be rid of it. It is not asked at all
    where nothing hints at a GPU, because importing it takes seconds.
    """
    inherited = os.environ.get("CUDA_VISIBLE_DEVICES")
    if inherited is not None and inherited.strip() in ("", "-1", "NoDevFiles"):
        return ()
    if not (shutil.which("nvidia-smi") or any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()):
        return ()
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=120, check=False
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
        UsageError: a GPU was asked for that is not there.
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
    """Refuse more slots or threads than any machine has a use for.

    Raises:
        UsageError: the message names the flag and the limit.
    """
    most = max(MOST_SLOTS, MOST_PER_CORE * cores())
    # Slurm and Ray place jobs on machines of their own, of which this one knows nothing.
    here = settings.executor in ("inline", "local")
    for flag, value, limit in (
        ("--jobs", settings.jobs if here else None, most),
        ("--jobs-per-gpu", settings.jobs_per_gpu, most),
        ("--threads", settings.threads, MOST_THREADS),
    ):
        if value is not None and value > limit:
            where = f" on a machine of {cores()} cores" if limit == most else ""
            raise UsageError(f"{flag} {shown(value)}: at most {limit:,} make sense{where}; give fewer")


def make_slots(settings: RunSettings) -> list[Slot]:
    """The slots of this machine: visible GPUs x jobs_per_gpu, or one per core; ``jobs`` overrides the number.

    One thread each on the CPU, whatever the number of slots: two OpenMP threads that share cores with others can be ten
    times slower than one, and the result of a sum depends on how many threads share it.

    Raises:
        UsageError: a GPU that is not there, or more slots than :func:`check_numbers` lets pass.
    """
    check_numbers(settings)
    gpus = chosen_gpus(settings)
    if not gpus:
        count = settings.jobs or cores()
        return [Slot(i, None, 1, settings.threads or 1) for i in range(count)]
    count = settings.jobs or len(gpus) * settings.jobs_per_gpu
    threads = settings.threads or max(1, cores() // count)
    # Round robin, so that fewer jobs than places still use every GPU.
    places = [gpus[i % len(gpus)] for i in range(count)]
    return [Slot(i, gpu, places.count(gpu) * settings.gpu_share, threads) for i, gpu in enumerate(places)]
