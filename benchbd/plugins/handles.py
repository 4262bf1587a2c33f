"""The interfaces that plugins are written against: a defense's lab and an attack's workshop.

The harness has one class behind each, in :mod:`benchbd.lab` and :mod:`benchbd.pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from benchbd.core.images import DatasetInfo, Normalisation
    from benchbd.core.recipe import Recipe
    from benchbd.core.transform import TestTransform
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

    @property
    def model(self) -> str:
        """The row's model as a spec, such as ``resnet18(width=16)``; ``train(model=...)`` takes one."""
        ...

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
            weights: float32 (N,), one for each sample of ``data``, multiplied into its loss.
            scorer: a frozen network that scores each epoch's augmented views before the student trains on them; goes
                with ``weight_fn``.
            weight_fn: a frozen dataclass, called each epoch with the scorer's cross-entropies float32 (N,) in the order
                of ``data``; returns that epoch's weights, float32 (N,).
            loss: a frozen dataclass, called with per-sample losses (B,) and weights (B,); returns what is minimised.
            perturb: a frozen dataclass, called with network, images (B, 3, H, W) in [0, 1] and labels after
                augmentation; returns the images to train on.
            training_loop: a frozen dataclass that does each epoch's steps itself
                (:class:`benchbd.engine.TrainingLoop`), instead of weights, scorer, loss and perturb. The plugin's
                version and source are then part of the key.
            start: the network to start from; a fresh initialisation where not given.
            repeat: number of the initialisation and batch order: another one gives another network from the same data.
            trace: also :meth:`trace` the result, under the stage's name.
            **changes: entries of the recipe to change (``epochs=5, augment=()``).

        Raises:
            Diverged: the loss stopped being finite, or a weight is not finite; the message begins with the stage's
                name.
            UsageError: the arguments contradict each other.
        """
        ...

    def train_packed(
        self,
        data: TrainSet,
        *,
        repeats: Sequence[int],
        kind: str = "teacher",
        name: str = "teachers",
        model: str | None = None,
        **changes: Any,
    ) -> list[TrainedModel]:
        """Train one small model from several seeds at once, or return the pack that the same call stored before.

        ``lab.train_packed(lab.poisoned, repeats=range(8), model="resnet-s", epochs=20, augment=())``. A GPU runs the
        networks as one; so does a CPU where that is faster than one after another. Each network equals the one that
        :meth:`train` makes with its ``repeat`` up to rounding, so the pack has a key of its own. It is charged as one
        training with the epochs of all. A killed pack starts again from its first epoch.

        Args:
            data: images and labels.
            repeats: each network's ``repeat``, as for :meth:`train`; different numbers.
            kind: how the plan counts the pack, as for :meth:`train`.
            name: the stage's name in the record.
            model: another model's spec; the cell's where not given. It must consist of convolutions, batch norms and
                layers whose tensors are buffers or frozen, without dropout, up to its head. Each network initialises
                itself from ``data`` if it can; what is frozen stays frozen. Name it in ``packed_models``.
            **changes: entries of the recipe to change.

        Returns:
            The networks, in the order of ``repeats``.

        Raises:
            Diverged: a network of the pack is not finite. It may have corrupted others, so none is stored.
            UsageError: the arguments contradict each other, or this model cannot be packed.
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
            trained: the network; returned unchanged if ``channels`` is empty.
            channels: positions (M,) among the D penultimate channels, in any order, or a mask bool (D,).
            at: ``output`` masks the channels to zero and keeps the weights. ``filters`` sets these channels of the last
                convolution and its batch norm to zero; what a shortcut adds to them stays.

        Raises:
            Impossible: ``at="filters"``, and the network does not say which convolution is its last.
        """
        ...

    def adopt(self, state: Mapping[str, Any], *, model: str | None = None, name: str = "adopt") -> TrainedModel:
        """The network with weights that the plugin made outside :meth:`train`: averaged, edited or read from a file.

        Copying them costs no training; whatever made them counts as the defense's own time. The key is a hash of the
        weights, so make them from nothing but the lab's sets and :meth:`seed_for`.

        Args:
            state: tensors or arrays by name, as ``state_dict()`` of ``TrainedModel.module()`` or of the plain network
                returns. Prefixes of DataParallel and the names ``fc``, ``linear`` and ``classifier`` of a last layer
                are understood. Without ``mean``, ``std`` and ``channel_mask``, images are normalised as the data set's,
                and no channel is masked.
            model: another model's spec; the cell's where not given.
            name: the stage's name in the record.

        Raises:
            UsageError: names or shapes do not fit the model.
            Diverged: a value is not finite.
        """
        ...

    def with_test_transform(self, trained: TrainedModel, transform: TestTransform) -> TrainedModel:
        """The model with a change of every image that it sees and of what its outputs mean; nothing is trained.

        All passes of the result apply the change, and the evaluator measures CA, ASR and RA with it. Only a defense
        whose class says ``test_transform = True`` may return such a model; record and tables show it. Training from
        it, pruning it and transforming it once more are refused.

        Args:
            trained: the network.
            transform: the stamp and the label map.

        Raises:
            UsageError: the transform does not fit the images or classes, or the model has one already.
        """
        ...

    def trace(self, name: str, trained: TrainedModel, channels: Any = ()) -> None:
        """Have an intermediate model measured: its CA and ASR go into the record's ``notes.curve``.

        The evaluator measures it once the defense has returned; the defense sees nothing of that. Its cost is not
        charged to any cell, but each network costs a pass over the test images; all prunings of one network share one.

        Args:
            name: the name of the point on the curve.
            trained: the network.
            channels: penultimate channels to mask in it, as for :meth:`prune`, for prunings that need not be stored.

        Raises:
            UsageError: the curve is full (24 points), or there are no such channels.
        """
        ...

    def stage(
        self, name: str, params: dict[str, Any], compute: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """A memoised stage of the plugin's own. Its key already holds the plugin's version and source, and the data.

        Args:
            name: the stage's name in the record.
            params: all other inputs that determine the result, JSON-serialisable: keys of models, settings.
            compute: returns arrays by name. Takes every random number from :meth:`seed_for`.
        """
        ...


class Lab(Workbench, Protocol):
    """The lab that :meth:`benchbd.Defense.train` gets: the poisoned set, and memoised work on it.

    Attributes:
        poisoned: the training set, some of whose samples may be poisoned.
        normalisation: mean and standard deviation of each channel, which the row's model subtracts and divides by.
    """

    poisoned: TrainSet
    normalisation: Normalisation

    @property
    def clean(self) -> TrainSet:
        """Clean training images with true labels; only for defenses that declare ``needs = ("clean",)``."""
        ...

    @property
    def truth(self) -> np.ndarray:
        """bool (N,): which samples are poisoned; only for controls that declare ``needs = ("truth",)``."""
        ...

    def read_model(
        self,
        content: bytes,
        form: str,
        *,
        model: str | None = None,
        inputs: str = "normalised",
        normalisation: Normalisation | None = None,
        kind: str = "full",
        name: str = "model file",
        epochs: int = 0,
        epoch_losses: Sequence[float] = (),
    ) -> TrainedModel:
        """A network that was trained outside of benchbd, from the bytes of its file. Nothing is unpickled.

        It must give finite logits for all training images, which do not depend on the rest of a batch. A program's
        features are its logits; it is another architecture than the row's model.

        Args:
            content: the bytes.
            form: ``safetensors``, a state dict of a known model; or ``torchscript``, ``export`` (``torch.export``) or
                ``onnx``, a program from images (B, 3, S, S) to logits (B, C).
            model: spec of the model that the state dict belongs to; the row's where not given.
            inputs: what the network takes: floats ``normalised`` by mean and standard deviation, floats in [0, 1]
                (``unit``), or ``uint8`` (programs only).
            normalisation: mean and standard deviation for ``normalised``; the row's where not given.
            kind: how the plan counts its training, as for :meth:`train`.
            name: the stage's name in the record.
            epochs: of its training, for the record.
            epoch_losses: mean loss of each epoch, for the record.

        Raises:
            UsageError: the bytes are not such a model, or it does not fit the images and classes.
            Diverged: weights or logits are not finite.
        """
        ...

    def check_model(
        self,
        content: bytes,
        form: str,
        *,
        model: str | None = None,
        inputs: str = "normalised",
        normalisation: Normalisation | None = None,
    ) -> None:
        """Raise what :meth:`read_model` would raise for the same file. Nothing is stored or counted."""
        ...

    def log(self, line: str) -> None:
        """Write a line to the cell's log; the user does not see it otherwise."""
        ...

    def suspect(self, scores: Any, flagged: Any = None, losses: Any = None) -> None:
        """Say which samples look poisoned; the evaluator turns it into AUROC, precision, recall and mean losses.

        Args:
            scores: float (N,), higher is more suspicious, in the order of ``poisoned``.
            flagged: the samples that the defense flags: bool (N,) or positions, each once.
            losses: float (N,), cross-entropies whose means over clean and poisoned samples go into the record. Where
                not given, the last result of :meth:`losses` for all of ``poisoned``, if there is one.

        Raises:
            UsageError: scores, flagged or losses do not fit the set.
            Diverged: a score is not finite.
        """
        ...

    def note(self, name: str, value: Any) -> None:
        """Keep a JSON-serialisable fact in the record (a pruning curve, how many samples were kept per class)."""
        ...

    def report_pool(self, name: str, members: Any, epoch: int | None = None) -> None:
        """Report a pool of samples that the defense treats alike, such as those whose labels it trusts.

        The evaluator counts the poison in it: ``notes.pools`` of the record. A training loop keeps the pools of its
        epochs by ``loop.report_pool``; they are in the model's ``pools``.

        Args:
            name: the pool's name, with the phase of the defense.
            members: bool (N,), or positions int64 (M,), in the order of ``poisoned``.
            epoch: number of the epoch, from 1; None if the pool does not belong to an epoch.

        Raises:
            UsageError: the members do not fit the set, or there are more than 1,000 pools.
        """
        ...

    def warn(self, line: str) -> None:
        """Warn the user, who sees the line at once; the record keeps it in ``notes.warnings``. Equal lines count once.

        Args:
            line: one line that says what looks wrong, by what the defense sees.

        Raises:
            UsageError: it is not text, or the 21st different warning of the cell.
        """
        ...

    def flagged_by(self, spec: str) -> int:
        """How many samples another defense flags in the same row and seed. For controls that see the truth."""
        ...


class Workshop(Workbench, Protocol):
    """The workshop that :meth:`benchbd.Attack.prepare` gets: clean images, a target, and memoised training.

    Attributes:
        clean: the clean training set.
        info: sizes and classes of the data set.
        target: the attack's target class.
        seed: seed of everything drawn or trained for the trigger (made from the attack's ``trigger_seed``).
    """

    clean: TrainSet
    info: DatasetInfo
    target: int
    seed: int

    @property
    def indices(self) -> np.ndarray:
        """int64 (P,): positions of the images to poison; only for attacks with ``prepared_from_poison``."""
        ...

    def surrogate(self) -> TrainedModel:
        """A clean undefended model: the row's network and recipe, trained on the clean set with a seed of its own."""
        ...

    def network(self, seed: int) -> Classifier:
        """A fresh network of the row's kind, for an attack's own training loop."""
        ...

    def progress(self, stage: str, done: int, total: int, **facts: Any) -> None:
        """Report how far an attack's own loop has got."""
        ...
