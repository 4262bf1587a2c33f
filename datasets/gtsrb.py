"""GTSRB, the German Traffic Sign Recognition Benchmark, from its PPM files in torchvision's folder layout."""

from __future__ import annotations

import csv
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from benchbd import Dataset, DatasetInfo, Images, Normalisation, UsageError, dataset
from benchbd.datasets._places import base, find, reason
from benchbd.datasets._subset import part, share_out

if TYPE_CHECKING:
    import numpy as np

COUNTS = (
    *(210, 2220, 2250, 1410, 1980, 1860, 420, 1440, 1410, 1470, 2010, 1320, 2100, 2160, 780, 630, 420, 1110, 1200, 210),
    *(360, 330, 390, 510, 270, 1500, 600, 240, 540, 270, 450, 780, 240, 689, 420, 1200, 390, 210, 2070, 300, 360, 240),
    240,
)
"""Images of each class in the full training set (Final_Training), 39,209 in total."""
TEST_COUNTS = (
    *(60, 720, 750, 450, 660, 630, 150, 450, 450, 480, 660, 420, 690, 720, 270, 210, 150, 360, 390, 60, 90, 90, 120),
    *(150, 90, 480, 180, 60, 150, 90, 150, 270, 60, 210, 120, 390, 120, 60, 690, 90, 90, 60, 90),
)
"""Test images of each class, 12,630 in total."""
SMALLER = 26_640
"""Images in the training set that torchvision downloads (GTSRB-Training_fixed.zip)."""
URL = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370"
TRAINING = "GTSRB_Final_Training_Images.zip"
TESTING = "GTSRB_Final_Test_GT.zip"
ARCHIVES = f"{TRAINING}, GTSRB_Final_Test_Images.zip and {TESTING}"
ANNOTATIONS = "GT-final_test.csv"

LIMITS = ("20", "30", "50", "60", "70", "80", "end of 80", "100", "120")
OTHERS = (
    *("no passing", "no passing for lorries", "right of way", "priority road", "yield", "stop", "no vehicles"),
    *("no lorries", "no entry", "danger", "curve left", "curve right", "double curve", "bumpy road", "slippery road"),
    *("road narrows", "road works", "traffic lights", "pedestrians", "children", "bicycles", "ice or snow", "animals"),
    *("end of restrictions", "turn right", "turn left", "ahead only", "ahead or right", "ahead or left", "keep right"),
    *("keep left", "roundabout", "end of no passing", "end of no passing for lorries"),
)


@dataset("gtsrb", version=1)
class Gtsrb(Dataset):
    """GTSRB: 39,209 training and 12,630 test images of traffic signs at 32x32 pixels, 43 classes of very unequal size.

    Read from ``DIR/gtsrb/GTSRB/{Training or Final_Training/Images}/000CC/*.ppm``, ``DIR/gtsrb/GTSRB/Final_Test/Images``
    and ``DIR/gtsrb/GT-final_test.csv``. Whole images are resized to 32x32 (bilinear, antialiased) unless they already
    have that size. Training images come in tracks of 30 near-duplicate frames.
    """

    normalisation = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    class_names = (*LIMITS, *OTHERS)
    source: ClassVar[str] = (
        "https://benchmark.ini.rub.de; free for research; cite J. Stallkamp et al., Man vs. computer, "
        "Neural Networks 32, 2012"
    )
    smoke: ClassVar[dict[str, Any]] = {"train": 860, "test": 430}

    release: Literal["full", "torchvision"] = "full"
    """Which training set: full (Final_Training, 39,209 images) or the 26,640 images that torchvision downloads."""
    train: int | None = None
    """Training images, in the class proportions (default: all)."""
    test: int | None = None
    """Test images, in the class proportions (default: all 12,630)."""
    subset_seed: int = 0
    """Seed for drawing a subset."""

    def info(self) -> DatasetInfo:
        """Sizes and classes. The class counts of torchvision's training set are unknown until it is read."""
        test = sum(share_out(TEST_COUNTS, self.test, "gtsrb: test"))
        if self.release == "full":
            counts = share_out(COUNTS, self.train, "gtsrb: train")
            return DatasetInfo(classes=43, size=32, train=sum(counts), test=test, class_counts=counts, target=1)
        train = SMALLER if self.train is None else self.train
        if not 43 <= train <= SMALLER:
            raise UsageError(f"gtsrb: train must be between 43 and {SMALLER}, not {train}")
        return DatasetInfo(classes=43, size=32, train=train, test=test, class_counts=None, target=1)

    def missing(self, root: str | None) -> str | None:
        """Say which files to put where if a folder is missing, else None."""
        try:
            where = find(root, ("gtsrb", ""), "GTSRB")
            if where is None:
                return _absent(root)
            _training(where, self.release)
            _annotations(where)
        except UsageError as error:
            return str(error)
        return None

    def input_files(self, root: str | None) -> list[str]:
        """The annotations and the images of both splits, whatever subset is drawn from them."""
        where = find(root, ("gtsrb", ""), "GTSRB")
        if where is None:
            raise UsageError(_absent(root))
        train, test = _training(where, self.release), where / "GTSRB" / "Final_Test" / "Images"
        names = _train_files(where, self.release)[0], _test_files(_annotations(where))[0]
        images = [f"{folder}/{name}" for folder, own in zip((train, test), names, strict=True) for name in own]
        return [str(_annotations(where)), *images]

    def load(self, split: Literal["train", "test"], root: str | None) -> Images:
        """Load one split. Its images are decoded once and kept in the cache folder."""
        import numpy as np

        from benchbd.datasets._decoded import Source, decoded

        where = find(root, ("gtsrb", ""), "GTSRB")
        if where is None:
            raise UsageError(_absent(root))
        if split == "train":
            folder = _training(where, self.release)
            files, labels = _train_files(where, self.release)
            counts = np.bincount(labels, minlength=43).tolist()
            shares = share_out(counts, self.train, "gtsrb: train")
        else:
            folder = where / "GTSRB" / "Final_Test" / "Images"
            files, labels = _test_files(_annotations(where))
            shares = share_out(TEST_COUNTS, self.test, "gtsrb: test")
        images = decoded(Source("gtsrb", folder, files, 32, crop=False))
        return part(images, labels, shares, self.subset_seed)


def _absent(root: str | None) -> str:
    place = base(root) / "gtsrb"
    return (
        f"gtsrb is not in {place}: unpack {ARCHIVES} from {URL} there, "
        f"so that {place / 'GTSRB'} and {place / ANNOTATIONS} exist"
    )


def _training(where: Path, release: str) -> Path:
    """The folder that contains the class folders."""
    names = ("Final_Training/Images", "Training") if release == "full" else ("Training",)
    for name in names:
        if _there(where / "GTSRB" / name, folder=True):
            return where / "GTSRB" / name
    raise UsageError(f"gtsrb: {where / 'GTSRB' / names[0]} is missing; unpack {TRAINING} from {URL} in {where}")


def _annotations(where: Path) -> Path:
    for folder in (where, where / "GTSRB", where / "GTSRB" / "Final_Test" / "Images"):
        if _there(folder / ANNOTATIONS, folder=False):
            return folder / ANNOTATIONS
    raise UsageError(f"gtsrb: {where / ANNOTATIONS} is missing; unpack {TESTING} from {URL} in {where}")


def _there(path: Path, *, folder: bool) -> bool:
    """Whether a file or folder exists. Raises UsageError if it exists, or may exist, but cannot be read."""
    # Read it: is_dir() and is_file() do not show whether it is readable, nor, in some Pythons, why it is not.
    try:
        mode = path.stat().st_mode
        if folder and stat.S_ISDIR(mode):
            next(path.iterdir(), None)
            return True
        if not folder and stat.S_ISREG(mode):
            path.open("rb").close()
            return True
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UsageError(_unreadable(path, error)) from error
    return False


def _unreadable(path: Path | str, error: OSError) -> str:
    return f"gtsrb: {path} cannot be read: {reason(error)}; check its permissions"


def _train_files(where: Path, release: str) -> tuple[list[str], np.ndarray]:
    """File names relative to the training folder, sorted by class, and labels (N,). Checks the size of the release."""
    import numpy as np

    folder = _training(where, release)
    files: list[str] = []
    counts = []
    try:
        for c in range(43):
            own = sorted(f"{c:05d}/{p.name}" for p in (folder / f"{c:05d}").iterdir() if _is_image(p.name))
            files += own
            counts.append(len(own))
    except PermissionError as error:
        raise UsageError(_unreadable(error.filename or folder, error)) from error
    except OSError as error:
        what = error.filename or folder
        raise UsageError(f"gtsrb: {what} cannot be read: {reason(error)}; unpack {TRAINING} again") from error
    if release == "full" and tuple(counts) != COUNTS:
        if len(files) == SMALLER:
            raise UsageError(
                f"gtsrb: {folder} holds torchvision's training set of {SMALLER} images, not the full {sum(COUNTS)}; "
                f"unpack {TRAINING} from {URL} in {where}, or say gtsrb(release=torchvision)"
            )
        c = next(c for c in range(43) if counts[c] != COUNTS[c])
        raise UsageError(
            f"gtsrb: {folder}/{c:05d} holds {counts[c]} .ppm images instead of {COUNTS[c]} "
            f"({len(files)} instead of {sum(COUNTS)} in all); unpack {TRAINING} from {URL} again"
        )
    if release == "torchvision" and len(files) != SMALLER:
        hint = "; say gtsrb(release=full)" if len(files) == sum(COUNTS) else "; unpack it again"
        raise UsageError(f"gtsrb: {folder} holds {len(files)} images, not the {SMALLER} of torchvision's set{hint}")
    return files, np.repeat(np.arange(43), counts)


def _is_image(name: str) -> bool:
    return name.endswith(".ppm") and not name.startswith(".")


def _test_files(annotations: Path) -> tuple[list[str], np.ndarray]:
    """Names and labels (N,) of the test images, in the order of the annotation file."""
    import numpy as np

    try:
        with annotations.open(newline="", encoding="utf-8") as file:
            rows = [(row["Filename"].strip(), int(row["ClassId"])) for row in csv.DictReader(file, delimiter=";")]
    except PermissionError as error:
        raise UsageError(_unreadable(annotations, error)) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise UsageError(f"gtsrb: {annotations} cannot be read ({reason(error)}); unpack {TESTING} again") from error
    labels = np.array([label for _, label in rows], dtype=np.int64)
    sound = all(0 <= label < 43 for label in labels) and all("/" not in name for name, _ in rows)
    if not sound or tuple(np.bincount(labels, minlength=43)) != TEST_COUNTS:
        raise UsageError(
            f"gtsrb: {annotations} does not list the {sum(TEST_COUNTS)} test images; unpack {TESTING} again"
        )
    return [name for name, _ in rows], labels
