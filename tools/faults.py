"""The faults that the torture inflicts on a run, and the plugin whose cells leave everything in disorder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SLOPPY = '''
"""A defense that breaks whatever it can reach after its training, each time something else."""

import os
import random
import time

import numpy as np
import torch

from benchbd import Defense, Lab, TrainedModel, defense


def hooks():
    torch.nn.modules.module.register_module_forward_hook(
        lambda module, given, out: out * 1.5 if isinstance(module, torch.nn.Linear) else None
    )


def monkeypatches():
    import benchbd.engine as engine

    torch.nn.functional.relu = torch.nn.functional.gelu
    torch.randperm = lambda n, **more: torch.arange(n)
    np.random.default_rng = lambda *given: np.random.Generator(np.random.PCG64(7))
    engine.logits_of = lambda *given, **more: (_ for _ in ()).throw(RuntimeError("patched"))


def thread_and_child():
    import threading

    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)


def process_settings():
    import gc
    import resource
    import signal

    os.chdir("/")
    os.umask(0o777)
    os.environ.clear()
    os.environ["OMP_NUM_THREADS"] = "7"
    gc.disable()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 1.0)


def torch_settings():
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    np.seterr(all="raise")


def returning_child():
    if os.fork() == 0:
        return  # the child goes on with the harness's code


def own_disk_full():
    with open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")


def base_exception():
    import asyncio

    raise asyncio.CancelledError("not an Exception")


def closed_files():
    os.closerange(0, 64)


def sudden_exit():
    os._exit(3)


def crash():
    os.abort()


BREAKAGES = [
    hooks, monkeypatches, thread_and_child, process_settings, torch_settings, returning_child, own_disk_full,
    base_exception, closed_files, sudden_exit, crash,
]


@defense("sloppy", version=1)
class Sloppy(Defense):
    """Trains as no defense does, then breaks things."""

    number: int = 0
    """Which of the sloppy cells."""

    def train(self, lab: Lab) -> TrainedModel:
        trained = lab.train(lab.poisoned)
        breakage = random.Random(time.time_ns()).choice(BREAKAGES)
        with open(os.environ["TORTURE_BREAKAGES"], "a") as file:
            file.write(breakage.__name__ + "\\n")
        breakage()
        return trained
'''


class Scene(NamedTuple):
    """What a fault can act on.

    Attributes:
        process: the run.
        output: its results folder.
        disk: the small disk that holds the folder.
        random: draws the details.
        damaged: what faults have written in the place of finished records, by cell ID; their cells must be done again.
        junk: names of the junk that was added.
    """

    process: subprocess.Popen[bytes]
    output: Path
    disk: Path
    random: random.Random
    damaged: dict[str, list[bytes]]
    junk: set[str]


def workers(parent: int) -> list[int]:
    """Processes that belong to a run: its workers, their watchdogs, and the processes of their cells."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"benchbd.run.workers.worker" in words and words[words.index(b"--parent") + 1] == str(parent).encode():
                found.append(int(folder.name))
    return sorted(found)


def kill_run(scene: Scene) -> bool:
    """SIGKILL for the run."""
    scene.process.kill()
    scene.process.wait()
    return True


def stop_run(scene: Scene) -> bool:
    """The signals that ask a run to stop, twice so that it stops at once."""
    number = scene.random.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    scene.process.send_signal(number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        scene.process.wait(0.3)
    scene.process.send_signal(number)
    return True


def kill_worker(scene: Scene) -> bool:
    """SIGKILL for a worker, a watchdog or a cell's process."""
    pids = workers(scene.process.pid)
    if pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(scene.random.choice(pids), signal.SIGKILL)
    return bool(pids)


def damage_file(path: Path, rng: random.Random) -> None:
    """Flip a byte of a file, cut it short, or empty it."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        how = rng.choice(("flip", "cut", "empty"))
        if how == "flip" and size:
            place = rng.randrange(size)
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 0x55]))
        else:
            file.truncate(size // 2 if how == "cut" else 0)


def replace_by_other_kind(path: Path, rng: random.Random) -> None:
    """Put a FIFO, a folder, a socket or a dangling link in the place of a file or folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    how = rng.choice(("fifo", "folder", "socket", "link"))
    if how == "fifo":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "link":
        path.symlink_to("nowhere")
    else:
        here = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:  # the name of a socket must be short
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)


def _stored(scene: Scene, pattern: str) -> list[Path]:
    return sorted((scene.output / "store").glob(pattern))


def damage_artifact(scene: Scene) -> bool:
    """Damage the bytes of a stored file."""
    files = [path for path in _stored(scene, "*/*/*/*") if path.is_file()]
    if not files:
        return False
    with contextlib.suppress(OSError):  # it was replaced in the meantime
        damage_file(scene.random.choice(files), scene.random)
        return True
    return False


def replace_artifact(scene: Scene) -> bool:
    """Put something else in the place of a stored file or artifact."""
    paths = _stored(scene, scene.random.choice(("*/*/*/*", "[am-z]*/??/*")))
    if not paths:
        return False
    with contextlib.suppress(OSError):
        replace_by_other_kind(scene.random.choice(paths), scene.random)
        return True
    return False


def _finished(scene: Scene) -> list[Path]:
    found = []
    for path in sorted((scene.output / "records").glob("[0-9a-f]*.json")):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            record = json.loads(path.read_bytes()) if path.is_file() else None
            if isinstance(record, dict) and record.get("status") == "done":
                found.append(path)
    return found


IMPOSSIBLE: tuple[tuple[str, object], ...] = (
    ("ca", 1.7),
    ("ca", float("nan")),
    ("ca", "0.5"),
    ("asr", -0.1),
    ("time", {"total": -1.0, "own": 1.0, "stages": {}}),
    ("peak_memory_bytes", -5),
    ("status", "finished"),
    ("spec", {}),
    ("seed", True),
    ("notes", []),
)


def damage_record(scene: Scene) -> bool:
    """Make a finished record junk, impossible, or something other than a file."""
    records = _finished(scene)
    if not records:
        return False
    path = scene.random.choice(records)
    how = scene.random.choice(("bytes", "other kind", "impossible", "impossible"))
    junk = b""
    try:
        before = path.read_bytes()
        if how == "other kind":
            replace_by_other_kind(path, scene.random)
        elif how == "bytes":
            junk = scene.random.choice((b"", before[: len(before) // 2], b"[]", b"\xff\xfe", b"[" * 9_000))
            path.write_bytes(junk)
        else:
            field, value = scene.random.choice(IMPOSSIBLE)
            junk = json.dumps({**json.loads(before), field: value}).encode()
            path.write_bytes(junk)
    except OSError:
        return False
    scene.damaged.setdefault(path.stem, []).append(junk)
    return True


def add_junk(scene: Scene) -> bool:
    """Put junk beside the records, the locks, the logs and the artifacts."""
    name = f"{scene.random.randrange(16**16):016x}"
    place = scene.random.choice(("records", "running", "store/locks", "store/tmp", "logs", "store/model", "."))
    folder = scene.output / place
    path = folder / (f"{name}.json" if place == "records" else name)
    if not folder.is_dir():
        return False
    with contextlib.suppress(OSError):
        path.write_text('{"status": "done", "params": [1]}')
        if scene.random.random() < 0.5:
            replace_by_other_kind(path, scene.random)
        scene.junk.add(path.name)
        return True
    return False


def fill_disk(scene: Scene) -> bool:
    """Leave not one byte free for a while."""
    filler = scene.disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    with contextlib.suppress(subprocess.TimeoutExpired):
        scene.process.wait(scene.random.uniform(0.5, 3.0))
    filler.unlink()
    return True


def delete_output(scene: Scene) -> bool:
    """Delete the whole results folder under the running run."""
    if not scene.output.is_dir():
        return False
    with contextlib.suppress(OSError):
        shutil.rmtree(scene.output)
    time.sleep(0.05)
    return True


class Fault(NamedTuple):
    """A kind of fault.

    Attributes:
        inflict: does it; False where there is nothing to break at the moment.
        weight: how often it is drawn, relative to the others.
        ends: whether the run is over afterwards.
    """

    inflict: Callable[[Scene], bool]
    weight: int
    ends: bool = False


FAULTS = {
    "run killed": Fault(kill_run, 4, ends=True),
    "run stopped by a signal": Fault(stop_run, 3, ends=True),
    "worker or cell killed": Fault(kill_worker, 6),
    "artifact damaged": Fault(damage_artifact, 6),
    "artifact replaced by a FIFO, folder, socket or link": Fault(replace_artifact, 6),
    "record damaged": Fault(damage_record, 6),
    "junk added": Fault(add_junk, 4),
    "disk filled": Fault(fill_disk, 2),
    "output folder deleted": Fault(delete_output, 1),
}
SLOPPY_FAULT = "cell left disorder behind"
READER_FAULT = "reader of the messages gone"
