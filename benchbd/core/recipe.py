"""The training recipe, which every training follows unless a defense changes it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, Literal

from benchbd.core import params
from benchbd.core.presets import PRESETS
from benchbd.errors import UsageError, did_you_mean, shown, suggestion

CROPS = ("crop4", "crop4_reflect", "translate2", "resized_crop")
"""Augmentations that choose a part of the image; a recipe takes one of them at most."""
FLIPS = ("hflip", "flip_alternate")
"""Augmentations that mirror the image; a recipe takes one of them at most."""
AUGMENTATIONS = (*CROPS, *FLIPS, "cutout", "rotate15")

HIGHEST_RATE = 100.0
"""Learning rate above which a plan says that it is surely a mistake. Published recipes stay below 1."""

BELONGS = {
    "optimizer": ("bias_lr", "clip_norm", "ema", "label_smoothing", "muon_lr"),
    "schedule": ("schedule_per", "warmup", "peak", "lr_start", "lr_end"),
}
"""Entries that go back to their defaults where a plugin names its own optimizer or schedule."""

ONLY_WITH = {
    "momentum": ("optimizer", ("sgd", "sgdw", "muon")),
    "nesterov": ("optimizer", ("sgd", "sgdw", "muon")),
    "muon_lr": ("optimizer", ("muon",)),
    "horizon": ("schedule", ("cosine",)),
    "schedule_per": ("schedule", ("cosine",)),
    "milestones": ("schedule", ("steps",)),
    "decay": ("schedule", ("steps",)),
    "peak": ("schedule", ("onecycle",)),
    "lr_start": ("schedule", ("onecycle",)),
    "lr_end": ("schedule", ("onecycle",)),
}
"""Entries that matter only with some values of another entry: its name, and these values."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Optimiser, schedule and augmentation of one training. Defaults: LfD section 5.1 (80 epochs of Adam, cosine)."""

    epochs: int = 80
    """Passes over the training set."""
    batch_size: int = 128
    """Images in a batch; the last batch of an epoch may be smaller."""
    optimizer: Literal["adam", "sgd", "adamw", "sgdw", "muon"] = "adam"
    """Adam with betas (0.9, 0.999), or SGD with momentum; adamw and sgdw decouple the weight decay from the gradients
    (Loshchilov and Hutter 2019). muon is Muon (Jordan et al. 2024) for the filters of convolutions, and SGD for all
    other weights."""
    lr: float = 1e-3
    """Learning rate: the first of a cosine, constant or steps schedule, the highest of a onecycle schedule."""
    momentum: float = 0.9
    """Momentum of SGD and Muon."""
    nesterov: bool = False
    """Nesterov momentum of SGD and Muon."""
    weight_decay: float = 0.0
    """L2 penalty added to the gradients; with adamw and sgdw, each step shrinks the weights by its product with the
    learning rate."""
    schedule: Literal["cosine", "constant", "steps", "onecycle"] = "cosine"
    """How the learning rate changes after each epoch; a onecycle schedule rises and falls linearly, step by step."""
    horizon: int | None = None
    """Epochs until a cosine schedule reaches zero; the value of epochs if not given."""
    milestones: tuple[int, ...] = ()
    """Epochs at which a steps schedule multiplies the learning rate by decay."""
    decay: float = 0.1
    """Factor of a steps schedule."""
    augment: tuple[str, ...] = ("crop4", "hflip")
    """Augmentations of training images: crop4 (random crop, 4 pixels of zero padding), crop4_reflect (4 reflected
    pixels), translate2 (2 reflected pixels), resized_crop (8 to 100 % of the area, resized), hflip, flip_alternate
    (every other epoch), cutout (a grey square of half the side), rotate15 (up to 15 degrees)."""
    bn: Literal["train", "eval"] = "train"
    """Batch norm layers use batch statistics (train) or stay frozen (eval)."""
    schedule_per: Literal["epoch", "step"] = "epoch"
    """Whether a cosine schedule advances after each epoch or after each step."""
    warmup: float = 0.0
    """Epochs over which the learning rate first rises linearly from near zero, step by step."""
    peak: float = 0.25
    """Share of the training after which a onecycle schedule reaches lr."""
    lr_start: float = 0.04
    """Learning rate at the start of a onecycle schedule, as a share of lr. The default is torch's, 1/25."""
    lr_end: float = 0.0
    """Learning rate at the end of a onecycle schedule, as a share of lr."""
    bias_lr: float = 1.0
    """Factor of the learning rate of biases and of the scales and shifts of norms. Their weight decay per step stays
    that of the other weights."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over the classes. A plugin's own loss gets plain cross-entropies."""
    ema: float = 0.0
    """Decay per step of the exponential moving average of weights and buffers, which is the model that the training
    returns; 0 returns the last weights."""
    clip_norm: float | None = None
    """Longest gradient of a step: the gradients of all weights are shortened to this norm together."""
    muon_lr: float = 0.04
    """With muon, the filters' learning rate where that of all other weights is lr. Both follow one schedule."""

    def __post_init__(self) -> None:
        for name in self.augment:
            if name not in AUGMENTATIONS:
                raise UsageError(f"recipe: augmentation {name!r} is unknown{did_you_mean(name, AUGMENTATIONS)}")
        wrong = [text for text, fine in self._rules() if not fine]
        if wrong:
            raise UsageError(f"recipe: {wrong[0]}")

    def _rules(self) -> list[tuple[str, bool]]:
        onecycle, chosen = self.schedule == "onecycle", set(self.augment)
        return [
            (f"epochs must be 0 or more, not {self.epochs}", self.epochs >= 0),
            (f"batch_size must be 1 or more, not {self.batch_size}", self.batch_size >= 1),
            (f"lr must be 0 or more, not {self.lr}", self.lr >= 0),
            (f"momentum must be in [0, 1), not {self.momentum}", 0 <= self.momentum < 1),
            ("nesterov needs a momentum above 0", not self.nesterov or self.momentum > 0),
            (f"weight_decay must be 0 or more, not {self.weight_decay}", self.weight_decay >= 0),
            (f"horizon must be 1 or more, not {self.horizon}", self.horizon is None or self.horizon >= 1),
            (f"milestones must be 0 or more, not {list(self.milestones)}", all(m >= 0 for m in self.milestones)),
            (f"decay must be above 0, not {self.decay}", self.decay > 0),
            ("augment names an augmentation twice", len(chosen) == len(self.augment)),
            (self._at_most_one(CROPS), len(chosen & set(CROPS)) <= 1),
            (self._at_most_one(FLIPS), len(chosen & set(FLIPS)) <= 1),
            (f"warmup must be 0 or more epochs, not {self.warmup}", self.warmup >= 0),
            (f"warmup must be at most epochs ({self.epochs}), not {self.warmup}", self._warms_up()),
            ("a onecycle schedule has a warm-up of its own, so warmup must be 0", not (onecycle and self.warmup)),
            (f"peak must be in [0, 1], not {self.peak}", 0 <= self.peak <= 1),
            (f"lr_start and lr_end must be in [0, 1], not {self.lr_start} and {self.lr_end}", self._shares()),
            (f"bias_lr must be above 0, not {self.bias_lr}", self.bias_lr > 0),
            (f"label_smoothing must be in [0, 1), not {self.label_smoothing}", 0 <= self.label_smoothing < 1),
            (f"ema must be in [0, 1), not {self.ema}", 0 <= self.ema < 1),
            (f"clip_norm must be above 0, not {self.clip_norm}", self.clip_norm is None or self.clip_norm > 0),
            (f"muon_lr must be 0 or more, not {self.muon_lr}", self.muon_lr >= 0),
            ("muon_lr follows the schedule of lr, so a muon_lr above 0 needs an lr above 0", self._has_a_rate()),
        ]

    def _at_most_one(self, group: tuple[str, ...]) -> str:
        given = ", ".join(name for name in self.augment if name in group)
        return f"augment takes at most one of {', '.join(group)} (given: {given})"

    def _warms_up(self) -> bool:
        return self.epochs == 0 or self.warmup <= self.epochs

    def _has_a_rate(self) -> bool:
        return self.optimizer != "muon" or self.lr > 0 or self.muon_lr == 0

    def _shares(self) -> bool:
        return 0 <= self.lr_start <= 1 and 0 <= self.lr_end <= 1

    @classmethod
    def parse(cls, given: dict[str, Any], where: str = "recipe") -> Recipe:
        """Make a recipe from the entries of a matrix file, the entry ``preset`` among them.

        Raises:
            UsageError: an entry is unknown or has the wrong type.
        """
        return cls(**_resolved(given, where))

    def but(self, **changes: Any) -> Recipe:
        """The same recipe with some entries changed; ``augment=False`` or None means no augmentation.

        A change of the optimizer or of the schedule also resets what was tuned with the old one (:data:`BELONGS`). A
        warm-up that is longer than a new number of epochs keeps its share of the training.

        Raises:
            UsageError: an entry is unknown or has the wrong type.
        """
        return self.changed(changes, "recipe")

    def changed(self, changes: dict[str, Any], where: str) -> Recipe:
        """:meth:`but`, with the changes in a dict; error messages begin with ``where``."""
        if "augment" in changes:
            changes = {**changes, "augment": changes["augment"] or ()}
        reset = {name for key, names in BELONGS.items() if key in changes for name in names}
        kept = {k: v for k, v in self.spec().items() if k not in reset}
        values = _resolved(merged(kept, changes), where)
        if "warmup" not in changes and 0 < values["epochs"] < values["warmup"]:
            share = min(1.0, values["warmup"] / self.epochs) if self.epochs else 0.0
            values["warmup"] = share * values["epochs"]
        return Recipe(**values)

    def for_another_model(self) -> Recipe:
        """The recipe for a network, such as a teacher, other than the model that this one is written for.

        A onecycle schedule, a factor for biases, decoupled weight decay and Muon are tuned for their model: a rate of
        24 for ResNet-S's norms would ruin it. Under such a recipe, other networks train with the defaults; they keep
        the epochs, the augmentation and the mode of batch norm. Of any other recipe they leave out the average, the
        label smoothing and the clipping.
        """
        tuned = self.schedule == "onecycle" or self.bias_lr != 1 or self.optimizer in ("adamw", "sgdw", "muon")
        if tuned:
            return Recipe(epochs=self.epochs, augment=self.augment, bn=self.bn)
        return dataclasses.replace(self, clip_norm=None, ema=0.0, label_smoothing=0.0)

    def without_effect(self, given: Iterable[str]) -> list[str]:
        """A line for each of the given entries that this recipe's optimizer or schedule does not use.

        A defense whose training names another optimizer or schedule may use it nevertheless.
        """
        lines = []
        for name in given:
            key, values = ONLY_WITH.get(name, ("", ()))
            if key and getattr(self, key) not in values:
                lines.append(
                    f"recipe: {name} has no effect on trainings with {key} {getattr(self, key)}, "
                    f"only with {' or '.join(', '.join(values).rsplit(', ', 1))}"
                )
        if self.schedule == "steps" and not self.milestones:
            lines.append("recipe: schedule steps without milestones keeps the learning rate constant")
        return lines

    def doubtful_rates(self) -> list[str]:
        """A line for each sure mistake: 0 epochs or a rate of 0 train nothing, a rate above 100 diverges."""
        if self.epochs == 0:
            return ["recipe: epochs is 0, so networks keep their initial weights unless a plugin names other epochs"]
        lines, unless = [], "unless its plugin names another rate"
        if self.lr == 0:
            lines.append(f"recipe: lr is 0, so a training changes no weight {unless}")
        elif self.optimizer == "muon" and self.muon_lr == 0:
            lines.append(f"recipe: muon_lr is 0, so a training changes no filter of a convolution {unless}")
        rates = {"lr": self.lr, "muon_lr": self.muon_lr if self.optimizer == "muon" else 0.0}
        for name, rate in rates.items():
            if rate > HIGHEST_RATE:
                lines.append(f"recipe: {name} is {rate:.12g}, and trainings diverge at rates above {HIGHEST_RATE:g}")
        return lines

    def per_step(self) -> bool:
        """Whether the learning rate changes within an epoch."""
        return self.schedule == "onecycle" or self.warmup > 0 or self.schedule_per == "step"

    def lr_at(self, position: float) -> float:
        """Learning rate at a position in epochs: epoch 2 (from 0) of 4 steps has its steps at 2, 2.25, 2.5 and 2.75."""
        if self.schedule == "onecycle":
            return self.lr * self._cycle(position / max(1, self.epochs))
        return self._lr_after_warmup(position) * self._warmth(position)

    def _lr_after_warmup(self, position: float) -> float:
        epoch = math.floor(position)
        if self.schedule == "cosine":
            span = self.horizon or self.epochs
            at = position if self.schedule_per == "step" else epoch
            return 0.5 * self.lr * (1 + math.cos(math.pi * min(at, span) / span)) if span else self.lr
        if self.schedule == "steps":
            return self.lr * self.decay ** sum(epoch >= m for m in self.milestones)
        return self.lr

    def _warmth(self, position: float) -> float:
        # From 1 % of the rate: with a rate of zero, the first step would be lost.
        return 1.0 if position >= self.warmup else 0.01 + 0.99 * position / self.warmup

    def _cycle(self, done: float) -> float:
        """Share of ``lr`` that a onecycle schedule has after a share ``done`` of the training."""
        if done < self.peak:
            return self.lr_start + (1 - self.lr_start) * done / self.peak
        left = (1 - done) / (1 - self.peak) if self.peak < 1 else 1.0
        return self.lr_end + (1 - self.lr_end) * max(0.0, left)

    def decisive(self) -> dict[str, Any]:
        """:meth:`spec` for the cache key of a training: a missing horizon becomes the number of epochs."""
        return {**self.spec(), "horizon": self.horizon or self.epochs}

    def spec(self) -> dict[str, Any]:
        """Every entry, as JSON types. The younger ones appear only where they differ from their default."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
        return {k: v for k, v in values.items() if k not in YOUNGER or v != YOUNGER[k]}


YOUNGER = {
    f.name: f.default
    for f in dataclasses.fields(Recipe)
    if f.name in {"schedule_per", "bias_lr"}.union(*BELONGS.values())
}
"""Entries, with their defaults, that the identities of the first cells do not have."""


def _resolved(given: dict[str, Any], where: str) -> dict[str, Any]:
    """Every entry, typed, of given entries and the preset that they name. Raises UsageError."""
    return params.resolve(Recipe, with_preset(given, where), where, also=["preset"])


def with_preset(given: dict[str, Any], where: str = "recipe") -> dict[str, Any]:
    """The given entries on top of those of the preset that they name, if they name one.

    Raises:
        UsageError: there is no such preset.
    """
    if "preset" not in given:
        return given
    name = given["preset"]
    if not isinstance(name, str) or name not in PRESETS:
        problem = f"preset must be one of {', '.join(PRESETS)}, not {shown(name)}{suggestion(name, PRESETS)}"
        raise UsageError(f"{where}: {problem}")
    return {**PRESETS[name], **{k: v for k, v in given.items() if k != "preset"}}


def merged(*givens: dict[str, Any]) -> dict[str, Any]:
    """Entries of a matrix, its block and ``--set``: later ones win, and a preset wins over all before it."""
    found: dict[str, Any] = {}
    for given in givens:
        found = {**({} if "preset" in given else found), **given}
    return found


@functools.cache
def preset_spec(name: str) -> dict[str, Any]:
    """Every entry of a preset (:meth:`Recipe.spec`)."""
    return Recipe.parse({"preset": name}).spec()
