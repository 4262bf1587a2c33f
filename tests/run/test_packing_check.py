"""Models that a defense packs are tried before anything trains, and only if a defense declares some."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import benchbd
from benchbd.cli import main
from benchbd.errors import UsageError
from benchbd.plan import matrix
from benchbd.plugins import registry
from benchbd.run import measure_process
from benchbd.run import measurements as measuring
from benchbd.storage import records

MATRIX = """
name: m
dataset: digits(train=200, test=60)
model: resnet18(width=4)
recipe: {epochs: 1}
attacks: [bn-g]
defenses: [none, DEFENSE]
"""
PLUGIN = """
@defense("packs", version=1)
class Packs(Defense):
    teacher: str = "lenet"
    def packed_models(self):
        return {"text": "lenet", "number": (3,), "nothing": None}.get(self.teacher, (self.teacher,))
    def train(self, lab):
        return lab.train(lab.poisoned)
"""
BROKEN = """
@model("broken", version=1)
class Broken(Model):
    def build(self, classes, size):
        with open("builds.txt", "a") as file:
            file.write(f"{size} ")
        raise ValueError("no such layer")
"""
FAULT = "hidden.0 (Linear) cannot be packed: it has trained weights; train the networks one by one"


class Asked:
    """Answers without torch: lenet cannot be packed, resnet-s can, and vgg11 cannot be built."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    def __call__(self, kind: str, requests: Sequence[dict[str, Any]]) -> list[Any]:
        assert kind == "cpu"
        assert {request["what"] for request in requests} == {"packing"}
        self.requests += requests
        return [{"lenet": FAULT, "resnet-s": ""}.get(request["model"]["name"]) for request in requests]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plugin_file: Callable[..., Path]) -> Asked:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plugin_file(PLUGIN)
    asked = Asked()
    monkeypatch.setattr(measuring, "ask_process", asked)
    return asked


def say(verb: str, defense: str) -> int:
    Path("m.yaml").write_text(MATRIX.replace("DEFENSE", defense))
    return main([verb, "m.yaml", "--plugin", "mine.py", "--output", "out", "--data", "."])


@pytest.mark.parametrize("verb", ["plan", "validate", "run"])
def test_a_model_that_cannot_be_packed_ends_the_command(
    verb: str, asked: Asked, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchbd.run.run_cells", lambda *_: pytest.fail("a cell ran"))
    assert say(verb, "packs") == 2
    problem = f"benchbd: defense 'packs': model 'lenet': {FAULT}"
    assert capsys.readouterr().err.splitlines()[-1] == problem
    assert not Path("out").exists()
    [request] = asked.requests
    assert (request["classes"], request["size"]) == (10, 32)


def test_rerun_refuses_it_before_anything_runs(
    asked: Asked, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchbd.run.run_cells", lambda *_: pytest.fail("a cell ran"))
    Path("m.yaml").write_text(MATRIX.replace("DEFENSE", "packs"))
    registry.add_plugin_file("mine.py")
    [cell] = [cell for cell in matrix.load("m.yaml").cells if cell.defense.name == "packs"]
    records.write_record(Path("out"), records.blank(cell, "failed", "it broke"))
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert main(["rerun", cell.id, "--plugin", "mine.py", "--output", "out", "--data", "."]) == 2
    assert capsys.readouterr().err == f"benchbd: defense 'packs': model 'lenet': {FAULT}\n"
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before
    assert len(asked.requests) == 1


def test_the_library_refuses_it_too(asked: Asked) -> None:
    Path("m.yaml").write_text(MATRIX.replace("DEFENSE", "packs"))
    with pytest.raises(UsageError, match="defense 'packs': model 'lenet'"):
        benchbd.run_matrix("m.yaml", output="out", data=".", plugins=["mine.py"], display="none")


def test_what_can_be_packed_or_cannot_be_built_goes_on(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether it can be built is for the cell to say, which has its files and packages."""
    assert say("plan", "{packs: {teacher: [resnet-s, vgg11]}}") == 0
    assert "3 cells" in capsys.readouterr().out
    assert [request["model"]["name"] for request in asked.requests] == ["resnet-s", "vgg11"]


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ("text", "packed_models() must return a tuple of specs such as ('resnet-s',), not 'lenet'"),
        ("number", "packed_models() must return a tuple of specs such as ('resnet-s',), not (3,)"),
        ("nothing", "packed_models() must return a tuple of specs such as ('resnet-s',), not None"),
        ("lenett", "defense 'packs': packed_models(): no model is called 'lenett'; did you mean 'lenet'?"),
        ("lenet(widh=3)", "defense 'packs': packed_models(): model 'lenet' has no parameter 'widh'"),
    ],
)
def test_a_wrong_declaration_names_the_defense(
    teacher: str, said: str, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say("plan", f'{{packs: {{teacher: "{teacher}"}}}}') == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert said in line
    assert "packs" in line
    assert asked.requests == []


@pytest.mark.parametrize(
    ("status", "words", "tried"),
    [
        ("killed", [], True),
        ("done", [], False),
        ("done", ["--rerun", "failed"], False),
        ("failed", [], False),
        ("failed", ["--rerun", "failed"], True),
        ("failed", ["--retries", "1"], True),
    ],
)
def test_a_run_tries_the_models_of_the_cells_that_it_works_on(
    status: str, words: list[str], tried: bool, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those of finished cells nor fewer: a cell that was killed runs again."""
    Path("m.yaml").write_text(MATRIX.replace("DEFENSE", "packs"))
    monkeypatch.setattr(records, "look_up", lambda *_: ({"status": status, "attempts": 1}, None))
    for name in ("InputFiles.changed", "InputFiles.unknown", "changed_sources"):
        monkeypatch.setattr(f"benchbd.run.prepare.{name}", lambda *_: {})
    monkeypatch.setattr("benchbd.run.run_cells", lambda *_: [])
    main(["run", "m.yaml", "--plugin", "mine.py", "--output", "out", "--data", ".", *words])
    assert bool(asked.requests) == tried


def test_the_answer_is_kept(asked: Asked) -> None:
    for _ in range(2):
        assert say("validate", "packs") == 2
    assert len(asked.requests) == 1


def test_nothing_is_asked_where_no_defense_declares_models(asked: Asked) -> None:
    """LfD trains teachers that cannot be packed one by one, so it declares none."""
    assert say("plan", "{lfd: {teacher: lenet}}") == 0
    assert asked.requests == []


def test_a_trial_that_fails_says_what_was_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_process(*_: Any, **__: Any) -> None:
        raise OSError("no memory")

    monkeypatch.setattr("subprocess.run", no_process)
    request = {"what": "packing", "classes": 10, "size": 32, "model": {"name": "lenet", "params": {}}}
    assert measuring.ask_process("cpu", [request]) == [None]
    assert capsys.readouterr().err == "benchbd: cannot try a pack of lenet at 32 pixels: no memory\n"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plugin_file: Callable[..., Path]) -> None:
    """The model ``broken`` cannot be built; the measuring process is this one."""

    def in_this_process(command: list[str], **given: Any) -> subprocess.CompletedProcess[str]:
        assert "benchbd.run.measure_process" in command
        asked = json.loads(given["input"])
        lines = [json.dumps(line) for line in measure_process.answers(asked["requests"], asked["device"])]
        return subprocess.CompletedProcess(command, 0, "\n".join(lines), "")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plugin_file(PLUGIN + BROKEN)
    registry.add_plugin_file("mine.py")
    monkeypatch.setattr("subprocess.run", in_this_process)


@pytest.mark.usefixtures("broken")
def test_a_command_tries_once_to_build_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    """Checks of packs, --time and --simulate ask about the same network. The next command may find it mended."""
    text = MATRIX.replace("DEFENSE", "{packs: {teacher: broken}}").replace("resnet18(width=4)", "broken")
    Path("m.yaml").write_text(text)
    words = ["plan", "m.yaml", "--output", "out", "--data", ".", "--time", "--device", "cpu", "--simulate", "cores=1"]
    for builds in ("32 ", "32 32 "):
        assert main(words) == 0
        assert Path("builds.txt").read_text() == builds
        captured = capsys.readouterr()
        assert captured.err.count("ValueError: no such layer") == 1
        assert "unknown" in captured.out


@pytest.mark.usefixtures("broken")
def test_a_measuring_process_tries_once_to_build_a_network() -> None:
    network = {"model": {"name": "broken", "params": {}}, "classes": 10}
    asked = [{"what": what, "size": size, **network} for size in (32, 16) for what in ("operations", "packing", "rate")]
    lines = list(measure_process.answers(asked, "cpu"))
    assert [line["unbuilt"] for line in lines] == [True] * 6
    assert ["error" in line for line in lines] == [True, False, False] * 2
    assert Path("builds.txt").read_text() == "32 16 "


def test_the_process_tries_a_pack() -> None:
    model = {"what": "packing", "classes": 10, "size": 32}
    answers = measuring.ask_process(
        "cpu", [{**model, "model": {"name": n, "params": {}}} for n in ("lenet", "resnet-s")]
    )
    assert answers[0].startswith("hidden.0 (Linear) cannot be packed: it has trained weights; ")
    assert answers[1] == ""
