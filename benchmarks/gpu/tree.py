"""The source tree as an importable package, without an installation, which would put the plugin folders inside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSIDE = ("attacks", "datasets", "defenses", "matrices", "models")
"""Folders beside the package that an installation puts inside it."""
PARENT = "BENCHBD_GPU_PARENT"
"""Variable with the process ID of the program that runs the parts."""


def importable(place: Path) -> Path:
    """Make a folder of links from which ``benchbd`` can be imported, whatever is installed; return it.

    Args:
        place: a folder in which the new one is made.
    """
    site = place / "site"
    package = site / "benchbd"
    package.mkdir(parents=True, exist_ok=True)
    for source in (*(ROOT / "benchbd").iterdir(), *(ROOT / name for name in INSIDE)):
        link = package / source.name
        if source.name != "__pycache__" and not link.is_symlink():
            link.symlink_to(source)
    return site


def environment(site: Path, given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables with which a process, and all that it starts, imports from :func:`importable`."""
    paths = [str(site), *filter(None, [given.get("PYTHONPATH")])]
    return {**given, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def end_with_parent() -> None:
    """Let this process end when the one that runs the parts is killed, so that nothing keeps the GPU."""
    from benchbd.core.process_group import die_with_parent

    if (parent := os.environ.pop(PARENT, None)) is not None:
        die_with_parent(int(parent))
