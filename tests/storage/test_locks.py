"""Artifacts are computed by one process at a time; who is killed leaves no lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from benchbd.errors import UsageError
from benchbd.storage.artifacts import Store

KEY = "ab" * 32


WORKER = textwrap.dedent(
    """
    import os, sys, time
    from pathlib import Path
    import numpy as np
    from benchbd.storage.artifacts import Store
    root, key, seconds, turns = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    store = Store(root)
    turn_key = lambda: f"{turn:02x}" + key[2:]
    half = lambda: root / "tmp" / f"array-{turn_key()[:32]}-half"
    trace = os.open(root.parent / "trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    def compute():
        os.write(trace, b"begin\\n")
        half().mkdir(parents=True)
        time.sleep(seconds)
        os.write(trace, b"end\\n")
        return {"a": np.array([os.getpid()])}, {}
    print("ready", flush=True)
    sys.stdin.readline()
    for turn in range(turns):
        found, now = store.memo("array", turn_key(), compute, lambda: print("waiting", flush=True))
        half().rmdir() if now else None
        print("computed" if now else "found", flush=True)
    """
)


class Worker:
    """A process that computes artifacts when told to."""

    def __init__(self, store: Store, seconds: float, turns: int) -> None:
        command = [sys.executable, "-c", WORKER, str(store.root), KEY, str(seconds), str(turns)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self) -> str:
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def rest(self) -> list[str]:
        return self.process.communicate()[0].split()


@pytest.fixture
def workers(store):
    started: list[Worker] = []

    def start(count: int, seconds: float, turns: int) -> list[Worker]:
        store.root.mkdir(exist_ok=True)
        started.extend(Worker(store, seconds, turns) for _ in range(count))
        assert [w.read() for w in started[-count:]] == ["ready"] * count
        return started[-count:]

    yield start
    for worker in started:
        worker.process.kill()
        worker.process.communicate()


def test_two_processes_never_compute_one_key_and_no_lock_is_left(store, workers):
    three = workers(3, 0.02, 15)
    for worker in three:
        worker.go()
    ends = [[word for word in worker.rest() if word != "waiting"] for worker in three]
    assert all(len(words) == 15 for words in ends)
    for turn in range(15):
        assert sorted(words[turn] for words in ends) == ["computed", "found", "found"]
    trace = (store.root.parent / "trace").read_text().split()
    assert len(trace) == 30
    assert list((store.root / "locks").iterdir()) == []


def test_a_killed_holder_leaves_no_lock_and_no_half_artifact(store, workers):
    holder, waiter = workers(2, 60.0, 1)
    holder.go()
    deadline = time.monotonic() + 20
    while not (store.root.parent / "trace").exists() or "begin" not in (store.root.parent / "trace").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    waiter.go()
    assert waiter.read() == "waiting"
    waiter.process.kill()  # a waiter may die too
    waiter.process.communicate()
    os.kill(holder.process.pid, signal.SIGKILL)
    holder.process.wait()
    key = "00" + KEY[2:]
    assert [p.name for p in (store.root / "tmp").iterdir()] == [f"array-{key[:32]}-half"]
    found, now = store.memo("array", key, lambda: ({"a": np.zeros(1)}, {}))
    assert now
    assert found.arrays["a"].tolist() == [0]
    assert list((store.root / "locks").iterdir()) == []
    assert list((store.root / "tmp").iterdir()) == []


def test_the_lock_file_of_a_holder_killed_when_done_is_swept_away(store):
    store.put("array", KEY, {"a": np.zeros(1)}, {"seconds": 1.0})
    left = store.root / "locks" / f"array-{KEY}.lock"
    left.parent.mkdir()
    left.touch()
    with store.lock(f"array-{KEY}"):
        assert not Store(store.root).memo("array", KEY, dict)[1]
        assert left.exists()  # a lock that somebody holds is left alone
    left.touch()
    assert not store.memo("array", KEY, dict)[1]
    assert not left.exists()


def test_a_stage_that_asks_for_itself_is_told_so_and_does_not_hang(store):
    def compute():
        store.memo("array", KEY, compute)
        raise AssertionError

    with pytest.raises(UsageError, match="requests its own result"):
        store.memo("array", KEY, compute)
    assert list((store.root / "locks").iterdir()) == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\0", "A", "x" * 300])
def test_lock_names_with_path_tricks_are_refused(store, name):
    with pytest.raises(UsageError, match="is not a valid lock name"), store.lock(name):
        raise AssertionError
    assert not store.root.exists()
