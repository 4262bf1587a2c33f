"""A training set as files for a program of somebody else: images and labels as the defender sees them, nothing more."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np

from benchbd.core.png import write_png

Format = Literal["npz", "imagefolder", "backdoor-toolbox"]
FORMATS: tuple[Format, ...] = get_args(Format)

LAYOUT: dict[Format, str] = {
    "npz": "train.npz with images uint8 (N, 3, S, S) and labels int64 (N,)",
    "imagefolder": "a folder for each class with PNG files; names are the images' numbers",
    "backdoor-toolbox": "torch archives imgs, float32 (N, 3, S, S) in [0, 1], and labels, int64 (N,)",
}
"""What :func:`write_training_files` writes, by format."""


def write_training_files(images: np.ndarray, labels: np.ndarray, classes: int, folder: Path, name: Format) -> None:
    """Write a training set into a new folder.

    Names of classes and images have leading zeros, so that their sorted order is that of the labels, and within a class
    that of the images. All classes have a folder, also empty ones.

    Args:
        images: uint8 (N, 3, S, S).
        labels: int64 (N,).
        classes: number of classes.
        folder: where to write; it is created.
        name: the format.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True)
    if name == "npz":
        np.savez(folder / "train.npz", images=images, labels=labels)
    elif name == "backdoor-toolbox":
        import torch

        torch.save(torch.from_numpy(images).float() / 255, folder / "imgs")
        torch.save(torch.from_numpy(labels), folder / "labels")
    else:
        of_class, of_image = len(str(classes - 1)), len(str(max(1, len(images)) - 1))
        for label in range(classes):
            (folder / f"{label:0{of_class}}").mkdir()
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            write_png(folder / f"{label:0{of_class}}" / f"{number:0{of_image}}.png", image)
