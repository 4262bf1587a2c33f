"""Runs a program of somebody else in a process of its own, and ends it with everything that it has started."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

KEPT_VARIABLES = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM"),
    *("LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_EXE"),
    *("CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "http_proxy", "https_proxy", "no_proxy"),
)
"""Environment variables of the user that a program gets, beside all ``LC_*``. Others may name folders of the run."""
TAIL = 20
"""Last lines of a program's output that are kept."""
LONGEST_LINE = 2000
"""Characters of a line of output that are kept."""
PATIENCE = 15.0
"""Seconds that a supervisor gets to end its program."""
_MODULE = f"{__package__}.program_supervisor"
_START = f"import sys; sys.path.insert(0, sys.argv[1]); from {_MODULE} import main; main(sys.argv[2:])"

_peak = 0


def reset_peak() -> None:
    """Forget the programs that have run so far, for :func:`peak`."""
    global _peak
    _peak = 0


def peak() -> int:
    """Most memory in bytes that a process of a program has taken since :func:`reset_peak`; 0 without programs."""
    return _peak


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a program has ended.

    Attributes:
        code: its exit code; negative for a signal; None if it did not start or was ended here.
        seconds: wall-clock time.
        peak: memory in bytes of its largest process.
        timed_out: whether it was ended at its time limit.
        error: why it did not start, or None.
        tail: the last lines of its output.
    """

    code: int | None
    seconds: float
    peak: int
    timed_out: bool
    error: str | None
    tail: tuple[str, ...]

    def fault(self, limit: str) -> str | None:
        """One line about a program that has not ended well, with the last line of its output; None if it has.

        Args:
            limit: the time limit, for the message.
        """
        if self.code == 0:
            return None
        if self.error is not None:
            return f"cannot be started ({self.error})"
        if self.timed_out:
            what = f"was ended at its time limit of {limit}"
        elif self.code is None:
            what = f"was ended from outside after {self.seconds:.0f} s"
        elif self.code < 0:
            name = signal.Signals(-self.code).name if -self.code in set(signal.Signals) else f"signal {-self.code}"
            hint = " (is memory short?)" if name == "SIGKILL" else ""
            what = f"was killed by {name} after {self.seconds:.0f} s{hint}"
        else:
            what = f"ended with exit code {self.code} after {self.seconds:.0f} s"
        said = next((line for line in reversed(self.tail) if line.strip()), None)
        return f"{what}; it printed nothing" if said is None else f"{what}; its last line: {said.strip()[:300]}"


def clean_variables(kept: Sequence[str], new: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program: a few variables of the user, those that are asked for, and new ones."""
    names = {*KEPT_VARIABLES, *kept}
    own = {name: value for name, value in os.environ.items() if name in names or name.startswith("LC_")}
    return {**own, **new}


def run_program(
    words: Sequence[str], folder: Path, variables: Mapping[str, str], seconds: float, say: Callable[[str], None]
) -> Ended:
    """Run a program to its end. Nothing that it has started is left afterwards, daemons included (Linux).

    Args:
        words: the program and its arguments.
        folder: its current folder.
        variables: its whole environment.
        seconds: its time limit.
        say: called with its output, as it comes: one line, or several of a program that prints fast.

    Raises:
        BaseException: what interrupts this process meanwhile. The program is ended then, too.
    """
    global _peak
    began = time.monotonic()
    read, write = os.pipe()
    root = Path(__file__).resolve().parents[2]
    start = [sys.executable, "-I", "-S", "-c", _START, str(root), str(os.getpid()), str(write), str(seconds), *words]
    tail: deque[str] = deque(maxlen=TAIL)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, read)
        try:
            supervisor = stack.enter_context(
                subprocess.Popen(
                    start,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    env=dict(variables),
                    pass_fds=(write,),
                    start_new_session=True,
                )
            )
        finally:
            os.close(write)
        try:
            for lines in _lines(supervisor):
                tail.extend(lines)
                say("\n".join(lines))
            supervisor.wait(PATIENCE)
        finally:
            _end(supervisor)
        os.set_blocking(read, False)
        report = _report(read)
    status = report.get("status")
    found = Ended(
        code=None if status is None else os.waitstatus_to_exitcode(status),
        seconds=time.monotonic() - began,
        peak=int(report.get("peak") or 0),
        timed_out=bool(report.get("timed_out")),
        error=report.get("error"),
        tail=tuple(tail),
    )
    _peak = max(_peak, found.peak)
    return found


def _lines(supervisor: subprocess.Popen[bytes]) -> Iterator[list[str]]:
    """Lines of output, those that come together, until the end of the supervisor. A progress bar's returns end one."""
    assert supervisor.stdout is not None
    pipe, rest = supervisor.stdout.fileno(), b""
    while True:
        if select.select([pipe], [], [], 1.0)[0]:
            chunk = os.read(pipe, 1 << 16)
            if not chunk:
                break
            *whole, rest = re.split(rb"[\r\n]+", rest + chunk)
            if whole:
                yield [_text(line) for line in whole]
            rest = rest[-LONGEST_LINE * 4 :]
        elif supervisor.poll() is not None:
            break
    if rest:
        yield [_text(rest)]


def _text(line: bytes) -> str:
    text = line.decode("utf-8", "replace")[:LONGEST_LINE]
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\t" else " " for c in text)


def _end(supervisor: subprocess.Popen[bytes]) -> None:
    """End the supervisor, which ends its program; kill its session if it does not."""
    if supervisor.poll() is None:
        supervisor.terminate()
        try:
            supervisor.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(supervisor.pid, signal.SIGKILL)
            supervisor.wait()


def _report(pipe: int) -> dict[str, Any]:
    """What the supervisor has reported; empty if it was killed."""
    with contextlib.suppress(BlockingIOError, ValueError):
        found = json.loads(os.read(pipe, 1 << 16) or b"{}")
        return found if isinstance(found, dict) else {}
    return {}
