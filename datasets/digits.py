"""Handwritten digits from scikit-learn: real images from an installed package, without a download."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from benchbd import Dataset, DatasetInfo, Images, Normalisation, dataset
from benchbd.datasets._subset import Sizes, choose, part, share_out

if TYPE_CHECKING:
    import numpy as np

COUNTS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
"""Images of each digit in scikit-learn's data set, 1,797 in total."""
TEST_EACH = 36
"""Test images of each digit: 360 of 1,797, a fifth."""
SPLIT_SEED = 20240
"""Seed of the fixed split into training and test images."""


def enlarge(small: np.ndarray) -> np.ndarray:
    """Enlarge grey 8x8 images fourfold to 32x32 RGB, bilinear with half-pixel centres.

    The arithmetic uses integers throughout (weights in eighths, one rounding at the end), so that the pixels are the
    same on every machine.

    Args:
        small: (N, 8, 8), whole numbers from 0 to 16.

    Returns:
        uint8 (N, 3, 32, 32), three equal channels.
    """
    import numpy as np

    weights = np.zeros((32, 8), dtype=np.int64)
    for pixel in range(32):
        # Centre of the output pixel in eighths of an input pixel, measured from the centre of the first input pixel.
        at = min(max(2 * pixel - 3, 0), 56)
        low, share = divmod(at, 8)
        weights[pixel, low] += 8 - share
        weights[pixel, min(low + 1, 7)] += share
    grey = weights @ small.astype(np.int64) @ weights.T
    full = 64 * 16
    pixels = ((grey * 255 + full // 2) // full).astype(np.uint8)
    return np.repeat(pixels[:, None], 3, axis=1)


@dataset("digits", version=1)
class Digits(Dataset):
    """Handwritten digits of scikit-learn: 1,437 training and 360 test images, 8x8 grey enlarged to 32x32 RGB.

    The split is fixed and stratified by class (36 test images of each digit). The writers are unknown, so both splits
    may contain digits by the same writer.
    """

    normalisation = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    class_names = tuple("0123456789")
    source: ClassVar[str] = (
        "scikit-learn load_digits (BSD-3-Clause), test part of UCI Optical Recognition of Handwritten Digits, "
        "E. Alpaydin and C. Kaynak, 1998"
    )
    smoke: ClassVar[dict[str, Any]] = {"train": 500, "test": 200}

    train: int | None = None
    """Training images, in the class proportions (default: all 1,437)."""
    test: int | None = None
    """Test images, in the class proportions (default: all 360)."""
    subset_seed: int = 0
    """Seed for drawing a subset."""

    def _sizes(self) -> Sizes:
        return Sizes(
            share_out(tuple(count - TEST_EACH for count in COUNTS), self.train, "digits: train"),
            share_out((TEST_EACH,) * 10, self.test, "digits: test"),
        )

    def info(self) -> DatasetInfo:
        """Sizes and classes."""
        train, test = self._sizes()
        return DatasetInfo(classes=10, size=32, train=sum(train), test=sum(test), class_counts=train, target=1)

    def load(self, split: Literal["train", "test"], root: str | None) -> Images:
        """Load one split; ``root`` is not used."""
        import numpy as np
        from sklearn.datasets import load_digits

        bunch = load_digits()
        labels = np.asarray(bunch.target, dtype=np.int64)
        testing = choose(labels, (TEST_EACH,) * 10, SPLIT_SEED)
        here = testing if split == "test" else np.setdiff1d(np.arange(len(labels)), testing)
        images = enlarge(np.asarray(bunch.images)[here])
        return part(images, labels[here], self._sizes().of(split), self.subset_seed)
