"""A cell with pretrained weights from a file: planned, run, exported, and measured again after the file changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchbd.cli import main
from benchbd.core.torchvision_module import torchvision_module

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]
NAME, DATASET = "shufflenet_v2_x0_5", "digits(train=40,test=20)"
MATRIX = f"""
recipe: {{epochs: 1, batch_size: 20, augment: []}}
dataset: digits(train=40, test=20)
model: {{torchvision: {{name: {NAME}, weights: w.pth, resize: 32}}}}
attacks: [bn-g]
defenses: [none]
"""
RUN = ["run", "study/m.yaml", "--executor", "inline", "--device", "cpu", "--display", "none", "--output", "out"]
EVALUATE = ("evaluate", "--dataset", DATASET, "--attack", "bn-g", "--device", "cpu", "--output", "out", "--json")


def write(path: Path, seed: int, classes: int = 1000) -> None:
    torch.manual_seed(seed)
    torch.save(torchvision_module().models.get_model(NAME, num_classes=classes).state_dict(), path)


def test_a_cell_with_weights_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "m.yaml").write_text(MATRIX)
    for words in (RUN, ["plan", "study/m.yaml", "--output", "out"]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert f"torchvision(name='{NAME}'): weights 'w.pth' is not in" in said
        assert said.count("\n") == 1
    (tmp_path / "study" / "w.pth").write_bytes(b"PK not weights")
    assert main(["plan", "study/m.yaml", "--output", "out"]) == 2
    assert "w.pth is refused" in capsys.readouterr().err

    weights = tmp_path / "study" / "w.pth"
    write(weights, 0)
    assert main(RUN) == 0
    (record,) = [json.loads(path.read_text()) for path in Path("out/records").glob("*.json")]
    assert record["status"] == "done"
    assert record["data"]["weight_files"]
    assert record["data"]["weights"]
    capsys.readouterr()
    assert main(["plan", "study/m.yaml", "--output", "out"]) == 0
    assert "changed since" not in capsys.readouterr().out

    write(weights, 1)
    assert main(["plan", "study/m.yaml", "--output", "out"]) == 0
    said = capsys.readouterr().out
    assert "weights of torchvision(" in said
    assert "changed since 1 cell was measured" in said

    weights.unlink()
    before = {path: path.read_bytes() for path in Path("out/records").iterdir()}
    assert main(["rerun", record["id"], *RUN[2:]]) == 2
    said = capsys.readouterr().err
    assert f"torchvision(name='{NAME}'): weights 'w.pth' is not in" in said
    assert said.count("\n") == 1
    assert {path: path.read_bytes() for path in Path("out/records").iterdir()} == before

    # What the cell has trained needs the file no longer.
    assert main(["export-model", record["id"], "--format", "torchscript", "--to", "m.pt", "--output", "out"]) == 0
    capsys.readouterr()
    assert main([*EVALUATE, "--model", "m.pt"]) == 0
    assert json.loads(capsys.readouterr().out)["rates"]["ca"]["value"] == record["ca"]
    assert main(["export-model", record["id"], "--to", "m.safetensors", "--output", "out"]) == 0
    capsys.readouterr()
    assert main([*EVALUATE, "--model", "m.safetensors"]) == 0
    assert json.loads(capsys.readouterr().out)["rates"]["ca"]["value"] == record["ca"]


def test_evaluate_takes_the_names_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "net.pth", 0, classes=10)
    words = [*EVALUATE, "--model", "net.pth", "--arch", f"torchvision(name={NAME}, resize=32)"]
    assert main(words) == 2
    assert "none, dataset, imagenet, or three means" in capsys.readouterr().err
    assert main([*words, "--normalise", "imagenet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["normalisation"].startswith("mean 0.485, 0.456, 0.406; deviation 0.229")
    words[-1] = f"torchvision(name={NAME}, resize=32, normalise=pretrained)"
    assert main(words) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["rates"], again["normalisation"]) == (found["rates"], found["normalisation"])
    state = torch.load("net.pth", weights_only=True)
    torch.save({**state, "mean": torch.full((1, 3, 1, 1), 0.4), "std": torch.full((1, 3, 1, 1), 0.2)}, "net.pth")
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["normalisation"] == "in the file"
    write(tmp_path / "net.pth", 0, classes=7)
    assert main(words) == 2
    assert "head.weight is (7, 1024), not (10, 1024)" in capsys.readouterr().err
