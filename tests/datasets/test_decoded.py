"""Images decoded once: right pixels, whole or not at all, damage found, changed files noticed."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchbd.datasets import _decoded
from benchbd.datasets._decoded import Source, decoded
from benchbd.errors import UsageError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "benchbd" / "data" / "decoded"


def write(folder: Path, name: str, pixels: np.ndarray) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / name)
    return pixels


def noise(high: int, wide: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (high, wide, 3)).astype(np.uint8)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    folder = tmp_path / "pictures"
    names = [f"{n}.png" for n in range(5)]
    for n, name in enumerate(names):
        write(folder, name, noise(8, 8, n))
    return Source("pictures", folder, names, 8, crop=False)


def expected(source: Source) -> np.ndarray:
    return np.stack([np.asarray(Image.open(source.folder / n).convert("RGB")).transpose(2, 0, 1) for n in source.files])


def test_images_of_the_right_size_keep_their_pixels(cache: Path, source: Source) -> None:
    images = decoded(source)
    assert images.dtype == np.uint8
    assert np.array_equal(images, expected(source))
    assert isinstance(images, np.memmap)


def test_more_images_than_one_chunk_keep_their_order(
    cache: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_decoded, "CHUNK", 2)
    assert np.array_equal(decoded(source), expected(source))


def test_second_call_decodes_nothing(cache: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    first = np.array(decoded(source))
    monkeypatch.setattr(_decoded, "_decode", None)
    assert np.array_equal(decoded(source), first)


def test_changing_the_array_changes_no_file(cache: Path, source: Source) -> None:
    images = decoded(source)
    before = np.array(images)
    images[:] = 7
    assert np.array_equal(decoded(source), before)


@pytest.mark.parametrize(("high", "wide"), [(8, 20), (20, 8), (9, 8), (40, 30), (3, 5)])
def test_crop_takes_the_centre_at_full_shorter_side(cache: Path, tmp_path: Path, high: int, wide: int) -> None:
    grey = np.zeros((high, wide, 3), np.uint8)
    grey[..., 0] = np.linspace(0, 255, wide)[None]
    grey[..., 1] = np.linspace(0, 255, high)[:, None]
    write(tmp_path / "p", "a.png", grey)
    image = decoded(Source("p", tmp_path / "p", ["a.png"], 8, crop=True))[0].astype(int)
    assert image.shape == (3, 8, 8)
    # A ramp stays a ramp; its middle stays in the middle, the longer side loses its ends.
    assert abs(image[0].mean() - 127.5) < 20
    assert abs(image[1].mean() - 127.5) < 20
    shorter, longer = (1, 0) if high < wide else (0, 1)
    assert np.ptp(image[shorter]) > 150
    if max(high, wide) > 2 * min(high, wide):
        assert np.ptp(image[longer]) < 140


def test_without_crop_the_whole_frame_is_kept(cache: Path, tmp_path: Path) -> None:
    wide = np.zeros((8, 32, 3), np.uint8)
    wide[:, 24:] = 255
    write(tmp_path / "p", "a.png", wide)
    image = decoded(Source("p", tmp_path / "p", ["a.png"], 8, crop=False))[0]
    assert (image[:, :, :5] == 0).all()
    assert (image[:, :, 7] == 255).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_other_kinds_of_pictures_become_rgb(cache: Path, tmp_path: Path, mode: str) -> None:
    (tmp_path / "p").mkdir()
    Image.new(mode, (8, 8), 1).save(tmp_path / "p" / "a.png")
    assert decoded(Source("p", tmp_path / "p", ["a.png"], 8, crop=True)).shape == (1, 3, 8, 8)


def test_a_changed_file_is_decoded_anew(cache: Path, source: Source) -> None:
    decoded(source)
    write(source.folder, "3.png", noise(8, 8, 99))
    os.utime(source.folder / "3.png", (1, 1))
    assert np.array_equal(decoded(source), expected(source))


def _flip(path: Path, at: int) -> None:
    body = bytearray(path.read_bytes())
    body[at] ^= 1
    path.write_bytes(body)


FILES_IN_THE_WAY = ("pipe", "folder", "link", "socket")


@pytest.mark.timeout(60)  # opening a pipe waits for a writer that never comes
@pytest.mark.parametrize("kind", FILES_IN_THE_WAY)
@pytest.mark.parametrize("name", ["images.npy", "facts.json"])
def test_what_is_not_a_file_is_not_waited_for_and_makes_room(
    cache: Path, source: Source, tmp_path: Path, name: str, kind: str
) -> None:
    decoded(source)
    (entry,) = (p for p in cache.iterdir() if p.is_dir())
    before = (entry / name).read_bytes()
    (entry / name).unlink()
    _put(entry / name, kind)
    assert np.array_equal(decoded(source), expected(source))
    assert (entry / name).read_bytes() == before


@pytest.mark.parametrize("kind", ["file", "pipe", "link", "dangling", "full"])
def test_whatever_lies_in_the_place_of_an_entry_makes_room(cache: Path, source: Source, kind: str) -> None:
    decoded(source)
    (entry,) = (p for p in cache.iterdir() if p.is_dir())
    shutil.rmtree(entry)
    _put(entry, kind)
    assert np.array_equal(decoded(source), expected(source))
    assert sorted(p.name for p in entry.iterdir()) == ["facts.json", "images.npy"]
    assert not entry.is_symlink()


def _put(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "file":
        path.write_text("in the way")
    else:
        path.mkdir()
        (path / "in the way").mkdir()


HEADER = np.lib.format.magic(1, 0) + b"\x76\0"


@pytest.mark.parametrize(
    "head", [b"(" * 118, b"-" * 118, b"'" + b" " * 117, b"{'descr': '|O', 'fortran_order': 1}" + b" " * 83]
)
def test_an_odd_header_is_damage(cache: Path, source: Source, head: bytes) -> None:
    decoded(source)
    (entry,) = (p for p in cache.iterdir() if p.is_dir())
    body = (entry / "images.npy").read_bytes()
    (entry / "images.npy").write_bytes(HEADER + head + body[128:])
    assert np.array_equal(decoded(source), expected(source))


@pytest.mark.parametrize("damage", ["flipped", "truncated", "header", "empty", "facts", "no facts", "facts list"])
def test_damage_is_found_and_repaired(cache: Path, source: Source, damage: str) -> None:
    decoded(source)
    (entry,) = (p for p in cache.iterdir() if p.is_dir())
    images, facts = entry / "images.npy", entry / "facts.json"
    if damage == "flipped":
        _flip(images, -5)
    elif damage == "truncated":
        images.write_bytes(images.read_bytes()[:-10])
    elif damage == "header":
        _flip(images, 1)
    elif damage == "empty":
        images.write_bytes(b"")
    elif damage == "facts":
        facts.write_text("{")
    elif damage == "facts list":
        facts.write_text("[]")
    else:
        facts.unlink()
    assert np.array_equal(decoded(source), expected(source))
    assert np.array_equal(np.load(images), expected(source)), "and mended on disk"


def test_nothing_but_the_array_and_its_checksum_is_left(cache: Path, source: Source) -> None:
    decoded(source)
    (entry,) = (p for p in cache.iterdir() if p.is_dir())
    assert sorted(p.name for p in entry.iterdir()) == ["facts.json", "images.npy"]
    assert set(json.loads((entry / "facts.json").read_text())) == {"sha256", "dataset"}


def test_a_damaged_image_is_named_and_leaves_nothing(cache: Path, source: Source) -> None:
    body = (source.folder / "2.png").read_bytes()
    (source.folder / "2.png").write_bytes(body[: len(body) // 2])
    with pytest.raises(UsageError, match=r"pictures: .*2\.png cannot be decoded \(.*\); the file is damaged"):
        decoded(source)
    assert not [p for p in cache.iterdir() if p.is_dir()]


@pytest.mark.parametrize(
    "content", [b"", b"not an image", b"P6\n8 8\n255\n", b"P6\n-1 8\n255\n", b"\x89PNG\r\n\x1a\n" + b"\0" * 40]
)
def test_whatever_the_bytes_are_the_message_is_one_line(cache: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.ppm").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        decoded(Source("p", tmp_path, ["bad.ppm"], 8, crop=False))
    assert "bad.ppm" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_image_is_named(cache: Path, source: Source) -> None:
    (source.folder / "4.png").unlink()
    with pytest.raises(UsageError, match=r"4\.png cannot be read: No such file"):
        decoded(source)


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"pictures: cannot keep the decoded images in .*; make room there or set XDG"):
        decoded(source)


def test_a_full_disk_is_one_line_and_leaves_nothing(
    cache: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_decoded, "_write", full)
    with pytest.raises(UsageError, match="No space left on device; make room there"):
        decoded(source)
    assert not [p for p in cache.iterdir() if p.is_dir()]


def test_several_at_once_decode_once(cache: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = _decoded._decode, []

    def counting(given: Source, name: str) -> np.ndarray:
        calls.append(name)
        return real(given, name)

    monkeypatch.setattr(_decoded, "_decode", counting)
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(decoded(source))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(np.array_equal(r, expected(source)) for r in results)
    assert sorted(calls) == sorted(source.files)


def test_a_change_of_the_same_size_and_date_is_decoded(cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "p", "a.ppm", noise(8, 8, 1))
    source = Source("p", tmp_path / "p", ["a.ppm"], 8, crop=False)
    decoded(source)
    date = (tmp_path / "p" / "a.ppm").stat().st_mtime_ns
    pixels = write(tmp_path / "p", "a.ppm", noise(8, 8, 2))
    os.utime(tmp_path / "p" / "a.ppm", ns=(date, date))
    assert np.array_equal(decoded(source)[0].transpose(1, 2, 0), pixels)


def test_a_copy_is_not_decoded_again(
    cache: Path, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded(source)
    monkeypatch.setattr(_decoded, "_decode", None)
    shutil.copytree(source.folder, tmp_path / "copy")
    assert np.array_equal(decoded(source._replace(folder=tmp_path / "copy")), expected(source))
