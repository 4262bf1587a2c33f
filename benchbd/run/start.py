"""Creates the executor and starts a run. Cluster libraries are imported only if their executor is selected."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchbd.core.numerics import gpu_words
from benchbd.run.display.base import Display
from benchbd.run.executor import Executor, Notify
from benchbd.run.outcome import Outcome
from benchbd.run.scheduler import Scheduler
from benchbd.run.settings import RunSettings
from benchbd.run.workers.slots import chosen_gpus, make_slots

if TYPE_CHECKING:
    from benchbd.plan.cell import Cell


def make_executor(settings: RunSettings, notify: Notify) -> Executor:
    """Create the executor that ``--executor`` names.

    Raises:
        UsageError: the executor's extra is not installed, or its settings are wrong.
    """
    if settings.executor == "slurm":
        from benchbd.run.cluster.slurm import SlurmExecutor

        return SlurmExecutor(settings, notify)
    if settings.executor == "ray":
        from benchbd.run.cluster.ray import RayExecutor

        return RayExecutor(settings, notify)
    slots = make_slots(settings)
    if settings.executor == "inline":
        from benchbd.run.workers.inline import InlineExecutor

        return InlineExecutor(slots[0], settings, notify)
    from benchbd.run.workers.local import LocalExecutor

    return LocalExecutor(slots, settings, notify)


def run_cells(cells: Sequence[Cell], settings: RunSettings, display: Display) -> Outcome:
    """Run every cell that has no result yet.

    Args:
        cells: the plan's cells; those outside ``settings.shard`` are ignored.
        settings: how to run them.
        display: shows the progress.

    Returns:
        The outcome of each cell.

    Raises:
        BenchbdError: workers fail to start, or records cannot be written.
    """
    settings = _with_threads(cells, settings)
    if line := _without_effect(cells, settings):
        display.note(line)
    return Scheduler(cells, settings, display).run(make_executor)


def _with_threads(cells: Sequence[Cell], settings: RunSettings) -> RunSettings:
    """Settings whose slots have as many threads as the cell that asks for the most."""
    most = max((cell.threads for cell in cells), default=1)
    return dataclasses.replace(settings, threads=max(most, settings.threads or 1)) if most > 1 else settings


def _without_effect(cells: Sequence[Cell], settings: RunSettings) -> str | None:
    """One line about the precisions that differ from others only on a GPU, if this run has none; else None."""
    wishes = sorted({cell.precision for cell in cells if gpu_words(cell.precision)})
    if not wishes or settings.executor not in ("inline", "local") or chosen_gpus(settings):
        return None
    words = sorted({word for wish in wishes for word in gpu_words(wish)})
    return (
        f"{' and '.join(words)} {'have' if len(words) > 1 else 'has'} no effect on a CPU: the cells of precision "
        f"{', '.join(wishes)} have IDs of their own but compute as without"
    )
