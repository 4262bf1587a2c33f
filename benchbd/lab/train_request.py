"""A training that a plugin asks for: everything that determines its result, and the key it is stored under."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchbd.core.hashing import digest, sha_of
from benchbd.core.recipe import Recipe
from benchbd.core.seeding import seed_for
from benchbd.engine import PerEpochWeights
from benchbd.errors import Diverged, UsageError, shown, with_article
from benchbd.lab import keys
from benchbd.plugins.train_set import TrainSet, as_array
from benchbd.plugins.trained import ModelSpec, TrainedModel
from benchbd.plugins.training import COUNTED

if TYPE_CHECKING:
    from benchbd.engine import Classifier, Loss, Perturb, Precision, TrainingLoop, WeightFunction


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainRequest:
    """One training with every default filled in.

    Attributes:
        data: images and labels.
        kind: how the plan counts it, one of :data:`benchbd.plugins.training.COUNTED`.
        name: the stage's name in the record and in messages.
        model: the network to train.
        recipe: the recipe, changes applied.
        seed: the cell's seed.
        precision: the numbers that the network computes in.
        owner: fingerprint of the plugin at work; in the key where code of its own takes part in the training.
        weights: float32 (N,), one for each sample of ``data``; anything array-like is accepted, such as a mask
            (1 and 0).
        scorer: a frozen network that scores each epoch's augmented views.
        weight_fn: turns the scorer's losses into that epoch's weights.
        loss: what is minimised; the weighted mean where not given.
        perturb: adversarial training.
        training_loop: does each epoch's steps itself.
        start: network to start from; a fresh initialisation where not given.
        repeat: number of the initialisation and batch order.

    Raises:
        Diverged: a weight is not finite.
        UsageError: the arguments contradict each other.
    """

    data: TrainSet
    kind: str
    name: str
    model: ModelSpec
    recipe: Recipe
    seed: int
    precision: Precision
    owner: Any = None
    weights: Any = None
    scorer: TrainedModel | None = None
    weight_fn: WeightFunction | None = None
    loss: Loss | None = None
    perturb: Perturb | None = None
    training_loop: TrainingLoop | None = None
    start: TrainedModel | None = None
    repeat: int = 0

    def __post_init__(self) -> None:
        check_training(self.data, self.kind, self.name)
        if self.start is not None and self.model.spec() != self.start._plan.spec():
            other = with_article(self.start._plan.part.text)
            raise UsageError(f"{self.name}: {self.model.part.text} cannot start from {other}")
        if self.weights is not None:
            object.__setattr__(self, "weights", _checked_weights(self.weights, len(self.data), self.name))
        lonely = (self.scorer is None) != (self.weight_fn is None)
        if lonely or (self.scorer is not None and self.weights is not None):
            raise UsageError(f"{self.name}: scorer and weight_fn go together, and without weights")
        fixed = (self.weights, self.scorer, self.loss, self.perturb)
        if self.training_loop is not None and any(given is not None for given in fixed):
            raise UsageError(
                f"{self.name}: a training loop makes its own loss and takes no weights, scorer, loss and perturb"
            )

    def key(self) -> str:
        """The key of the trained model: a hash of everything that determines it. Kind and name are not in it.

        Raises:
            UsageError: two losses, weight functions, perturbations or training loops of this class cannot be told
                apart (:func:`benchbd.lab.keys.cache_key_form`).
        """
        code: list[Any] = []
        if self.scorer is not None:
            code.append([self.scorer.key, self._form("weight_fn"), self.owner])
        if self.training_loop is not None:
            code.append(["routine", self._form("training_loop"), self.owner])
        # The source of a class does not tell what it takes from its module.
        code += [[field, self.owner] for field in ("loss", "perturb") if keys.is_outside(getattr(self, field))]
        return digest(
            [
                "train",
                keys.CODE_VERSION,
                self.data.key,
                self.model.spec(),
                self.recipe.decisive(),
                None if self.weights is None else sha_of(self.weights),
                self._form("loss"),
                self._form("perturb"),
                None if self.start is None else self.start.key,
                [self.seed, self.repeat],
                self.precision.name,
                *code,
            ]
        )

    def _form(self, field: str) -> Any:
        return keys.cache_key_form(getattr(self, field), f"{self.name}: {field}")

    def network(self) -> Classifier:
        """The network before its first step."""
        seed = seed_for("init", self.seed, self.repeat)
        net = self.model.fresh(seed) if self.start is None else self.model.build(seed)
        if self.start is not None:
            net.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in self.start._state.items()})
        else:
            net.initialise_from(self.data.images)
        return net

    def epoch_weights(self) -> PerEpochWeights | None:
        """Makes each epoch's weights from the scorer's losses; None without a scorer."""
        if self.scorer is None or self.weight_fn is None:
            return None
        return PerEpochWeights(self.scorer.module(), self.weight_fn)

    def batch_seed(self) -> int:
        """Seed of the batch order, augmentation and dropout."""
        return seed_for("batches", self.seed, self.repeat)


def check_training(data: TrainSet, kind: str, name: str) -> None:
    """Raise UsageError where a set is empty or a kind is unknown."""
    if len(data) == 0:
        raise UsageError(f"{name}: there is no sample to train on")
    if kind not in COUNTED:
        raise UsageError(f"{name}: kind must be one of {', '.join(COUNTED)}, not {shown(kind)}")


def _checked_weights(given: Any, count: int, name: str) -> np.ndarray:
    # A copy: the key must name the weights as long as the training runs.
    values: np.ndarray = as_array(given, f"{name}: weights", np.float32).copy(order="C")
    if values.shape != (count,):
        raise UsageError(f"{name}: {count} samples but weights of shape {values.shape}")
    wrong = count - int(np.isfinite(values).sum())
    if wrong:
        raise Diverged(f"{name}: {wrong} of {count} weights are not finite")
    return values
