"""The clean side of a poisoned set made elsewhere, as a data set."""

from __future__ import annotations

from typing import ClassVar, Literal

from benchbd import Dataset, DatasetInfo, Images, UsageError, dataset
from benchbd.core.paths import data_folder, name_in_data
from benchbd.core.poisoned_set_file import PoisonedSetFile, SetFacts
from benchbd.datasets._places import base


@dataset("imported", version=1)
class Imported(Dataset):
    """The training images and clean test images of a file that ``benchbd import`` wrote; goes with attack ``imported``.

    Read from ``DIR/FILE``, where DIR is the folder of ``--data`` or ``BENCHBD_DATA``. Where the file has the originals
    of its poisoned images and all true labels, these take their places, and any attack may poison the data set. Without
    both it goes with the attack ``imported`` of the same file only. Labels are the true ones where the file knows them.
    """

    source: ClassVar[str] = "the file, whose header names its source"

    file: str = "poison.npz"
    """File below the data folder that ``benchbd import`` wrote."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", name_in_data(self.file, "imported: file"))

    def _open(self, root: str | None) -> PoisonedSetFile:
        found = PoisonedSetFile(base(root) / self.file)
        if not found.facts.test:
            raise UsageError(
                f"{found.path} has no clean test images: name the data set that it was made from as dataset, or import "
                "it with --dataset"
            )
        return found

    def info(self) -> DatasetInfo:
        """Sizes and classes, from the file's header."""
        facts = self._open(data_folder(None)).facts
        return DatasetInfo(
            facts.classes,
            facts.size,
            facts.train,
            facts.test,
            facts.class_counts,
            facts.targets[0],
            poisoned=not _cleanable(facts),
        )

    def missing(self, root: str | None) -> str | None:
        """Say what is wrong with the file, else None."""
        try:
            self._open(root)
        except UsageError as error:
            return str(error)
        return None

    def input_files(self, root: str | None) -> list[str]:
        """The file."""
        return [str(base(root) / self.file)]

    def load(self, split: Literal["train", "test"], root: str | None) -> Images:
        """Read one part."""
        import torch

        found = self._open(root)
        whole = found.load()
        if split == "test" and whole.test is not None:
            return Images(torch.from_numpy(whole.test.images), torch.from_numpy(whole.test.labels))
        images = whole.images
        if whole.originals is not None and _cleanable(found.facts):
            images = images.copy()
            images[whole.touched] = whole.originals
        return Images(torch.from_numpy(images), torch.from_numpy(whole.best_labels))


def _cleanable(facts: SetFacts) -> bool:
    """Whether the file holds the clean images and the true labels of all training samples."""
    return facts.originals and facts.true_labels
