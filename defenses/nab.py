"""NAB: suspicious samples get a stamp and a guessed label, so that the stamp switches the attacker's trigger off."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchbd import Attack, DatasetInfo, Defense, Impossible, Patch, TestTransform, Training, UsageError, Work, defense
from benchbd.defenses.abl import Flooding, isolate

if TYPE_CHECKING:
    from benchbd import Lab, Recipe, TrainedModel
    from benchbd.engine import LoopContext

SIDE = 2
"""Side of the stamp in the top left corner, in pixels."""


@dataclasses.dataclass(frozen=True)
class Stamped:
    """Plain training in which some images carry the stamp, after their augmentation, as test images do."""

    stamp: Patch
    which: np.ndarray
    """bool (N,): samples to stamp."""

    def epoch(self, loop: LoopContext) -> None:
        """Train on every image once."""
        import torch
        from torch.nn import functional as F

        which = torch.from_numpy(self.which).to(loop.device)
        for rows in loop.batches():
            x01, positions = loop.views(rows), rows[:, 0]
            x01 = torch.where(which[positions].view(-1, 1, 1, 1), self.stamp.on(x01), x01)
            with loop.autocast():
                logits = loop.net(x01)
            loop.step(F.cross_entropy(logits, loop.labels[positions]))


@defense("nab", version=1)
class Nab(Defense):
    """NAB (2023): stamp and relabel suspicious samples whose guessed label differs; stamp all test images.

    Source: Liu et al., ICCV 2023, and the authors' code: isolation by ABL's flooding, labels guessed by a network that
    is trained on clean images (VD). Cost: about 1.25 full trainings (20 of 100 epochs, and 100 epochs on 5 % of the
    images). Differences from their code:

    - The augmentation is the base recipe's (theirs: crops, flips, and Cutout of 2x2 pixels).
    - The clean images are equally many of each class (theirs: drawn from all).
    - In the isolation, the learning rate of each epoch is that of the cosine (theirs lags by one epoch).
    - The three networks have initial weights and batch orders of their own (theirs: three programs without seeds).
    - The other guess of labels (NC), which needs self-supervised features, and the filter for test images are left out.
    """

    needs: ClassVar[tuple[str, ...]] = ("clean",)
    test_transform: ClassVar[bool] = True
    smoke: ClassVar[dict[str, Any]] = {"isolation_epochs": 1, "label_epochs": 1, "epochs": 1}

    clean_frac: float = 0.05
    """Share of the clean training set that the defense gets, in (0, 1]."""
    ratio: float = 0.05
    """Share of the training set to isolate, in (0, 1)."""
    gamma: float = 0.5
    """Loss that the isolation floods to."""
    isolation_epochs: int = 20
    """Epochs of the isolation, without augmentation."""
    label_epochs: int = 100
    """Epochs on the clean images of the network that guesses labels."""
    epochs: int = 100
    """Epochs of the final training."""
    lr: float = 0.1
    """Learning rate of isolation and final training; the network that guesses labels has a tenth of it."""
    batch: int = 64
    """Images in a batch."""

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio < 1.0 or not 0.0 < self.clean_frac <= 1.0:
            raise UsageError("nab: ratio is a share in (0, 1), clean_frac one in (0, 1]")
        if min(self.isolation_epochs, self.label_epochs, self.epochs) < 1 or self.batch < 2 or self.lr <= 0:
            raise UsageError("nab: isolation_epochs, label_epochs and epochs must be 1 or more, batch 2, lr positive")

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        """Check that isolation finds at least one sample."""
        if int(info.train * self.ratio) < 1:
            raise Impossible(f"nab: ratio {self.ratio:g} of {info.train} images isolates none of them")

    def clean_fraction(self) -> float:
        """The parameter ``clean_frac``."""
        return self.clean_frac

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """Isolation and the network that guesses labels, which are short, and the final training."""
        first = ("nab", self.isolation_epochs, self.gamma, self.lr, self.batch)
        second = ("nab", self.clean_frac, self.label_epochs, self.lr, self.batch)
        last = (*first, *second, self.ratio, self.epochs)
        return (Training("fine-tune", first), Training("fine-tune", second), Training("full", last))

    def training_work(self, attack: Attack, recipe: Recipe, info: DatasetInfo) -> tuple[Work, ...]:
        """Each stage has epochs of its own; the second sees the clean images only."""
        every = (self.isolation_epochs, self.label_epochs * self.clean_frac, self.epochs)
        return tuple(Work(epochs * info.train) for epochs in every)

    def train(self, lab: Lab) -> TrainedModel:
        """Isolate, guess labels, train on the stamped and relabelled set; the returned model stamps what it sees."""
        import torch

        data = lab.poisoned
        sgd: dict[str, Any] = {
            "optimizer": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4, "batch_size": self.batch,
        }  # fmt: skip
        model = lab.train(
            data, kind="fine-tune", name="isolation", repeat=1, trace=True, loss=Flooding(self.gamma), augment=(),
            lr=self.lr, epochs=self.isolation_epochs, schedule="cosine", horizon=self.isolation_epochs + 80, **sgd,
        )  # fmt: skip
        losses = lab.losses(model, data)
        isolated = np.zeros(len(data), bool)
        isolated[isolate(losses, self.ratio)] = True
        lab.suspect(-losses, isolated)

        guesser = lab.train(
            lab.clean, kind="fine-tune", name="guessed labels", repeat=2, lr=self.lr / 10, epochs=self.label_epochs,
            schedule="steps", milestones=tuple(max(1, round(share * self.label_epochs)) for share in (0.2, 0.6)),
            decay=0.1, **sgd,
        )  # fmt: skip
        # Their stamp is 0 after normalisation, which is the mean of each colour before it.
        red, green, blue = guesser.module().mean.flatten().tolist()
        transform = TestTransform(Patch(0, 0, SIDE, SIDE, (red, green, blue)))
        guessed = lab.logits(lab.with_test_transform(guesser, transform), data).argmax(1)
        given = data.labels.numpy()
        labels = np.where(isolated, guessed, given)
        stamped = labels != given
        lab.note(
            "nab",
            {
                "isolated_per_class": np.bincount(given[isolated], minlength=lab.classes).tolist(),
                "relabelled": int(stamped.sum()),
                "isolation_losses": model.epoch_losses,
            },
        )
        assert transform.stamp is not None
        model = lab.train(
            data.replace(labels=torch.from_numpy(labels)), training_loop=Stamped(transform.stamp, stamped),
            epochs=self.epochs, lr=self.lr, schedule="cosine", horizon=self.epochs + 5, **sgd,
        )  # fmt: skip
        lab.trace("without the stamp", model)
        return lab.with_test_transform(model, transform)
