"""Digests of what files hold: the bytes count, whatever the dates; files in the same state are not read again."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchbd.core import contents
from benchbd.core.contents import contents_digest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_disk: None) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "benchbd" / "contents"


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    place = tmp_path / "data"
    for n in range(3):
        (place / f"{n}").mkdir(parents=True)
        (place / f"{n}" / "a.ppm").write_bytes(b"%d" % n * 100)
    return place


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """No change is recent, as if every file had lain there for a while."""
    monkeypatch.setattr(contents, "RECENT", 0)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digest(folder: Path) -> str | None:
    return contents_digest(files(folder))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read."""
    found: list[str] = []
    read = contents._hash
    monkeypatch.setattr(contents, "_hash", lambda path: (found.append(Path(path).parent.name), read(path))[1])
    return found


def test_a_copy_has_the_digest_of_the_original(folder: Path, tmp_path: Path) -> None:
    first = digest(folder)
    assert first is not None
    assert len(first) == 64
    copy = Path(shutil.copytree(folder, tmp_path / "other" / "place"))
    for path in files(copy):
        os.utime(path, (1, 1))
    assert digest(copy) == first
    (tmp_path / "link").symlink_to(copy)
    assert contents_digest([tmp_path / "link" / path.relative_to(copy) for path in files(copy)]) == first
    assert contents_digest([*reversed(files(folder)), files(folder)[0]]) == first, "order and repetition do not count"
    assert contents_digest([]) is None


def test_the_digest_is_over_relative_names_and_contents(tmp_path: Path, cache: Path) -> None:
    import hashlib

    (tmp_path / "one.txt").write_bytes(b"one")
    sha = hashlib.sha256(b"one").hexdigest()
    assert contents_digest([tmp_path / "one.txt"]) == hashlib.sha256(f"one.txt\0{sha}\n".encode()).hexdigest()


@pytest.mark.parametrize("change", ["byte", "name", "more", "less", "swap"])
def test_a_change_changes_the_digest(folder: Path, change: str, later: None) -> None:
    first, one = digest(folder), folder / "1" / "a.ppm"
    if change == "byte":
        one.write_bytes(b"x" + one.read_bytes()[1:])
    elif change == "name":
        one.rename(one.with_name("b.ppm"))
    elif change == "more":
        one.with_name("b.ppm").write_bytes(b"")
    elif change == "less":
        one.unlink()
    else:
        (folder / "2").rename(folder / "x")
        (folder / "1").rename(folder / "2")
        (folder / "x").rename(folder / "1")
    assert digest(folder) != first


def test_same_size_and_same_date_do_not_hide_a_change(folder: Path, later: None) -> None:
    """As ``cp -p`` or ``rsync -t`` leave it: the inode's own time, which no program can set, tells."""
    first, one = digest(folder), folder / "1" / "a.ppm"
    date = one.stat().st_mtime_ns
    one.write_bytes(b"x" * 100)
    os.utime(one, ns=(date, date))
    assert (one.stat().st_size, one.stat().st_mtime_ns) == (100, date)
    assert digest(folder) != first


def test_files_in_the_same_state_are_not_read_again(folder: Path, reads: list[str], later: None) -> None:
    first = digest(folder)
    assert sorted(reads) == ["0", "1", "2"]
    reads.clear()
    assert digest(folder) == first
    assert reads == []
    (folder / "1" / "a.ppm").write_bytes(b"new")
    digest(folder)
    assert reads == ["1"]


def test_a_file_that_changed_just_now_is_read_again(folder: Path, reads: list[str]) -> None:
    """Within one step of the clock, a file may change and keep its state: here the clock stands still."""
    first = digest(folder)
    reads.clear()
    assert digest(folder) == first
    assert sorted(reads) == ["0", "1", "2"]


def test_what_counts_as_just_now() -> None:
    now, second = time.time_ns(), 10**9

    def recent(mtime: float, ctime: float) -> bool:
        status: Any = SimpleNamespace(st_mtime_ns=now + int(mtime * second), st_ctime_ns=now + int(ctime * second))
        return contents._recent(status, now)

    assert not recent(-3, -3)
    assert recent(-1, -1)
    assert recent(-9, -1), "an old date was set just now"
    assert recent(-1, -9), "no system sets the second time like that, but some do not keep it"
    assert not recent(3600, -3), "a date in the future"
    assert recent(-9, 3600), "a server's clock that is ahead"


def test_links_are_followed_when_their_target_is_swapped(folder: Path, tmp_path: Path, later: None) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / "1" / "a.ppm").write_bytes(b"x" * 100)
    link = tmp_path / "link"
    link.symlink_to(folder)
    given = [link / path.relative_to(folder) for path in files(folder)]
    first = contents_digest(given)
    link.unlink()
    link.symlink_to(other)
    assert contents_digest(given) != first


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "fifo", "folder", "no folder"])
def test_without_a_sound_list_the_digest_is_the_same(folder: Path, cache: Path, damage: str, later: None) -> None:
    first = digest(folder)
    (kept,) = cache.iterdir()
    body = kept.read_bytes()
    kept.unlink()
    if damage == "cut":
        kept.write_bytes(body[:-9])
    elif damage == "flip":
        kept.write_bytes(body.replace(b"0", b"1"))
    elif damage == "text":
        kept.write_text("[]\n[]")
    elif damage == "fifo":
        os.mkfifo(kept)
    elif damage == "folder":
        kept.mkdir()
    else:
        shutil.rmtree(cache)
        cache.write_text("in the way")
    assert digest(folder) == first


def test_nothing_but_the_cache_is_written(folder: Path, cache: Path, writes_nothing_outside, later: None) -> None:
    with writes_nothing_outside(cache.parents[1]):
        digest(folder)


def test_without_a_home_folder_nothing_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = digest(folder)
    monkeypatch.setattr(contents, "user_cache", lambda: None)
    assert digest(folder) == first


def test_several_at_once_agree(folder: Path, later: None) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert len({*pool.map(lambda _: digest(folder), range(8))}) == 1


def test_many_files_are_hashed_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = digest(folder)
    monkeypatch.setattr(contents, "TOGETHER", 2)
    assert digest(folder) == first


def test_names_that_are_not_text_are_names(folder: Path, later: None) -> None:
    strange = Path(os.fsdecode(bytes(folder / "0") + b"/\xff.ppm"))
    strange.write_bytes(b"strange")
    assert digest(folder) == digest(folder)


@pytest.mark.parametrize("kind", ["missing", "fifo", "folder"])
def test_what_is_no_file_is_refused(folder: Path, kind: str) -> None:
    odd = folder / "odd"
    if kind == "fifo":
        os.mkfifo(odd)
    elif kind == "folder":
        odd.mkdir()
    with pytest.raises(OSError, match="odd") as caught:
        contents_digest([*files(folder), odd])
    assert caught.value.filename == str(odd)
