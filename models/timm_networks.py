"""The networks of timm, by name, with new or pretrained weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from benchbd import Normalisation, UsageError, model
from benchbd.core.extras import extra_module, require_extra
from benchbd.core.images import IMAGENET
from benchbd.models._library import LibraryModel

if TYPE_CHECKING:
    from torch import nn


@model("timm", version=1)
class Timm(LibraryModel):
    """A network of timm (``pip install 'benchbd[timm]'``): ``timm(name='convnext_atto', resize=224)``.

    Most of these networks are for images of 224 pixels. ``weights`` names a file, such as the model.safetensors of the
    Hugging Face hub. A name may have the tag of its weights (``vit_tiny_patch16_224.augreg_in21k``), which decides mean
    and deviation for ``normalise``. Names of the hub (``hf-hub:...``) are refused, as is a network whose last step is
    not one linear layer (levit, distilled deit).
    """

    packages: ClassVar[tuple[str, ...]] = ("timm",)
    tags: ClassVar[bool] = True
    smoke: ClassVar[dict[str, Any]] = {"network": "test_resnet", "weights": None}

    def absent(self) -> str | None:
        """One line if timm is missing."""
        try:
            require_extra("timm", "model timm")
        except UsageError as error:
            return str(error)
        return None

    def create(self, classes: int) -> nn.Module:
        """timm's network with new weights."""
        self._config()
        net: nn.Module = _timm().create_model(self.network, pretrained=False, num_classes=classes)
        return net

    def pretrained_normalisation(self) -> Normalisation:
        """That of the weights that timm has for this name and tag."""
        config = self._config()
        return IMAGENET if config is None else Normalisation(tuple(config.mean), tuple(config.std))

    def native_size(self) -> int:
        """The size that timm has for this name and tag."""
        config = self._config()
        return 224 if config is None else int(config.input_size[-1])

    def _config(self) -> Any:
        try:
            return _timm().get_pretrained_cfg(self.network, allow_unregistered=True)
        except RuntimeError:
            name, _, tag = self.network.partition(".")
            known = ", ".join(_timm().list_pretrained(f"{name}.*")) or "none"
            raise UsageError(f"timm has no weights {tag!r} of {name}; known: {known}") from None


def _timm() -> Any:
    from benchbd.core.torchvision_module import torchvision_module

    torchvision_module()  # timm imports it, with any build of torch only after this
    return extra_module("timm", "timm", "model timm")
