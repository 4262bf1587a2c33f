"""The defense ``command``: a program of somebody else runs apart from the harness, and only its results come back."""

from __future__ import annotations

import json
import os
import pickle
import re
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from training_programs import SAVE, TINY_NET, Evil, archive

from benchbd import testing
from benchbd.cli import main
from benchbd.core.files_folder import VARIABLE
from benchbd.core.training_files import FORMATS, write_training_files
from benchbd.defenses._program_results import check_folder, read_facts
from benchbd.errors import UsageError
from benchbd.pipeline.run_cell import execute
from benchbd.plan import matrix, matrix_file
from benchbd.plan.absent_files import AbsentFiles
from benchbd.plugins import registry
from benchbd.storage.staleness import InputFiles
from benchbd.testing.plugin_under_test import PLUGINS


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Write a program and run a cell with it: ``program(text, **parameters)`` returns the record."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))

    def run(text: str, attack: str = "tiny-patch", output: str = "out", **given: str) -> dict:
        (tmp_path / "train.py").write_text(textwrap.dedent(text))
        more = "".join(f", {name}={value!r}" for name, value in given.items())
        spec = f"command(run='python train.py', files=['train.py']{more})"
        return execute(testing.cell(attack=attack, defense=spec).to_json(), output=tmp_path / output, device="cpu")

    return run


def copies(tmp_path: Path, content: bytes, name: str) -> str:
    """A program that hands over a file, which the test has put among its files."""
    (tmp_path / "given").mkdir(exist_ok=True)
    (tmp_path / "given" / "file").write_bytes(content)
    return f"import shutil; shutil.copy('given/file', 'result/{name}')"


# A whole cell ---------------------------------------------------------------------------------------------------------


def test_weights_scores_and_facts_come_back(program, tmp_path):
    text = (
        TINY_NET
        + SAVE
        + """
labels = np.load("train/train.npz")["labels"]
np.save("result/scores.npy", np.arange(len(labels)))
open("result/flagged.csv", "w").write("flagged\\n" + "\\n".join("1" if n < 24 else "0" for n in range(len(labels))))
open("result/result.json", "w").write(json.dumps({"epochs": 3, "epoch_losses": [2, 1, 0.5], "notes": {"lambda": 7}}))
print("the end")
"""
    )
    record = program(text)
    assert (record["status"], record["error"]) == ("done", None)
    assert record["epochs_trained"] == 3
    assert record["trainings"] == {"full": 1}
    assert record["notes"]["train_loss"] == {"model": [2, 1, 0.5]}
    said = record["notes"]["command"]
    assert said["exit_code"] == 0
    assert said["notes"] == {"lambda": 7}
    assert record["peak_memory_bytes"] >= said["peak_memory_bytes"] > 5e6
    assert record["time"]["stages"]["command"] >= said["seconds"] > 0
    assert record["detection"]["flagged"] == 24
    assert record["detection"]["auroc"] is not None
    again = program(text)
    assert again["trainings_computed"] == {}
    assert [again[key] for key in ("ca", "asr", "detection")] == [record[key] for key in ("ca", "asr", "detection")]


def test_a_changed_file_computes_again_and_makes_the_record_stale(program, tmp_path):
    first = program(TINY_NET + SAVE)
    cell = testing.cell(attack="tiny-patch", defense="command(run='python train.py', files=['train.py'])")
    assert InputFiles(None).changed(cell, first) == []
    (tmp_path / "train.py").write_text(TINY_NET.replace("0.1 *", "0.2 *") + SAVE)
    (found,) = InputFiles(None).changed(cell, first)
    assert found.startswith("files of command(")
    second = program(TINY_NET.replace("0.1 *", "0.2 *") + SAVE)
    assert second["id"] == first["id"]
    assert second["artifacts"]["model"] != first["artifacts"]["model"]


def test_the_program_is_told_nothing_of_the_truth(program, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBD_DATA", str(tmp_path))
    monkeypatch.setenv("MY_RESULTS", str(tmp_path / "out"))
    monkeypatch.setenv("WANTED", "yes")
    look = """
import os, sys
there = sorted(os.path.join(at, name)[2:] for at, _, names in os.walk(".") for name in names)
seen = {"files": there, "arguments": sys.argv, "folder": os.getcwd(), "variables": dict(os.environ), "task": task}
links = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd") if n > "2"]
seen["open"] = [os.readlink(link) for link in links if os.path.exists(link)]
open("result/result.json", "w").write(json.dumps({"notes": seen}))
"""
    record = program(TINY_NET + SAVE + look, env=["WANTED"])
    assert record["error"] is None
    seen = record["notes"]["command"]["notes"]
    assert seen["files"] == ["result/model.safetensors", "task.json", "train.py", "train/train.npz"]
    assert seen["variables"]["WANTED"] == "yes"
    assert not [name for name in seen["variables"] if name.startswith("BENCHBD") or name == "MY_RESULTS"]
    assert [path for path in seen["open"] if not path.startswith("/proc/")] == []
    text = json.dumps(seen)
    for word in (str(tmp_path), "tiny-patch", "poison", "testing", "digits", record["id"]):
        assert word not in text
    assert set(seen["task"]["recipe"]) >= {"epochs", "batch_size", "lr"}
    assert seen["task"]["image_shape"] == [3, 32, 32]


def test_a_program_may_take_arguments_instead(program, tmp_path):
    text = (
        TINY_NET
        + SAVE
        + """
import sys
open("result/result.json", "w").write(json.dumps({"notes": sys.argv[1:]}))
"""
    )
    (tmp_path / "train.py").write_text(text)
    spec = "command(run='python train.py --n={epochs} {device} \"two words\" {train}', files=['train.py'])"
    record = execute(testing.cell(defense=spec, epochs=5).to_json(), output=tmp_path / "out", device="cpu")
    assert record["notes"]["command"]["notes"] == ["--n=5", "cpu", "two words", "train"]


# Programs that end badly ----------------------------------------------------------------------------------------------

BAD_ENDINGS = {
    "exit code": ("print('about to fail'); raise SystemExit(3)", "ended with exit code 3 .*; its last line: about to"),
    "signal": ("import os; os.kill(os.getpid(), 9)", r"killed by SIGKILL .*\(is memory short\?\); it printed nothing"),
    "exception": ("x = {}['no']", "exit code 1 .*; its last line: KeyError: 'no'"),
    "no model": ("print('done')", "the program wrote no result/model.safetensors: the folder result is empty"),
    "other form": ("open('result/model.pt', 'w')", "wrote no result/model.safetensors: .* holds model.pt"),
    "link": ("import os; os.symlink('/etc/hostname', 'result/model.safetensors')", "cannot be read .*symbolic link"),
    "pipe": ("import os; os.mkfifo('result/model.safetensors')", "cannot be read .*pipe"),
}


@pytest.mark.parametrize(("text", "message"), BAD_ENDINGS.values(), ids=BAD_ENDINGS)
def test_a_program_that_fails_is_one_line(text, message, program):

    record = program(text)
    assert record["status"] == "failed"
    assert re.search(message, record["error"]), record["error"]
    assert "\n" not in record["error"]
    assert "exit_code" in record["notes"]["command"]
    assert record["ca"] is None


def test_a_program_ends_in_time_with_all_that_it_has_started(program, tmp_path):
    mark = tmp_path / "pids"
    text = f"""
        import os, subprocess, time
        for word in ("sleep 600", "setsid sleep 600", "nohup setsid sh -c 'sleep 600 & wait' &"):
            subprocess.Popen(["sh", "-c", word + " & echo $! >> {mark}; wait"])
        time.sleep(600)
    """
    began = time.monotonic()
    record = program(text, hours=2.0 / 3600)
    assert time.monotonic() - began < 60
    assert record["status"] == "failed"
    assert "was ended at its time limit of" in record["error"]
    assert not [pid for pid in mark.read_text().split() if Path(f"/proc/{pid}").exists()]


def test_what_a_program_leaves_behind_ends_too(program, tmp_path):
    leave = f"""
import subprocess
subprocess.run(["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $! > {tmp_path / "pid"}"])
"""
    assert program(TINY_NET + SAVE + leave)["status"] == "done"
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


# Models that cannot be measured ---------------------------------------------------------------------------------------

BAD_STATES = {
    "missing": ("del state['head.bias']", "failed", "does not fit model tiny-net for 4 classes: it lacks head.bias"),
    "extra": ("state['more'] = state['head.bias']", "failed", "it has unknown more"),
    "shape": ("state['norm.bias'] = np.zeros(9, np.float32)", "failed", r"norm.bias is \(9,\), not \(8,\)"),
    "classes": (
        "state['head.weight'], state['head.bias'] = np.zeros((10, 64), np.float32), np.zeros(10, np.float32)",
        "failed",
        r"for 4 classes: head.\w+ is \(10",
    ),
    "nan": ("state['head.bias'][1] = np.nan", "diverged", "head.bias has values that are not finite"),
    "overflow": (
        "state['norm2.weight'] += np.float32(1e30); state['head.weight'] *= np.float32(1e30)",
        "diverged",
        "logits are not finite for .* of 240 training images",
    ),
}


@pytest.mark.parametrize(("change", "status", "message"), BAD_STATES.values(), ids=BAD_STATES)
def test_a_state_dict_that_does_not_fit_is_one_line(change, status, message, program):

    record = program(TINY_NET + change + SAVE)
    assert record["status"] == status
    assert record["error"].startswith("command: result/model.safetensors: ")
    assert re.search(message, record["error"]), record["error"]


def test_names_of_wrappers_and_other_floats_are_taken(program):
    plain = program(TINY_NET + SAVE, output="plain")
    wrapped = TINY_NET + "state = {f'module.{name}': value.astype(np.float64) for name, value in state.items()}" + SAVE
    found = program(wrapped, output="wrapped")
    assert found["error"] is None
    assert (found["ca"], found["asr"]) == (plain["ca"], plain["asr"])


@pytest.mark.parametrize(
    ("form", "name"),
    [("safetensors", "model.safetensors"), ("torchscript", "model.torchscript"), ("export", "model.pt2")],
)
@pytest.mark.parametrize("kind", ["pickle", "archive"])
def test_nothing_is_unpickled(form, name, kind, program, tmp_path, monkeypatch):
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    content = pickle.dumps(Evil()) if kind == "pickle" else archive({"x": Evil()})
    text = copies(tmp_path, content, name)
    (tmp_path / "train.py").write_text(text)
    spec = f"command(run='python train.py', files=['train.py', 'given'], returns='{form}')"
    record = execute(testing.cell(defense=spec).to_json(), output=tmp_path / "out", device="cpu")
    assert record["status"] == "failed"
    assert "pickle" in record["error"] or "which torch.export.save writes for no plain network" in record["error"]
    assert not (tmp_path / "evil").exists()


BAD_RESULTS = {
    "count": ("np.save('result/scores.npy', np.zeros(7))", r"scores.npy has shape \(7,\), but there are 240 training"),
    "csv": (
        "open('result/scores.csv', 'w').write('score\\n1\\nmany\\n')",
        "scores.csv, line 3: 'many' is not a number",
    ),
    "objects": ("np.save('result/scores.npy', np.array([{}] * 240))", "scores.npy is not an array of numpy.save"),
    "flags": ("np.save('result/flagged.npy', np.arange(240))", "must hold a 0 or a 1 for each training image"),
    "json": ("open('result/result.json', 'w').write('{')", "result.json is not JSON"),
    "key": ("open('result/result.json', 'w').write('{\"epoch\": 1}')", "result.json has 'epoch'; it may hold epochs"),
    "both": (
        "np.save('result/scores.npy', np.zeros(240)); open('result/scores.csv', 'w')",
        "both scores.npy and scores",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD_RESULTS.values(), ids=BAD_RESULTS)
def test_other_results_that_do_not_fit_are_one_line(text, message, program):

    record = program(TINY_NET + SAVE + text)
    assert record["status"] == "failed"
    assert re.search(message, record["error"]), record["error"]


# Plans ----------------------------------------------------------------------------------------------------------------

BAD_SPECS = {
    "nothing": ("command", "run names no program"),
    "missing file": ("{command: {run: python a.py, files: [a.py]}}", "files: 'a.py' is not in "),
    "forgotten": ("{command: {run: python here.py}}", "run names 'here.py', which is not in files"),
    "outside": ("{command: {run: x, files: [../here.py]}}", "must be a name below the folder of the matrix file"),
    "taken": ("{command: {run: x, files: [train/x.py]}}", "the name 'train' is taken by benchbd"),
    "shell": ("{command: {run: 'python here.py | tee log', files: [here.py]}}", r"run has '\|', but no shell runs"),
    "quote": ('{command: {run: "python \'here.py", files: [here.py]}}', "no closing quotation"),
    "placeholder": ("{command: {run: 'x {epoch}'}}", "run has {epoch}; did you mean 'epochs'"),
    "model": ("{command: {run: x, model: resnet81}}", "did you mean 'resnet18'"),
    "mean": ("{command: {run: x, mean: [0.5, 0.5]}}", "mean and std go together and have three numbers each"),
    "uint8": ("{command: {run: x, inputs: uint8}}", "inputs uint8 goes with a program"),
    "env": ("{command: {run: x, env: [BENCHBD_DATA]}}", "not a variable that a program may get"),
}


@pytest.mark.parametrize(("spec", "message"), BAD_SPECS.values(), ids=BAD_SPECS)
def test_a_plan_says_what_is_wrong(spec, message, tmp_path, capsys):

    (tmp_path / "here.py").write_text("")
    text = f"{{name: x, dataset: digits, model: lenet, attacks: [none], defenses: [{spec}]}}"
    (tmp_path / "m.yaml").write_text(text)
    assert main(["plan", str(tmp_path / "m.yaml"), "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line


def test_the_files_lie_beside_the_matrix(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(VARIABLE, raising=False)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("")
    text = "{name: x, dataset: digits, model: lenet, attacks: [none], defenses: ["
    (tmp_path / "m.yaml").write_text(text + "{command: {run: python code/train.py, files: [code]}}]}")
    assert main(["plan", str(tmp_path / "m.yaml"), "--output", str(tmp_path / "out")]) == 0
    assert VARIABLE not in os.environ
    data = matrix_file.parse_yaml((tmp_path / "m.yaml").read_text())
    absent = AbsentFiles()
    assert len(matrix.resolve(data, "x", absent=absent).cells) == 1
    assert "'code' is not in" in absent.lines()[0]


def test_a_cell_runs_again_from_anywhere(tmp_path, monkeypatch, capsys, fresh_registry):
    monkeypatch.delenv(VARIABLE, raising=False)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text(TINY_NET + SAVE)
    text = "{name: x, dataset: tiny, model: tiny-net, attacks: [none], recipe: {epochs: 1}, defenses: ["
    (tmp_path / "code" / "m.yaml").write_text(text + "{command: {run: python train.py, files: [train.py]}}]}")
    here = ["--output", str(tmp_path / "out"), "--executor", "inline", "--display", "none", "--plugin", str(PLUGINS)]
    assert main(["run", str(tmp_path / "code" / "m.yaml"), *here]) == 0, capsys.readouterr().err
    (record,) = [json.loads(path.read_text()) for path in (tmp_path / "out" / "records").iterdir()]
    monkeypatch.chdir("/")
    (tmp_path / "code" / "train.py").write_text(TINY_NET + SAVE + "print('again')")
    assert main(["rerun", record["id"], *here]) == 0, capsys.readouterr().err
    assert "again" in (tmp_path / "out" / "logs" / f"{record['id']}.log").read_text()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_images_and_labels_alone(name, tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 3, 8, 8), dtype=np.uint8), np.arange(12) % 11
    write_training_files(images, labels, 11, tmp_path / "train", name)
    files = sorted(path.relative_to(tmp_path / "train").as_posix() for path in (tmp_path / "train").rglob("*.*"))
    if name == "npz":
        found = np.load(tmp_path / "train" / "train.npz")
        assert sorted(found.files) == ["images", "labels"]
        np.testing.assert_array_equal(found["images"], images)
        np.testing.assert_array_equal(found["labels"], labels)
    elif name == "imagefolder":
        from PIL import Image

        assert files == sorted(f"{label:02}/{number:02}.png" for number, label in enumerate(labels))
        np.testing.assert_array_equal(Image.open(tmp_path / "train" / "10" / "10.png"), images[10].transpose(1, 2, 0))
    else:
        assert sorted(path.name for path in (tmp_path / "train").iterdir()) == ["imgs", "labels"]
        stored = torch.load(tmp_path / "train" / "imgs", weights_only=True)
        np.testing.assert_array_equal((stored * 255).round().numpy(), images)
        np.testing.assert_array_equal(torch.load(tmp_path / "train" / "labels", weights_only=True), labels)


def test_its_parameters_survive_a_spec():
    made = registry.make("defenses", "command(run='a b', files=['x'], mean=[0.1, 0.2, 0.3], std=[1.0, 1.0, 1.0])")
    assert registry.make("defenses", "command", **made.params()) == made


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"notes": 1e999}', "notes hold a number or a text that no record can hold"),
        ('{"notes": {"a": ["\\ud800"]}}', "notes hold a number or a text that no record can hold"),
        ('{"notes": ' + "[" * 60 + "]" * 60 + "}", "notes are nested more than 50 deep"),
        ('{"epoch_losses": [' + "9" * 400 + "]}", "epoch_losses must be a list of numbers"),
    ],
    ids=["infinite", "half a character", "deep", "large"],
)
def test_facts_that_no_record_can_hold_are_one_line(text, line, tmp_path):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UsageError, match=line):
        read_facts(tmp_path)


def test_nested_notes_are_kept(tmp_path):
    (tmp_path / "result.json").write_text('{"notes": ' + "[" * 40 + "]" * 40 + "}")
    assert read_facts(tmp_path).notes


def test_a_folder_of_results_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "result").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="folder result is a link"):
        check_folder(tmp_path / "result")
    (tmp_path / "result").unlink()
    with pytest.raises(UsageError, match="folder result is gone"):
        check_folder(tmp_path / "result")
