"""The commands export-model and evaluate, on a trained cell of digits."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from benchbd.cli import main
from benchbd.plugins import registry

PLUGIN = '''"""renamer: a defense."""
from typing import ClassVar
from benchbd import Defense, Patch, TestTransform, defense


@defense("renamer", version=1)
class Renamer(Defense):
    """Trains on labels that are one further, and undoes that at test time."""

    test_transform: ClassVar[bool] = True

    def train(self, lab):
        model = lab.train(lab.poisoned.replace(labels=(lab.poisoned.labels + 1) % lab.classes))
        order = tuple((label + 1) % lab.classes for label in range(lab.classes))
        return lab.with_test_transform(model, TestTransform(Patch(0, 0, 9, 12, (0, 0.5, 1)), order))
'''
DATASET = "digits(train=100,test=50)"
MATRIX = """
plugins: [renamer.py]
recipe: {epochs: 2, batch_size: 50, augment: []}
dataset: digits(train=100, test=50)
model: lenet-s
attacks: [bn-g]
defenses:
  - none
  - renamer
  - nab: {isolation_epochs: 1, label_epochs: 1, epochs: 1, clean_frac: 0.3}
  - pdb: {epochs: 1}
"""
LABEL = f"{DATASET}/lenet-s/bn-g/"
EVALUATE = ("evaluate", "--dataset", DATASET, "--attack", "bn-g", "--device", "cpu", "--output", "out", "--json")

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with finished cells."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "study.yaml").write_text(MATRIX)
    (folder / "renamer.py").write_text(PLUGIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = "study.yaml --executor inline --device cpu --display none --output out"
        assert main(["run", *words.split()]) == 0
    registry.forget_plugin_file(str((folder / "renamer.py").resolve()))
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_registry: None) -> Path:
    """A copy of the results, the working folder."""
    shutil.copytree(trained / "out", tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record_of(defense: str) -> dict:
    found = [json.loads(path.read_text()) for path in Path("out/records").glob("*.json")]
    return next(record for record in found if record["spec"]["defense"]["name"] == defense)


@pytest.mark.parametrize("form", ["safetensors", "torchscript", "onnx"])
@pytest.mark.parametrize("defense", ["none", "renamer", "nab", "pdb"])
def test_an_exported_model_measures_as_its_cell_did(form, defense, place, capsys):
    if form == "onnx":
        for package in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(package)
    cell = record_of(defense)["id"]
    assert main(["export-model", cell, "--format", form, "--to", "m.bin", "--output", "out"]) == 0
    said = capsys.readouterr().out
    assert "logits on 50 test images differ by up to" in said
    assert (f"test transform of {defense}" in said) == (defense != "none")
    assert main([*EVALUATE, "--model", "m.bin"]) == 0
    found, record = json.loads(capsys.readouterr().out), record_of(defense)
    for name in ("ca", "asr", "ra", "clean_asr", "ca_non_target"):
        assert found["rates"][name]["value"] == record[name]
    assert found["rates"]["asr"]["images"] == record["notes"]["triggered_test_images"]
    assert found["rates"]["ca"]["low"] < record["ca"] < found["rates"]["ca"]["high"]
    assert found["format"] == form
    assert found["test_transform"] == record.get("test_transform")


def test_the_files_state_their_conventions_and_hold_no_paths(place):
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    for form in ("safetensors", "torchscript", "onnx"):
        assert main(["export-model", f"{LABEL}renamer/s0", "--format", form, "--to", form, "--output", "out"]) == 0
    extra = {"benchbd.json": ""}
    torch.jit.load("torchscript", _extra_files=extra)
    proto = onnx.load("onnx")
    with safe_open("safetensors", "pt") as file:
        texts = [file.metadata()["benchbd"], extra["benchbd.json"], proto.metadata_props[0].value]
    for text in texts:
        facts = json.loads(text)
        assert facts["input"] == "float32 (N, 3, size, size), RGB, pixels / 255, so values in [0, 1]"
        assert facts["test_transform"] == record_of("renamer")["test_transform"]
        assert facts["artifact"] == record_of("renamer")["artifacts"]["model"]
        assert (facts["classes"], facts["size"]) == (10, 32)
    assert "apply it to images and logits yourself" in texts[0]
    body = Path("onnx").read_bytes()
    assert b"stack_trace" not in body
    assert b".py" not in body
    assert len(proto.metadata_props) == 1


def test_a_torchscript_file_needs_no_benchbd(place):
    """Images in [0, 1] in any batch, the stamp and the order of the classes inside."""
    assert (
        main(["export-model", f"{LABEL}renamer/s0", "--format", "torchscript", "--to", "m.pt", "--output", "out"]) == 0
    )
    net = torch.jit.load("m.pt")
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    covered = images.clone()
    covered[:, :, :9, :12] = 0.25
    assert torch.equal(net(images), net(covered))
    torch.testing.assert_close(net(images), torch.cat([net(image[None]) for image in images]))
    covered[:, :, 12:20, 12:20] = 0.25
    assert not torch.equal(net(images), net(covered))


def test_a_file_with_other_logits_is_not_written(place, monkeypatch, capsys):
    from benchbd.exchange import model_files

    Path("m.pt").write_text("before")
    honest = model_files.to_bytes

    def other(net, size, facts, form):
        with torch.no_grad():
            net.head.bias[3] += 0.01
        body = honest(net, size, facts, form)
        with torch.no_grad():
            net.head.bias[3] -= 0.01
        return body

    monkeypatch.setattr(model_files, "to_bytes", other)
    words = ["export-model", f"{LABEL}none/s0", "--format", "torchscript", "--to", "m.pt", "--output", "out"]
    assert main(words) == 2
    assert "gives other logits than the model (by up to 0.01); it is not written" in capsys.readouterr().err
    assert Path("m.pt").read_text() == "before"
    assert sorted(path.name for path in place.iterdir()) == ["m.pt", "out"]


def test_a_model_that_is_gone(place, capsys):
    record = record_of("none")
    key = record["artifacts"]["model"]
    shutil.rmtree(place / "out" / "store" / "model" / key[:2] / key)
    assert main(["export-model", record["id"], "--to", "m.safetensors", "--output", "out"]) == 2
    said = capsys.readouterr().err
    assert (
        f"its model is no longer in out/store; train it again with: benchbd rerun {record['id']} --output out" in said
    )
    assert said.count("\n") == 1
    again = f"rerun {record['id']} --output out --executor inline --device cpu --display none"
    assert main(again.split()) == 0
    assert main(["export-model", record["id"], "--to", "m.safetensors", "--output", "out"]) == 0


def test_missing_packages_are_named(place, monkeypatch, capsys):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else name)
    assert main(["export-model", f"{LABEL}none/s0", "--to", "m.onnx", "--output", "out"]) == 2
    assert capsys.readouterr().err == "benchbd: --format onnx needs onnxscript; pip install 'benchbd[onnx]'\n"


class Foreign(nn.Module):
    """Somebody's network, with batch norm and dropout: its mode matters."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5))
        self.fc = nn.Linear(4 * 8 * 8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.fc(self.body(x))


def foreign(classes: int = 10) -> Foreign:
    torch.manual_seed(0)
    net = Foreign(classes)
    net.body[1].running_mean.uniform_(-1, 1)
    return net.eval()


def measured(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main([*EVALUATE, *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_name_that_the_file_system_refuses_is_one_line(place, capsys):
    assert main(["export-model", f"{LABEL}none/s0", "--to", "x" * 300 + ".safetensors", "--output", "out"]) == 2
    assert "cannot be written (File name too long)" in capsys.readouterr().err


def test_programs_of_others_measure_alike(place, capsys):
    net, example = foreign(), torch.rand(2, 3, 32, 32)
    torch.jit.save(torch.jit.trace(net, example), "a.pt")
    torch.jit.save(torch.jit.script(net.train()), "b.pt")  # evaluate puts a scripted model into eval mode
    net.eval()
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(net, (example,), dynamic_shapes=dynamic), "c.pt2")
    torch.export.save(torch.export.export(net, (torch.zeros(7, 3, 32, 32),)), "d.pt2")  # batches of 7 only
    from benchbd import registry as plugins

    test = plugins.make("datasets", DATASET).load("test", None)
    right = float((net(test.images.float() / 255).argmax(1) == test.labels).float().mean())
    for name in ("a.pt", "b.pt", "c.pt2", "d.pt2"):
        found = measured(capsys, "--model", name)
        assert found["rates"]["ca"]["value"] == pytest.approx(right)
        assert found["normalisation"] == "none added"
    shifted = float((net((test.images.float() / 255 - 0.5) / 0.25).argmax(1) == test.labels).float().mean())
    found = measured(capsys, "--model", "a.pt", "--normalise", "0.5,0.5,0.5,0.25,0.25,0.25")
    assert found["rates"]["ca"]["value"] == pytest.approx(shifted)


def test_weights_of_others(place, capsys):
    assert main(["export-model", f"{LABEL}none/s0", "--to", "m.safetensors", "--output", "out"]) == 0
    capsys.readouterr()
    whole = load_file("m.safetensors")
    plain = {name.removeprefix("net."): value for name, value in whole.items() if name.startswith("net.")}
    other = {name.replace("head.", "fc."): value for name, value in plain.items()}
    torch.save(plain, "plain.pth")
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in other.items()}}, "other.pth")
    save_file(plain, "plain.safetensors")
    for name in ("plain.pth", "other.pth", "plain.safetensors"):
        found = measured(capsys, "--model", name, "--arch", "lenet-s", "--normalise", "dataset")
        assert found["rates"]["asr"]["value"] == record_of("none")["asr"]
        assert found["rates"]["ra"]["value"] == record_of("none")["ra"]
        assert found["architecture"] == "lenet-s"


class Evil:
    def __reduce__(self):
        return Path.write_text, (Path("ran"), "code")


def _files(place: Path) -> None:
    assert main(["export-model", f"{LABEL}none/s0", "--to", "m.safetensors", "--output", "out"]) == 0
    whole = load_file("m.safetensors")
    plain = {name.removeprefix("net."): value for name, value in whole.items() if name.startswith("net.")}
    torch.save(plain, "plain.pth")
    torch.save(dict(list(plain.items())[1:]), "short.pth")
    torch.save({**plain, "head.weight": plain["head.weight"][:7]}, "seven.pth")
    torch.save({**plain, "head.bias": plain["head.bias"] * float("nan")}, "nan.pth")
    torch.save({"model": Evil()}, "evil.pth")
    Path("evil.pkl").write_bytes(pickle.dumps(Evil()))
    torch.save(foreign(), "whole.pth")
    Path("text.pt").write_text("no model")
    Path("cut.safetensors").write_bytes(Path("m.safetensors").read_bytes()[:-50])
    example = torch.rand(2, 3, 32, 32)
    torch.jit.save(torch.jit.trace(foreign(7), example), "seven.pt")
    torch.jit.save(torch.jit.trace(foreign().train(), example, check_trace=False), "training.pt")
    torch.jit.save(torch.jit.trace(foreign(), example), "right.pt")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--model none.pt", "--model 'none.pt': no such file"),
        ("--model out", "--model 'out': not a file"),
        ("--model plain.pth", "weights without a program; name the architecture with --arch"),
        ("--model plain.pth --arch lenet-s", "say it with --normalise"),
        ("--model plain.pth --arch lenet-x --normalise none", "did you mean 'lenet-s'?"),
        ("--model plain.pth --arch resnet18 --normalise none", "does not fit resnet18 for 10 classes: it lacks stem"),
        ("--model plain.pth --arch resnet18 --normalise none", "if other code built the network, export it there"),
        ("--model plain.pth --arch lenet-s --normalise 1,2", "plain.pth"),
        (
            "--model plain.pth --arch lenet-s --normalise 1,2,3",
            "--normalise '1,2,3': give none, dataset, imagenet",
        ),
        (
            "--model short.pth --arch lenet-s --normalise none",
            "does not fit lenet-s for 10 classes: it lacks conv1.bias\n",
        ),
        ("--model seven.pth --arch lenet-s --normalise none", "not fit lenet-s for 10 classes: head.weight is (7, "),
        ("--model nan.pth --arch lenet-s --normalise none", "head.bias has values that are not finite"),
        ("--model evil.pth --arch lenet-s --normalise none", "evil.pth is refused"),
        ("--model evil.pkl --arch lenet-s --normalise none", "evil.pkl is refused"),
        ("--model whole.pth --arch lenet-s --normalise none", "plain arrays; save net.state_dict(), or export"),
        ("--model text.pt --arch lenet-s --normalise none", "text.pt is refused"),
        ("--model cut.safetensors", "cut.safetensors cannot be read as safetensors"),
        ("--model m.safetensors --normalise none", "has its own mean and std; leave --normalise out"),
        ("--model seven.pt", "gives torch.float32 (4, 7) for 4 images, not logits (4, 10)"),
        ("--model training.pt", "export the model in eval mode"),
        ("--model right.pt --arch lenet-s", "holds a program with its architecture; leave --arch out"),
        ("--model right.pt --attack bn-x", "did you mean"),
        ("--model right.pt --seed -1", "--seed -1: a seed is a whole number from 0"),
        ("--model right.pt --dataset digitz", "did you mean 'digits'?"),
    ],
)
def test_bad_checkpoints_are_one_line_and_exit_code_2(words, line, place, capsys):
    _files(place)
    capsys.readouterr()
    code = main([*EVALUATE, *words.split()])
    said = capsys.readouterr().err
    if line == "plain.pth":  # one mean and one deviation for all channels
        assert code == 0
        return
    assert code == 2
    assert line in said
    assert said.count("\n") == 1
    assert not Path("ran").exists()


def test_an_exported_program_with_pickles_is_refused(place, capsys):
    import zipfile

    torch.export.save(torch.export.export(foreign(), (torch.zeros(2, 3, 32, 32),)), "good.pt2")
    body = io.BytesIO()
    torch.save(Evil(), body)
    with zipfile.ZipFile("good.pt2") as good, zipfile.ZipFile("bad.pt2", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, body.getvalue() if name.endswith(".pt") else good.read(name))
    assert any(name.endswith(".pt") for name in zipfile.ZipFile("bad.pt2").namelist())
    assert main([*EVALUATE, "--model", "bad.pt2"]) == 2
    assert "is refused" in capsys.readouterr().err
    assert not Path("ran").exists()


def test_the_table_has_wilson_intervals(place, capsys):
    assert main(["export-model", f"{LABEL}none/s0", "--to", "m.safetensors", "--output", "out"]) == 0
    capsys.readouterr()
    assert main([*EVALUATE[:-1], "--model", "m.safetensors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    record = record_of("none")
    ca = next(line.split() for line in lines if line.startswith("CA "))
    assert ca[1] == f"{100 * record['ca']:.2f}"
    n, p, z = 50, record["ca"], 1.96
    centre, half = (
        (p + z * z / 2 / n) / (1 + z * z / n),
        z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / 4 / n**2),
    )
    assert [float(ca[2]), float(ca[4])] == pytest.approx([100 * (centre - half), 100 * (centre + half)], abs=0.01)
