"""Whether a disk is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchbd.core.disk_space import disk_is_full


def test_a_disk_with_room_is_not_full(tmp_path: Path) -> None:
    assert not disk_is_full(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not disk_is_full(tmp_path / "missing")


def test_a_disk_without_free_space_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_bavail=2, f_blocks=9_999, f_frsize=4096))
    assert disk_is_full(tmp_path)


def test_a_small_disk_is_not_full_before_it_is_used_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, full in ((9_000, False), (400, True)):
        state = SimpleNamespace(f_bavail=free, f_blocks=10_000, f_frsize=4096)
        monkeypatch.setattr(os, "statvfs", lambda folder, state=state: state)
        assert disk_is_full(tmp_path) == full


def test_a_disk_on_which_the_quota_is_used_up_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "fsync", refuse)
    assert disk_is_full(tmp_path)
