"""What ``attack_result.pt`` and ``defense_result.pt`` of BackdoorBench say about the network that they hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchbd.core.images import IMAGENET, DatasetInfo, Normalisation
from benchbd.errors import Impossible, UsageError, shown
from benchbd.plugins import registry
from benchbd.plugins.contract import Model

NORMALISATIONS: dict[str, Normalisation | None] = {
    "cifar10": Normalisation((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "cifar100": Normalisation((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny": Normalisation((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "gtsrb": None,
    "celeba": None,
    "imagenet": IMAGENET,
}
"""Mean and deviation with which BackdoorBench normalises images RGB / 255, by its name of the data set."""
OF_TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet161", "efficientnet_b0", "efficientnet_b3", "mnasnet1_0",
    "mobilenet_v2", "mobilenet_v3_large", "resnet18", "resnet34", "resnet50", "resnext50_32x4d",
    "shufflenet_v2_x1_0", "vgg11", "vgg16", "vgg19", "vgg19_bn", "wide_resnet50_2",
)  # fmt: skip
"""Networks that BackdoorBench takes from torchvision as they are; its ``resnet18`` has the ImageNet stem."""
ENLARGED = ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32")
"""Networks of torchvision before which BackdoorBench enlarges images to 224 pixels."""


class BackdoorBenchModel(NamedTuple):
    """The entries of a file beside its weights.

    Attributes:
        network: ``model_name``.
        classes: ``num_classes``; None if the file does not say it.
        size: height of the images in pixels, of ``img_size``; None if the file does not say it.
        dataset: ``clean_data``; None in a ``defense_result.pt``.
    """

    network: str
    classes: int | None
    size: int | None
    dataset: str | None

    @property
    def spec(self) -> tuple[str, dict[str, Any]] | None:
        """Name and parameters of the model of benchbd that is this network; None if benchbd has none."""
        if self.network == "preactresnet18":
            return "preactresnet18", {}
        if self.network in OF_TORCHVISION:
            return "torchvision", {"network": self.network}
        return ("torchvision", {"network": self.network, "resize": 224}) if self.network in ENLARGED else None

    def model(self, path: Path, info: DatasetInfo) -> Model | None:
        """The model of benchbd that is this network; None if benchbd has none.

        Raises:
            UsageError: it does not take such images, or its package is missing.
        """
        if self.spec is None:
            return None
        name, params = self.spec
        model: Model = registry.make("models", name, **params)
        try:
            model.check(info)
        except Impossible as error:
            raise UsageError(f"{path}: {error}") from None
        if line := model.missing():
            raise UsageError(f"{path}: {line}")
        return model

    def check(self, path: Path, info: DatasetInfo) -> None:
        """Raise UsageError if the data set has another number of classes, or images of another size."""
        for stated, here, what in (
            (self.classes, info.classes, "{} classes"),
            (self.size, info.size, "images of {} pixels"),
        ):
            if stated is not None and stated != here:
                raise UsageError(
                    f"{path} is for {what.format(shown(stated))}, but the data set has {what.format(here)}; name the "
                    "data set that the network was trained on with --dataset"
                )

    def normalisation(self, dataset: str) -> tuple[Normalisation | None, str] | None:
        """What BackdoorBench normalises images with, if with anything, and whose values these are; None if unknown.

        Args:
            dataset: the data set to evaluate on, for files that do not name theirs.
        """
        name = self.dataset or dataset
        return (NORMALISATIONS[name], f"BackdoorBench's for {name}") if name in NORMALISATIONS else None


def backdoorbench_model(found: Any) -> BackdoorBenchModel | None:
    """What a file of ``torch.save`` says; None if BackdoorBench did not write it.

    Args:
        found: what was read from it.
    """
    if not isinstance(found, Mapping) or not isinstance(found.get("model"), Mapping):
        return None
    network, classes, size, dataset = (
        found.get(key) for key in ("model_name", "num_classes", "img_size", "clean_data")
    )
    if not isinstance(network, str):
        return None
    height = size[0] if isinstance(size, (list, tuple)) and size else None
    return BackdoorBenchModel(
        network,
        classes if type(classes) is int else None,
        height if type(height) is int else None,
        dataset if isinstance(dataset, str) else None,
    )
