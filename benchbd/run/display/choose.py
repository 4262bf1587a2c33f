"""Creates the display for ``--display``."""

from __future__ import annotations

import sys

from benchbd.core.standard_streams import on_terminal
from benchbd.errors import UsageError
from benchbd.run.display.base import Display, NoDisplay
from benchbd.run.display.plain import PlainDisplay

NAMES = ("auto", "rich", "plain", "none")


def make_display(name: str = "auto") -> Display:
    """The display of a given name; ``auto`` is ``rich`` on a terminal, and ``plain`` elsewhere and in CI.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in NAMES:
        raise UsageError(f"--display must be one of {', '.join(NAMES)}, not {name!r}")
    if name == "none":
        return NoDisplay()
    if name == "rich" or (name == "auto" and on_terminal(sys.stderr)):
        from benchbd.run.display.rich import RichDisplay

        return RichDisplay()
    return PlainDisplay()
