"""l2-invisible: a faint full-image pattern of small L2 norm, added to every poisoned image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from benchbd import UNDEFENDED, Attack, StampContext, Training, UsageError, attack

if TYPE_CHECKING:
    import torch

    from benchbd import Workshop


def smooth_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Gaussian noise (3, H, W), slightly smoothed along rows and less along columns, like the public trigger."""
    noise = rng.standard_normal((3, size + 2, size + 2))
    wide = noise[:, :, 1:-1] + 0.19 * (noise[:, :, :-2] + noise[:, :, 2:])
    return wide[:, 1:-1] + 0.12 * (wide[:, :-2] + wide[:, 2:])


@attack("l2", version=2)
class L2Invisible(Attack):
    """Adds the same regularised noise d to all images: x + d with |d| = 3.22 at 32x32 and no value above 68/255.

    Sources: Li et al. (2021), the method as described; LfD Table 1. Norm, cap and the missing negative part are those
    of the public trigger (I-BAU). ``mode=noise`` draws a pattern with the same statistics and trains nothing.
    """

    smoke: ClassVar[dict[str, Any]] = {"steps": 10, "batch": 16}

    trigger_seed: int | None = None
    mode: Literal["optimised", "noise"] = "optimised"
    """Optimise the pattern on a clean surrogate model, or draw it at random."""
    tau: float = 3.22
    """L2 norm of the pattern at 3x32x32 in [0, 1] units; grows with the square root of the number of values."""
    cap: float = 68.0
    """Largest value of the pattern, 0..255."""
    nonnegative: bool = True
    """Keep only the positive part, then scale to tau; the public trigger lost the rest when stored as an image."""
    c: float = 10.0
    """Factor by which the pattern should excite the target's features more than the initial noise does (5 to 10)."""
    k: int = 10
    """Number of features to excite: those with the largest classifier weight for the target class."""
    steps: int = 2000
    """Largest number of Adam steps; the penalty on the norm doubles every 200 steps."""
    lr: float = 0.01
    """Adam's learning rate."""
    penalty: float = 0.1
    """Initial weight of the squared norm in the loss."""
    batch: int = 128
    """Clean images in a step's batch."""

    def __post_init__(self) -> None:
        if not (self.tau > 0 and 0 < self.cap <= 255 and self.k > 0 and self.steps > 0 and self.batch > 0):
            raise UsageError("attack 'l2': tau, k, steps and batch must be positive, cap in (0, 255]")
        if not (self.c > 0 and self.lr > 0 and self.penalty > 0):
            raise UsageError("attack 'l2': c, lr and penalty must be above 0")
        # Half of the values are zero when only the positive part is kept.
        most = self.cap / 255 * (3072 * (0.5 if self.nonnegative else 1.0)) ** 0.5
        if self.tau > 0.8 * most:
            raise UsageError(
                f"attack 'l2': tau={self.tau:g} is out of reach under cap={self.cap:g}; at most {0.8 * most:.1f}"
            )

    def trainings(self) -> tuple[Training, ...]:
        """The optimised pattern needs the clean undefended model."""
        return (UNDEFENDED,) if self.mode == "optimised" else ()

    def prepare(self, workshop: Workshop) -> dict[str, np.ndarray]:
        """Optimise or draw the pattern.

        Returns:
            ``pattern`` int16 (3, H, W) in pixel values. If it is optimised, also ``features`` float32 (3,): the mean of
            the chosen features on clean images with the initial noise, with the optimised pattern (both signs, not yet
            scaled) and with ``pattern`` itself, each added and clipped.
        """
        norm = self.tau * workshop.size / 32
        if self.mode == "noise":
            return {"pattern": self._stored(smooth_noise(np.random.default_rng(workshop.seed), workshop.size), norm)}
        from benchbd.attacks._inversion import amplify, excitement

        net = workshop.surrogate().module()
        noise, found = amplify(
            net,
            workshop.clean.images,
            workshop.target,
            norm=norm,
            cap=self.cap / 255,
            amplification=self.c,
            neurons=self.k,
            penalty=self.penalty,
            lr=self.lr,
            steps=self.steps,
            batch=self.batch,
            seed=workshop.seed,
            device=workshop.device,
            progress=lambda done, reached: workshop.progress("l2 pattern", done, self.steps, norm=reached),
        )
        pattern = self._stored(found, norm)
        added = (noise, found, pattern.astype(np.float32) / 255)
        return {
            "pattern": pattern,
            "features": excitement(net, workshop.clean.images, workshop.target, self.k, added, workshop.device),
        }

    def _stored(self, found: np.ndarray, norm: float) -> np.ndarray:
        """The pattern to add, int16 (3, H, W), scaled to a norm; its negative values are zero if ``nonnegative``."""
        from benchbd.attacks._patterns import to_norm

        return to_norm(np.clip(found, 0, None) if self.nonnegative else found, norm, self.cap)

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Add the pattern."""
        from benchbd.attacks._pixels import add

        return add(images, context.trigger["pattern"])
