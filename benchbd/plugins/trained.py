"""Trained networks, which defenses use and return, each with a key of its content."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from benchbd import engine
from benchbd.core.hashing import digest
from benchbd.core.images import Normalisation
from benchbd.core.pools import Pool
from benchbd.core.transform import TestTransform
from benchbd.engine.packed import packing_fault
from benchbd.errors import Impossible, Misused, UsageError
from benchbd.plugins.part import Part
from benchbd.plugins.source_digest import file_digest

if TYPE_CHECKING:
    from benchbd.engine import Classifier
    from benchbd.engine.network import Buildable


OWN_MODELS = "benchbd.models."
"""Start of the names of the modules whose networks start from the seed alone, as a test of each of them shows.

Those that come from another package are an exception.
"""
PROBE_SEEDS = (1, 2)
"""Seeds with which a network is built to see what its initial weights depend on."""


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Everything needed to build a network: model plugin, number of classes, image size and normalisation."""

    model: Buildable
    part: Part
    classes: int
    size: int
    normalisation: Normalisation

    def build(self, seed: int) -> Classifier:
        """Build a freshly initialised network."""
        return engine.build(self.model, self.classes, self.size, self.pixels, seed)

    def build_to_load(self) -> Classifier:
        """Build a network whose whole state is loaded afterwards. It needs no file of weights."""
        return engine.build(self.model, self.classes, self.size, self.pixels, 0, to_load=True)

    @functools.cached_property
    def own_normalisation(self) -> Normalisation | None:
        """Mean and standard deviation that the model insists on; None if it takes those of the data set."""
        own = getattr(self.model, "normalisation", None)
        return own() if own else None

    @property
    def pixels(self) -> Normalisation:
        """Mean and standard deviation that the network's images get: the model's own, else those of the data set."""
        return self.own_normalisation or self.normalisation

    @functools.cached_property
    def packages(self) -> dict[str, str]:
        """Versions of the packages that the network's code comes from, without local parts such as ``+cpu``."""
        return {name: metadata.version(name).partition("+")[0] for name in getattr(self.model, "packages", ())}

    @functools.cached_property
    def initial(self) -> InitialWeights | None:
        """What the network starts from. None for a model of benchbd's own, which starts from the seed alone."""
        from_seed = type(self.model).__module__.startswith(OWN_MODELS) and not self.packages
        return None if from_seed else initial_weights(self.build)

    def fresh(self, seed: int) -> Classifier:
        """Build a network to train.

        Raises:
            UsageError: the network no longer starts from the weights that :meth:`spec` speaks of.
        """
        if self.initial is not None and initial_weights(self.build) != self.initial:
            raise UsageError(
                f"model {self.part.text!r}: build() gives other weights than before from the same seed; a file of "
                "weights changed while the cell ran, or the weights are not drawn with torch's global generator"
            )
        return self.build(seed)

    def fault(self) -> str | None:
        """Say in one line, with the model's name, why it cannot be trained; None if it can. Builds a network."""
        found = engine.trial_fault(self.build(0), self.size)
        return f"model {self.part.text!r}: {found}" if found else None

    def packing_fault(self) -> str | None:
        """Say in one line, with the model's name, why it cannot be packed; None if it can. Builds two networks."""
        found = packing_fault([self.build(0), self.build(1)])
        return f"model {self.part.text!r}: {found}" if found else None

    def spec(self) -> dict[str, Any]:
        """The spec's values, ready for JSON, for use in keys.

        A user's model has its weights and code in it; one from another package has its weights and the package's
        version.
        """
        own = self.own_normalisation
        return {
            **({"packages": self.packages} if self.packages else {}),
            **({"own_normalisation": [list(v) for v in own]} if own else {}),
            **({} if self.initial is None else {"initial": self.initial.drawn, "source": _source(type(self.model))}),
            "model": self.part.spec(),
            "classes": self.classes,
            "size": self.size,
            "normalisation": [list(v) for v in self.normalisation],
        }


@functools.lru_cache(maxsize=256)
def _source(model: type) -> str:
    """A digest of the code in a class's file and its helpers; '' where there is no file. Computed once for a class."""
    file = getattr(sys.modules.get(model.__module__), "__file__", None)
    return "" if file is None else file_digest(Path(file))


class InitialWeights(NamedTuple):
    """Digests of what a network starts from.

    Attributes:
        drawn: of all initial weights with one fixed seed.
        fixed: of the weights that are the same with every seed, such as pretrained ones; constants such as a bias of
            zeros are left out. None if there are no such weights: the network starts from the seed alone.
    """

    drawn: str
    fixed: str | None


def initial_weights(build: Callable[[int], Classifier]) -> InitialWeights:
    """Build a network with two seeds and compare the weights.

    Args:
        build: builds the network from a seed.
    """
    one, other = (build(seed).net.state_dict() for seed in PROBE_SEEDS)
    drawn, again = ({name: _sha_of_tensor(tensor) for name, tensor in state.items()} for state in (one, other))
    kept = {name: sha for name, sha in drawn.items() if again.get(name) == sha and not _is_constant(one[name])}
    return InitialWeights(digest(drawn), digest(kept) if kept else None)


def _sha_of_tensor(tensor: torch.Tensor) -> str:
    """sha256 of a tensor's type, shape and values, for types that numpy lacks, too."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    sha = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    sha.update(flat.view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _is_constant(tensor: torch.Tensor) -> bool:
    flat = tensor.detach().reshape(-1)
    return not len(flat) or bool((flat == flat[0]).all())


class Origin:
    """Marks the trained models of one lab or workshop. A pickled or deep-copied mark is another mark."""


class TrainedModel:
    """A trained (or pruned) network. It cannot be changed: results are stored under its key.

    Attributes:
        key: artifact key of the weights.
        epochs: epochs of this training, not counting those of the network that it started from.
        pools: the pools that the training loop reported (``loop.report_pool``), in order.
        test_transform: what happens to every image that the model sees, and to its outputs; None if nothing does.
    """

    key: str
    epochs: int
    pools: tuple[Pool, ...]
    test_transform: TestTransform | None
    _state: Mapping[str, np.ndarray]
    _plan: ModelSpec
    _origin: Origin | None
    _losses: tuple[float, ...]

    def __init__(
        self,
        key: str,
        state: Mapping[str, np.ndarray],
        network: ModelSpec,
        epoch_losses: list[float],
        epochs: int,
        origin: Origin | None = None,
        pools: tuple[Pool, ...] = (),
        test_transform: TestTransform | None = None,
    ) -> None:
        for array in state.values():
            array.flags.writeable = False
        vars(self).update(key=key, epochs=epochs, pools=pools, test_transform=test_transform)
        vars(self).update(_losses=tuple(epoch_losses))
        vars(self).update(_state=MappingProxyType(dict(state)), _plan=network, _origin=origin)

    def __setattr__(self, name: str, value: Any) -> None:
        raise Misused(
            f"a trained model's {name} cannot be assigned; train with start=..., prune, or change the copy that "
            "module() gives"
        )

    def __delattr__(self, name: str) -> None:
        raise Misused(f"a trained model's {name} cannot be deleted")

    def __copy__(self) -> TrainedModel:
        return self

    def __deepcopy__(self, memo: Any) -> TrainedModel:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Without an origin: a lab takes no model that a file or another process may have changed.
        values = (self.key, dict(self._state), self._plan, self.epoch_losses, self.epochs)
        return TrainedModel, (*values, None, self.pools, self.test_transform)

    @property
    def epoch_losses(self) -> list[float]:
        """Mean cross-entropy of each training epoch, on augmented images, computed before each step; a new list."""
        return list(self._losses)

    def module(self) -> Classifier:
        """A new copy of the network in eval mode on the CPU. It applies the test transform, if there is one."""
        net = self._plan.build_to_load()
        net.test_transform = self.test_transform
        net.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in self._state.items()})
        return net.eval()

    def head(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights (C, D) and biases (C,) of the final linear layer, float32, in the order of the classes."""
        head = self.module().head
        weight = head.weight.detach().numpy().copy()
        bias = np.zeros(len(weight), np.float32) if head.bias is None else head.bias.detach().numpy().copy()
        if self.test_transform is not None and self.test_transform.label_map is not None:
            order = list(self.test_transform.label_map)
            return weight[order], bias[order]
        return weight, bias


def last_filters(net: Classifier) -> list[str]:
    """Parameter names of a network's last convolution and of the batch norm after it.

    Raises:
        Impossible: the network has no ``last_convolution`` method, or that convolution's filters do not correspond one
            to one to the head's inputs.
    """
    last_convolution = getattr(net.net, "last_convolution", None)
    parts = [part for part in last_convolution() if part is not None] if last_convolution else []
    if not parts or parts[0].out_channels != net.head.in_features:
        raise Impossible(
            f"{type(net.net).__name__} does not say which convolution's filters feed its head; mask the output instead"
        )
    names = {id(tensor): name for name, tensor in net.named_parameters()}
    return [names[id(tensor)] for part in parts for tensor in part.parameters()]


class CurvePoint(NamedTuple):
    """An intermediate model of a defense, for the evaluator to measure.

    Attributes:
        name: name of the model, such as the number of pruned channels.
        trained: the network.
        channels: int64 (M,), penultimate channels of the network to mask.
    """

    name: str
    trained: TrainedModel
    channels: np.ndarray
