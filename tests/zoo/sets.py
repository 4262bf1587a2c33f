"""A data set that keeps its images, and a defense that suspects samples and trains on a few."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from benchbd import Dataset, DatasetInfo, Defense, Images, Normalisation, Training, dataset, defense

if TYPE_CHECKING:
    from benchbd import Attack, Lab, TrainedModel, TrainSet, Workbench

KEPT: dict[str, Images] = {}


@dataset("kept", version=1)
class Kept(Dataset):
    """Random images, made once for all calls."""

    normalisation = Normalisation((0.5,) * 3, (0.5,) * 3)
    class_names = tuple("01")
    source: ClassVar[str] = "random"

    def info(self) -> DatasetInfo:
        return DatasetInfo(2, 16, 60, 20, (30, 30), 1)

    def load(self, split: Literal["train", "test"], root: str | None) -> Images:
        import torch

        if split not in KEPT:
            count = 60 if split == "train" else 20
            images = np.random.default_rng(count).integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)
            KEPT[split] = Images(torch.from_numpy(images), torch.arange(count) % 2)
        return KEPT[split]


@defense("heeded", version=1)
class Heeded(Defense):
    """A defense that the attack lfd-adaptive can consult, and that could keep the set it is shown."""

    def train(self, lab: Lab) -> TrainedModel:
        return lab.train(lab.poisoned)

    def teacher_losses(self, bench: Workbench, data: TrainSet, first: int = 0) -> np.ndarray | None:
        return np.zeros(len(data))


@defense("suspicious", version=1)
class Suspicious(Defense):
    """Suspects all samples alike and trains on the first 64."""

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        return (Training("full", ("suspicious",)),)

    def train(self, lab: Lab) -> TrainedModel:
        lab.suspect(np.zeros(len(lab.poisoned)))
        return lab.train(lab.poisoned.subset(np.arange(64)))
