"""ImageNet subsets and Imagenette, read from folders in ImageNet's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from benchbd import UsageError, dataset
from benchbd.datasets._folder import Folder
from benchbd.datasets._places import find
from benchbd.datasets._subset import Sizes, share_out


@dataset("imagenet-subset", version=1)
class ImageNetSubset(Folder):
    """Some classes of ImageNet at 224x224 pixels, from ``DIR/imagenet/{train,val}/CLASS``, equally many images of each.

    The paper's 12 classes were never published, so its numbers on this data set cannot be compared. The default is
    ImageNet's first 12 classes, with 1,000 training and 50 test images each. Any folder with this layout works.
    """

    source: ClassVar[str] = (
        "https://image-net.org (ILSVRC 2012); research and education, non-commercial; cite O. Russakovsky et al., "
        "ImageNet Large Scale Visual Recognition Challenge, IJCV 115, 2015"
    )
    smoke: ClassVar[dict[str, Any]] = {"train": 240, "test": 120}

    classes: tuple[str, ...] = (
        *("n01440764", "n01443537", "n01484850", "n01491361", "n01494475", "n01496331"),
        *("n01498041", "n01514668", "n01514859", "n01518878", "n01530575", "n01531178"),
    )
    """Names of the class folders; the index in this list is the class number."""
    folder: str = "imagenet"
    """Folder below the data folder that contains train and val (the data folder itself is searched next)."""
    train: int | None = None
    """Training images, equally many per class (default: 1,000 per class)."""
    test: int | None = None
    """Test images, equally many per class (default: 50 per class)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise UsageError(f"{self.name}: classes must name two class folders or more, each once")
        for label in self.classes:
            if not label or label.startswith(".") or "/" in label or "\\" in label:
                raise UsageError(f"{self.name}: {label!r} is not the name of a class folder")
        # Unlike other folders (benchbd.core.paths.name_in_data), this one may be empty: the data folder itself.
        if Path(self.folder).is_absolute() or ".." in Path(self.folder).parts:
            raise UsageError(f"{self.name}: folder must lie below the data folder (--data), not at {self.folder!r}")

    def folders(self) -> tuple[str, ...]:
        """Folders below the data folder to search, in this order."""
        return (self.folder, "")

    def labels(self) -> tuple[str, ...]:
        """The class folders given by ``classes``."""
        return self.classes

    def sizes(self) -> Sizes:
        """Images per class in the two splits: equally many."""
        count = len(self.classes)
        train = 1000 * count if self.train is None else self.train
        test = 50 * count if self.test is None else self.test
        even = (10**7,) * count
        return Sizes(share_out(even, train, f"{self.name}: train"), share_out(even, test, f"{self.name}: test"))

    def advice(self) -> str:
        """Tell the user which files to put into the folder."""
        return (
            f"put ILSVRC 2012 images there as train/{self.classes[0]}/*.JPEG and val/{self.classes[0]}/*.JPEG "
            f"for each of the {len(self.classes)} classes (val sorted into class folders)"
        )


def _editions(edition: int) -> tuple[str, ...]:
    """Folders below the data folder where an edition of Imagenette may be."""
    return (f"imagenette2-{edition}", f"imagenette/imagenette2-{edition}")


@dataset("imagenette", version=1)
class Imagenette(Folder):
    """Imagenette2: 9,469 training and 3,925 test images of ten easily distinguished ImageNet classes.

    Read from ``DIR/imagenette2-128/{train,val}/WNID`` (128x128 copies; the official editions are ``imagenette2-160``
    and ``-320``). It stands in for the paper's ImageNet subset but is not comparable to it.
    """

    class_names = (
        *("tench", "English springer", "cassette player", "chain saw", "church"),
        *("French horn", "garbage truck", "gas pump", "golf ball", "parachute"),
    )
    source: ClassVar[str] = (
        "https://github.com/fastai/imagenette (lists and code Apache-2.0); pictures of ImageNet: "
        "research and education, non-commercial"
    )
    smoke: ClassVar[dict[str, Any]] = {"train": 200, "test": 100}
    exact: ClassVar[bool] = True

    edition: Literal[128, 160, 320] = 128
    """Edition to read: the folder imagenette2-EDITION."""
    size: int = 128
    """Height and width in pixels: the shorter side is resized to it, and the centre is cropped."""

    def folders(self) -> tuple[str, ...]:
        """Folders below the data folder to search, in this order."""
        return _editions(self.edition)

    def labels(self) -> tuple[str, ...]:
        """The ten class folders, in ImageNet's order."""
        return (
            *("n01440764", "n02102040", "n02979186", "n03000684", "n03028079"),
            *("n03394916", "n03417042", "n03425413", "n03445777", "n03888257"),
        )

    def _whole(self) -> Sizes:
        return Sizes(
            (963, 955, 993, 858, 941, 956, 961, 931, 951, 960), (387, 395, 357, 386, 409, 394, 389, 419, 399, 390)
        )

    def sizes(self) -> Sizes:
        """Images per class in the two splits, in the class proportions of the whole."""
        train, test = self._whole()
        return Sizes(
            share_out(train, self.train, f"{self.name}: train"), share_out(test, self.test, f"{self.name}: test")
        )

    def advice(self) -> str:
        """Tell the user which files to put into the folder."""
        return (
            f"unpack imagenette2-{self.edition} there (train and val with ten class folders each; "
            "https://github.com/fastai/imagenette has editions 160 and 320)"
        )

    def hint(self, root: str | None) -> str:
        """Name another edition that is in the data folder, if any."""
        there = (e for e in (128, 160, 320) if find(root, _editions(e), "train"))
        other = next(there, None)
        return f"; edition {other} is there: say imagenette(edition={other})" if other else ""
