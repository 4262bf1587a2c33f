"""Files are there whole or not at all, and a full disk is known as one."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from benchbd.core.files import atomic_file, atomic_write, is_disk_full, write_named, write_text
from benchbd.errors import UsageError
from benchbd.report import export
from benchbd.storage.cleanup import remove_stale_files


def as_bytes(path: Path, text: str) -> None:
    atomic_write(path, text.encode())


def as_stream(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        for letter in text:
            file.write(letter.encode())


WRITERS = [as_bytes, as_stream, write_text, write_named]
Write = Callable[[Path, str], None]


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_is_made_with_its_folder_and_replaced(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "deep" / ("x" * 250)
    write(path, "one, and longer")
    write(path, "two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_on_the_way_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write, call: str
) -> None:
    path = tmp_path / "file"
    write(path, "one")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else Path, call, full)
        with pytest.raises((OSError, UsageError), match="No space left"):
            write(path, "two, and longer")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def half() -> None:
        with atomic_file(tmp_path / "file") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert list(tmp_path.iterdir()) == []


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (steps.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda path, to: (steps.append("rename"), replace(path, to))[1])
    atomic_write(tmp_path / "file", b"data")
    assert steps == ["fsync", "rename", "fsync"], "the file, then its name, then the folder"


@pytest.mark.parametrize("write", WRITERS[:3])
def test_a_link_is_replaced_and_not_followed(tmp_path: Path, write: Write) -> None:
    outside, link = tmp_path / "outside", tmp_path / "link"
    outside.write_text("theirs")
    link.symlink_to(outside)
    write(link, "ours")
    assert (link.is_symlink(), link.read_text(), outside.read_text()) == (False, "ours", "theirs")


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_what_a_killed_writer_left_is_swept_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path, tmp_path / "records"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", lambda path, to: None)  # killed just before the rename
            atomic_write(folder / "file.json", b"half")
    assert remove_stale_files(tmp_path, older_than=0.0).temporary == 2
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_archive_that_fails_in_the_middle_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "results.zip"
    export.as_zip([], target, tmp_path)
    before = target.read_bytes()
    assert zipfile.ZipFile(target).namelist() == ["results.jsonl", "leaderboard.md"]

    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export.checked, "lines", full)
    with pytest.raises(OSError, match="No space left"):
        export.as_zip([], target, tmp_path)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (OSError("the disk is full"), False),
        (MemoryError(), False),
        ("OSError: [Errno 28] No space left on device: 'x'", True),
        ("the disk is full (/x); free some space and run the same command again", True),
        ("OSError: [Errno 122] Disk quota exceeded", True),
        ("RuntimeError: out of memory", False),
        ("", False),
    ],
)
def test_a_full_disk_is_known_by_its_error_and_by_its_reason(error: BaseException | str, full: bool) -> None:
    assert is_disk_full(error) is full


def test_a_place_that_the_user_names_keeps_its_kind(tmp_path: Path) -> None:
    """A link's target gets the text, and a pipe's reader too."""
    (tmp_path / "there").mkdir()
    target, link, pipe = tmp_path / "there" / "real.md", tmp_path / "link.md", tmp_path / "pipe"
    link.symlink_to(target)
    for text in ("new", "replaced"):
        write_named(link, text)
        assert link.is_symlink()
        assert target.read_text() == text
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_named(pipe, "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
    with pytest.raises(UsageError, match="cannot be written \\(Is a directory"):
        write_named(tmp_path / "there", "text")


@pytest.mark.skipif(not Path("/dev/null").is_char_device(), reason="no /dev/null here")
def test_a_device_stays_a_device(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    write_named(tmp_path / "null", "text")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "zip"])
def test_an_export_through_a_link_keeps_the_link(tmp_path: Path, suffix: str) -> None:
    link, target = tmp_path / f"link.{suffix}", tmp_path / f"real.{suffix}"
    link.symlink_to(target)
    getattr(export, f"as_{suffix}")([], link, tmp_path)
    assert link.is_symlink()
    assert target.is_file()
