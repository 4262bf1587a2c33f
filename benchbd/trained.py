"""Sets of training images and trained networks: what a defense handles, each known by a key of its content."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from benchbd import engine
from benchbd.cell import Part, digest
from benchbd.components import Model, Normalisation
from benchbd.errors import Impossible, UsageError

if TYPE_CHECKING:
    from benchbd.engine import Classifier

_WATCHED = 16
"""Images of a set that are looked at to notice that it was changed in place; labels are all looked at."""


def sha_of(array: np.ndarray) -> str:
    """sha256 of an array: type, shape and values."""
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()


def positions(given: Any, count: int, what: str) -> np.ndarray:
    """int64 positions out of what a plugin names samples by: positions (M,), in the order given, or a mask bool (N,).

    Raises:
        UsageError: it is neither, the mask has another length, or a position is not in 0..count-1.
    """
    where = np.asarray(given)
    if where.ndim == 1 and where.dtype == bool:
        if len(where) != count:
            raise UsageError(f"{what}: a mask of {len(where)} for {count}")
        return np.flatnonzero(where)
    if where.ndim != 1 or (where.size and where.dtype.kind not in "iu"):
        raise UsageError(f"{what}: takes positions or a bool mask, one-dimensional, not {where.dtype} {where.shape}")
    where = where.astype(np.int64)
    if where.size and (where.min() < 0 or where.max() >= count):
        raise UsageError(f"{what}: positions reach from {where.min()} to {where.max()}, there are {count}")
    return where


class TrainSet:
    """Labelled training images with the key of their content. Never changed in place: results are stored by the key.

    Attributes:
        images: uint8 (N, 3, H, W), CPU.
        labels: int64 (N,), CPU; as the defender sees them.
        key: hash of everything that determined them.
    """

    __slots__ = ("_mark", "images", "key", "labels")

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, key: str) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or labels.dtype != torch.int64 or len(images) != len(labels):
            raise UsageError(
                "a training set takes images uint8 (N, 3, H, W) and labels int64 (N,), "
                f"not {images.dtype} {tuple(images.shape)} and {labels.dtype} {tuple(labels.shape)}"
            )
        self.images, self.labels, self.key = images, labels, key
        self._mark = self._look()

    def __len__(self) -> int:
        return len(self.labels)

    def _look(self) -> str:
        some = self.images[:: max(1, len(self) // _WATCHED)][:_WATCHED]
        return digest([sha_of(self.labels.numpy()), sha_of(some.numpy())])

    def check(self) -> None:
        """Raise UsageError where labels or images were changed in place: their key would name wrong results."""
        if self._look() != self._mark:
            raise UsageError("a training set was changed in place; make another with replace(images=..., labels=...)")

    def subset(self, indices: Any) -> TrainSet:
        """The samples at ``indices`` (int (M,) positions or bool (N,) mask), in the order given."""
        where = positions(indices, len(self), "subset")
        if len(where) == len(self) and np.array_equal(where, np.arange(len(self))):
            return self
        index = torch.from_numpy(where)
        return TrainSet(self.images[index], self.labels[index], digest(["subset", self.key, sha_of(where)]))

    def replace(self, *, images: torch.Tensor | None = None, labels: torch.Tensor | None = None) -> TrainSet:
        """A set with other images or labels (same types as the attributes), under the key of their content."""
        new = [self.images if images is None else images, self.labels if labels is None else labels]
        return TrainSet(new[0], new[1], digest(["replaced", *(sha_of(t.numpy()) for t in new)]))


@dataclasses.dataclass(frozen=True)
class NetworkPlan:
    """What is needed to build a network: model plugin, classes, image size, normalisation."""

    model: Model
    part: Part
    classes: int
    size: int
    normalisation: Normalisation

    def build(self, seed: int) -> Classifier:
        """A freshly initialised network."""
        return engine.build(self.model, self.classes, self.size, self.normalisation, seed)

    def spec(self) -> dict[str, Any]:
        """What of it counts for a key."""
        return {
            "model": self.part.spec(),
            "classes": self.classes,
            "size": self.size,
            "normalisation": [list(v) for v in self.normalisation],
        }


class Trained:
    """A trained (or pruned) network: its artifact, and what it cost.

    Attributes:
        key: artifact key of the weights.
        epoch_losses: mean cross-entropy of each training epoch, as seen in training.
        epochs: epochs of this training alone.
    """

    def __init__(
        self, key: str, state: dict[str, np.ndarray], network: NetworkPlan, epoch_losses: list[float], epochs: int
    ) -> None:
        self.key, self.epoch_losses, self.epochs = key, epoch_losses, epochs
        self._state, self._plan = state, network

    def module(self) -> Classifier:
        """The network in eval mode on the CPU; a new copy each time."""
        net = self._plan.build(0)
        net.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in self._state.items()})
        return net.eval()

    def head(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights (C, D) and biases (C,) of the final linear layer, float32."""
        head = self.module().head
        weight = head.weight.detach().numpy().copy()
        return weight, np.zeros(len(weight), np.float32) if head.bias is None else head.bias.detach().numpy().copy()


def last_filters(net: Classifier) -> list[str]:
    """Names in a network's state of its last convolution's filters and biases, and of the batch norm's that follows.

    Raises:
        Impossible: the network does not say which that is (``last_convolution``), or its filters are not the head's
            inputs one by one.
    """
    told = getattr(net.net, "last_convolution", None)
    parts = [part for part in told() if part is not None] if told else []
    if not parts or parts[0].out_channels != net.head.in_features:
        raise Impossible(
            f"{type(net.net).__name__} does not say which convolution's filters feed its head; mask the output instead"
        )
    names = {id(tensor): name for name, tensor in net.named_parameters()}
    return [names[id(tensor)] for part in parts for tensor in part.parameters()]


class Traced(NamedTuple):
    """A network on a defense's way, to be measured by the evaluator.

    Attributes:
        name: of the point on the curve.
        trained: the network.
        channels: int64 (M,), penultimate channels masked in it.
    """

    name: str
    trained: Trained
    channels: np.ndarray
