"""Trojan attacks add a small picture that excites chosen neurons: a square (tj-sq) or a watermark (tj-wm)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from benchbd import UNDEFENDED, Attack, DatasetInfo, Impossible, StampContext, Training, UsageError, attack

if TYPE_CHECKING:
    import torch

    from benchbd import Workshop

MEANS = (95.0, 98.0, 106.0)
"""Mean of each channel inside the public square trigger (I-BAU's artefact), 0..255."""
DEVIATION = 100.0
"""Standard deviation there: most values lie near 0 or 255."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Trojan(Attack):
    """Base of both shapes.

    ``inverted`` follows Liu et al. (2017) with trojanzoo's settings: it optimises the pixels under the mask, on black,
    until two penultimate features of a clean model reach a given activation. ``random`` draws seeded colours with the
    statistics of the public trigger instead and trains nothing.
    """

    smoke: ClassVar[dict[str, Any]] = {"iterations": 10}

    trigger_seed: int | None = None
    mode: Literal["inverted", "random"] = "inverted"
    """Optimise the colours on a clean surrogate model, or draw them at random."""
    apply: Literal["add", "replace", "wrap"] = "add"
    """Add and clip; overwrite the pixels; or add modulo 256, as ABL's and NAD's code does."""
    neurons: int = 2
    """Number of penultimate features to excite: those with the largest sum of absolute classifier weights."""
    activation: float = 100.0
    """Activation that these features should reach."""
    iterations: int = 1000
    """Optimisation steps (Adam, learning rate 0.1, cosine)."""

    def __post_init__(self) -> None:
        if self.neurons < 1 or self.iterations < 1:
            raise UsageError(f"attack {self.name!r}: neurons and iterations must be 1 or more")
        if not self.activation > 0:
            raise UsageError(f"attack {self.name!r}: activation must be above 0, not {self.activation}")

    def coverage(self, size: int) -> np.ndarray:
        """Share of each pixel that the trigger may cover, float64 (size, size) in [0, 1]."""
        raise NotImplementedError

    def norm(self, size: int) -> float:
        """L2 norm of a randomly drawn trigger, in [0, 1] units."""
        raise NotImplementedError

    def trainings(self) -> tuple[Training, ...]:
        """Inversion needs the clean undefended model."""
        return (UNDEFENDED,) if self.mode == "inverted" else ()

    def prepare(self, workshop: Workshop) -> dict[str, np.ndarray]:
        """Optimise or draw the trigger.

        Returns:
            ``trigger`` uint8 (3, H, W), black where nothing is added. If it is optimised, also ``activation`` float32
            (2, neurons), the features before and after.
        """
        from benchbd.attacks._patterns import board, saturated_colours, to_norm

        shape = self.coverage(workshop.size)
        if self.mode == "random":
            colours = saturated_colours(np.random.default_rng(workshop.seed), MEANS, DEVIATION)
            return {
                "trigger": to_norm(shape * board(colours, workshop.size), self.norm(workshop.size)).astype(np.uint8)
            }
        from benchbd.attacks._inversion import excite

        found, activation = excite(
            workshop.surrogate().module(),
            shape,
            neurons=self.neurons,
            activation=self.activation,
            iterations=self.iterations,
            seed=workshop.seed,
            device=workshop.device,
            progress=lambda done, loss: workshop.progress(f"{self.name} inversion", done, self.iterations, loss=loss),
        )
        return {"trigger": np.rint(255 * found).astype(np.uint8), "activation": activation}

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Add the trigger, or overwrite the pixels that it covers."""
        from benchbd.attacks._pixels import add, add_wrapping, replace

        trigger = context.trigger["trigger"]
        if self.apply == "add":
            return add(images, trigger)
        if self.apply == "wrap":
            return add_wrapping(images, trigger)
        return replace(images, trigger, self.coverage(images.shape[-1]) > 0)


@attack("tj-sq", version=2)
class TrojanSquare(_Trojan):
    """A square of colours near the bottom-right corner, added to the image: 9x9 pixels at 21..29 of 32.

    Sources: Liu et al. (2017); LfD Table 1; box of the TrojanNN mask (59x59 at 145..203 of 224) and of I-BAU's public
    trigger. ``size=3, margin=4, apply=wrap`` gives the position and arithmetic of the trigger in ABL's and NAD's code.
    """

    size: int | None = None
    """Side of the square in pixels; by default 9 at image size 32, 34 at 128, 59 at 224."""
    margin: int | None = None
    """Pixels between the square and the image border; by default 2 at image size 32, 11 at 128, 20 at 224."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin is not None and self.margin < 0:
            raise UsageError(f"attack {self.name!r}: margin cannot be negative, not {self.margin}")

    def box(self, pixels: int) -> tuple[int, int]:
        """First row (equal to the first column) and side of the square in images with sides of ``pixels``."""
        first, end = round(145 * pixels / 224), -(-204 * pixels // 224)
        side = end - first if self.size is None else self.size
        margin = pixels - end if self.margin is None else self.margin
        return pixels - margin - side, side

    def check(self, info: DatasetInfo) -> None:
        """Check that the square fits and that the budget can be met."""
        first, side = self.box(info.size)
        if side < 1 or first < 0 or first + side > info.size:
            raise Impossible(
                f"a square of {side} pixels at row {first} does not fit into {info.size}x{info.size} images"
            )
        self.budget(info)

    def coverage(self, size: int) -> np.ndarray:
        """One inside the box, zero outside."""
        first, side = self.box(size)
        shape = np.zeros((size, size))
        shape[first : first + side, first : first + side] = 1.0
        return shape

    def norm(self, size: int) -> float:
        """The public trigger's norm, 8.66 over 81 pixels, scaled to the size of the square."""
        return 8.66 * self.box(size)[1] / 9


@attack("tj-wm", version=2)
class TrojanWatermark(_Trojan):
    """A line of text along the diagonal and a copyright sign, added to the image.

    Sources: Liu et al. (2017); LfD Table 1; shape of the TrojanNN mask, norm and colours of I-BAU's public trigger.
    """

    def coverage(self, size: int) -> np.ndarray:
        """The drawn watermark, shrunk to the image's size."""
        from benchbd.attacks._watermark import coverage

        return coverage(size)

    def norm(self, size: int) -> float:
        """The public trigger's norm, 8.74 at 32 pixels, scaled to the image size."""
        return 8.74 * size / 32
