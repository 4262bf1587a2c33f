"""A stand-in for ``benchbd.pipeline.run_cell``, so that the runner is tested without any training."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from benchbd.core.recipe import Recipe
from benchbd.plan.cell import Cell
from benchbd.plugins import registry
from benchbd.plugins.identity import part_of
from benchbd.storage import records

PLUGIN = Path(__file__).parents[1] / "zoo" / "acting.py"
EXECUTE = "run_fakes:execute"


def cell(
    do: str = "done", n: int = 0, *, seconds: float = 0.0, shared: str = "", attack: str = "", seed: int = 0
) -> Cell:
    """A cell that does what ``do`` says."""
    registry.add_plugin_file(str(PLUGIN))
    return Cell(
        part_of(registry.make("datasets", "toy-images")),
        part_of(registry.make("models", "toy-net")),
        part_of(registry.make("attacks", "toy-attack", tag=attack)),
        part_of(registry.make("defenses", "act", do=do, n=n, seconds=seconds, shared=shared)),
        Recipe().spec(),
        seed,
        "fakes",
    )


def trace(output: Path, word: str, cell_id: str) -> None:
    """Append one short line (atomic on every file system we know) to the trace of what happened when."""
    with (output / "trace").open("a") as file:
        file.write(f"{time.time():.6f} {word} {cell_id} {os.getpid()}\n")


def parent(output: Path, pid: int) -> int:
    """The parent of a process that has written to the trace: for a cell, its worker."""
    return int((output / "parents" / str(pid)).read_text())


def read_trace(output: Path) -> list[tuple[float, str, str, int]]:
    """What the fakes did: time, word, cell id, process id."""
    path = output / "trace"
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(float(at), word, cell_id, int(pid)) for at, word, cell_id, pid in rows]


def execute(
    cell_json: dict[str, Any],
    *,
    output: Path,
    data_root: str | None,
    device: str,
    plugins: list[str],
    on_event: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Do what the cell's ``act`` defense says, then write a record as the real one does."""
    for file in plugins:
        registry.add_plugin_file(file)
    this = Cell.from_json(cell_json)
    act = this.defense.params
    record = records.blank(this, "failed")
    output.mkdir(parents=True, exist_ok=True)
    (output / "parents").mkdir(exist_ok=True)
    (output / "parents" / str(os.getpid())).write_text(str(os.getppid()))
    trace(output, "start", this.id)
    on_event({"event": "stage", "stage": "acting"})
    _sleep(act["seconds"], on_event)
    do = act["do"]
    if do.startswith("meet-"):  # wait until so many cells run at once, then do what comes after the number
        _, count, *rest = do.split("-", 2)
        _meet(int(count), output)
        do = rest[0] if rest else "done"
    if do.startswith("until-"):  # misbehave on the first tries only
        _, tries, do = do.split("-", 2)
        started = sum(1 for row in read_trace(output) if row[1:3] == ("start", this.id))
        do = do if started <= int(tries) else "done"
    _misbehave(do, output)
    if do == "raise":
        record["error"] = "ValueError: told to"
    elif do in ("oom", "diverged"):
        record |= {"status": do, "error": f"{do}, as told"}
    elif do == "full":
        record["error"] = f"the disk is full ({output}); free some space and run the same command again"
    elif do == "results-full":
        record["error"] = f"the disk of the results is full ({output}); free some space"
    elif do == "files":
        place = Path(os.environ["BENCHBD_FILES"])
        found = {path.relative_to(place).as_posix(): path.read_text() for path in place.rglob("*") if path.is_file()}
        record |= {"status": "done", "ca": 0.9, "notes": {"place": str(place), "files": found}}
    elif do == "environment":
        names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "BENCHBD_GPU_SHARE")
        record |= {
            "status": "done",
            "ca": 0.9,
            "notes": {name: os.environ.get(name) for name in names} | {"device": device},
        }
    else:
        record |= {"status": "done", "ca": 0.9, "asr": 0.1}
    record["time"]["total"] = act["seconds"]
    records.write_record(output, record)
    if do == "die-late":
        os.kill(os.getpid(), signal.SIGKILL)
    trace(output, "end", this.id)
    return record


def _sleep(seconds: float, on_event: Callable[[dict[str, Any]], None]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(0.02, left))
        on_event({"event": "progress", "stage": "acting", "epoch": 1, "epochs": 2, "loss": 0.5})


def _meet(count: int, output: Path) -> None:
    for _ in range(3000):
        words = [row[1] for row in read_trace(output)]
        if words.count("start") - words.count("end") >= count:
            break
        time.sleep(0.02)


def _misbehave(do: str, output: Path) -> None:
    if do == "segfault":
        ctypes.string_at(0)
    elif do == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif do == "exit":
        os._exit(7)
    elif do == "hang":
        time.sleep(3600)
    elif do == "children":
        # A helper in the same group, which would outlive the worker if only the worker were killed.
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        (output / "child").write_text(json.dumps([os.getpid(), child.pid]))
        time.sleep(3600)
    elif do == "daemon":
        # A process that has left the cell's session and group, whose parent is gone.
        if not os.fork():
            os.setsid()
            if os.fork():
                os._exit(0)
            (output / "daemon").write_text(str(os.getpid()))
            time.sleep(3600)
        os.wait()
        while not (output / "daemon").exists() or not (output / "daemon").read_text():
            time.sleep(0.01)
    elif do == "remove-records":
        shutil.rmtree(output / "records")
    elif do == "fork":
        os.fork()
    elif do == "no-exception":
        raise asyncio.CancelledError("stopped")
    elif do == "keyboard":
        raise KeyboardInterrupt
    elif do == "close-files":
        os.closerange(0, 256)
    elif do.startswith("forge-"):
        _write_to_pipes(FORGED[do.removeprefix("forge-")])
        os._exit(3)
    elif do == "streams":
        Path(tempfile.mkdtemp(), "left").write_text("behind")
        (output / "streams").write_text(json.dumps([os.read(0, 10).decode(), tempfile.gettempdir(), os.getsid(0)]))
    elif do == "worker":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(3600)
    elif do == "talk":
        sys.stdout.write("said on stdout\n")
        os.write(2, b"said on stderr by native code\n")
    elif do == "flood":
        # A child that prints, as native code would.
        subprocess.run(
            ["sh", "-c", "echo the beginning; yes 'and so on' | head -c 30000000; echo the end >&2"], check=True
        )
    elif do == "cuda":
        _break_the_device()
    elif do == "outside":
        raise OSError(28, "No space left on device")
    elif do == "raise-outside":
        raise RuntimeError("broken before any record")


FORGED = {
    "code": {"event": "ended", "code": "abc"},
    "number": {"event": "ended", "code": 0, "status": "done", "reason": "", "recorded": False},
    "stopped": {"event": "ended", "stopped": True},
    "status": {"event": "ended", "status": "weird", "reason": "", "recorded": False},
    "types": {"event": "ended", "status": ["done"], "reason": {"a": 1}, "recorded": "yes"},
    "ready": {"event": "ready", "pid": "x"},
    "deep": b'{"event": "note", "text": ' + b"[" * 100_000,
    "progress": {"event": "progress", "stage": {}, "epoch": 10**400, "epochs": [], "images": "n/a", "x": [[]]},
}
"""What a cell writes to its pipe, past the code that sends its events."""


def _write_to_pipes(message: dict[str, Any] | bytes) -> None:
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    for handle in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(handle.readlink()).startswith("pipe:"):
                os.write(int(handle.name), data + b"\n")


def _break_the_device() -> None:
    """Put a torch in place whose GPU fails for ever, as after a real CUDA error."""

    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    torch = ModuleType("torch")
    torch.cuda = SimpleNamespace(is_available=lambda: True, is_initialized=lambda: True, synchronize=fail)  # type: ignore[attr-defined]
    sys.modules["torch"] = torch
    fail()


def main() -> None:
    """A run of its own process, for tests that kill it: ``run_fakes.py OUT JOBS [--flag]... DO:N:SECONDS...``."""
    from benchbd.core.standard_streams import lasting_stderr
    from benchbd.run import RunSettings, run_cells
    from benchbd.run.display.plain import PlainDisplay

    output, jobs, *asked = sys.argv[1:]
    cells = []
    for text in asked:
        do, n, seconds = text.split(":")
        cells.append(cell(do, int(n), seconds=float(seconds)))
    settings = RunSettings(output=Path(output), plugins=(str(PLUGIN),), execute=EXECUTE, jobs=int(jobs))
    with lasting_stderr():  # as every command does
        code = run_cells(cells, settings, PlainDisplay()).exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
