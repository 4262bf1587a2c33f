"""Locks on files: one holder at a time, none after a crash, and none on a file that is gone."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchbd.core import locks
from benchbd.core.locks import FileLock, NoLocks, lock_state, locked_if_possible

HOLD = "import sys, time; from pathlib import Path; from benchbd.core.locks import FileLock; "
HOLD += "FileLock(Path(sys.argv[1])).take(); print('held', flush=True); time.sleep(60)"


def test_one_holds_it_and_the_file_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    mine, theirs = FileLock(path), FileLock(path)
    assert lock_state(path) == "none"
    mine.take()
    assert not theirs.take_now()
    assert lock_state(path, remove=True) == "held"
    mine.release()
    mine.release()
    assert not path.exists()
    assert theirs.take_now()
    theirs.release()


def test_who_waits_is_told_once_and_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder, waiter = FileLock(path), FileLock(path)
    holder.take()
    told: list[str] = []

    def let_go() -> None:
        told.append("waiting")
        threading.Timer(0.1, holder.release).start()

    waiter.take(let_go)
    assert told == ["waiting"]
    assert lock_state(path) == "held", "the waiter made a new file, for the holder removed the old one"
    waiter.release()


def test_a_lock_on_a_removed_file_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening a file and locking it, its holder may remove it and another make a new one."""
    path = tmp_path / "lock"
    path.touch()
    other = FileLock(path)
    real, calls = locks._flock, []

    def late(handle: int, *, wait: bool) -> None:
        calls.append(handle)
        if len(calls) == 1:
            path.unlink()
            assert other.take_now()
        real(handle, wait=wait)

    monkeypatch.setattr(locks, "_flock", late)
    assert not FileLock(path).take_now()
    other.release()
    path.touch()
    calls.clear()
    assert lock_state(path, remove=True) == "held"
    assert path.exists(), "the file of a lock that somebody holds stays"
    other.release()


def test_a_killed_holder_leaves_a_file_and_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert not FileLock(path).take_now()
        holder.kill()
        holder.wait()
    assert lock_state(path) == "free"
    assert path.exists()
    assert lock_state(path, remove=True) == "free"
    assert not path.exists()


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside, link = tmp_path / "outside", tmp_path / "link"
    outside.write_text("theirs")
    link.symlink_to(outside)
    assert lock_state(link, remove=True) == "none"
    assert link.is_symlink()
    lock = FileLock(link)
    lock.take()
    assert not link.is_symlink()
    lock.release()
    assert outside.read_text() == "theirs"


def test_many_threads_are_never_in_it_together(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            lock = FileLock(tmp_path / "lock")
            lock.take()
            inside += 1
            most = max(most, inside)
            time.sleep(0.0005)
            inside -= 1
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_no_handle_is_left_open(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    before = len(list(Path("/proc/self/fd").iterdir()))
    holder = FileLock(path)
    holder.take()
    for _ in range(10):
        FileLock(path).take_now()
        lock_state(path)
    holder.release()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_where_there_are_no_locks_work_goes_on_only_if_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(NoLocks, match="No locks available"):
        FileLock(tmp_path / "lock").take()
    assert lock_state(tmp_path / "lock") == "none"
    done = []
    with locked_if_possible(tmp_path / "lock"):
        done.append(1)
    monkeypatch.setattr(locks, "fcntl", None)
    with locked_if_possible(tmp_path / "lock"):
        done.append(2)
    assert done == [1, 2]
    with pytest.raises(FileExistsError), locked_if_possible(Path(sys.executable) / "lock"):
        done.append(3)
