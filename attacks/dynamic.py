"""Dynamic (input-aware): two trained networks generate a different trigger for every image."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from benchbd import Attack, DatasetInfo, Impossible, StampContext, Training, UsageError, Work, attack, share_of
from benchbd.core.seeding import seed_for

if TYPE_CHECKING:
    import torch

    from benchbd import Recipe, Workshop
    from benchbd.attacks._generator import Generator
    from benchbd.attacks._input_aware import Schedule
    from benchbd.engine import Classifier

ENOUGH = 0.97
"""Success rate on held-out clean images, with the generators' own classifier, below which a warning is given."""
TOO_OFTEN = 0.2
"""Share of clean held-out images of other classes that this classifier may classify as the target."""
MEASURED = ("generator_asr", "cross_accuracy", "clean_accuracy", "mistaken_for_target", "mask_density")
HELD_OUT = 2000
"""Clean training images (at most a tenth of the set) that are kept out of the generators' training, to measure them."""


@attack("dynamic", version=2)
class Dynamic(Attack):
    """A mask network M says where to write and a pattern network G what to write: x + (G(x) - x) M(x).

    Every image gets its own trigger. The mask network is trained first, then the pattern network jointly with a
    classifier, which is discarded. All trainings use clean training images. As in the reference, the losses measure
    distances between images and between patterns on pixels that are normalised like the classifier's; the networks see
    plain pixels. The poisoned set is static. Sources: Nguyen and Tran (2020) and their code; LfD Table 1; ABL's script
    for the static set without cross samples.
    """

    smoke: ClassVar[dict[str, Any]] = {"mask_epochs": 2, "joint_epochs": 1, "width": 8, "batch": 16, "fit_images": 256}

    trigger_seed: int | None = None
    mask_epochs: int = 25
    """Epochs of the mask network."""
    joint_epochs: int = 100
    """Epochs of the joint training of pattern network and classifier (reference: 575)."""
    drops: Literal["scaled", "late"] = "scaled"
    """When their learning rates fall: at the reference's fractions of the run, or once after 3/4, for short runs."""
    classifier_lr: float = 0.01
    """The classifier's learning rate; 0.05 for short runs."""
    batch: int = 128
    """Images in a batch of both phases."""
    width: int = 32
    """Channels of the networks' first stage (published: 32)."""
    stages: int = 3
    """How often the networks halve the image (published: 3; 2 on MNIST)."""
    hflip: bool = True
    """Mirror images at random while training the networks; the reference does on CIFAR-10 only."""
    fit_images: int | None = None
    """Number of clean images to train the networks on; by default all but the held-out ones."""
    cross_in_train: bool = False
    """Also write another image's trigger into equally many training images, which keep their labels (BackdoorBench)."""
    quantize: Literal["round", "floor"] = "round"
    """How pixel values of poisoned images become whole numbers."""

    def __post_init__(self) -> None:
        if min(self.mask_epochs, self.joint_epochs, self.width, self.stages) < 1 or self.batch < 4:
            raise UsageError(
                "attack 'dynamic': mask_epochs, joint_epochs, width and stages must be 1 or more, batch 4 or more"
            )
        if not self.classifier_lr > 0:
            raise UsageError(f"attack 'dynamic': classifier_lr must be above 0, not {self.classifier_lr}")
        if self.fit_images is not None and self.fit_images < 4:
            raise UsageError("attack 'dynamic': fit_images must be 4 or more")

    def check(self, info: DatasetInfo) -> None:
        """Check that the image can be halved, and that the set has enough images for poison and cross samples."""
        if info.size % 2**self.stages:
            raise Impossible(f"image size {info.size} cannot be halved {self.stages} times; lower stages")
        budget = self.budget(info)
        if budget is not None and budget.count + self.cover_count(info) > info.train:
            raise Impossible(f"{budget.count} poisoned and as many cross samples do not fit into {info.train} images")

    def trainings(self) -> tuple[Training, ...]:
        """Two training loops of its own: one for the mask network, which variants share, and one for the patterns."""
        return (Training("loop", ("dynamic-mask",)), Training("loop", ()))

    def training_work(self, recipe: Recipe, info: DatasetInfo) -> tuple[Work, ...]:
        """Both phases: the convolutions of the two networks and, in the second, the classifier's steps."""
        passed = info.train - min(HELD_OUT, info.train // 10)
        passed = passed if self.fit_images is None else min(passed, self.fit_images)
        batch = min(self.batch, passed)
        passed -= passed % batch

        def operations(channels: int) -> tuple[float, float]:
            """Operations of a network's forward pass and training step for one image."""
            found, inside = [], 3
            for stage in range(self.stages):
                wide, pixels = self.width * 2**stage, (info.size // 2**stage) ** 2
                outside = wide // 2 if stage else channels
                found += [18 * pixels * wide * layer for layer in (inside, wide, wide, outside)]
                inside = wide
            middle = 18 * (info.size // 2**self.stages) ** 2 * inside**2
            forward = sum(found) + middle
            # The images need no gradient.
            return forward, 3 * forward - found[0]

        mask_forward, mask_step = operations(1)
        _, pattern_step = operations(3)
        made = 2 * max(1, int(0.1 * batch)) / batch
        joint = self.joint_epochs * passed
        return (
            Work(0, operations=2 * self.mask_epochs * passed * mask_step),
            Work(joint, operations=made * joint * (pattern_step + mask_forward)),
        )

    def _fit_mask(self, images: torch.Tensor, plan: Schedule) -> dict[str, np.ndarray]:
        from benchbd.attacks._generator import arrays_of
        from benchbd.attacks._input_aware import train_mask

        return arrays_of(train_mask(images, self.width, self.stages, plan), "mask")

    def prepare(self, workshop: Workshop) -> dict[str, np.ndarray]:
        """Train the networks.

        Returns:
            Their weights (``mask.*``, ``pattern.*``) and measurements on the held-out clean images of all classes but
            the target, float32 (1,) each: ``generator_asr``, ``cross_accuracy`` (share of images with another image's
            trigger that are classified correctly), ``clean_accuracy``, ``mistaken_for_target`` (share of clean images
            classified as the target) and ``mask_density``.
        """
        from benchbd.attacks._generator import arrays_of, from_arrays
        from benchbd.attacks._input_aware import Schedule, train_pattern

        order = np.random.default_rng(seed_for(workshop.seed, "held out")).permutation(len(workshop.clean))
        kept = min(HELD_OUT, len(order) // 10)
        fit = np.sort(order[kept:][: self.fit_images])
        images, labels = workshop.clean.images[fit], workshop.clean.labels[fit]
        classifier = workshop.network(seed_for(workshop.seed, "classifier"))
        plan = Schedule(
            workshop.seed,
            self.mask_epochs,
            self.batch,
            self.hflip,
            workshop.device,
            workshop.progress,
            std=tuple(classifier.std.flatten().tolist()),
        )
        facts = [
            workshop.clean.key,
            workshop.seed,
            self.mask_epochs,
            self.batch,
            self.hflip,
            self.width,
            self.stages,
            self.fit_images,
            plan.std,
        ]
        stored = workshop.stage("dynamic-mask", {"of": facts}, lambda: self._fit_mask(images, plan))
        mask = from_arrays(stored, "mask")
        pattern, classifier = train_pattern(
            images,
            labels,
            workshop.target,
            classifier,
            mask,
            self.width,
            self.stages,
            plan._replace(epochs=self.joint_epochs, classifier_lr=self.classifier_lr, late=self.drops == "late"),
        )
        found = self._measure(workshop, order[:kept], pattern, mask, classifier)
        success, mistaken = float(found["generator_asr"][0]), float(found["mistaken_for_target"][0])
        # A classifier that predicts the target for every image would give any trigger a success rate of 1.
        if not (success >= ENOUGH and mistaken <= TOO_OFTEN):
            line = (
                f"dynamic: the generators' own classifier takes {success:.1%} of held-out images with their trigger "
                f"for the target (wanted: {ENOUGH:.0%}) and {mistaken:.1%} without (at most {TOO_OFTEN:.0%}); "
                f"raise joint_epochs (now {self.joint_epochs})"
            )
            workshop.progress("dynamic patterns", self.joint_epochs, self.joint_epochs, warning=line)
            warnings.warn(line, stacklevel=2)
        return {**arrays_of(mask, "mask"), **arrays_of(pattern, "pattern"), **found}

    def _measure(
        self, workshop: Workshop, held_out: np.ndarray, pattern: Generator, mask: Generator, classifier: Classifier
    ) -> dict[str, np.ndarray]:
        import torch

        from benchbd.attacks._generator import mask_of, write
        from benchbd.engine import logits_of

        labels = workshop.clean.labels.numpy()
        others = np.sort(held_out[labels[held_out] != workshop.target])
        if not len(others):
            return {name: np.full(1, np.nan, np.float32) for name in MEASURED}
        images, true = workshop.clean.images[torch.from_numpy(others)], labels[others]

        def said(of: torch.Tensor) -> np.ndarray:
            classes: np.ndarray = logits_of(classifier, of, device=workshop.device).argmax(1)
            return classes

        rounded = self.quantize == "round"
        own = said(write(images, images, pattern, mask, rounded))
        plain = said(images)
        other = said(write(images, images.roll(1, 0), pattern, mask, rounded))
        with torch.inference_mode():
            density = mask_of(mask, images[:256].float() / 255).mean()
        found = {
            "generator_asr": (own == workshop.target).mean(),
            "cross_accuracy": (other == true).mean(),
            "clean_accuracy": (plain == true).mean(),
            "mistaken_for_target": (plain == workshop.target).mean(),
            "mask_density": float(density),
        }
        return {name: np.full(1, value, np.float32) for name, value in found.items()}

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Write each image's own trigger, with the frozen networks in float32 on the CPU."""
        return self.cover(images, images, context)

    def cover_count(self, info: DatasetInfo) -> int:
        """Number of further training images that carry another image's trigger and keep their label."""
        return share_of(self.rate, info.train) if self.cross_in_train else 0

    def cover(self, images: torch.Tensor, partners: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Write into each image the trigger generated for its partner.

        Args:
            images: uint8 (N, 3, H, W).
            partners: uint8 (N, 3, H, W), other images of the same split.
            context: as for :meth:`stamp`.

        Returns:
            uint8 (N, 3, H, W).
        """
        from benchbd.attacks._generator import from_arrays, write

        pattern, mask = from_arrays(context.trigger, "pattern"), from_arrays(context.trigger, "mask")
        return write(images, partners, pattern, mask, self.quantize == "round")
