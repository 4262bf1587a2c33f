"""Ctrl-C while the command starts: importing takes longer than many a command, and ``main`` cannot catch it yet.

Importing this module makes Ctrl-C end the process at once and quietly, if the process is the command ``benchbd`` or
``python -m benchbd``. Nothing has begun by then that an end could damage. In any other program, importing benchbd
changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

INTERRUPTED = "interrupted"
"""What a command says after Ctrl-C."""
EXIT_CODE = 130
"""Exit code of a command after Ctrl-C, as shells report it."""
_NAMES = ("benchbd", "benchbd.exe", "benchbd-script.py", "benchbd-script.pyw")
"""File names of the command, as pip makes it."""


def is_command(argv: list[str], orig_argv: list[str]) -> bool:
    """Whether a process is the command, and not a program that imports benchbd.

    Args:
        argv: ``sys.argv``. While Python looks for the module of ``python -m``, it starts with ``-m``.
        orig_argv: ``sys.orig_argv``, which ends with that module and its arguments.
    """
    if argv[:1] == ["-m"] and len(argv) <= len(orig_argv):
        return orig_argv[-len(argv)].rpartition("-m")[2].removesuffix(".__main__") == "benchbd"
    return bool(argv) and argv[0].replace("\\", "/").rpartition("/")[2] in _NAMES


def _leave(number: int, frame: object) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"benchbd: {INTERRUPTED}\n".encode())
    os._exit(EXIT_CODE)


def hand_over() -> None:
    """Make Ctrl-C raise KeyboardInterrupt again, now that somebody catches it."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _begin() -> None:
    # A shell starts what ends in & with SIGINT ignored, and it stays ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and is_command(sys.argv, sys.orig_argv):
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, _leave)


_begin()
