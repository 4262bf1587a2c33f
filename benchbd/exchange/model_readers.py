"""Reading a checkpoint of any origin as a function from images to logits. Nothing is unpickled."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchbd.core.archive import read_torch
from benchbd.core.extras import extra_module
from benchbd.core.images import IMAGENET, DatasetInfo, Normalisation
from benchbd.core.transform import TestTransform
from benchbd.engine import Classifier
from benchbd.engine.foreign import (
    alike,
    check_sound,
    exported_batch,
    exported_program,
    in_batches,
    onnx_call,
    onnx_session,
)
from benchbd.engine.outside_state import load_outside_state, renamed_state
from benchbd.engine.weights_file import is_safetensors, read_safetensors_file, state_dict_of
from benchbd.errors import Diverged, UsageError, one_line, shown
from benchbd.exchange.backdoorbench_model import BackdoorBenchModel, backdoorbench_model
from benchbd.exchange.fitting_model import fitting_model
from benchbd.exchange.foreign_program import FixedMode, ForeignProgram
from benchbd.exchange.model_program import FORMAT, METADATA
from benchbd.pipeline.stored_model import transform_of
from benchbd.plugins import registry
from benchbd.plugins.contract import Model
from benchbd.plugins.identity import part_of
from benchbd.plugins.trained import ModelSpec


class ForeignModel(NamedTuple):
    """A model from a file.

    Attributes:
        net: float (N, 3, H, W) in [0, 1] to logits float32 (N, C).
        kind: ``safetensors``, ``torchscript``, ``onnx``, ``exported program`` or ``state dict``.
        normalisation: in words, where images are normalised.
        test_transform: in words; None if there is none.
        arch: the architecture that weights were loaded into; None for a program.
    """

    net: nn.Module
    kind: str
    normalisation: str
    test_transform: TestTransform | None = None
    arch: str | None = None

    def module(self) -> Any:
        """The network, as :meth:`benchbd.TrainedModel.module` gives one."""
        return self.net


class _Weights(NamedTuple):
    """Weights without a program.

    Attributes:
        state: tensors by name.
        kind: as in :class:`ForeignModel`.
        facts: what a file of ours says; empty for other files.
        stated: what a file of BackdoorBench says.
    """

    state: dict[str, Tensor]
    kind: str
    facts: dict[str, Any]
    stated: BackdoorBenchModel | None = None


def read_model(
    path: Path, info: DatasetInfo, own: Normalisation, arch: Model | None, normalise: str | None, dataset: str = ""
) -> ForeignModel:
    """Read a checkpoint by what is in it, whatever its suffix.

    Args:
        path: a safetensors file, a TorchScript archive, a torch.export archive, an ONNX model, or a state dict of
            ``torch.save``.
        info: classes and size of the data set to evaluate on.
        own: the data set's normalisation, for ``normalise="dataset"``.
        arch: the model that weights without a program belong to; None if the file names it.
        normalise: ``none``, ``dataset``, ``imagenet`` or three means and three deviations; None for what the file says.
        dataset: name of the data set, for files of BackdoorBench that do not name theirs.

    Raises:
        UsageError: the file cannot be read, is of another kind, or does not fit the architecture or the data set.
    """
    given = parse_normalise(normalise, own)
    try:
        head = _start(path)
    except OSError as error:
        raise UsageError(f"--model {path} cannot be read ({error.strerror or error})") from None
    names = _zip_names(path) if head[:2] == b"PK" else []
    if names:
        tops = {name.partition("/")[2] for name in names}
        if any(name == "archive_format" or name.startswith("models/") for name in tops) or "version" in names:
            return _programs_only(arch, path, lambda: _exported(path, info, normalise, given))
        if any(name.startswith("code/") for name in tops):
            return _programs_only(arch, path, lambda: _torchscript(path, info, normalise, given))
        return _loaded(_torch_weights(path), path, info, arch, normalise, given, dataset)
    if is_safetensors(head, path.stat().st_size):
        return _loaded(_safetensors(path), path, info, arch, normalise, given, dataset)
    if head[:1] == b"\x08":  # an ONNX model begins with its version; a pickle and a tar archive do not
        return _programs_only(arch, path, lambda: _onnx(path, info, normalise, given))
    return _loaded(_torch_weights(path), path, info, arch, normalise, given, dataset)


def _torch_weights(path: Path) -> _Weights:
    """The weights in a file of ``torch.save``. Raises UsageError for a pickled network, among others."""
    try:
        # An attack_result.pt of BackdoorBench has numpy arrays beside the weights, which torch 2.4 cannot allow alone.
        found = read_torch(path, arrays=hasattr(torch.serialization, "safe_globals"))
        return _Weights(state_dict_of(found, path), "state dict", {}, backdoorbench_model(found))
    except UsageError as error:
        raise UsageError(f"{error}; save net.state_dict(), or export the network as TorchScript or ONNX") from None


def parse_normalise(text: str | None, own: Normalisation) -> Normalisation | None:
    """The normalisation that ``--normalise`` asks for; None for none.

    Raises:
        UsageError: it is not ``none``, ``dataset``, ``imagenet`` or six numbers.
    """
    if text is None or text.strip().lower() == "none":
        return None
    if text.strip().lower() == "imagenet":
        return IMAGENET
    if text.strip().lower() == "dataset":
        return own
    try:
        values = [float(part) for part in text.replace("/", ",").replace(";", ",").split(",")]
    except ValueError:
        values = []
    if len(values) == 2:
        values = [values[0]] * 3 + [values[1]] * 3
    if len(values) != 6 or not np.isfinite(values).all() or min(values[3:]) <= 0:
        raise UsageError(
            f"--normalise {shown(text)}: give none, dataset, imagenet, or three means and three deviations in units of "
            "[0, 1], such as 0.4914,0.4822,0.4465,0.2470,0.2435,0.2616"
        )
    red, green, blue, *std = values
    return Normalisation((red, green, blue), (std[0], std[1], std[2]))


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _zip_names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            check_sound(archive)
            return archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"--model {path} is a damaged archive ({one_line(error)})") from None
    except UsageError as error:
        raise UsageError(f"--model {path}: {error}") from None


def _programs_only(arch: Model | None, path: Path, read: Any) -> ForeignModel:
    if arch is not None:
        raise UsageError(f"--arch {arch.name}: {path} holds a program with its architecture; leave --arch out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: ForeignModel = read()
    return found


def _facts(text: str | None) -> dict[str, Any]:
    """The facts that a file of ours holds; empty for other files."""
    try:
        facts = json.loads(text or "{}")
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) and facts.get("format") == FORMAT else {}


def _described(facts: dict[str, Any], path: Path, info: DatasetInfo, normalise: str | None, given: Any) -> str:
    """Where a program's images are normalised, in words. Raises UsageError where --normalise contradicts the file."""
    if not facts:
        return "none added" if given is None else _words(given)
    if given is not None:
        raise UsageError(f"--normalise {shown(normalise)}: {path} normalises images itself; leave --normalise out")
    if facts.get("classes") != info.classes or facts.get("size") != info.size:
        raise UsageError(
            f"{path} is for {facts.get('classes')} classes and images of {facts.get('size')} pixels, the data set has "
            f"{info.classes} classes and {info.size} pixels"
        )
    return "in the file"


def _words(normalisation: Normalisation) -> str:
    mean, std = (", ".join(f"{value:.4g}" for value in part) for part in normalisation)
    return f"mean {mean}; deviation {std}"


def _torchscript(path: Path, info: DatasetInfo, normalise: str | None, given: Normalisation | None) -> ForeignModel:
    extra = {f"{METADATA}.json": ""}
    try:
        jit: Any = torch.jit
        script = jit.load(str(path), map_location="cpu", _extra_files=extra).eval()
    except Exception as error:  # loaders raise nearly anything
        raise UsageError(f"{path} cannot be read as TorchScript ({one_line(error)[:200]})") from None
    facts = _facts(_text(extra[f"{METADATA}.json"]))
    words = _described(facts, path, info, normalise, given)
    net = ForeignProgram(lambda x: script(x), path, info.classes, given, inner=script)
    return _checked(ForeignModel(net, "torchscript", words, _transform(facts, info)), path, info)


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _transform(facts: dict[str, Any], info: DatasetInfo) -> TestTransform | None:
    spec = facts.get("test_transform")
    return None if spec is None else transform_of(spec, info.classes, info.size)


def _onnx(path: Path, info: DatasetInfo, normalise: str | None, given: Normalisation | None) -> ForeignModel:
    extra_module("onnxruntime", "onnx", f"--model {path}")
    try:
        session = onnx_session(str(path))
    except Exception as error:
        raise UsageError(f"{path} cannot be read as ONNX ({one_line(error)[-200:]})") from None
    try:
        call = onnx_call(session, "float")
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    facts = _facts(session.get_modelmeta().custom_metadata_map.get(METADATA))
    words = _described(facts, path, info, normalise, given)
    net = ForeignProgram(call, path, info.classes, given)
    return _checked(ForeignModel(net, "onnx", words, _transform(facts, info)), path, info)


def _exported(path: Path, info: DatasetInfo, normalise: str | None, given: Normalisation | None) -> ForeignModel:
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            program = exported_program(path.read_bytes())
        batch, inner = exported_batch(program), program.module()
    except UsageError as error:
        raise UsageError(f"{path} is refused: {error}") from None
    except Exception as error:
        raise UsageError(f"{path} cannot be read as an exported program ({one_line(error)[:200]})") from None
    net = ForeignProgram(in_batches(inner, batch), path, info.classes, given, FixedMode(inner))
    words = "none added" if given is None else _words(given)
    return _checked(ForeignModel(net, "exported program", words), path, info)


def _safetensors(path: Path) -> _Weights:
    state, metadata = read_safetensors_file(path)
    return _Weights(state, "safetensors", _facts(metadata.get(METADATA)))


def _loaded(
    weights: _Weights,
    path: Path,
    info: DatasetInfo,
    arch: Model | None,
    normalise: str | None,
    given: Normalisation | None,
    dataset: str,
) -> ForeignModel:
    """The network with the weights; the arguments are those of :func:`read_model`."""
    if weights.stated is not None:
        weights.stated.check(path, info)
    model = arch or _stated_model(weights, path, info)
    spec = ModelSpec(model, part_of(model), info.classes, info.size, Normalisation((0.0,) * 3, (1.0,) * 3))
    net = spec.build_to_load()
    state = renamed_state(weights.state, net)
    own = {"mean", "std"} <= state.keys()
    if own and normalise is not None:
        raise UsageError(f"--normalise {shown(normalise)}: {path} has its own mean and std; leave --normalise out")
    whose = ""
    if normalise is None and not own:
        given = spec.own_normalisation
        if given is None and weights.stated and (found := weights.stated.normalisation(dataset)):
            given, whose = found[0], f" ({found[1]})"
        elif given is None:
            raise UsageError(
                f"{path} does not say how its network's images are normalised; say it with --normalise: none, dataset, "
                "imagenet, or three means and three deviations"
            )
    net.set_normalisation(given or Normalisation((0.0,) * 3, (1.0,) * 3))
    try:
        load_outside_state(net, state, f"{path} does not fit {spec.part.text} for {info.classes} classes")
    except Diverged as error:
        raise UsageError(str(error)) from None
    except UsageError as error:
        raise UsageError(f"{error}{_advice(weights, state, net, info, spec.part.text)}") from None
    net.test_transform = _transform(weights.facts, info)
    words = "in the file" if own else ("none added" if given is None else _words(given)) + whose
    return _checked(ForeignModel(net.eval(), weights.kind, words, net.test_transform, spec.part.text), path, info)


def _stated_model(weights: _Weights, path: Path, info: DatasetInfo) -> Model:
    """The model that a file names. Raises UsageError if it names none that benchbd has."""
    if weights.facts:
        named = weights.facts.get("model")
        params = named.get("params") or {} if isinstance(named, dict) else None
        if not isinstance(named, dict) or not isinstance(params, dict):
            raise UsageError(f"{path} is damaged: its metadata names no model; write it again with export-model")
        ours: Model = registry.make("models", str(named.get("name")), **params)
        return ours
    if weights.stated is not None and (model := weights.stated.model(path, info)) is not None:
        return model
    fit = fitting_model(weights.state, info)
    which = f" {shown(fit)}, whose names and shapes it has" if fit else ", such as resnet18"
    if weights.stated is None:
        raise UsageError(f"{path} holds weights without a program; name the architecture with --arch{which}")
    which = which if fit else ", or export the network as TorchScript or ONNX (docs/models.md)"
    raise UsageError(
        f"{path}: benchbd does not know the network {shown(weights.stated.network)} that the file names; name the "
        f"architecture with --arch{which}"
    )


def _advice(weights: _Weights, state: dict[str, Tensor], net: Classifier, info: DatasetInfo, text: str) -> str:
    """What to do about weights that do not fit a network, named ``text``; '' if nothing is known."""
    stated = f"; the file says that its network is {shown(weights.stated.network)}" if weights.stated else ""
    if (fit := fitting_model(weights.state, info)) not in (None, text):
        return f"{stated}; it has the names and shapes of --arch {shown(fit)}"
    if fit or 2 * len(state.keys() - net.state_dict().keys()) < len(state):
        return stated
    return f"{stated}; if other code built the network, export it there as TorchScript or ONNX (docs/models.md)"


def _checked(model: ForeignModel, path: Path, info: DatasetInfo) -> ForeignModel:
    """The model, once it gives finite logits that depend on nothing but the image.

    Raises:
        UsageError: it does not; a program exported in training mode, for example.
    """
    size = info.size
    x = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together, again, alone = model.net(x), model.net(x), torch.cat([model.net(part) for part in torch.split(x, 1)])
    if not torch.isfinite(together).all():
        raise UsageError(f"{path} gives logits that are not finite")
    for other, what in ((again, "change from call to call"), (alone, "depend on the other images of a batch")):
        if not alike(together, other):
            raise UsageError(f"{path}: an image's logits {what}; export the model in eval mode")
    return model
