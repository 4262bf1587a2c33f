"""Runs the contract tests on a plugin: the test suite and ``benchbd check NAME`` use it.

The checks are in :mod:`benchbd.testing.promises`. They work with tiny plugins (:mod:`benchbd.testing.tiny`) and take a
second or two each.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from benchbd.errors import BenchbdError, RunStopped, one_line
from benchbd.plugins import registry
from benchbd.plugins.scan import describe_error
from benchbd.testing.plugin_under_test import PluginUnderTest, register
from benchbd.testing.promises import CHECKS, Check

LIMIT = 120.0
"""Time limit for one check, in seconds. Checks are short, since their data and networks are tiny."""


class TimeLimitReached(RunStopped):
    """A check took too long. Not an Exception, so that a plugin does not catch it."""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise :class:`TimeLimitReached` inside the block after some seconds.

    There is no limit on systems without SIGALRM and outside the main thread.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise TimeLimitReached

    before = signal.signal(signal.SIGALRM, stop)
    left, every = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, every)
        signal.signal(signal.SIGALRM, before)


def faults(bench: PluginUnderTest, check: Check, limit: float = LIMIT) -> list[str]:
    """The faults that one check finds. An exception, or taking more than ``limit`` seconds, is a fault too."""
    register()
    try:
        with _limited(limit):
            return list(check(bench))
    except TimeLimitReached:
        return [f"did not finish on the tiny set within {limit:g} seconds"]
    except BenchbdError as error:
        return [one_line(error)]
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return [describe_error(error, bench.entry.file)]


def check(kind: str, name: str, limit: float = LIMIT, /, **given: Any) -> list[str]:
    """Run every check on a plugin.

    Args:
        kind: ``attacks``, ``defenses``, ``models`` or ``datasets``.
        name: name of the plugin.
        limit: time limit for one check, in seconds.
        **given: parameters, which override the plugin's ``smoke`` parameters.

    Returns:
        One line for each fault, with the plugin, its file and the check; others that find the same stand at its end.
        Empty if there are no faults.

    Raises:
        UsageError: the plugin is unknown or cannot be loaded.
    """
    bench = PluginUnderTest(kind, name, **given)
    where = f"{kind[:-1]} {name!r} ({bench.entry.origin})"
    if bench.missing:
        return [f"{where}: not checked: {bench.missing}"]
    found: dict[str, dict[str, None]] = {}
    for one in CHECKS[kind]:
        for line in faults(bench, one, limit):
            found.setdefault(line, {})[one.__name__] = None

    def told(line: str, first: str, *others: str) -> str:
        return f"{where}: {first}: {line}" + (f" (also in {', '.join(others)})" if others else "")

    return [told(line, *checks) for line, checks in found.items()]


def names(kind: str) -> list[str]:
    """Names of all readable plugins of a kind, including the tiny one."""
    tiny = {"datasets": "tiny", "attacks": "tiny-patch", "defenses": "tiny-filter", "models": "tiny-net"}[kind]
    return sorted({tiny, *(entry.name for entry in registry.entries(kind) if not entry.error)})
