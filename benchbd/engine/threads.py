"""The number of CPU threads of one computation. The result of a sum depends on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from benchbd.core.numerics import THREAD_VARIABLES
from benchbd.core.variables import variables

_in_libraries: int | None = None
"""Threads that every numeric library of this process is known to have; None: unknown."""


def libraries_have(count: int | None) -> None:
    """Tell :func:`cpu_threads` that every numeric library of this process has ``count`` threads; None: unknown.

    Only a cell's own process knows: its worker has started with that number and has never run a user's code. Elsewhere
    a library may have been loaded under another number, and stays at it.
    """
    global _in_libraries
    _in_libraries = count


@contextlib.contextmanager
def cpu_threads(count: int, device: torch.device) -> Iterator[None]:
    """Compute with ``count`` CPU threads in torch and in the libraries under numpy and scikit-learn.

    The former numbers return at the end.

    Args:
        count: number of threads of a cell. One, the default, leaves a GPU's cells the threads of their slot.
        device: computes the trainings.
    """
    if count == 1 and device.type != "cpu":
        yield
        return
    before = torch.get_num_threads()
    with contextlib.ExitStack() as stack:
        # Looking through the loaded libraries takes up to 0.08 s, more than the rest of a cell's overhead.
        if count != _in_libraries:
            from threadpoolctl import threadpool_limits

            # Libraries that are loaded from here on read these.
            stack.enter_context(variables(dict.fromkeys(THREAD_VARIABLES, str(count))))
            stack.enter_context(threadpool_limits(limits=count))
        stack.callback(torch.set_num_threads, before)
        torch.set_num_threads(count)
        yield
