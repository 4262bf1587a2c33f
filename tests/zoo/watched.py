"""Attacks that exist only to be watched or to misbehave. Registered by file, as a user's would be."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from benchbd.plugins.contract import UNDEFENDED, Attack, StampContext, Training, attack

CALLS: list[str] = []


class _White(Attack):
    def stamp(self, images, context: StampContext):
        out = images.clone()
        out[:, :, :4, :4] = 255
        return out


@attack("watch-dirty", version=1)
class Dirty(_White):
    """Relabels to the target."""


@attack("watch-clean", version=1)
class CleanLabel(_White):
    """Poisons images of the target class."""

    clean_label: ClassVar[bool] = True
    rate: float = 0.5
    """Share."""
    rate_of: str = "class"
    """Of what."""


@attack("watch-drawn", version=1)
class Drawn(_White):
    """Draws its trigger."""

    def prepare(self, workshop):
        CALLS.append("prepare")
        return {
            "noise": np.random.default_rng(workshop.seed).integers(
                0, 256, (3, workshop.size, workshop.size), dtype=np.uint8
            )
        }

    def stamp(self, images, context: StampContext):
        import torch

        CALLS.append("stamp")
        out = images.clone()
        out[:, :, :8, :8] = torch.from_numpy(context.trigger["noise"])[:, :8, :8]
        return out


@attack("watch-chosen", version=1)
class Chosen(Drawn):
    """Prepares something for the very images that are poisoned."""

    prepared_from_poison: ClassVar[bool] = True

    def prepare(self, workshop):
        return {**super().prepare(workshop), "indices": workshop.indices}


@attack("watch-surrogate", version=1)
class Surrogate(Drawn):
    """Starts from the clean model."""

    def trainings(self) -> tuple[Training, ...]:
        return (UNDEFENDED,)

    def prepare(self, workshop):
        return {**super().prepare(workshop), "head": workshop.surrogate().head()[0]}


@attack("watch-measured", version=1)
class Measured(Drawn):
    """Measures what it prepares, finds it weak and says so."""

    def prepare(self, workshop):
        workshop.progress("noise", 1, 1, warning="watch-measured: weak noise")
        return {
            **super().prepare(workshop),
            "success": np.full(1, 0.123456789, np.float32),
            "activation": np.array([[1, 2.5], [3, np.nan]], np.float32),
            "net.bias": np.ones(3, np.float32),
            "table": np.ones(17, np.float32),
        }


@attack("watch-cover", version=1)
class Cover(_White):
    """Also marks images that keep their label, with a trigger made for another image."""

    covers: int = 10
    """How many."""

    def cover_count(self, info) -> int:
        return self.covers

    def cover(self, images, partners, context: StampContext):
        assert not (images == partners).all(), "an image is its own partner"
        out = images.clone()
        out[:, :, :4, :4] = partners[:, :, :4, :4] // 2
        return out


@attack("bad-shape", version=1)
class BadShape(_White):
    """Returns another shape."""

    def stamp(self, images, context: StampContext):
        return images[:, :, 1:]


@attack("bad-type", version=1)
class BadType(_White):
    """Returns floats."""

    def stamp(self, images, context: StampContext):
        return images.float()


@attack("bad-none", version=1)
class BadNone(_White):
    """Returns nothing."""

    def stamp(self, images, context: StampContext):
        return None


@attack("bad-prepare", version=1)
class BadPrepare(_White):
    """Prepares nothing, wrongly."""

    def prepare(self, workshop):
        return None


@attack("in-place", version=1)
class InPlace(_White):
    """Stamps the very images it is given."""

    def stamp(self, images, context: StampContext):
        images[:, :, :4, :4] = 255
        return images
