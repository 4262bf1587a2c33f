"""A poisoned set made elsewhere, as an attack like any other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from benchbd import Attack, Budget, DatasetInfo, Impossible, StampContext, UsageError, attack
from benchbd.core.paths import data_folder, name_in_data
from benchbd.core.poisoned_set_file import PoisonedSetFile

if TYPE_CHECKING:
    import torch


@attack("imported", version=1)
class Imported(Attack):
    """A poisoned set from a file that ``benchbd import`` wrote: its images, labels, covers and triggered test images.

    The file lies below the data folder (``--data`` or ``BENCHBD_DATA``). The data set of the row is the one that the
    set was made from, whose untouched images and labels must agree with the file, or ``imported(file=...)`` with the
    same file. Every seed has the same poison. Without triggered test images in the file there is no ASR.
    """

    # What these parameters set for other attacks, the file says.
    target: ClassVar[int | None] = None  # type: ignore[misc]
    rate: ClassVar[float] = 0.0  # type: ignore[misc]
    rate_of: ClassVar[Literal["set", "class"]] = "set"  # type: ignore[misc]
    pool: ClassVar[Literal["all", "non-target"]] = "all"  # type: ignore[misc]
    trigger_seed: ClassVar[int | None] = 0  # type: ignore[misc]

    file: str = "poison.npz"
    """File below the data folder that ``benchbd import`` wrote."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", name_in_data(self.file, "imported: file"))

    def missing(self, root: str | None) -> str | None:
        """Say what is wrong with the file, else None."""
        try:
            self.poisoned_set(root)
        except UsageError as error:
            return str(error)
        return None

    def input_files(self, root: str | None) -> list[str]:
        """The file."""
        return [str(self._path(root))]

    def poisoned_set(self, root: str | None) -> PoisonedSetFile:
        """The file, with its header read."""
        return PoisonedSetFile(self._path(root))

    def _path(self, root: str | None) -> Path:
        if root is None:
            raise UsageError(f"imported: give the folder of {self.file} with --data or BENCHBD_DATA")
        return Path(root) / self.file

    def check(self, info: DatasetInfo) -> None:
        """Refuse a data set with other numbers of classes, images or pixels than the file."""
        facts = self.poisoned_set(data_folder(None)).facts
        for what, mine, theirs in (
            ("classes", facts.classes, info.classes),
            ("training images", facts.train, info.train),
            ("pixels a side", facts.size, info.size),
        ):
            if mine != theirs:
                raise Impossible(f"{self.file} has {mine} {what}, but the data set has {theirs}")

    def budget(self, info: DatasetInfo, class_counts: tuple[int, ...] | None = None) -> Budget:
        """The number of poisoned samples in the file."""
        facts = self.poisoned_set(data_folder(None)).facts
        return Budget(facts.poison, facts.train)

    def cover_count(self, info: DatasetInfo) -> int:
        """The number of covers in the file."""
        return self.poisoned_set(data_folder(None)).facts.cover

    def resolved_target(self, info: DatasetInfo) -> int:
        """The target of the first class."""
        return self.target_of(0, info)

    def target_of(self, label: int, info: DatasetInfo) -> int:
        """The target of one class, as the file says."""
        targets = self.poisoned_set(data_folder(None)).facts.targets
        return targets[label] if label < len(targets) else targets[0]

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Refuse: the file holds images with the trigger, not the trigger itself."""
        raise UsageError(f"imported: {self.file} holds images with a trigger, and no trigger for other images")
