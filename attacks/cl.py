"""CL: adversarially perturbed images of the target class get the grid and keep their labels. Test images: grid only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from benchbd import UNDEFENDED, Attack, DatasetInfo, Impossible, StampContext, Training, UsageError, Work, attack
from benchbd.attacks._grid import cell_for, grid_difference

if TYPE_CHECKING:
    import torch

    from benchbd import Recipe, TrainedModel, Workshop


@attack("cl", version=2)
class LabelConsistent(Attack):
    """Untargeted PGD noise (8/255, 100 steps) makes target-class images hard to recognise; then the grid goes on top.

    Sources: Turner et al. (2019); LfD Table 1 ("Grid and PGD Noise"); noise and robust surrogate as in the PyTorch code
    that ABL links to. LfD poisons 8 % (GTSRB: 9.5 %) "of the data". This is taken as 80 % (95 %) of the target class,
    because a GTSRB class has fewer images than 9.5 % of the set.
    """

    clean_label = True
    prepared_from_poison = True
    smoke: ClassVar[dict[str, Any]] = {"steps": 2, "robust_steps": 1, "robust_epochs": 1}

    trigger_seed: int | None = None
    rate: float = 0.8
    """Share of the target class (or, with rate_of=set, of the whole set) that is poisoned."""
    rate_of: Literal["set", "class"] = "class"
    """What rate is a share of: the whole set or the target class."""
    eps: float = 8.0
    """Largest change of a pixel by the noise, 0..255; the paper falls back to 16."""
    step: float = 1.5
    """Step size of the PGD that makes the noise, 0..255."""
    steps: int = 100
    """Steps of the PGD that makes the noise; 0 leaves the noise out, to measure the grid alone."""
    surrogate: Literal["robust", "standard"] = "robust"
    """Model that the noise attacks: an adversarially trained one, or the clean undefended one."""
    robust_eps: float = 8.0
    """Radius of the surrogate's adversarial training, 0..255."""
    robust_step: float = 2.0
    """Step size of the adversarial training's PGD, 0..255."""
    robust_steps: int = 10
    """Steps of the adversarial training's PGD; 0 trains on unperturbed images."""
    robust_epochs: int | None = None
    """Epochs of the adversarial training; by default the recipe's."""
    trigger: Literal["grid", "four-corners"] = "grid"
    """The grid in the bottom-right corner, or mirrored in all four, which survives flips."""
    amplitude: int = 255
    """Value that white cells add and black cells subtract; 255 overwrites, 32 is Turner et al.'s reduced visibility."""

    def __post_init__(self) -> None:
        if self.eps < 0 or self.steps < 0 or self.robust_eps < 0 or self.robust_steps < 0:
            raise UsageError("attack 'cl': eps, steps, robust_eps and robust_steps cannot be negative")
        for name, step, steps in (("", self.step, self.steps), ("robust_", self.robust_step, self.robust_steps)):
            if steps > 0 and not step > 0:
                raise UsageError(f"attack 'cl': {name}step must be above 0, not {step}; for none say {name}steps=0")
        if self.robust_epochs is not None and self.robust_epochs < 1:
            raise UsageError(f"attack 'cl': robust_epochs must be 1 or more, not {self.robust_epochs}")
        if not 0 < self.amplitude <= 255:
            raise UsageError(f"attack 'cl': amplitude must be in 1..255, not {self.amplitude}")

    def check(self, info: DatasetInfo) -> None:
        """Check that the grid fits (four of them without overlap) and that the budget can be met."""
        room = info.size if self.trigger == "grid" else info.size // 2
        if 3 * cell_for(info.size) > room:
            raise Impossible(f"the grid does not fit into {info.size}x{info.size} images")
        self.budget(info)

    def trainings(self) -> tuple[Training, ...]:
        """The surrogate; the standard one is the clean undefended model."""
        if self.surrogate == "standard":
            return (UNDEFENDED,)
        shared = ("cl", self.robust_eps, self.robust_step, self.robust_steps)
        return (Training("full", shared, () if self.robust_epochs is None else (("epochs", self.robust_epochs),)),)

    def training_work(self, recipe: Recipe, info: DatasetInfo) -> tuple[Work, ...]:
        """The surrogate's epochs; adversarial training adds passes to the images and back for each step of PGD."""
        if self.surrogate == "standard":
            return (Work(recipe.epochs * info.train),)
        images = (recipe.epochs if self.robust_epochs is None else self.robust_epochs) * info.train
        return (Work(images, 2 * self.robust_steps * images),)

    def _surrogate(self, workshop: Workshop) -> TrainedModel:
        if self.surrogate == "standard":
            return workshop.surrogate()
        from benchbd.attacks._pgd import PGD

        epochs = workshop.recipe.epochs if self.robust_epochs is None else self.robust_epochs
        perturb = PGD(self.robust_eps, self.robust_step, self.robust_steps)
        return workshop.train(workshop.clean, name="robust-surrogate", perturb=perturb, epochs=epochs)

    def prepare(self, workshop: Workshop) -> dict[str, np.ndarray]:
        """Perturb the images that will be poisoned.

        Returns:
            ``indices`` int64 (P,), ascending, and ``images`` uint8 (P, 3, H, W), the perturbed images at these
            positions, without the grid.
        """
        import torch

        from benchbd.attacks._pgd import PGD, perturbed
        from benchbd.engine.passes import pass_batch
        from benchbd.engine.precision import arithmetic

        indices = np.sort(np.asarray(workshop.indices, np.int64))
        net = self._surrogate(workshop).module().to(workshop.device).eval().requires_grad_(False)
        noise = PGD(self.eps, self.step, self.steps)
        batch = max(1, pass_batch(workshop.size, workshop.device) // 4)
        made = []
        with arithmetic(workshop.device, strict=False, search=False):
            for start in range(0, len(indices), batch):
                where = torch.from_numpy(indices[start : start + batch])
                made.append(
                    perturbed(
                        net, workshop.clean.images[where], workshop.clean.labels[where], noise, workshop.device
                    ).numpy()
                )
                workshop.progress("cl noise", min(start + batch, len(indices)), len(indices))
        return {"indices": indices, "images": np.concatenate(made)}

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Write the grid: over the perturbed images in training, over the unperturbed ones in test."""
        import torch

        from benchbd.attacks._pixels import add

        if context.split == "train":
            known = context.trigger["indices"]
            where = np.searchsorted(known, context.indices)
            if len(context.indices) and (
                where.max() == len(known) or not np.array_equal(known[where], context.indices)
            ):
                raise UsageError("attack 'cl': asked to poison training images other than those it prepared")
            images = torch.from_numpy(context.trigger["images"][where])
        size = images.shape[-1]
        return add(images, grid_difference(size, cell_for(size), self.trigger, self.amplitude))
