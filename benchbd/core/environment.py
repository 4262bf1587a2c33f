"""The environment of a measurement: versions, code state, device. It never includes a host or user name."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from benchbd.core.kinds import KINDS

PACKAGES = ("benchbd", "torch", "torchvision", "numpy", "scikit-learn", "safetensors", "timm")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results may depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


CODE_FILES = (".py", ".yaml", ".yml")
"""Endings of the files of a checkout that become plugins or matrices as soon as they are there."""


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the checkout this code runs from; None for both in an installed package.

    It is dirty if code or a matrix is not as the commit has it, or not in the commit at all.
    """
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return {"commit": None, "dirty": None}
    # Records written into the checkout do not change the code that wrote them.
    code = ("benchbd", *(f"{kind}s" for kind in KINDS), "matrices")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *code)
    # benchbd finds plugins and matrices by their place. A file that is untracked or ignored may have been measured.
    new = git("ls-files", "--others", "-z", "--", *code)
    dirty = None
    if changed is not None and new is not None:
        dirty = bool(changed) or any(name.endswith(CODE_FILES) for name in new.split("\0"))
    return {"commit": git("rev-parse", "HEAD"), "dirty": dirty}


@functools.cache
def cpu_name() -> str:
    """The model name that the processor reports."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """Number of CPU cores this process may use, according to its affinity."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def basics() -> dict[str, Any]:
    """The facts that are known without torch."""
    return {
        "versions": versions(),
        "git": git_state(),
        "cpu": cpu_name(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def describe(device: Any, precision: str) -> dict[str, Any]:
    """The ``env`` of a record.

    Args:
        device: torch device of the computation.
        precision: name of the precision class.
    """
    import torch

    facts = basics()
    if device.type == "cuda":
        facts |= {
            "device": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    else:
        facts |= {"device": cpu_name()}
    share = os.environ.get("BENCHBD_GPU_SHARE")
    if share:
        facts["gpu_share"] = share
    return facts | {
        "precision": precision,
        "threads": torch.get_num_threads(),
        "workers": int(os.environ.get("BENCHBD_WORKERS", "1")),
    }
