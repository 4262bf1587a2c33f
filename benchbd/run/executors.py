"""From a name to an executor. Cluster libraries are imported only when theirs is asked for."""

from __future__ import annotations

from benchbd.run.executor import Executor, Notify
from benchbd.run.settings import RunSettings
from benchbd.run.slots import make_slots


def make_executor(settings: RunSettings, notify: Notify) -> Executor:
    """The executor that ``--executor`` names.

    Raises:
        UsageError: its extra is not installed, or its settings are wrong.
    """
    if settings.executor == "slurm":
        from benchbd.run.slurm import SlurmExecutor

        return SlurmExecutor(settings, notify)
    if settings.executor == "ray":
        from benchbd.run.ray import RayExecutor

        return RayExecutor(settings, notify)
    slots = make_slots(settings)
    if settings.executor == "inline":
        from benchbd.run.inline import InlineExecutor

        return InlineExecutor(slots[0], settings, notify)
    from benchbd.run.local import LocalExecutor

    return LocalExecutor(slots, settings, notify)
