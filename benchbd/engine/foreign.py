"""Trained networks as programs of other libraries: TorchScript, ``torch.export`` and ONNX. Nothing is unpickled."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from benchbd.core.variables import variables
from benchbd.engine.network import Classifier
from benchbd.engine.passes import logits_of
from benchbd.errors import UsageError, one_line, with_article

Form = Literal["torchscript", "export", "onnx"]
FORMS: tuple[Form, ...] = get_args(Form)

TRIED = 8
"""Images on which a program is tried."""
TOLERANCE = 1e-3
"""Largest difference, as a share of the largest logit or of 1, that one image's logits may have in two batches."""
NAMES = re.compile(
    r"[^/]+/(models/[\w.-]+\.json"
    r"|data/(weights|constants)/(weight|tensor)_\d+|data/(weights|constants)/[\w.-]+\.json"
    r"|data/sample_inputs/[\w.-]+\.pt|archive_format|archive_version|byteorder|version|\.data/[\w.-]+|\.format/[\w.-]+"
    r"|extra/[\w./-]*)"
    r"|version|serialized_(exported_program|state_dict|constants|example_inputs)\.(json|pt)"  # before torch 2.8
)
"""What an archive of ``torch.export.save`` may hold: a graph and raw tensors, neither libraries nor pickled objects."""
PICKLED = "the archive holds pickled objects, which are never loaded; export a plain network"
ONNX_MISSING = "onnxruntime is not installed; pip install 'benchbd[onnx]', or hand over another form of the model"


@dataclasses.dataclass(frozen=True, eq=False)
class ForeignProgram:
    """A program that maps images to logits, as a family with one network.

    Attributes:
        form: its format.
        content: the bytes of its file.
        uint8: whether it takes images uint8 instead of floats.
    """

    form: Form
    content: bytes
    uint8: bool = False

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.form

    def build(self, classes: int, size: int) -> nn.Module:
        """The network; it loads the program when it is first used."""
        return ForeignNet(self.form, self.content, self.uint8, classes)


class _SameLogits(nn.Linear):
    """A final layer that changes nothing. Its weights say so, for code that computes with them."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, classes)
        with torch.no_grad():
            self.weight.copy_(torch.eye(classes))
            self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return x


class ForeignNet(nn.Module):
    """A network around a program: its features are the logits. The bytes of the program are part of the state.

    Args:
        form: format of the program.
        content: bytes of its file.
        uint8: whether it takes images uint8.
        classes: number of logits.
    """

    program: Tensor

    def __init__(self, form: Form, content: bytes, uint8: bool, classes: int) -> None:
        super().__init__()
        self.register_buffer("program", torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self.head = _SameLogits(classes)
        self._form, self._uint8 = form, uint8
        self._loaded: dict[torch.device, Callable[[Tensor], Any]] = {}

    def _load(self, device: torch.device) -> Callable[[Tensor], Any]:
        return load(self._form, self.program.cpu().numpy().tobytes(), device, self._uint8)

    def features(self, x: Tensor) -> Tensor:
        """Compute the logits, float32 (B, classes).

        Args:
            x: images (B, 3, S, S) by the program's convention; where it takes uint8, floats from 0 to 255.
        """
        if x.device not in self._loaded:
            self._loaded = {x.device: self._load(x.device)}
        x = x.contiguous()
        found = single_tensor(self._loaded[x.device](x.round().to(torch.uint8) if self._uint8 else x))
        if not isinstance(found, Tensor):
            kind = with_article(type(found).__name__)
            raise UsageError(f"the model returns {kind}; let it return one tensor of logits")
        classes = self.head.out_features
        if tuple(found.shape) != (len(x), classes):
            wanted = f"logits must be {(len(x), classes)}"
            raise UsageError(f"the model returns {tuple(found.shape)} for {len(x)} images; {wanted}")
        if not found.is_floating_point():
            raise UsageError(f"the model returns {found.dtype}; let it return logits, which are floats")
        return found.float()


def check_sound(archive: zipfile.ZipFile) -> None:
    """Raise UsageError if the bytes of an archive have changed since it was written; torch does not look."""
    try:
        damaged = archive.testzip()
    except Exception as error:  # damaged lengths and offsets raise nearly anything
        raise UsageError(f"the archive is damaged ({one_line(error)[:200]})") from None
    if damaged is not None:
        raise UsageError(
            f"the archive is damaged: {one_line(damaged)[:200]} has changed since it was written; copy it again"
        )


def single_tensor(found: Any) -> Any:
    """What a program returned, out of a tuple or list that holds nothing else."""
    while isinstance(found, (tuple, list)) and len(found) == 1:
        found = found[0]
    return found


def in_batches(call: Callable[[Tensor], Any], batch: Any) -> Callable[[Tensor], Any]:
    """A program that takes any number of images, from 1; the last batch is filled up with copies of its last image.

    Args:
        call: the program.
        batch: the number of images that it insists on; anything but a number if it takes any.
    """
    if not isinstance(batch, int):
        return lambda x: call(x)  # never the module itself, whose mode may be fixed

    def run(x: Tensor) -> Tensor:
        parts = []
        for part in torch.split(x, batch):
            found = single_tensor(call(torch.cat([part, part[-1:].expand(batch - len(part), -1, -1, -1)])))
            if not isinstance(found, Tensor) or found.shape[:1] != (batch,):
                raise UsageError(f"the model does not return one tensor of logits for {batch} images")
            parts.append(found[: len(part)])
        return torch.cat(parts)

    return run


def alike(some: Tensor, others: Tensor) -> bool:
    """Whether logits of the same images, all finite, are equal up to rounding (:data:`TOLERANCE`)."""
    return float((some - others).abs().max()) <= TOLERANCE * max(1.0, float(some.abs().max()))


def load(form: Form, content: bytes, device: torch.device, uint8: bool = False) -> Callable[[Tensor], Any]:
    """Load a program in eval mode.

    Args:
        form: its format.
        content: the bytes of its file.
        device: where it computes. ONNX computes on the CPU.
        uint8: whether it takes images uint8; used for ONNX only.

    Raises:
        UsageError: it cannot be loaded, or only by unpickling objects.
    """
    if form == "onnx":
        return _onnx(content, uint8)
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise UsageError(f"the file is not an archive of {_SAVED_BY[form]}{_looks_like(content)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch deprecates one of the two forms
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                check_sound(archive)
            return _torchscript(content, device) if form == "torchscript" else _exported(content, device)
    except UsageError:
        raise
    except Exception as error:  # loaders raise nearly anything
        text = f"the file cannot be read as an archive of {_SAVED_BY[form]}"
        raise UsageError(f"{text} ({one_line(error)[:300]})") from error


_SAVED_BY = {"torchscript": "torch.jit.save", "export": "torch.export.save"}


def _looks_like(content: bytes) -> str:
    return "; it looks like a pickle, which is never loaded" if content[:1] == b"\x80" else ""


def _torchscript(content: bytes, device: torch.device) -> Callable[[Tensor], Any]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if not any("/code/" in name for name in archive.namelist()):
            raise UsageError("the file is an archive of torch.save, which is not unpickled; use torch.jit.save")
    loaded: Any = torch.jit.load(io.BytesIO(content), map_location=device)  # type: ignore[no-untyped-call]
    loaded.eval()
    return loaded  # type: ignore[no-any-return]


def exported_program(content: bytes) -> Any:
    """The ``torch.export.ExportedProgram`` in the bytes of an archive that :func:`check_sound` has passed.

    Raises:
        UsageError: the archive holds more than a plain network: libraries or pickled objects.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        if odd := [name for name in names if not NAMES.fullmatch(name)]:
            raise UsageError(f"the archive holds {odd[0]!r}, which torch.export.save writes for no plain network")
        for name in names:
            if "/data/" in name and name.endswith(".json") and _pickled(json.loads(archive.read(name))):
                raise UsageError(PICKLED)
            if name.endswith(".pt"):
                try:
                    torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
                except pickle.UnpicklingError:
                    raise UsageError(PICKLED) from None
    # torch reads sample inputs, and in some versions weights, by torch.load; this makes it take tensors only.
    with variables({"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": None}):
        return torch.export.load(io.BytesIO(content))


def exported_batch(program: Any) -> Any:
    """The number of images that an exported program takes, as torch says it: an int if the program insists on it.

    Raises:
        UsageError: the program does not take one batch of images.
    """
    nodes, names = program.graph.nodes, program.graph_signature.user_inputs
    shapes: list[Any] = [getattr(node.meta["val"], "shape", ()) for node in nodes if node.name in names]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise UsageError(f"it takes {len(shapes)} inputs, not one batch of images (N, 3, H, W)")
    return shapes[0][0]


def _exported(content: bytes, device: torch.device) -> Callable[[Tensor], Any]:
    program = exported_program(content)
    batch = exported_batch(program)
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return in_batches(program.module(), batch)


def _pickled(config: Any) -> bool:
    entries = config.get("config", {}).values() if isinstance(config, dict) else ()
    return any(not isinstance(entry, dict) or entry.get("use_pickle") for entry in entries)


def check_onnx() -> None:
    """Raise UsageError if ONNX Runtime is not installed."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        raise UsageError(ONNX_MISSING) from None


def onnx_session(model: bytes | str) -> Any:
    """A session of ONNX Runtime, which must be installed, on the CPU with torch's number of threads.

    Args:
        model: the bytes of the model, or the path of its file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _onnx(content: bytes, uint8: bool) -> Callable[[Tensor], Any]:
    check_onnx()
    try:
        session = onnx_session(content)
    except Exception as error:  # its errors have no common base
        raise UsageError(f"ONNX Runtime cannot load the file ({one_line(error)[:300]})") from error
    return onnx_call(session, "uint8" if uint8 else "float")


def onnx_call(session: Any, kind: str) -> Callable[[Tensor], Tensor]:
    """A graph of ONNX Runtime as a function from images to logits.

    Args:
        session: the session that runs it.
        kind: what ONNX calls the type of the images.

    Raises:
        UsageError: it does not take one batch of such images, or gives more than the logits.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type != f"tensor({kind})" or len(inputs[0].shape) not in (0, 4):
        takes = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
        raise UsageError(f"the graph takes {one_line(takes)[:200]}, not one batch of {kind} images (N, 3, H, W)")
    if len(outputs) != 1:
        raise UsageError(f"the graph gives {len(outputs)} outputs, not one, the logits")
    name, shape = inputs[0].name, inputs[0].shape

    def run(x: Tensor) -> Tensor:
        (found,) = session.run(None, {name: x.cpu().numpy()})
        return torch.from_numpy(found).to(x.device)

    return in_batches(run, shape[0] if shape else None)


def trial_line(net: Classifier, images: Tensor, device: torch.device) -> str | None:
    """Say in one line why a loaded network cannot be measured; None if it can.

    It classifies :data:`TRIED` images in batches of several sizes and orders. Logits that are not finite are left to
    the caller.

    Args:
        net: the network.
        images: the training set, uint8 (N, 3, S, S).
        device: where to compute.
    """
    some = images[:: max(1, len(images) // TRIED)][:TRIED]
    try:
        together = torch.from_numpy(logits_of(net, some, device=device))
    except UsageError as error:
        return str(error)
    except Exception as error:  # a program of somebody else may raise anything
        return f"the model fails on images {tuple(some.shape)}; it must take any batch size: {_last_line(error)}"
    if not bool(torch.isfinite(together).all()):
        return None
    try:
        again = torch.from_numpy(logits_of(net, some, device=device))
        parts = (some.flip(0)[:3], some.flip(0)[3:])
        apart = torch.cat([torch.from_numpy(logits_of(net, part, device=device)) for part in parts]).flip(0)
    except Exception as error:
        return f"the model takes no other batch size than {len(some)}: export it with a free one ({_last_line(error)})"
    if not alike(together, again):
        return "the model's logits change from call to call; save it in eval mode"
    if not alike(together, apart):
        return "the model's logits for an image depend on the rest of its batch; save it in eval mode"
    return None


def _last_line(error: Exception) -> str:
    """The last line of a message: TorchScript puts its own traceback before it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return one_line(f"{type(error).__name__}: {lines[-1] if lines else ''}")[:300]
