"""Shared by the networks of other packages: the parameters, the checks of a plan and the file of weights."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from benchbd import DatasetInfo, Impossible, Model, Normalisation, UsageError
from benchbd.core.contents import contents_digest
from benchbd.core.files_folder import files_folder
from benchbd.core.paths import data_folder, look, name_below
from benchbd.errors import BenchbdError, shown, suggestion

if TYPE_CHECKING:
    from torch import nn

SMALLEST = 32
"""Pixels on a side below which the last stage of a network with stride 32 would see less than one pixel."""
_REGISTERED = re.compile(r"^@register_model\b.*?^def (\w+)\(", re.MULTILINE | re.DOTALL)
"""The head of a function that both libraries register under its name."""


@functools.cache
def network_names(package: str) -> frozenset[str]:
    """Names of the networks of an installed package, read from its files without importing it; empty without it."""
    spec = importlib.util.find_spec(package)
    found: set[str] = set()
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for file in (Path(place) / "models").glob("*.py"):
            found.update(_REGISTERED.findall(file.read_text("utf-8", "replace")))
    return frozenset(found)


def weights_path(name: str, whose: str) -> Path:
    """A file of weights: beside the matrix file, else in the data folder.

    Args:
        name: its name below one of these folders.
        whose: the plugin, for messages.

    Raises:
        UsageError: the file is in neither folder, or cannot be read.
    """
    data = data_folder(None)
    folders = [files_folder(), *([Path(data)] if data else [])]
    for folder in folders:
        kind = look(folder / name, f"{whose}: weights")
        if kind == "file":
            return folder / name
        if kind != "nothing":
            raise UsageError(f"{whose}: weights {shown(str(folder / name), 200)} is not a file")
    places = " or in ".join(shown(str(folder), 200) for folder in folders)
    raise UsageError(
        f"{whose}: weights {shown(name, 200)} is not in {places}; names are relative to the folder of the matrix file "
        "(BENCHBD_FILES), else to the data folder (--data), and nothing is downloaded"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LibraryModel(Model):
    """Shared by the packages. Subclasses set ``packages`` and create the package's network."""

    spellings: ClassVar[dict[str, str]] = {"name": "network"}
    tags: ClassVar[bool] = False
    """Whether a name may be followed by a dot and the tag of its weights."""

    network: str = "resnet18"
    """Name of the network in the package; name= means the same."""
    weights: str | None = None
    """File of pretrained weights: safetensors, or .pt and .pth of torch.save(net.state_dict()), with the package's own
    names. It lies below the folder of the matrix file or below the data folder; nothing is downloaded or unpickled. The
    last layer is random if the file has it for another number of classes, or lacks it; all else must fit."""
    resize: int | None = None
    """Side in pixels to which images are enlarged (bilinearly) inside the network. Default: none."""
    normalise: Literal["auto", "dataset", "pretrained"] = "auto"
    """dataset: mean and standard deviation of the data set; pretrained: those of the package's pretrained weights,
    mostly ImageNet's; auto: pretrained if weights are given."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w+(\.\w+)?", self.network):
            raise UsageError(f"{self.name}: name {shown(self.network)} is not a network's, such as resnet18")
        if self.resize is not None and not SMALLEST <= self.resize <= 4096:
            raise UsageError(f"{self.name}: resize must be from {SMALLEST} to 4096 pixels, not {self.resize}")
        file = None if self.weights is None else name_below(self.weights)
        if file is None and self.weights is not None:
            raise UsageError(
                f"{self.name}: weights {shown(self.weights, 200)} must be a name below the folder of the matrix file "
                "or the data folder (a link may lie there), so that results do not depend on a machine's folders"
            )
        object.__setattr__(self, "weights", file)

    @property
    def text(self) -> str:
        """What messages call the network."""
        return f"{self.name}(name={self.network!r})"

    # What a package says -------------------------------------------------------------------------------------------

    def absent(self) -> str | None:
        """One line if the package is missing."""
        raise NotImplementedError

    def create(self, classes: int) -> nn.Module:
        """The package's network with new weights, without auxiliary outputs."""
        raise NotImplementedError

    def pretrained_normalisation(self) -> Normalisation:
        """Mean and standard deviation of the package's pretrained weights of this network."""
        raise NotImplementedError

    def native_size(self) -> int:
        """Side in pixels of the images that the package trains this network with."""
        raise NotImplementedError

    def auxiliary(self) -> tuple[str, ...]:
        """How the names of weights begin that belong to auxiliary outputs, which are left out."""
        return ()

    # What the harness asks -----------------------------------------------------------------------------------------

    def missing(self) -> str | None:
        """Say which package or file is missing, or that the package has no such network."""
        if line := self.absent():
            return line
        (package,) = self.packages
        known = network_names(package)
        if (self.network.partition(".")[0] if self.tags else self.network) not in known:
            from importlib.metadata import version

            hint = suggestion(self.network, known) or f"; there are {len(known)}, such as resnet18"
            return f"{self.name} {version(package)} has no network {shown(self.network)}{hint}"
        try:
            if self.weights is not None:
                weights_path(self.weights, self.text)
        except UsageError as error:
            return str(error)
        return None

    def input_files(self) -> list[str]:
        """The file of weights."""
        return [] if self.weights is None else [str(weights_path(self.weights, self.text))]

    def check(self, info: DatasetInfo) -> None:
        """Refuse images that the network does not take, and weights that do not fit.

        This imports torch, unlike the checks of other models: what a network takes is in the package's code.

        Raises:
            Impossible: the network does not take such images.
            UsageError: the weights do not fit, or the network has no last linear layer.
        """
        if self.missing() is None:
            _check(self, info.classes, info.size, contents_digest(self.input_files()))

    def normalisation(self) -> Normalisation | None:
        """That of the pretrained weights, or None for the data set's."""
        pretrained = self.normalise == "pretrained" or (self.normalise == "auto" and self.weights is not None)
        return self.pretrained_normalisation() if pretrained else None

    def build(self, classes: int, size: int) -> nn.Module:
        """The network with new or pretrained weights."""
        from benchbd.models._library_network import load_pretrained

        net: nn.Module = self.build_to_load(classes, size)
        if self.weights is not None:
            load_pretrained(net, weights_path(self.weights, self.text), self.text)
        return net

    def build_to_load(self, classes: int, size: int) -> nn.Module:
        """The network with new weights."""
        from benchbd.models._library_network import LibraryNetwork

        if line := self.absent():
            raise UsageError(line)
        place = _head_place(self, classes, size)
        net: nn.Module = LibraryNetwork(self.create(classes), place, self.resize, self.auxiliary())
        return net


@functools.lru_cache(maxsize=64)
def _check(model: LibraryModel, classes: int, size: int, contents: str | None) -> None:
    import torch

    with torch.random.fork_rng(devices=[]):
        model.build(classes, size)


@functools.lru_cache(maxsize=256)
def _head_place(model: LibraryModel, classes: int, size: int) -> str:
    """The name of the last layer in the package's network, once the network has taken such images."""
    from benchbd.models._library_network import Unfit, find_head

    side = model.resize or size
    advice = f"resize={model.native_size()} enlarges them inside the network"
    if side < size:
        raise Impossible(f"{model.text}: resize={side} must not make images of {size} pixels smaller")
    if side < SMALLEST:
        raise Impossible(f"{model.text} needs images of {SMALLEST} pixels or more, not {size}; {advice}")
    try:
        place: str = find_head(lambda: model.create(classes), classes, side)
        return place
    except Unfit as error:
        raise UsageError(f"{model.text} cannot be used: {error}; choose a network that ends in one") from None
    except BenchbdError:
        raise
    except Exception as error:  # a package's network may raise anything
        from benchbd.errors import one_line

        if model.resize == model.native_size():
            raise
        why = one_line(error)[:150] or type(error).__name__
        raise Impossible(f"{model.text} does not take images of {side} pixels ({why}); {advice}") from None
