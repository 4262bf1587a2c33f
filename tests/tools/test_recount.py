"""tools/recount.py has rules of its own: its triggers, its network and its counts agree with benchbd's."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from developer_tools import tool

from benchbd.cli import main
from benchbd.core.images import Normalisation
from benchbd.engine.network import Classifier
from benchbd.plugins import registry
from benchbd.plugins.attack import StampContext

ROOT = Path(__file__).parents[2]
DATA = os.environ.get("BENCHBD_DATA", "")
SHAPES = ("corner", "corners", "disc", "grid", "square")


@pytest.fixture(scope="module")
def recount() -> ModuleType:
    return tool("recount")


def drawn(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Arrays under the names that attacks keep them, of any values."""
    pictures = {name: rng.integers(0, 256, (3, 32, 32), dtype=np.uint8) for name in (*SHAPES, "picture")}
    shapes = {f"{name}-shape": rng.random((32, 32)) < 0.2 for name in SHAPES}
    signed = {name: rng.integers(-255, 256, (3, 32, 32)).astype(np.int16) for name in ("pattern", "trigger")}
    noise = {"noise": rng.integers(0, 256, (1, 32, 32), dtype=np.uint8)}
    return {**pictures, **shapes, **signed, **noise}


def warp(rng: np.random.Generator) -> np.ndarray:
    """Where each pixel comes from, partly outside the image: float32 (32, 32, 2)."""
    side = np.linspace(-1, 1, 32)
    moved: np.ndarray = np.stack(np.meshgrid(side, side), axis=-1) + rng.uniform(-0.1, 0.1, (32, 32, 2))
    return moved.astype(np.float32)


def test_it_imports_nothing_of_benchbd() -> None:
    text = (ROOT / "tools" / "recount.py").read_text(encoding="utf-8")
    assert not re.search(r"^\s*(import|from) benchbd", text, re.MULTILINE)


@pytest.mark.parametrize(
    "spec",
    [
        *("bn-g", "bn-a2a", "bn-w", "blend", "blend(alpha=0.37)", "sig", "sig(delta_test=60)", "wanet", "l2", "tj-sq"),
        *("tj-wm", "cl", "cl(trigger='four-corners')", "adap-blend", "adap-patch", "adap-patch(tested='disc+square')"),
    ],
)
def test_it_draws_triggers_as_the_attacks_do(recount: ModuleType, spec: str) -> None:
    rng = np.random.default_rng(3)
    images, attack = rng.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8), registry.make("attacks", spec)
    arrays = {"grid": warp(rng)} if attack.name == "wanet" else drawn(rng)
    theirs = attack.stamp(torch.from_numpy(images), StampContext("test", np.arange(40), arrays, 7)).numpy()
    params = {name: getattr(attack, name) for name in attack.params()}
    rule = recount.TRIGGERS[attack.name]
    ours = np.rint(rule(images.astype(np.float64), params, arrays)).clip(0, 255).astype(np.uint8)
    assert (theirs != images).any()
    if attack.name == "wanet":  # halves may round either way after sums in float32
        assert np.abs(ours.astype(int) - theirs).max() <= 1
        assert (ours != theirs).mean() < 0.001
    else:
        np.testing.assert_array_equal(ours, theirs)


def test_it_computes_the_network(recount: ModuleType) -> None:
    torch.manual_seed(0)
    net = registry.make("models", "airbench(width=4)").build(10, 32)
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    net.initialise_from(torch.randn(64, 3, 32, 32))
    model = Classifier(net, Normalisation((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)))
    model.train()
    model(images / 255)  # running means and variances that differ from 0 and 1
    model.eval()
    with torch.no_grad():
        model.channel_mask[::3] = 0
        wanted = model(images / 255).argmax(1).numpy()
    assert len(set(wanted.tolist())) > 2
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    np.testing.assert_array_equal(recount.taken_for(weights, images.numpy()), wanted)


@pytest.mark.parametrize(
    ("records", "words", "line"),
    [
        (None, "out --data .", "out has no records; name the folder that benchbd run --output wrote"),
        ("", "out --data .", "out has no records; name the folder that benchbd run --output wrote"),
        ("[]", "out --data .", "a.json is no record (TypeError); take it out"),
        ("{", "out --data .", "a.json is no record (JSONDecodeError); take it out"),
        ('{"id": "a", "label": "b", "status": "failed"}', "out --data .", "out has no finished cell\n"),
        ('{"id": "a", "label": "b", "status": "done"}', "out --data . --cell c", "no finished cell that --cell names"),
        ('{"id": "a", "label": "b", "status": "done"}', "out --data gone", "--data gone: gone/cifar-10-batches-py/"),
        ('{"id": "a", "label": "b", "status": "done"}', "out --data odd", "test_batch is not CIFAR-10's (wrong md5)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    recount: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    records: str | None,
    words: str,
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("odd/cifar-10-batches-py", *([] if records is None else ["out/records"])):
        Path(folder).mkdir(parents=True)
    Path("odd/cifar-10-batches-py/test_batch").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    if records:
        Path("out/records/a.json").write_text(records, encoding="utf-8")
    assert recount.main(words.split()) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("recount: ")
    assert line in err
    assert err.count("\n") == 1
    assert not Path("ran").exists()


@pytest.mark.skipif(
    not DATA or not (Path(DATA) / "cifar-10-batches-py").is_dir(), reason="BENCHBD_DATA names no folder with CIFAR-10"
)
def test_a_run_is_counted_again(recount: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    chosen = ["-a", "bn-a2a", "-a", "adap-patch(rate=0.1)", "-d", "fine-pruning", "--dataset", "cifar10(train=300)"]
    small = ["--model", "airbench(width=2)", "--recipe", "{preset: fast, epochs: 1}", "--executor", "inline"]
    assert main(["run", *chosen, *small, "--data", DATA, "--output", str(out), "--display", "none"]) == 0
    capsys.readouterr()
    assert recount.main([str(out), "--data", DATA]) == 0
    text = capsys.readouterr().out
    assert text.endswith("0 different, 0 skipped\n")
    assert text.startswith(("equal", "nearly equal"))
    (wrong, *_) = (out / "records").glob("*.json")
    record = json.loads(wrong.read_text(encoding="utf-8"))
    wrong.write_text(json.dumps({**record, "asr": record["asr"] / 2 + 0.1}), encoding="utf-8")
    assert recount.main([str(out), "--data", DATA, "--cell", record["id"][:6]]) == 1
    assert "different" in capsys.readouterr().out
    assert recount.main([str(out), "--data", DATA, "--cell", "no-such-cell"]) == 2
