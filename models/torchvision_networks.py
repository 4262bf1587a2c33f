"""The networks of torchvision, by name, with new or pretrained weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from benchbd import Normalisation, model
from benchbd.core.images import IMAGENET
from benchbd.models._library import LibraryModel

if TYPE_CHECKING:
    from torch import nn

AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""Networks with auxiliary outputs, and how the names of their weights begin."""


@model("torchvision", version=1)
class Torchvision(LibraryModel):
    """A network of torchvision: ``torchvision(name='resnet18')``, ``torchvision(name='vit_b_16', resize=224)``.

    These are the networks for ImageNet: a ResNet has the 7x7 stem, whatever the size of the images. ``weights`` names a
    file of pretrained weights, such as resnet18-f37072fd.pth. Auxiliary outputs of googlenet and inception_v3 are left
    out. A network whose last step is not one linear layer (squeezenet) is refused.
    """

    packages: ClassVar[tuple[str, ...]] = ("torchvision",)
    smoke: ClassVar[dict[str, Any]] = {"network": "shufflenet_v2_x0_5", "weights": None}

    def absent(self) -> str | None:
        """One line if torchvision is missing."""
        from importlib.util import find_spec

        return None if find_spec("torchvision") else "torchvision needs torchvision; pip install torchvision"

    def create(self, classes: int) -> nn.Module:
        """torchvision's network with new weights."""
        special: dict[str, Any] = {}
        if self.network in AUXILIARY:
            # Pretrained weights of these two take images with mean and deviation 0.5, to which they transform others.
            special = {"aux_logits": False, "init_weights": True, "transform_input": self.weights is not None}
        net: nn.Module = _models().get_model(self.network, weights=None, num_classes=classes, **special)
        return net

    def pretrained_normalisation(self) -> Normalisation:
        """ImageNet's, with which torchvision trains all of its classifiers."""
        return IMAGENET

    def native_size(self) -> int:
        """The size of the crops on which torchvision's first weights of this network were trained."""
        weights: Any = _models().get_model_weights(self.network)
        return int(next(iter(weights)).transforms.keywords["crop_size"])

    def auxiliary(self) -> tuple[str, ...]:
        """Those of googlenet and inception_v3."""
        return AUXILIARY.get(self.network, ())


def _models() -> Any:
    from benchbd.core.torchvision_module import torchvision_module

    return torchvision_module().models
