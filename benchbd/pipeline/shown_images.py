"""The images that models are measured on: the test set, and its triggered images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from benchbd.core.images import DatasetInfo, Images
from benchbd.pipeline import evaluate

if TYPE_CHECKING:
    import numpy as np
    import torch

    from benchbd.pipeline.poison import Poison, Poisoner
    from benchbd.pipeline.ready_poison import TriggeredImages
    from benchbd.plan.cell import Components


class ShownImages(NamedTuple):
    """The test set, and what :meth:`benchbd.pipeline.poison.Poisoner.triggered_test` makes of it."""

    test: Images
    marked: TriggeredImages | None

    @classmethod
    def load(cls, components: Components, poisoner: Poisoner, info: DatasetInfo, poison: Poison) -> ShownImages:
        """Load the test set and stamp it."""
        test = Images(*components.dataset.load("test", poisoner.root))
        return cls(test, poisoner.triggered_test(test, info, poison))

    @property
    def triggered(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Triggered images and their true labels."""
        return None if self.marked is None else (self.marked.images, self.marked.labels)

    @property
    def target(self) -> int | np.ndarray:
        """The target class of the triggered images, or of each of them."""
        return 0 if self.marked is None else self.marked.targets

    def accuracy(self, device: torch.device) -> Callable[[evaluate.Measurable], evaluate.Accuracy]:
        """What measures CA, ASR and RA of a model in two passes."""
        return lambda model: evaluate.accuracy(model, self.test, self.triggered, self.target, device)

    def every_rate(self, model: evaluate.Measurable, device: torch.device) -> evaluate.Accuracy:
        """Measure all that :func:`benchbd.pipeline.evaluate.accuracy` knows."""
        more: tuple[Any, Any] = (None, None) if self.marked is None else (self.marked.originals, self.marked.of_target)
        return evaluate.accuracy(model, self.test, self.triggered, self.target, device, *more)
