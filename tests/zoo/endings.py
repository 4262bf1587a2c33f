"""Defenses that end badly in every way a defense can, and some that are watched. Registered by file."""

from __future__ import annotations

import errno
import sys
import time
from typing import ClassVar

from benchbd.errors import Diverged, Impossible, UsageError
from benchbd.plugins.contract import Attack, Defense, Model, StampContext, attack, defense, model


@defense("ends", version=1)
class Ends(Defense):
    """Ends as told."""

    how: str = "well"
    """In which way."""

    def train(self, lab):
        import torch

        trained = lab.train(lab.poisoned, epochs=1)
        lab.suspect([0.5] * len(lab.poisoned), [0])
        lab.note("seen", {"epochs": 1})
        if self.how == "raise":
            raise ValueError("first line\nsecond line")
        if self.how == "silent":
            raise KeyError
        if self.how == "usage":
            raise UsageError("the defense cannot be asked that")
        if self.how == "impossible":
            raise Impossible("needs ten images of each class, one has 3")
        if self.how == "diverged":
            raise Diverged("ascent exploded in epoch 2 of 9")
        if self.how == "nan":
            lab.train(lab.poisoned, optimizer="sgd", lr=1e35, epochs=3, augment=())
        if self.how == "nan-scores":
            lab.suspect([float("nan")] * len(lab.poisoned))
        if self.how == "nan-note":
            lab.note("curve", [1.0, float("nan"), float("inf")])
        if self.how == "device-oom":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
        if self.how == "host-oom":
            raise MemoryError
        if self.how == "allocator-oom":
            torch.empty(2**60, dtype=torch.uint8)
        if self.how == "full":
            raise OSError(errno.ENOSPC, "No space left on device", "/data/x")
        if self.how == "exit":
            sys.exit(3)
        if self.how == "nothing":
            return None
        if self.how == "spoil":
            lab.poisoned.labels[0] = (lab.poisoned.labels[0] + 1) % 4
        return trained


@defense("dawdles", version=1)
class Dawdles(Defense):
    """Takes time of its own, outside any stage."""

    seconds: float = 0.2
    """How much."""

    def train(self, lab):
        trained = lab.train(lab.poisoned)
        time.sleep(self.seconds)
        return trained


@attack("slow-patch", version=1)
class SlowPatch(Attack):
    """Takes its time over stamping."""

    def stamp(self, images, context: StampContext):
        time.sleep(0.5)
        out = images.clone()
        out[:, :, :4, :4] = 255
        return out


@model("broken-net", version=1)
class BrokenNet(Model):
    """Cannot be built."""

    smoke: ClassVar[dict] = {}

    def build(self, classes: int, size: int):
        raise RuntimeError("no such layer")
