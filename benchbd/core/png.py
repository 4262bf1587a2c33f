"""Write PNG files of 8-bit RGB images."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_png(path: Path, image: np.ndarray) -> None:
    """Write one image, uint8 (3, S, S)."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(path)
