"""A trained network from the bytes of a file: weights of a known model, or a program that maps images to logits."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from benchbd.core.hashing import digest
from benchbd.core.images import Normalisation
from benchbd.engine.foreign import FORMS, ForeignProgram, Form, trial_line
from benchbd.engine.outside_state import load_outside_state, renamed_state
from benchbd.engine.passes import logits_of
from benchbd.engine.weights_file import read_safetensors
from benchbd.errors import Diverged, UsageError
from benchbd.lab import keys
from benchbd.plugins.part import Part
from benchbd.plugins.trained import InitialWeights, ModelSpec

ModelForm = Literal["safetensors", "torchscript", "export", "onnx"]
MODEL_FORMS: tuple[ModelForm, ...] = get_args(ModelForm)
Inputs = Literal["normalised", "unit", "uint8"]
INPUTS: tuple[Inputs, ...] = get_args(Inputs)


@dataclasses.dataclass(frozen=True)
class ProgramSpec(ModelSpec):
    """A network that is a program. Its bytes are in its state, and their hash in the name of its part."""

    @functools.cached_property
    def initial(self) -> InitialWeights | None:
        """None: there is nothing to start from."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFile:
    """The bytes of a file, and how to read them.

    Attributes:
        content: the bytes.
        form: ``safetensors`` (a state dict), or the format of a program.
        row: the row's model, data set included.
        model: the model that a state dict belongs to.
        inputs: what the network takes: ``normalised`` by mean and std, ``unit`` (floats in [0, 1]) or ``uint8``.
        normalisation: mean and standard deviation for ``normalised``.
    """

    content: bytes
    form: ModelForm
    row: ModelSpec
    model: ModelSpec
    inputs: Inputs
    normalisation: Normalisation

    def __post_init__(self) -> None:
        if self.form not in MODEL_FORMS or self.inputs not in INPUTS:
            raise UsageError(f"a model is one of {', '.join(MODEL_FORMS)}, and its inputs one of {', '.join(INPUTS)}")
        if self.form == "safetensors" and self.inputs == "uint8":
            raise UsageError("a model of benchbd takes floats; inputs uint8 goes with a program (torchscript, ...)")

    @functools.cached_property
    def spec(self) -> ModelSpec:
        """The network to build."""
        if self.form not in FORMS:
            return self.model
        form: Form = self.form
        sha = hashlib.sha256(self.content).hexdigest()
        part = Part(form, 1, {"sha256": sha, "inputs": self.inputs}, _TITLES[form])
        program = ForeignProgram(form, self.content, uint8=self.inputs == "uint8")
        return ProgramSpec(program, part, self.row.classes, self.row.size, self._pixels)

    @property
    def _pixels(self) -> Normalisation:
        if self.inputs == "normalised":
            return self.normalisation
        return Normalisation((0.0,) * 3, (1.0 if self.inputs == "unit" else 1 / 255,) * 3)

    def key(self) -> str:
        """Hash of everything that determines the network."""
        sha = hashlib.sha256(self.content).hexdigest()
        pixels = [list(values) for values in self._pixels]
        return digest(["model file", keys.CODE_VERSION, self.form, sha, self.spec.spec(), self.inputs, pixels])

    def state(self, images: Tensor, device: torch.device) -> dict[str, np.ndarray]:
        """The state of the network, once it has classified some images.

        Args:
            images: the training set, uint8 (N, 3, S, S).
            device: where to try it.

        Raises:
            UsageError: the bytes are not such a model, or it does not fit images and classes.
            Diverged: weights or logits are not finite.
        """
        net = self.spec.build_to_load()
        net.set_normalisation(self._pixels)
        if self.form == "safetensors":
            state = renamed_state(read_safetensors(self.content)[0], net)
            misfit = f"the state dict does not fit model {self.model.part.text} for {self.model.classes} classes"
            load_outside_state(net, state, misfit)
        net.eval()
        if fault := trial_line(net, images, device):
            raise UsageError(fault)
        # All images, because a single logit that is not finite makes scores and rates meaningless.
        wrong = int((~np.isfinite(logits_of(net, images, device=device)).all(1)).sum())
        if wrong:
            raise Diverged(f"the model's logits are not finite for {wrong} of {len(images)} training images")
        return {name: np.array(value.detach().cpu().numpy()) for name, value in net.state_dict().items()}


_TITLES: dict[Form, str] = {
    "torchscript": "TorchScript program",
    "export": "torch.export program",
    "onnx": "ONNX program",
}
