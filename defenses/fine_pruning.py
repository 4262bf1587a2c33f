"""Fine-pruning: prune channels that clean images do not activate, as long as clean accuracy allows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from benchbd import UNDEFENDED, Attack, DatasetInfo, Defense, Impossible, Training, UsageError, Work, defense

if TYPE_CHECKING:
    from benchbd import Lab, Recipe, TrainedModel

PROFILES = {"paper": (0.08, 0), "canonical": (0.04, 10)}
"""Largest accuracy drop and fine-tuning epochs, as LfD's table seems to use them and as fine-pruning's authors do."""


CURVE_POINTS = 20
"""Number of pruning states, up to the final one, whose CA and ASR the evaluator measures; no choice depends on them."""


class Split(NamedTuple):
    """Positions in the clean images: those that rank the channels, and those that validate when to stop."""

    rank: np.ndarray
    validate: np.ndarray


def split(n: int, seed: int) -> Split:
    """Draw 80 % of ``n`` clean images for ranking; the rest, at least one image, is for validation."""
    order = np.random.default_rng(seed).permutation(n)
    cut = min(int(0.8 * n), n - 1)
    return Split(order[:cut], order[cut:])


def pruning_curve(
    features: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    pruned: np.ndarray | None = None,
) -> np.ndarray:
    """Accuracy after each pruned channel, computed from the features, since each adds its own term to the logits.

    Args:
        features: (N, D), the head's input.
        labels: int64 (N,).
        order: int64 (D,), channels in the order of pruning.
        weight: (C, D), weights of the head.
        bias: (C,), biases of the head.
        pruned: (N, D), the head's input when every channel is pruned; zeros by default.

    Returns:
        float64 (D + 1,): entry k is the accuracy with the first k channels of ``order`` pruned.
    """
    x, w = features.astype(np.float64), weight.astype(np.float64)
    logits = np.broadcast_to(bias.astype(np.float64), (len(x), len(bias))).copy()
    if pruned is not None:
        logits += pruned.astype(np.float64) @ w.T
        x = x - pruned
    curve = np.empty(len(order) + 1)
    curve[-1] = (logits.argmax(1) == labels).mean()
    # Start with all channels pruned and add them back: adding a silent channel is exact, subtracting one may round.
    for k in range(len(order) - 1, -1, -1):
        logits += np.outer(x[:, order[k]], w[:, order[k]])
        curve[k] = (logits.argmax(1) == labels).mean()
    return curve


def stop_at(curve: np.ndarray, max_drop: float) -> int:
    """Number of channels to prune before accuracy first drops by more than ``max_drop``. One channel always remains."""
    too_far = np.flatnonzero(curve[0] - curve > max_drop + 1e-12)
    return min(int(too_far[0]) - 1 if len(too_far) else len(curve) - 1, len(curve) - 2)


@defense("fine-pruning", version=1)
class FinePruning(Defense):
    """Fine-pruning (2018): prune the undefended model's last channels, the least active on clean images first."""

    needs: ClassVar[tuple[str, ...]] = ("clean",)
    smoke: ClassVar[dict[str, Any]] = {"finetune_epochs": 1}

    profile: Literal["paper", "canonical"] = "paper"
    """paper: up to 8 points of accuracy, no fine-tuning; canonical: up to 4, then 10 epochs on the clean images."""
    clean_frac: float = 0.05
    """Share of the clean training set that the defense gets, in (0, 1]; 80 % of it ranks, 20 % validates."""
    max_drop: float | None = None
    """Validation accuracy that pruning may cost, in [0, 1); by default the profile's."""
    mask_at: Literal["output", "filters"] = "output"
    """What pruning does: mask the channel's output, which is the head's input, or zero the last convolution's filter,
    as some toolboxes do, although a residual block's shortcut then keeps the channel alive."""
    finetune_epochs: int | None = None
    """Epochs of fine-tuning after pruning; by default the profile's."""
    finetune_lr: float = 0.01
    """Learning rate of fine-tuning (SGD, momentum 0.9, weight decay 5e-4)."""

    def __post_init__(self) -> None:
        drop, epochs = self._settings()
        if not 0.0 < self.clean_frac <= 1.0:
            raise UsageError(f"fine-pruning: clean_frac is a share in (0, 1], such as 0.05, not {self.clean_frac:g}")
        if not 0.0 <= drop < 1.0 or epochs < 0 or self.finetune_lr <= 0:
            raise UsageError("fine-pruning: max_drop must be in [0, 1), finetune_epochs >= 0, finetune_lr > 0")
        if epochs and self.mask_at == "filters":
            raise UsageError("fine-pruning: filters set to zero grow back in fine-tuning; say finetune_epochs: 0")

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        """Check that there are enough clean images to rank and validate on."""
        if info.train * self.clean_frac < 10:
            raise Impossible(f"fine-pruning: clean_frac {self.clean_frac:g} of {info.train} images is under 10")

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """The undefended model, shared with the row's ``none`` cell, and fine-tuning if there is any."""
        drop, epochs = self._settings()
        if not epochs:
            return (UNDEFENDED,)
        return (UNDEFENDED, Training("fine-tune", ("fine-pruning", self.clean_frac, drop, epochs, self.finetune_lr)))

    def training_work(self, attack: Attack, recipe: Recipe, info: DatasetInfo) -> tuple[Work, ...]:
        """The recipe on the whole set, then fine-tuning on the clean images."""
        _, epochs = self._settings()
        tuned = [Work(epochs * self.clean_frac * info.train)] if epochs else []
        return (Work(recipe.epochs * info.train), *tuned)

    def clean_fraction(self) -> float:
        """The parameter ``clean_frac``."""
        return self.clean_frac

    def train(self, lab: Lab) -> TrainedModel:
        """Rank channels, prune to the last state that validation allows, fine-tune if the profile asks for it.

        The channels are those of the last block's output, which is the head's input. Masking only the last convolution
        of a residual block (``mask_at: filters``) leaves the channel alive through the shortcut.

        The network was trained on the clean validation images, as in the published code. Its accuracy on them is higher
        than on unseen images and drops later.
        """
        drop, epochs = self._settings()
        trained = lab.train(lab.poisoned)
        features = lab.features(trained, lab.clean)
        rank, validate = split(len(lab.clean), lab.seed_for("fine-pruning split"))
        order = np.argsort(features[rank].mean(0), kind="stable")
        bare = None
        if self.mask_at == "filters":
            bare = lab.features(lab.prune(trained, np.arange(len(order)), at="filters"), lab.clean)[validate]
        curve = pruning_curve(features[validate], lab.clean.labels.numpy()[validate], order, *trained.head(), bare)
        pruned = stop_at(curve, drop)
        lab.note(
            "pruning",
            {
                "pruned": pruned,
                "channels": len(order),
                "validation_images": len(validate),
                "validation_accuracy": curve.tolist(),
                "order": order.tolist(),
            },
        )
        model = lab.prune(trained, order[:pruned], at=self.mask_at)
        if self.mask_at == "output":
            for count in np.unique(np.linspace(0, pruned, CURVE_POINTS).round().astype(int)).tolist():
                lab.trace(f"{count} pruned", trained, order[:count])
        if epochs:
            model = lab.train(
                lab.clean, kind="fine-tune", name="fine-tuning", start=model, epochs=epochs, lr=self.finetune_lr,
                optimizer="sgd", momentum=0.9, nesterov=False, weight_decay=5e-4, schedule="constant",
            )  # fmt: skip
        return model

    def _settings(self) -> tuple[float, int]:
        drop, epochs = PROFILES[self.profile]
        return (
            drop if self.max_drop is None else self.max_drop,
            epochs if self.finetune_epochs is None else self.finetune_epochs,
        )
