"""What every plugin promises, as checks: the contract tests run them, and so does ``benchbd check NAME``.

The checks themselves are in :mod:`benchbd.testing.promises`. They work on tiny plugins (:mod:`benchbd.testing.tiny`)
and need a second or two each.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from benchbd.errors import BenchbdError, one_line
from benchbd.plugins import registry
from benchbd.plugins.scan import describe_error
from benchbd.testing.plugin_under_test import PluginUnderTest, register
from benchbd.testing.promises import CHECKS, Check

LIMIT = 120.0
"""Seconds that one check may take: everything it works on is tiny."""


class Late(BaseException):
    """A check took too long. Not an Exception, so that no plugin swallows it."""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise :class:`Late` in here after so many seconds, where the system has an alarm and this is the main thread."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, ring)
    left, every = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, every)
        signal.signal(signal.SIGALRM, before)


def faults(bench: PluginUnderTest, check: Check, limit: float = LIMIT) -> list[str]:
    """What one check finds wrong; what it raises, and taking more than ``limit`` seconds, counts as found."""
    register()
    try:
        with _limited(limit):
            return list(check(bench))
    except Late:
        return [f"has not come to its end on the tiny set within {limit:g} seconds"]
    except BenchbdError as error:
        return [one_line(error)]
    except (Exception, SystemExit) as error:
        return [describe_error(error, bench.entry.file)]


def check(kind: str, name: str, limit: float = LIMIT, /, **given: Any) -> list[str]:
    """Run every check on a plugin.

    Args:
        kind: ``attacks``, ``defenses``, ``models`` or ``datasets``.
        name: the plugin's.
        limit: seconds that one check may take.
        **given: parameters that win over the plugin's ``smoke`` ones.

    Returns:
        One line for each thing that is wrong, with the plugin and where it is; empty where all is well.

    Raises:
        UsageError: there is no such plugin, or it cannot be loaded.
    """
    bench = PluginUnderTest(kind, name, **given)
    where = f"{kind[:-1]} {name!r} ({bench.entry.origin})"
    if bench.missing:
        return [f"{where}: not checked: {bench.missing}"]
    return [f"{where}: {one.__name__}: {line}" for one in CHECKS[kind] for line in faults(bench, one, limit)]


def names(kind: str) -> list[str]:
    """Every plugin of a kind that can be listed, the tiny one included."""
    tiny = {"datasets": "tiny", "attacks": "tiny-patch", "defenses": "tiny-filter", "models": "tiny-net"}[kind]
    return sorted({tiny, *(entry.name for entry in registry.entries(kind) if not entry.error)})
