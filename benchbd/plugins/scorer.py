"""The base class of defenses that only score samples: the harness drops the highest scores and trains on the rest."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from benchbd.core.images import DatasetInfo
from benchbd.errors import Diverged, Impossible, UsageError
from benchbd.plugins.contract import Attack, Defense
from benchbd.plugins.training import UNDEFENDED, Training

if TYPE_CHECKING:
    import numpy as np

    from benchbd.plugins.handles import Lab
    from benchbd.plugins.trained import TrainedModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scorer(Defense):
    """A defense that gives each sample a score; the harness drops those with the highest and trains on the rest.

    The record gets AUROC, precision and recall of the dropped samples. A cell costs the trainings that the scores need,
    and one full training.

    Required:
        scores(lab): one number for each sample of the poisoned set; higher is more suspicious.

    Optional:
        scoring(attack): the trainings that scores does, for the plan; () for none. Default: the undefended model.
        All optional hooks of a defense but trainings.
    """

    drop: float = 0.15
    """Share of the samples to drop, in [0, 1); their number is rounded down."""
    drop_of: Literal["set", "class"] = "set"
    """Whether the share is one of the whole set, or of each class as the defender sees it."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.drop < 1.0:
            raise UsageError(f"{self.name}: drop is a share in [0, 1), such as 0.15, not {self.drop:g}")

    def scores(self, lab: Lab) -> Any:
        """Score the samples of ``lab.poisoned``: float (N,), in their order; higher is more suspicious."""
        raise NotImplementedError

    def scoring(self, attack: Attack) -> tuple[Training, ...]:
        """The trainings that :meth:`scores` does with this attack; () for none. Default: the undefended model."""
        return (UNDEFENDED,)

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        """Check that the share is at least one sample. A share of 0 is accepted: it only scores."""
        if self.drop and int(info.train * self.drop + 1e-9) < 1:
            raise Impossible(f"{self.name}: drop {self.drop:g} of {info.train} images drops none of them")

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """The trainings of :meth:`scoring`, and one on the samples that are kept."""
        return (*self.scoring(attack), *super().trainings(attack))

    def train(self, lab: Lab) -> TrainedModel:
        """Score, drop, train from scratch on the kept samples with the base recipe.

        Raises:
            UsageError: there is not one score for each sample.
            Diverged: a score is not finite, or no sample is left.
        """
        import numpy as np

        found = self.scores(lab)
        lab.suspect(found)  # refuses scores that do not fit
        scores = _float64(found)
        labels = lab.poisoned.labels.numpy()
        dropped = highest(scores, labels if self.drop_of == "class" else np.zeros_like(labels), self.drop)
        lab.suspect(scores, dropped)
        lab.note(self.name, {"dropped_per_class": np.bincount(labels[dropped], minlength=lab.classes).tolist()})
        if dropped.all():
            raise Diverged(f"{self.name}: every sample is dropped; none is left to train on")
        return lab.train(lab.poisoned.subset(np.flatnonzero(~dropped)))


def highest(scores: np.ndarray, groups: np.ndarray, share: float) -> np.ndarray:
    """The share of each group with the highest scores.

    Args:
        scores: float (N,).
        groups: int (N,), the group of each sample.
        share: in [0, 1); the number in a group is rounded down, and ties go by position.

    Returns:
        bool (N,).
    """
    import numpy as np

    chosen = np.zeros(len(scores), bool)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        order = np.argsort(-scores[members], kind="stable")
        chosen[members[order[: int(share * len(members) + 1e-9)]]] = True
    return chosen


def _float64(given: Any) -> np.ndarray:
    import numpy as np

    from benchbd.plugins.train_set import as_array

    return as_array(given, "scores", np.float64)
