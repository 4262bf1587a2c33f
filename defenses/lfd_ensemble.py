"""LfD with teachers of several capacities; a sign that a defender sees chooses one, and its losses choose alpha."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchbd import Attack, DatasetInfo, Training, UsageError, Work, defense, registry
from benchbd.defenses._signs import Sign, alpha_from, choose, sign_of
from benchbd.defenses._teachers import train_teachers
from benchbd.defenses.lfd import Lfd, Teaching

if TYPE_CHECKING:
    from benchbd import Recipe, TrainSet, Workbench


@defense("lfd-ensemble", version=2)
class LfdEnsemble(Lfd):
    """LfD with a ladder of teachers, from the smallest network that has learnt what few samples share.

    A single teacher of a single size is a lottery: some initialisations never learn the trigger, and some triggers are
    beyond a network of 612 parameters. Here several teachers of each size train as one network. A teacher shows the
    sign if its lowest losses crowd in one label and the losses of that label fall into two groups. The first rung with
    such a teacher is used, and the valley between the two groups sets alpha. If there is no such teacher, the one of
    the first rung with the lowest mean loss and the fixed alpha are used, with a warning.

    This variant is benchbd's own. It cannot see attacks with several targets, whose poison has no label in common. The
    cost is one full training and that of the teachers.
    """

    smoke: ClassVar[dict[str, Any]] = {"teachers": 2, "teacher_epochs": 1}

    alpha: float = 0.15
    """Share of the training set that counts as poison candidates if no teacher shows the sign, in (0, 1)."""
    rungs: tuple[str, ...] = ("resnet-s1", "resnet-s", "resnet-s(stem=8)")
    """Models of the teachers, from the smallest to the largest."""
    teachers: int = 4
    """Number of teachers of each model. Their ``repeat`` numbers in lab.train are 0, 1, 2 and so on."""
    teacher: ClassVar[str] = "resnet-s"  # type: ignore[misc]  # rungs take its place
    teacher_tries: ClassVar[int] = 1  # type: ignore[misc]  # the other teachers take the place of retries

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teachers < 2:
            raise UsageError(f"lfd-ensemble: teachers must be 2 or more, not {self.teachers}")
        if not self.rungs or len(set(self.rungs)) < len(self.rungs):
            raise UsageError(f"lfd-ensemble: rungs must be different models, one or more, not {list(self.rungs)}")

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        """Check that there will be candidates and other samples, and that the teachers fit the images."""
        super().check(info, attack)
        for model in self.rungs:
            registry.make("models", model).check(info)

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """The teachers of each rung, which count as one training, and the student."""
        rungs = [self._teachers_of(model) for model in self.rungs]
        ladder = ("lfd-ensemble", *(rung.shared for rung in rungs))
        return (*rungs, self._student_of(ladder))

    def training_work(self, attack: Attack, recipe: Recipe, info: DatasetInfo) -> tuple[Work, ...]:
        """All teachers of each rung, and the student."""
        (teachers, student) = super().training_work(attack, recipe, info)
        return (*(teachers._replace(model=model) for model in self.rungs), student)

    def _teach(self, bench: Workbench, data: TrainSet, first: int = 0) -> Teaching:
        """Train the ladder, choose a teacher by the signs, and take alpha from the valley in its losses."""
        labels, recipe = data.labels.numpy(), self.teacher_recipe(bench.recipe, len(data))
        repeats = range(first, first + self.teachers)
        nets = [train_teachers(bench, data, model, repeats, recipe) for model in self.rungs]
        losses = [[bench.losses(net, data).astype(np.float64) for net in row] for row in nets]
        signs = [[sign_of(values, labels) for values in row] for row in losses]
        means = [[float(values.mean()) for values in row] for row in losses]
        rung, place = choose(signs, means)
        sign, chosen = signs[rung][place], losses[rung][place]
        alpha = alpha_from(chosen, sign)
        warnings: list[str] = []
        if not sign.shown:
            warnings.append(
                f"lfd-ensemble: no teacher has learnt something that few samples share, or there is nothing like it: "
                f"{self.rungs[rung]} and alpha {self.alpha:g} are used"
            )
        elif alpha is None:
            line = f"lfd-ensemble: the valley in the losses is above most of them, so alpha {self.alpha:g} is used"
            warnings.append(line)
        facts = {
            "rung": self.rungs[rung],
            "teacher": place,
            "sign": sign.shown,
            "alpha": self.alpha if alpha is None else alpha,
            "alpha_from": "fixed" if alpha is None else "valley",
            "rungs": [
                {"model": model, "teachers": [_facts(*one) for one in zip(means_of, signs_of, strict=True)]}
                for model, means_of, signs_of in zip(self.rungs, means, signs, strict=True)
            ],
        }
        kept = {"teacher_epochs": recipe["epochs"], "teacher_tries": 1}
        alpha = self.alpha if alpha is None else alpha
        return Teaching(nets[rung][place], chosen, alpha, kept, {"lfd-ensemble": facts}, tuple(warnings))


def _facts(mean: float, sign: Sign) -> dict[str, Any]:
    return {"loss_mean": mean, **sign.as_json()}
