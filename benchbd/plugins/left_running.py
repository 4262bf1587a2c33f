"""Threads, timers and hooks that a plugin has left running. They would go on while the lab trains what others share.

Code that draws from torch's global generator meanwhile changes the weights that a network starts with, and its dropout.
No setting can be put right for that: the training is refused.
"""

from __future__ import annotations

import functools
import gc
import signal
import sys
import threading
from types import FrameType
from typing import Any

from benchbd.plugins import registry
from benchbd.plugins.own_module import PREFIX

_TIMERS = (("ITIMER_REAL", "SIGALRM"), ("ITIMER_VIRTUAL", "SIGVTALRM"), ("ITIMER_PROF", "SIGPROF"))


_audit_hooks: list[str] = []
"""Names of the modules that have added an audit hook since the first call of :func:`note_audit_hooks`."""


@functools.cache
def note_audit_hooks() -> None:
    """Note from now on which modules add audit hooks: Python neither lists these nor removes one."""

    def note(event: str, given: tuple[Any, ...]) -> None:
        if event == "sys.addaudithook":
            _audit_hooks.append(str(sys._getframe(1).f_globals.get("__name__")))

    sys.addaudithook(note)


def left_running() -> str | None:
    """Name in a few words a thread, timer or hook that runs a plugin's code, or will; None if there is none.

    Threads of libraries, such as a progress bar or a pool that waits for work, run no code of a plugin. The calling
    thread and the main one do not count.
    """
    others = set(threading.enumerate()) - {threading.current_thread(), threading.main_thread()}
    handlers = _handlers_of_running_timers()
    tracers = [hook for hook in (sys.getprofile(), sys.gettrace()) if hook is not None]
    if not any((others, handlers, tracers, gc.callbacks, _audit_hooks)):
        return None
    plugins = PluginModules()
    if any(map(plugins.define, handlers)):
        return "a timer with a signal handler of the plugin is running"
    if any(map(plugins.define, tracers)):
        return "a profiler or tracer of the plugin is running"
    if any(map(plugins.define, gc.callbacks)):
        return "a function of the plugin is in gc.callbacks"
    if any(module in plugins for module in _audit_hooks):
        return "an audit hook of the plugin is running"
    names = sorted(thread.name for thread in others if plugins.define_work_of(thread))
    return f"the plugin's thread {names[0]!r} is running" if names else None


def _handlers_of_running_timers() -> list[Any]:
    return [
        signal.getsignal(getattr(signal, number))
        for timer, number in _TIMERS
        if hasattr(signal, timer) and signal.getitimer(getattr(signal, timer))[0]  # Windows has none
    ]


class PluginModules:
    """The modules of all plugins that are known at this moment."""

    def __init__(self) -> None:
        self._modules = {entry.module for entry in registry.entries()}
        self._packages = {module.partition(".")[0] for module in self._modules} - {"benchbd"}

    def __contains__(self, module: Any) -> bool:
        """Whether a module's name is that of a plugin file or its helper, or lies in an installed plugin's package."""
        if not isinstance(module, str):
            return False
        return module.startswith(PREFIX) or module in self._modules or module.partition(".")[0] in self._packages

    def define(self, given: Any) -> bool:
        """Whether a function or class is a plugin's, or an object of such a class."""
        while isinstance(given, functools.partial):
            given = given.func
        return getattr(given, "__module__", None) in self

    def loaded(self) -> set[str]:
        """The modules of users' plugins that are imported by now, their helpers and packages included."""
        return {name for name in list(sys.modules) if name in self and not name.startswith("benchbd.")}

    def define_work_of(self, thread: threading.Thread) -> bool:
        """Whether a thread began with a plugin's function, will call one, or is in a plugin's code now."""
        if any(map(self.define, (getattr(thread, "_target", None), getattr(thread, "function", None), type(thread)))):
            return True
        frame: FrameType | None = sys._current_frames().get(thread.ident or 0)
        while frame is not None:
            if frame.f_globals.get("__name__") in self:
                return True
            frame = frame.f_back
        return False
