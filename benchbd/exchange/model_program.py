"""A trained model as one program without benchbd's classes: normalisation, mask and test transform inside."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import torch
from torch import Tensor, nn

from benchbd.core.transform import TestTransform
from benchbd.engine import Classifier

FORMAT = "benchbd-model/1"
METADATA = "benchbd"
"""Name of the one metadata entry of a file, which holds :meth:`ModelFacts.text`."""
INPUT = "float32 (N, 3, size, size), RGB, pixels / 255, so values in [0, 1]"
OUTPUT = "logits, float32 (N, classes)"


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """What a file says about the model in it.

    Attributes:
        cell: label of the cell that trained it.
        cell_id: its ID.
        artifact: key of the weights in the store.
        model: name, version and parameters of the model plugin.
        dataset: the data set as tables print it.
        classes: number of classes.
        class_names: their names, in the order of the logits.
        size: image height and width in pixels.
        normalisation: mean and standard deviation of each channel.
        test_transform: what the defense does to test images and outputs; None if nothing.
        program: whether the file computes normalisation and test transform itself.
        version: benchbd's version.
    """

    cell: str
    cell_id: str
    artifact: str
    model: dict[str, Any]
    dataset: str
    classes: int
    class_names: tuple[str, ...]
    size: int
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]
    test_transform: dict[str, Any] | None
    program: bool
    version: str

    def text(self) -> str:
        """All facts and the conventions of input and output, as JSON in one line; equal facts give equal text."""
        inside = "in the program" if self.program else "in the tensors mean and std; (image - mean) / std comes first"
        more = {"format": FORMAT, "input": INPUT, "output": OUTPUT, "normalisation_is": inside}
        if self.test_transform is not None:
            where = "in the program" if self.program else "not in the file: apply it to images and logits yourself"
            more["test_transform_is"] = where
        return json.dumps({**dataclasses.asdict(self), **more}, sort_keys=True)


class ModelProgram(nn.Module):
    """Images float (N, 3, H, W) in [0, 1] to logits float32 (N, C), of plain tensor operations only.

    :class:`benchbd.engine.Classifier` enters an autocast region and chooses by memory layout, which exported programs
    cannot.

    Args:
        net: the trained network with its test transform. It is put in eval mode.
        size: image height and width in pixels.
    """

    mean: Tensor
    std: Tensor
    channel_mask: Tensor

    def __init__(self, net: Classifier, size: int) -> None:
        super().__init__()
        self.net = net.net
        for name in ("mean", "std", "channel_mask"):
            self.register_buffer(name, getattr(net, name).detach().clone())
        transform = net.test_transform or TestTransform()
        self.register_buffer("covered", None)
        self.register_buffer("cover", None)
        self.register_buffer("order", None)
        if transform.stamp is not None:
            zeros = torch.zeros(1, 3, size, size)
            self.cover = transform.stamp.on(zeros)
            self.covered = transform.stamp._replace(value=(1.0, 1.0, 1.0)).on(zeros) > 0
        if transform.label_map is not None:
            self.order = torch.tensor(transform.label_map)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits."""
        if self.covered is not None and self.cover is not None:
            images = torch.where(self.covered, self.cover, images)
        net: Any = self.net
        features = net.features((images - self.mean) / self.std).float() * self.channel_mask
        logits: Tensor = net.head(features)
        return logits if self.order is None else logits.index_select(1, self.order)
