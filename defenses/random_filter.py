"""Control: what a defense's filter is worth beyond the mere number of samples it drops."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchbd import Attack, DatasetInfo, Defense, Impossible, Training, UsageError, defense, registry
from benchbd.core import params

if TYPE_CHECKING:
    from benchbd import Lab, TrainedModel


def spec_of(made: Defense) -> str:
    """A defense as a spec: its name, and what differs from the defaults, ``lfd(alpha=0.2, teacher='vgg-s')``."""
    kind: type = type(made)
    usual = params.defaults(kind)
    changed = [f"{k}={getattr(made, k)!r}" for k, value in usual.items() if getattr(made, k) != value]
    return made.name + (f"({', '.join(changed)})" if changed else "")


def flags(kind: type[Defense]) -> bool:
    """Whether a defense can name suspects, told by the source of its module: nothing can be run while planning."""
    names = {base.__module__ for base in kind.__mro__ if issubclass(base, Defense) and base is not Defense}
    try:
        return any("suspect" in inspect.getsource(sys.modules[name]) for name in names)
    except (KeyError, OSError, TypeError):  # no source to be had: the run will tell
        return True


@defense("random-filter", version=1)
class RandomFilter(Defense):
    """Control that drops as many samples as another defense suspects in the same row and seed, but at random."""

    needs: ClassVar[tuple[str, ...]] = ("truth",)
    control: ClassVar[bool] = True

    of: str = "lfd"
    """The defense to imitate: a name means the block's variant of it, where it has one; ``lfd(alpha=0.2)`` is exact."""

    def among(self, defenses: Sequence[Defense]) -> Defense:
        """The control with the spec of the one variant that a bare name means among the block's defenses.

        Raises:
            UsageError: there are several.
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
        """Refuse to imitate a control or what drops no samples, and whatever the imitated defense itself refuses."""
        imitated: Defense = registry.make("defenses", self.of)
        if imitated.control:
            raise Impossible(f"random-filter imitates defenses; {self.of!r} is a control itself")
        if "clean" in imitated.needs:
            raise Impossible(f"random-filter cannot imitate {self.of!r}: it needs clean images, which no control gets")
        if not flags(type(imitated)):
            raise Impossible(f"random-filter cannot imitate {self.of!r}: it flags no samples, so there is no number")
        imitated.check(info, attack)

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """What the imitated defense trains before it names its suspects (all but its last full one), and its own."""
        imitated: Defense = registry.make("defenses", self.of)
        before = list(imitated.trainings(attack))
        last = max((n for n, training in enumerate(before) if training.kind == "full"), default=len(before))
        return (*before[:last], Training("full", ("random-filter", repr(imitated))))

    def retries(self) -> dict[str, int]:
        """Those of the imitated defense."""
        imitated: Defense = registry.make("defenses", self.of)
        return imitated.retries()

    def train(self, lab: Lab) -> TrainedModel:
        """Rank the samples at random, drop the first, train on the others with the base recipe."""
        n = len(lab.poisoned)
        rank = np.random.default_rng(lab.seed_for("random-filter")).permutation(n)
        dropped = rank < lab.flagged_by(self.of)
        lab.suspect(-rank.astype(np.float32), dropped)
        return lab.train(lab.poisoned.subset(np.flatnonzero(~dropped)))
