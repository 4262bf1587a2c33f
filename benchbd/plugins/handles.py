"""What plugins are handed: a defense's lab and an attack's workshop, as interfaces.

The harness has one class behind each (:mod:`benchbd.lab`, :mod:`benchbd.pipeline`); plugins are written against these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from benchbd.core.images import DatasetInfo
    from benchbd.core.recipe import Recipe
    from benchbd.engine import Classifier, Loss, Perturb, TrainingLoop, WeightFunction
    from benchbd.plugins.train_set import TrainSet
    from benchbd.plugins.trained import TrainedModel


class Workbench(Protocol):
    """What a lab and a workshop share: memoised trainings and passes over a set.

    Attributes:
        recipe: the matrix's base recipe.
        device: where trainings and passes run.
        classes: number of classes.
        size: image height and width in pixels.
    """

    recipe: Recipe
    device: torch.device
    classes: int
    size: int

    def seed_for(self, purpose: str) -> int:
        """A seed for a purpose of the plugin's own, stable for this cell's seed."""
        ...

    def train(
        self,
        data: TrainSet,
        *,
        kind: str = "full",
        name: str = "train",
        model: str | None = None,
        weights: Any = None,
        scorer: TrainedModel | None = None,
        weight_fn: WeightFunction | None = None,
        loss: Loss | None = None,
        perturb: Perturb | None = None,
        training_loop: TrainingLoop | None = None,
        start: TrainedModel | None = None,
        repeat: int = 0,
        trace: bool = False,
        **changes: Any,
    ) -> TrainedModel:
        """Train a network on a set, or return the stored one that the same call made before.

        Args:
            data: images and labels.
            kind: how the plan counts it: ``full``, ``feature-model``, ``teacher`` or ``fine-tune``.
            name: the stage's name in the record.
            model: another model's spec (``resnet-s(stem=2)``); the cell's where not given.
            weights: float32 (N,), one per sample of ``data``, multiplied into its loss.
            scorer: a frozen network that scores each epoch's augmented views before they are trained on; with
                ``weight_fn``.
            weight_fn: a frozen dataclass, called each epoch with the scorer's cross-entropies float32 (N,) in the order
                of ``data``; returns that epoch's weights, float32 (N,).
            loss: a frozen dataclass, called with per-sample losses (B,) and weights (B,); returns what is minimised.
            perturb: a frozen dataclass, called with network, images (B, 3, H, W) in [0, 1] and labels after
                augmentation; returns the images to train on.
            training_loop: a frozen dataclass that does each epoch's steps itself
                (:class:`benchbd.engine.TrainingLoop`), without weights, scorer, loss and perturb. The plugin's version
                and source are in the key then.
            start: network to start from; a fresh initialisation where not given.
            repeat: another initialisation and batch order for the same data.
            trace: also :meth:`trace` the result, under the stage's name.
            **changes: entries of the recipe to change (``epochs=5, augment=()``).

        Raises:
            Diverged: the loss stopped being finite, or a weight is not; the message begins with the stage's name.
            UsageError: what is asked for makes no sense.
        """
        ...

    def losses(self, trained: TrainedModel, data: TrainSet) -> np.ndarray:
        """Cross-entropy of each sample, float32 (N,): eval mode, no augmentation, fp32, in the order of ``data``."""
        ...

    def features(self, trained: TrainedModel, data: TrainSet) -> np.ndarray:
        """Penultimate features, float32 (N, D): eval mode, no augmentation, fp32, in the order of ``data``."""
        ...

    def logits(self, trained: TrainedModel, data: TrainSet) -> np.ndarray:
        """Logits, float32 (N, C): eval mode, no augmentation, fp32, in the order of ``data``."""
        ...

    def prune(self, trained: TrainedModel, channels: Any, at: Literal["output", "filters"] = "output") -> TrainedModel:
        """The network with some penultimate channels silenced; nothing is trained.

        Args:
            trained: the network; itself where there is no channel to silence.
            channels: positions (M,) among the D penultimate channels, in any order, or a mask bool (D,).
            at: ``output``: masked to zero there, weights stay. ``filters``: the last convolution's filters of these
                channels and their batch norm are set to zero; what a shortcut brings past them stays.

        Raises:
            Impossible: ``filters`` of a network that does not say which its last convolution is.
        """
        ...

    def trace(self, name: str, trained: TrainedModel, channels: Any = ()) -> None:
        """Have an intermediate network measured: its CA and ASR go into the record's ``notes.curve``.

        The evaluator does so once the defense has returned; nothing of it can be seen here. Its cost is not charged to
        any cell, but each network costs a pass over the test images; all prunings of one network share theirs.

        Args:
            name: of the point on the curve.
            trained: the network.
            channels: penultimate channels masked in it, as for :meth:`prune`, for prunings that need not be stored.

        Raises:
            UsageError: there are as many points as may be, or no such channels.
        """
        ...

    def stage(
        self, name: str, params: dict[str, Any], compute: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """A memoised stage of the plugin's own. The plugin's version and source and the data are in its key already.

        Args:
            name: the stage.
            params: everything else that determines the result, JSON-able: keys of the models that go in, settings.
            compute: returns arrays by name; nothing random but from :meth:`seed_for`.
        """
        ...


class Lab(Workbench, Protocol):
    """What :meth:`benchbd.Defense.train` is handed.

    Attributes:
        poisoned: the training set, some of whose samples may be poisoned.
    """

    poisoned: TrainSet

    @property
    def clean(self) -> TrainSet:
        """Clean training images with true labels; only for defenses that declare ``needs = ("clean",)``."""
        ...

    @property
    def truth(self) -> np.ndarray:
        """bool (N,): which samples are poisoned; only for controls that declare ``needs = ("truth",)``."""
        ...

    def suspect(self, scores: Any, flagged: Any = None, losses: Any = None) -> None:
        """Say which samples look poisoned; the evaluator turns it into AUROC, precision, recall and mean losses.

        Args:
            scores: float (N,), higher is more suspicious, in the order of ``poisoned``.
            flagged: the samples acted upon: bool (N,) or positions.
            losses: float (N,), cross-entropies whose means over clean and poisoned samples go into the record; what
                :meth:`losses` gave last for all of ``poisoned``, where it was asked before.

        Raises:
            UsageError: they do not fit the set.
            Diverged: a score is not finite.
        """
        ...

    def note(self, name: str, value: Any) -> None:
        """Keep a JSON-able fact in the record (a pruning curve, how many samples were kept per class)."""
        ...

    def flagged_by(self, spec: str) -> int:
        """How many samples another defense acts upon in this very row and seed. For controls that see the truth."""
        ...


class Workshop(Workbench, Protocol):
    """What :meth:`benchbd.Attack.prepare` is handed: clean images, a target, and memoised training.

    Attributes:
        clean: the clean training set.
        info: sizes and classes of the data set.
        target: the attack's target class.
        seed: seed of everything drawn or trained for the trigger (from the attack's ``trigger_seed``).
    """

    clean: TrainSet
    info: DatasetInfo
    target: int
    seed: int

    @property
    def indices(self) -> np.ndarray:
        """int64 (P,): the images to be poisoned; only for attacks with ``prepared_from_poison``."""
        ...

    def surrogate(self) -> TrainedModel:
        """The clean undefended model: the row's network and recipe, trained on the clean set."""
        ...

    def network(self, seed: int) -> Classifier:
        """A fresh network of the row's kind, for an attack's own training loop."""
        ...

    def progress(self, stage: str, done: int, total: int, **facts: Any) -> None:
        """Show how far an attack's own loop is."""
        ...
