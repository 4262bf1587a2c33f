"""CIFAR-10: what is there is found, what is not is said in one line; the real files where BENCHBD_DATA names them."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path

import pytest
import torch

from benchbd import DatasetInfo
from benchbd.datasets import _fetch, cifar10
from benchbd.datasets._fetch import fetch_archive
from benchbd.errors import UsageError
from benchbd.plugins import registry

ROOT = os.environ.get("BENCHBD_DATA", "")
real = pytest.mark.skipif(
    not any((Path(ROOT) / sub / cifar10.FOLDER).is_dir() for sub in ("", "cifar10")) or not ROOT,
    reason="BENCHBD_DATA names no folder with CIFAR-10",
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(_fetch.urllib.request, "urlopen", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make(arguments: str = "") -> cifar10.Cifar10:
    made: cifar10.Cifar10 = registry.make("datasets", f"cifar10({arguments})" if arguments else "cifar10")
    return made


def fake(root: Path, leave_out: str = "") -> Path:
    folder = root / cifar10.FOLDER
    folder.mkdir(parents=True)
    for name in cifar10.FILES:
        if name != leave_out:
            (folder / name).write_bytes(b"not the right bytes")
    return folder


def message(root: str | None, split: str = "train") -> str:
    with pytest.raises(UsageError) as caught:
        make().load(split, root)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_info_is_known_without_files() -> None:
    assert make().info() == DatasetInfo(10, 32, 50_000, 10_000, (5000,) * 10, 1)
    assert make("train=10000, test=995").info() == DatasetInfo(10, 32, 10_000, 995, (1000,) * 10, 1)


@pytest.mark.parametrize("arguments", ["train=60000", "train=3", "test=10001", "train=0", "train=-5"])
def test_impossible_subsets_are_refused(arguments: str) -> None:
    with pytest.raises(UsageError, match=r"cifar10: (train|test) "):
        make(arguments).info()


@pytest.mark.parametrize("given", [True, False])
def test_absent_files_without_a_network(given: bool, tmp_path: Path) -> None:
    root = str(tmp_path) if given else None
    place = tmp_path if given else tmp_path / "cache" / "benchbd" / "data"
    for text in (message(root), make().missing(root)):
        assert text is not None
        assert f"cifar10 is not in {place} and " in text
        assert f"unpack {cifar10.URL} there, so that {place}/cifar-10-batches-py/data_batch_1 exists" in text
        assert ("--data DIR" in text) is not given
    assert not [p for p in place.iterdir() if p.is_dir() and p.name.startswith(".download")]


def test_nothing_is_missing_where_it_can_be_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_fetch, "reachable", lambda url: True)
    assert make().missing(str(tmp_path)) is None


@pytest.mark.parametrize("below", ["", "cifar10"])
def test_damaged_files_are_named(tmp_path: Path, below: str) -> None:
    folder = fake(tmp_path / below)
    assert make().missing(str(tmp_path)) is None
    assert message(str(tmp_path)) == (
        f"cifar10: {folder}/data_batch_1 is damaged (wrong md5); unpack {cifar10.URL} again in {tmp_path / below}"
    )


@pytest.mark.parametrize("lost", ["data_batch_3", "batches.meta", "test_batch"])
def test_lost_files_are_named(tmp_path: Path, lost: str) -> None:
    folder = fake(tmp_path, leave_out=lost)
    assert message(str(tmp_path)) == f"cifar10: {folder} lacks {lost}; unpack {cifar10.URL} again in {tmp_path}"
    assert make().missing(str(tmp_path)) == message(str(tmp_path))


def test_what_is_no_plain_file_is_lost(tmp_path: Path) -> None:
    folder = fake(tmp_path, leave_out="test_batch")
    os.mkfifo(folder / "test_batch")  # opening one waits for a writer that never comes
    assert message(str(tmp_path)) == f"cifar10: {folder} lacks test_batch; unpack {cifar10.URL} again in {tmp_path}"
    assert make().missing(str(tmp_path)) == message(str(tmp_path))


@pytest.mark.parametrize("refuses", ["stat", "open"])
def test_files_that_may_not_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: str) -> None:
    """What the system answers, put in its place; tests/bad_input has it answer itself."""
    folder = fake(tmp_path)
    usual = getattr(Path, refuses)

    def denied(self: Path, *given: object, **options: object) -> object:
        if self.name == "data_batch_2":
            raise PermissionError(13, "Permission denied", str(self))
        return usual(self, *given, **options)

    monkeypatch.setattr(Path, refuses, denied)
    line = f"cifar10: {folder}/data_batch_2 cannot be read: Permission denied; check its permissions"
    assert make().missing(str(tmp_path)) == line
    assert message(str(tmp_path)) == line


def test_a_root_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "does not exist; --data / BENCHBD_DATA" in message(str(tmp_path / "no"))
    assert "is not a folder; --data / BENCHBD_DATA" in message(str(tmp_path / "file"))
    assert make().missing(str(tmp_path / "no")) == message(str(tmp_path / "no"))


def test_file_names_agree_with_torchvision() -> None:
    from benchbd.datasets._torchvision import torchvision

    known = torchvision().datasets.CIFAR10
    names = [name for name, _ in [*known.train_list, *known.test_list]] + [known.meta["filename"]]
    assert tuple(names) == cifar10.FILES
    assert (known.url, known.base_folder) == (cifar10.URL, cifar10.FOLDER)


class TestFetch:
    """Downloads, from a file:// address."""

    @pytest.fixture
    def archive(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.undo()
        (tmp_path / "content" / "stuff").mkdir(parents=True)
        (tmp_path / "content" / "stuff" / "file").write_text("hello")
        with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
            tar.add(tmp_path / "content" / "stuff", "stuff")
        return tmp_path / "a.tar.gz"

    def test_whole(self, archive: Path, tmp_path: Path) -> None:
        md5 = hashlib.md5(archive.read_bytes()).hexdigest()
        into = tmp_path / "new" / "place"
        fetch_archive(archive.as_uri(), md5, into, "stuff")
        assert (into / "stuff" / "file").read_text() == "hello"
        assert {p.name for p in into.iterdir()} == {"stuff"}
        archive.unlink()
        fetch_archive(archive.as_uri(), md5, into, "stuff")

    def test_wrong_bytes(self, archive: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"has md5 [0-9a-f]{32}, not 0000"):
            fetch_archive(archive.as_uri(), "0" * 32, tmp_path / "to", "stuff")
        assert {p.name for p in (tmp_path / "to").iterdir()} == set()

    def test_no_archive(self, tmp_path: Path, archive: Path) -> None:
        archive.write_bytes(b"<html>sorry</html>")
        with pytest.raises(ValueError, match="cannot be unpacked"):
            fetch_archive(archive.as_uri(), hashlib.md5(archive.read_bytes()).hexdigest(), tmp_path / "to", "stuff")
        assert {p.name for p in (tmp_path / "to").iterdir()} == set()


@real
def test_real_files() -> None:
    train, test = make().load("train", ROOT), make().load("test", ROOT)
    assert train.images.shape == (50_000, 3, 32, 32)
    assert train.images.dtype == torch.uint8
    assert train.images.is_contiguous()
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert torch.bincount(train.labels).tolist() == [5000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    # The published per-channel statistics: channels in order, no image left out.
    scaled = train.images.float() / 255
    assert scaled.mean((0, 2, 3)).tolist() == pytest.approx(make().normalisation.mean, abs=1e-4)
    assert scaled.std((0, 2, 3)).tolist() == pytest.approx(make().normalisation.std, abs=1e-3)
    # The first image's first pixel, as everybody's first look at CIFAR-10 shows it.
    assert train.images[0, :, 0, 0].tolist() == [59, 62, 63]


@real
def test_real_subset_is_balanced_seeded_and_part_of_the_whole() -> None:
    """The smaller part is read, 10,000 images; the draw is the same code for both."""
    whole, some, again = (make(given).load("test", ROOT) for given in ("", "test=1000", "test=1000, train=50"))
    other, more = (make(given).load("test", ROOT) for given in ("test=1000, subset_seed=1", "test=2000"))
    assert torch.bincount(some.labels).tolist() == [100] * 10
    assert torch.equal(some.images, again.images)
    assert not torch.equal(some.images, other.images)
    small, middle, large = (
        {(image.tobytes(), int(label)) for image, label in zip(*(t.numpy() for t in read), strict=True)}
        for read in (some, more, whole)
    )
    assert small < middle < large


def test_input_files_are_the_batches(tmp_path: Path) -> None:
    assert make().input_files(str(tmp_path)) == [], "they may be downloaded"
    folder = fake(tmp_path)
    assert sorted(make().input_files(str(tmp_path))) == sorted(str(folder / name) for name in cifar10.FILES)
