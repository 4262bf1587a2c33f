"""CIFAR-10 from its Python batch files, through torchvision."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from benchbd import Dataset, DatasetInfo, Images, Normalisation, UsageError, dataset
from benchbd.datasets._places import base, find, reason
from benchbd.datasets._subset import Sizes, part, share_out

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = "cifar-10-batches-py"
FILES = (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta")
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"


@dataset("cifar10", version=1)
class Cifar10(Dataset):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels, 10 classes of equal size.

    Read from ``DIR/cifar-10-batches-py`` or ``DIR/cifar10/cifar-10-batches-py``. The md5 of every file is checked. The
    files are downloaded if they are missing and there is a network.
    """

    normalisation = Normalisation((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    source: ClassVar[str] = (
        "https://www.cs.toronto.edu/~kriz/cifar.html; no licence stated; cite A. Krizhevsky, "
        "Learning Multiple Layers of Features from Tiny Images, 2009"
    )
    smoke: ClassVar[dict[str, Any]] = {"train": 500, "test": 500}

    train: int | None = None
    """Training images, equally many per class (default: all 50,000)."""
    test: int | None = None
    """Test images, equally many per class (default: all 10,000)."""
    subset_seed: int = 0
    """Seed for drawing a subset."""

    def _sizes(self) -> Sizes:
        return Sizes(
            share_out((5000,) * 10, self.train, "cifar10: train"), share_out((1000,) * 10, self.test, "cifar10: test")
        )

    def info(self) -> DatasetInfo:
        """Sizes and classes."""
        train, test = self._sizes()
        return DatasetInfo(classes=10, size=32, train=sum(train), test=sum(test), class_counts=train, target=1)

    def missing(self, root: str | None) -> str | None:
        """Say which files to put where if they are missing and cannot be downloaded, else None."""
        from benchbd.datasets._fetch import reachable

        try:
            where = find(root, ("", "cifar10"), FOLDER)
            if where is not None:
                lost = _lost(where / FOLDER)
                return _incomplete(where, lost) if lost else None
        except UsageError as error:
            return str(error)
        return None if reachable(URL) else _absent(root, "and there is no network to download it")

    def input_files(self, root: str | None) -> list[str]:
        """The batch files; none before the download."""
        where = find(root, ("", "cifar10"), FOLDER)
        return [] if where is None else [str(where / FOLDER / name) for name in FILES]

    def load(self, split: Literal["train", "test"], root: str | None) -> Images:
        """Load one split; download the data set first if it is missing."""
        import numpy as np

        from benchbd.datasets._torchvision import torchvision

        where = find(root, ("", "cifar10"), FOLDER) or self._download(root)
        vision = torchvision()
        try:
            stored = vision.datasets.CIFAR10(str(where), train=split == "train", download=False)
        except (RuntimeError, OSError) as error:
            raise UsageError(_damage(vision, where, error)) from error
        # torchvision transposes the stored (N, 3, 32, 32) to a (N, 32, 32, 3) view; this reverts it without a copy.
        images = np.ascontiguousarray(stored.data.transpose(0, 3, 1, 2))
        return part(images, np.asarray(stored.targets), self._sizes().of(split), self.subset_seed)

    def _download(self, root: str | None) -> Path:
        from benchbd.datasets._fetch import fetch_archive
        from benchbd.datasets._torchvision import torchvision

        known = torchvision().datasets.CIFAR10
        try:
            fetch_archive(known.url, known.tgz_md5, base(root), FOLDER)
        except (OSError, ValueError) as error:
            raise UsageError(_absent(root, f"and cannot be downloaded ({reason(error)})")) from error
        return base(root)


def _absent(root: str | None, why: str) -> str:
    other = "" if root else ", or name another folder with --data DIR or BENCHBD_DATA"
    return (
        f"cifar10 is not in {base(root)} {why}: unpack {URL} there, "
        f"so that {base(root) / FOLDER}/{FILES[0]} exists{other}"
    )


def _lost(folder: Path) -> list[str]:
    """The missing files. Raises UsageError for a file that exists, or may exist, but cannot be read."""
    lost = []
    for name in FILES:
        # Open the file: is_file() does not show whether it is readable, nor, in some Pythons, why it is not.
        try:
            if not stat.S_ISREG((folder / name).stat().st_mode):
                lost.append(name)
                continue
            (folder / name).open("rb").close()
        except (FileNotFoundError, NotADirectoryError):
            lost.append(name)
        except OSError as error:
            raise UsageError(_unreadable(folder / name, error)) from error
    return lost


def _unreadable(file: Path, error: OSError) -> str:
    return f"cifar10: {file} cannot be read: {reason(error)}; check its permissions"


def _incomplete(where: Path, lost: list[str]) -> str:
    return f"cifar10: {where / FOLDER} lacks {', '.join(lost)}; unpack {URL} again in {where}"


def _damage(vision: ModuleType, where: Path, error: Exception) -> str:
    """Say which file torchvision refused, and what to do."""
    folder = where / FOLDER
    lost = _lost(folder)
    if lost:
        return _incomplete(where, lost)
    known: Any = vision.datasets.CIFAR10
    sums = dict([*known.train_list, *known.test_list, [known.meta["filename"], known.meta["md5"]]])
    for name, md5 in sums.items():
        try:
            sound = vision.datasets.utils.check_integrity(folder / name, md5)
        except OSError as unreadable:
            return _unreadable(folder / name, unreadable)
        if not sound:
            return f"cifar10: {folder}/{name} is damaged (wrong md5); unpack {URL} again in {where}"
    return f"cifar10: {folder} cannot be read: {reason(error)}"
