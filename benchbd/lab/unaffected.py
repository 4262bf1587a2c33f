"""Computations whose results other cells share, free of what plugins have changed for the whole process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from benchbd.engine import global_state
from benchbd.errors import Misused
from benchbd.plugins.left_running import left_running

T = TypeVar("T")


def unaffected(compute: Callable[[], T], threads: int | None) -> Callable[[], T]:
    """A computation with torch's and numpy's usual settings, refused where these do not suffice.

    Args:
        compute: computes what is stored under a key that names no other plugin.
        threads: number of CPU threads; None leaves it.

    Raises:
        Misused: a plugin replaced code, registered a hook for all modules, or left something running; nothing is stored
            then.
    """

    def check() -> None:
        global_state.check()
        if left := left_running():
            raise Misused(
                f"{left}, which could change what the lab trains for other cells, too; end it before you call it"
            )

    def computed() -> T:
        with global_state.usual_settings(threads):
            check()
            found = compute()
            check()
        return found

    return computed
