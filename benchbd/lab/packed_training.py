"""Trainings of one small network from several seeds at once: one artifact, under a key of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchbd.core.hashing import canonical, digest
from benchbd.core.recipe import Recipe
from benchbd.core.seeding import seed_for
from benchbd.engine.packed import fit_several
from benchbd.errors import UsageError
from benchbd.lab import keys
from benchbd.lab.costs import Result
from benchbd.lab.stored_state import proved_state
from benchbd.lab.train_request import check_training
from benchbd.plugins.train_set import TrainSet
from benchbd.plugins.trained import ModelSpec, Origin, TrainedModel

if TYPE_CHECKING:
    import torch

    from benchbd.engine import Precision
    from benchbd.storage.artifacts import Artifact

VERSION = 1
"""Part of every pack's key: raise it when packed trainings compute something else than before."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PackedRequest:
    """Several trainings of one model with every default filled in.

    Attributes:
        data: images and labels.
        kind: how the plan counts the pack.
        name: the stage's name in the record and in messages.
        model: the network to train.
        recipe: the recipe of all of them, changes applied.
        seed: the cell's seed.
        precision: the numbers that the networks compute in.
        repeats: numbers of the initialisations and batch orders, each another.

    Raises:
        UsageError: the arguments contradict each other.
    """

    data: TrainSet
    kind: str
    name: str
    model: ModelSpec
    recipe: Recipe
    seed: int
    precision: Precision
    repeats: tuple[int, ...]

    def __post_init__(self) -> None:
        check_training(self.data, self.kind, self.name)
        if not self.repeats or len(set(self.repeats)) < len(self.repeats):
            raise UsageError(f"{self.name}: repeats must be different numbers, one or more, not {list(self.repeats)}")

    def key(self) -> str:
        """The key of the pack. It is never that of a single training, whose bits differ by rounding."""
        return digest(
            [
                "packed",
                VERSION,
                keys.CODE_VERSION,
                self.data.key,
                self.model.spec(),
                self.recipe.decisive(),
                [self.seed, list(self.repeats)],
                f"{self.precision.name}-packed",
            ]
        )

    def fit(self, device: torch.device, on_progress: Callable[[dict[str, Any]], None]) -> Result:
        """Train. Returns every network's state, ``REPEAT.NAME``, counted from 0, and their losses by epoch.

        Raises:
            Diverged: a network of the pack is not finite.
            UsageError: this model cannot be packed.
        """
        if fault := self.model.packing_fault():  # the initialisation may take longer than this
            raise UsageError(f"{self.name}: {fault}")
        nets = [self.model.fresh(seed_for("init", self.seed, repeat)) for repeat in self.repeats]
        for net in nets:
            net.initialise_from(self.data.images)
        try:
            fits = fit_several(
                nets,
                [self.data.images] * len(nets),
                [self.data.labels] * len(nets),
                self.recipe,
                device=device,
                precision=self.precision,
                seeds=[seed_for("batches", self.seed, repeat) for repeat in self.repeats],
                on_progress=on_progress,
            )
        except ValueError as error:
            raise UsageError(f"{self.name}: model {self.model.part.text!r}: {error}") from error
        arrays = {
            f"{place}.{entry}": array
            for place, net in enumerate(nets)
            for entry, array in proved_state(net, self.model, self.data.images, device).items()
        }
        facts = {"epochs": self.recipe.epochs * len(nets), "seconds": sum(fit.seconds for fit in fits)}
        losses = [fit.epoch_losses for fit in fits]
        return arrays, {**facts, "epoch_losses": losses, "model": canonical(self.model.spec())}

    def unpacked(self, key: str, found: Artifact, origin: Origin) -> list[TrainedModel]:
        """The trained networks of a pack, in the order of ``repeats``."""
        trained = []
        for place, losses in enumerate(found.meta["epoch_losses"]):
            prefix = f"{place}."
            state = {k.removeprefix(prefix): v for k, v in found.arrays.items() if k.startswith(prefix)}
            name = digest([key, place])
            trained.append(TrainedModel(name, state, self.model, list(losses), self.recipe.epochs, origin))
        return trained
