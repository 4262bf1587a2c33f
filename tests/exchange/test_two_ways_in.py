"""The defense ``command`` and ``evaluate --model`` take the same files, and refuse the same files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from benchbd import BenchbdError, testing
from benchbd.core.images import DatasetInfo, Normalisation
from benchbd.core.recipe import Recipe
from benchbd.exchange.model_readers import read_model
from benchbd.plugins import registry
from benchbd.plugins.train_set import TrainSet

IMAGES = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
PIXELS = Normalisation((0.0,) * 3, (1.0,) * 3)


class Net(nn.Module):
    """A program that returns its logits in some way."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.last = way, nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> object:
        """Logits, or something else."""
        y = self.last(x.mean((2, 3)))
        found = {"alone": (y,), "pair": (y, x), "numbers": y.long(), "half": y.half(), "large": y * 1e6, "flat": y[0]}
        return found.get(self.way, y)


def program(form: str, way: str, batch: int | None = None) -> bytes:
    """The file of such a program."""
    torch.manual_seed(0)
    net, file = Net(way).eval(), io.BytesIO()
    x = torch.zeros(batch or 2, 3, 16, 16)
    if form == "torchscript":
        torch.jit.save(torch.jit.trace(net, x), file)
    else:
        free = None if batch else ({0: torch.export.Dim("batch")},)
        torch.export.save(torch.export.export(net, (x,), dynamic_shapes=free), file)
    return file.getvalue()


def weights(change: str) -> bytes:
    """A state dict of tiny-net."""
    state = registry.make("models", "tiny-net").build(4, 16).state_dict()
    changes = {
        "fc": lambda name, value: (name.replace("head.", "fc."), value),
        "integers": lambda name, value: (name, value.long()),
        "doubles": lambda name, value: (name, value.double()),
        "brain": lambda name, value: (name, value.bfloat16()),
        "eighth": lambda name, value: (name, value.to(torch.float8_e4m3fn)),
        "huge": lambda name, value: (name, value.double() + 1e300),
        "nan": lambda name, value: (name, value * float("nan")),
    }
    rename = changes.get(change, lambda name, value: (change + name, value))
    return save(dict(rename(name, value.contiguous()) for name, value in state.items()))


def both(content: bytes, form: str, lab, tmp_path: Path) -> list[np.ndarray | None]:
    """Logits of the command's reader and of evaluate's; None where it refuses the file."""
    found: list[np.ndarray | None] = []
    path = tmp_path / "file"
    path.write_bytes(content)

    def theirs() -> np.ndarray:
        arch = registry.make("models", "tiny-net") if form == "safetensors" else None
        given = "none" if form == "safetensors" else None
        net = read_model(path, DatasetInfo(4, 16, 40, 0, None, 0), PIXELS, arch, given).net.train().eval()
        with torch.inference_mode():
            return net(IMAGES.float() / 255).numpy()

    def ours() -> np.ndarray:
        return lab.logits(lab.read_model(content, form, inputs="unit", model=model), lab.poisoned)

    model = "tiny-net" if form == "safetensors" else None
    for read in (ours, theirs):
        try:
            found.append(read())
        except BenchbdError:
            found.append(None)
    return found


@pytest.fixture
def lab(lab_over):
    """A lab over forty images of four classes."""
    testing.register()
    return lab_over(TrainSet(IMAGES, torch.arange(40) % 4, "x"), Recipe())


def check(found: list[np.ndarray | None], taken: bool) -> None:
    assert [logits is not None for logits in found] == [taken, taken]
    if taken:
        np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", ["torchscript", "export"])
@pytest.mark.parametrize(
    ("way", "taken"),
    [("logits", True), ("alone", True), ("half", True), ("large", True), ("pair", False), ("numbers", False)],
)
def test_programs(form, way, taken, lab, tmp_path):
    check(both(program(form, way), form, lab, tmp_path), taken)


def test_an_exported_program_for_one_size_of_batches(lab, tmp_path):
    check(both(program("export", "logits", 7), "export", lab, tmp_path), True)
    check(both(program("export", "flat", 7), "export", lab, tmp_path), False)


@pytest.mark.parametrize("form", ["torchscript", "export"])
def test_a_program_whose_weights_are_damaged(form, lab, tmp_path):
    content = bytearray(program(form, "logits"))
    torch.manual_seed(0)
    at = content.index(Net("logits").last.weight.detach().numpy().tobytes())
    content[at] ^= 255
    check(both(bytes(content), form, lab, tmp_path), False)


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        *((name, True) for name in ("", "net.", "module.", "model.", "module._orig_mod.", "fc", "doubles", "brain")),
        *((name, True) for name in ("eighth",)),
        *((name, False) for name in ("integers", "huge", "nan", "other.")),
    ],
)
def test_weights(change, taken, lab, tmp_path):
    check(both(weights(change), "safetensors", lab, tmp_path), taken)
