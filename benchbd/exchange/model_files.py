"""Writing a trained model for other programs: safetensors, TorchScript, ONNX. Nothing is pickled by Python."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchbd import engine
from benchbd.core.extras import require_extra
from benchbd.core.files import atomic_file
from benchbd.engine import Classifier
from benchbd.errors import UsageError, one_line
from benchbd.exchange.model_program import METADATA, ModelFacts, ModelProgram

FORMATS = {"safetensors": ".safetensors", "torchscript": ".pt", "onnx": ".onnx"}
"""Formats with the usual suffix of their files."""
PROGRAMS = ("torchscript", "onnx")
"""Formats that hold a program, not only weights."""
Read = Callable[[Path], Any]
CHECKED_IMAGES = 64
"""Test images, spread over the test set, on which a file must give the logits of the model."""
TOLERANCE = 1e-4
"""Largest difference of a logit, as a share of the largest logit or of 1; float32 gives up to 2e-5."""


def to_bytes(net: Classifier, size: int, facts: ModelFacts, form: str) -> bytes:
    """The file of a model.

    Args:
        net: the trained network.
        size: image height and width in pixels.
        facts: what the file says about it.
        form: one of ``FORMATS``.

    Raises:
        UsageError: a package is missing, or the network cannot be exported.
    """
    if form == "safetensors":
        from safetensors.torch import save

        state = {name: tensor.detach().contiguous() for name, tensor in net.state_dict().items()}
        return save(state, {METADATA: facts.text()})
    if form == "onnx":
        require_extra("onnx", "--format onnx")
    program = ModelProgram(net, size)
    example = torch.zeros(2, 3, size, size)
    try:
        with _quiet(), torch.no_grad():
            return _torchscript(program, example, facts) if form == "torchscript" else _onnx(program, example, facts)
    except Exception as error:
        why = f"{type(error).__name__}: {one_line(error)[:300]}"
        raise UsageError(f"{facts.model['name']} cannot be exported as {form} ({why})") from error


def _torchscript(program: ModelProgram, example: torch.Tensor, facts: ModelFacts) -> bytes:
    jit: Any = torch.jit
    traced = jit.trace(program, example, check_trace=False)
    body = io.BytesIO()
    jit.save(traced, body, _extra_files={f"{METADATA}.json": facts.text()})
    return body.getvalue()


def _onnx(program: ModelProgram, example: torch.Tensor, facts: ModelFacts) -> bytes:
    exported = torch.onnx.export(
        program,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: "batch"},),
        input_names=["images"],
        output_names=["logits"],
        external_data=False,
        verbose=False,
    )
    assert exported is not None
    proto = exported.model_proto
    _strip(proto)
    proto.producer_name = "benchbd"
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA, facts.text()
    body: bytes = proto.SerializeToString(deterministic=True)
    return body


def _strip(message: Any) -> None:
    """Clear the notes of an ONNX model and of all in it: they hold paths and lines of source code."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in value if hasattr(value, "__len__") else [value]:
                _strip(part)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' warnings, logs and progress lines off the terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def write_model(path: Path, body: bytes, trained: Classifier, images: torch.Tensor, read: Read, form: str) -> float:
    """Write a model's file, once what it reads back as gives the model's logits.

    Args:
        path: the file; replaced completely or not at all.
        body: its contents.
        trained: the model.
        images: uint8 (N, 3, H, W), test images; ``CHECKED_IMAGES`` of them are classified.
        read: reads a file as a network of images float (N, 3, H, W) in [0, 1] to logits.
        form: the format, for messages.

    Returns:
        The largest difference of a logit.

    Raises:
        UsageError: the logits differ by more than ``TOLERANCE``, or the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            raise UsageError(f"--to {path}: is not a file")
        with atomic_file(target) as file:
            file.write(body)
            file.flush()
            return _gap(trained, read(Path(file.name)), images, form)
    except OSError as error:
        raise UsageError(f"--to {path}: cannot be written ({error.strerror or error})") from error


def _gap(trained: Classifier, read_back: Any, images: torch.Tensor, form: str) -> float:
    some = images[:: max(1, len(images) // CHECKED_IMAGES)][:CHECKED_IMAGES]
    cpu = torch.device("cpu")
    wanted, found = (engine.logits_of(net, some, device=cpu) for net in (trained, read_back))
    gap = float(np.abs(wanted - found).max()) if wanted.shape == found.shape else float("inf")
    if not gap <= TOLERANCE * max(1.0, float(np.abs(wanted).max())):
        raise UsageError(f"the {form} file gives other logits than the model (by up to {gap:.3g}); it is not written")
    return gap


def default_format(path: Path) -> str | None:
    """The format that a file's suffix names; None if it names none."""
    suffixes = {".safetensors": "safetensors", ".onnx": "onnx", ".torchscript": "torchscript", ".ts": "torchscript"}
    return suffixes.get(path.suffix.lower())
