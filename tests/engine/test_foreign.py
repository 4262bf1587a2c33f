"""Networks that other libraries have written: they compute what they should, or one line says why they cannot."""

from __future__ import annotations

import io
import re
import sys
import zipfile

import numpy as np
import pytest
import torch
from training_programs import Evil, archive

from benchbd import testing
from benchbd.core.images import Normalisation
from benchbd.core.recipe import Recipe
from benchbd.engine import Classifier, build, foreign, logits_of
from benchbd.errors import UsageError
from benchbd.plugins.train_set import TrainSet

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def lab(lab_over):
    """A lab over forty images of four classes."""
    testing.register()
    return lab_over(TrainSet(IMAGES, torch.arange(40) % 4, "x"), Recipe())


def scripted(net: torch.nn.Module) -> bytes:
    """A file of torch.jit.save."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(net), file)
    return file.getvalue()


def linear(classes: int = 4, bias: float = 0.0) -> torch.nn.Module:
    """A network of one layer on the mean of each colour in each quarter."""
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, classes))
    torch.nn.init.constant_(net[2].bias, bias)
    return net.eval()


@pytest.mark.parametrize("form", ["torchscript", "export"])
@pytest.mark.parametrize("inputs", ["normalised", "unit", "uint8"])
def test_a_program_of_torch_gets_its_own_kind_of_images(form, inputs, lab):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear()

        def forward(self, x):
            return self.inner(x.float())

    net = Net()
    given = {"normalised": (IMAGES / 255 - 0.5) / 0.5, "unit": IMAGES / 255, "uint8": IMAGES}[inputs]
    file = io.BytesIO()
    if form == "torchscript":
        file.write(scripted(net))
    else:
        batch = {0: torch.export.Dim("batch")}
        torch.export.save(torch.export.export(net, (given[:2],), dynamic_shapes=(batch,)), file)
    model = lab.read_model(file.getvalue(), form, inputs=inputs)
    np.testing.assert_allclose(lab.logits(model, lab.poisoned), net(given).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_an_onnx_graph_computes_the_same(lab):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3 * 16 * 16, 4)).astype(np.float32)
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    ends = (("x", ["n", 3, 16, 16]), ("y", ["n", 4]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends)
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    model = lab.read_model(content, "onnx", inputs="unit")
    expected = (IMAGES.numpy() / np.float32(255)).reshape(40, -1) @ weight
    np.testing.assert_allclose(lab.logits(model, lab.poisoned), expected, rtol=1e-3, atol=1e-3)


def test_a_missing_onnxruntime_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install 'benchbd\[onnx\]'"):
        foreign.load("onnx", b"", CPU)


def test_pickles_inside_an_exported_program_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    file, changed = io.BytesIO(), io.BytesIO()
    net, x = linear(), torch.rand(2, 3, 16, 16)
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("b")},)), file)
    evil = archive((Evil(),))
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, evil if name.endswith("sample_inputs/model.pt") else old.read(name))
    with pytest.raises(UsageError, match=r"holds pickled objects, which are never loaded"):
        foreign.load("export", changed.getvalue(), CPU)
    assert not (tmp_path / "evil").exists()


def net_of(module: torch.nn.Module, classes: int = 4) -> Classifier:
    """The network around a TorchScript program."""
    program = foreign.ForeignProgram("torchscript", scripted(module))
    return build(program, classes, 16, Normalisation((0.0,) * 3, (1.0,) * 3), 0)


class _Dropping(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.dropout(x.mean((2, 3)), 0.5, True)


class _Batched(torch.nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) - 100 * x.mean()


class _Pair(torch.nn.Module):
    def forward(self, x):
        return x.mean((2, 3)), x


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (_Dropping(), "change from call to call; save it in eval mode"),
        (_Batched(), "depend on the rest of its batch; save it in eval mode"),
        (_Pair(), "returns a tuple; let it return one tensor of logits"),
        (linear(5), r"returns \(8, 5\) for 8 images; logits must be \(8, 3\)"),
    ],
)
def test_a_program_that_cannot_be_measured_is_one_line(module, message):

    found = foreign.trial_line(net_of(module, 3), IMAGES, CPU)
    assert found is not None
    assert re.search(message, found), found


def test_a_sound_program_passes_and_gives_its_logits():
    module = linear()
    net = net_of(module)
    assert foreign.trial_line(net, IMAGES, CPU) is None
    expected = module(IMAGES / 255).detach().numpy()
    np.testing.assert_allclose(logits_of(net, IMAGES, device=CPU), expected, rtol=1e-5, atol=1e-5)
