"""Control that drops random samples, to show what a defense's filter achieves beyond dropping as many samples."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchbd import Attack, DatasetInfo, Defense, Impossible, Training, UsageError, Work, defense, registry
from benchbd.core import params

if TYPE_CHECKING:
    from benchbd import Lab, Recipe, TrainedModel


def spec_of(made: Defense) -> str:
    """A defense as a spec: its name and the parameters that differ from the defaults, ``lfd(alpha=0.2)``."""
    kind: type = type(made)
    usual = params.defaults(kind)
    changed = [f"{k}={getattr(made, k)!r}" for k, value in usual.items() if getattr(made, k) != value]
    return made.name + (f"({', '.join(changed)})" if changed else "")


def flags(kind: type[Defense]) -> bool:
    """Whether a defense can flag samples, judged by its module's source, because planning cannot run it."""
    names = {base.__module__ for base in kind.__mro__ if issubclass(base, Defense) and base is not Defense}
    try:
        return any("suspect" in inspect.getsource(sys.modules[name]) for name in names)
    except (KeyError, OSError, TypeError):  # without a source, only a run can show it
        return True


@defense("random-filter", version=2)
class RandomFilter(Defense):
    """Control that drops as many samples as another defense flags in the same row and seed, but at random."""

    needs: ClassVar[tuple[str, ...]] = ("truth",)
    control: ClassVar[bool] = True

    of: str = "lfd"
    """The defense to imitate: a bare name means the block's variant of it, if any; ``lfd(alpha=0.2)`` is exact."""

    def among(self, defenses: Sequence[Defense]) -> Defense:
        """This control with a bare name replaced by the spec of the block's only variant of that defense.

        Raises:
            UsageError: the block has several variants.
        """
        variants = list(dict.fromkeys(spec_of(other) for other in defenses if other.name == self.of))
        if len(variants) > 1:
            raise UsageError(
                f"defense {self.name!r}: of: {self.of} may mean {' or '.join(variants)}; name one with its parameters "
                f"({self.of}() for the defaults)"
            )
        imitating: Defense = registry.make("defenses", self.name, of=variants[0] if variants else self.of)
        return imitating

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        """Check that the imitated defense is not a control, needs no clean images, flags samples and applies."""
        imitated: Defense = registry.make("defenses", self.of)
        if imitated.control:
            raise Impossible(f"random-filter imitates defenses; {self.of!r} is a control itself")
        if "clean" in imitated.needs:
            raise Impossible(f"random-filter cannot imitate {self.of!r}: it needs clean images, which no control gets")
        if not flags(type(imitated)):
            raise Impossible(f"random-filter cannot imitate {self.of!r}: it flags no samples, so there is no number")
        imitated.check(info, attack)

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """The imitated defense's trainings before it flags samples (all but its last full one), and one of its own."""
        imitated: Defense = registry.make("defenses", self.of)
        before = list(imitated.trainings(attack))
        last = max((n for n, training in enumerate(before) if training.kind == "full"), default=len(before))
        return (*before[:last], Training("full", ("random-filter", repr(imitated))))

    def training_work(self, attack: Attack, recipe: Recipe, info: DatasetInfo) -> tuple[Work | None, ...]:
        """What the imitated defense trains before its model, and one full training."""
        imitated: Defense = registry.make("defenses", self.of)
        before = len(self.trainings(attack)) - 1
        return (*imitated.training_work(attack, recipe, info)[:before], Work(recipe.epochs * info.train))

    def retries(self) -> dict[str, int]:
        """The imitated defense's retries."""
        imitated: Defense = registry.make("defenses", self.of)
        return imitated.retries()

    def train(self, lab: Lab) -> TrainedModel:
        """Rank the samples at random, drop the first ones, train on the rest with the base recipe."""
        n = len(lab.poisoned)
        rank = np.random.default_rng(lab.seed_for("random-filter")).permutation(n)
        dropped = rank < lab.flagged_by(self.of)
        lab.suspect(-rank.astype(np.float32), dropped)
        return lab.train(lab.poisoned.subset(np.flatnonzero(~dropped)))
