"""LfD with several teachers, trained together from different seeds; the one with the lowest mean loss is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchbd import Attack, Training, UsageError, Work, defense
from benchbd.defenses.lfd import Lfd, at_chance

if TYPE_CHECKING:
    from benchbd import DatasetInfo, Lab, Recipe, TrainedModel


@defense("lfd-ensemble", version=1)
class LfdEnsemble(Lfd):
    """LfD with the best of several tiny teachers, which differ in their seeds and are trained as one network.

    A single teacher is a lottery: some initialisations never learn the trigger. Those that do tend to have a lower mean
    loss on the training set, which the defender can see. This variant is not in the paper.
    """

    smoke: ClassVar[dict[str, Any]] = {"teachers": 2, "teacher_epochs": 1}

    teachers: int = 8
    """Number of teachers, at least 2. Their ``repeat`` numbers in lab.train are 0, 1, 2 and so on."""
    teacher_tries: ClassVar[int] = 1  # type: ignore[misc]  # only lfd retries; here the other teachers take that role

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teachers < 2:
            raise UsageError(f"lfd-ensemble: teachers must be 2 or more, not {self.teachers}; one alone is lfd")

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """The packed teachers, which count as one training, and the student."""
        pack, student = super().trainings(attack)
        return tuple(Training(t.kind, ("lfd-ensemble", self.teachers, *t.shared)) for t in (pack, student))

    def training_work(self, attack: Attack, recipe: Recipe, info: DatasetInfo) -> tuple[Work, ...]:
        """All teachers of the pack, and the student."""
        teacher, student = super().training_work(attack, recipe, info)
        return (teacher._replace(images=self.teachers * teacher.images), student)

    def packed_models(self) -> tuple[str, ...]:
        """The teacher."""
        return (self.teacher,)

    def _teach(self, lab: Lab, labels: np.ndarray) -> tuple[TrainedModel, np.ndarray, int]:
        """The best teacher, its losses float64 (N,) on images without augmentation, and the number of teachers."""
        pack = lab.train_packed(
            lab.poisoned, repeats=range(self.teachers), model=self.teacher, **self._teacher_recipe()
        )
        means = [float(lab.losses(teacher, lab.poisoned).mean(dtype=np.float64)) for teacher in pack]
        chosen = best(means)
        # Repeat the chosen teacher's losses, because the record shows the mean losses of the last call.
        losses = lab.losses(pack[chosen], lab.poisoned).astype(np.float64)
        lab.note(
            "lfd-ensemble",
            {"chosen": chosen, "loss_means": means, "at_chance": at_chance(losses, labels)},
        )
        return pack[chosen], losses, len(pack)


def best(means: list[float]) -> int:
    """Position of the lowest finite mean loss, the first if several are equal; 0 if none is finite."""
    return int(np.argmin(np.where(np.isfinite(means), means, np.inf)))
