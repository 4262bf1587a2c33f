"""A results folder with damaged and odd records in it: every verb that reads it names what is damaged and goes on."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzzing
import pytest
from fuzzing import examples, in_time
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchbd.cli import main
from benchbd.plan import matrix
from benchbd.plan.cell import Cell
from benchbd.run import measurements
from benchbd.storage import records

THREE_CELLS = "{seeds: 0-2, dataset: toy-images, model: toy-net, attacks: toy-attack, defenses: toy-defense}"
FORMATS = ("md", "csv", "latex", "html", "json", "jsonl")
READING = [
    *(["leaderboard", "--output", "out", "--paper", "--format", name] for name in FORMATS),
    *(["leaderboard", "--output", "out", "--format", name, "--write", f"board.{name}"] for name in FORMATS),
    ["leaderboard", "m.yaml", "--output", "out"],
    *(["export", f"all.{suffix}", "--output", "out"] for suffix in ("jsonl", "csv", "zip")),
    ["compare", "out", "out", "--json"],
    ["merge", "out", "--output", "merged"],
    ["status", "m.yaml", "--output", "out", "--all"],
    ["plan", "m.yaml", "--output", "out", "--simulate", "gpus=2"],
    ["show", "CELL", "--output", "out"],
    ["show", "CELL", "--output", "out", "--json"],
]


@pytest.fixture
def cells(folder: Path, toys: Path, monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """Three cells, whose matrix is in the working folder. No process is asked for the operations of the toy model."""
    monkeypatch.setattr(measurements, "ask_process", lambda kind, requests: [measurements.UNBUILT] * len(requests))
    Path("m.yaml").write_text(THREE_CELLS)
    return list(matrix.load("m.yaml").cells)


def finished(cell: Cell) -> dict[str, Any]:
    return records.blank(cell, "done") | {
        "ca": 0.9,
        "asr": 0.9,
        "ra": 0.05,
        "detection": {"auroc": 0.7, "precision": 0.5, "recall": None, "histogram": {"edges": [0, 1], "clean": [1]}},
        "poison": {"count": 10, "share_of_set": 0.1, "share_of_target_class": 0.5},
        "time": {"total": 12.5, "own": 1.5, "stages": {"teacher": 3.0}},
        "notes": {
            "train_loss": {"train": [1.0, 0.5]},
            "probe": {"epochs": [0, 1], "clean_mean": [1, 0.5], "poison_mean": [1, 0.2]},
            "tsne": {"xy": [[0.1, 0.2]], "poison": [0]},
            "suspicion": {"edges": [0, 1, 2], "clean": [1, 2], "poisoned": [3, 4]},
            "curve": {"epochs": [1], "ca": [0.5], "asr": [0.1]},
        },
        "env": {"device": "cpu", "versions": {"python": "3.11"}, "threads": 1},
        "trainings": {"full": 1},
    }


def _write(cell: Cell, text: str) -> Path:
    path = records.record_path(Path("out"), cell.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "junk": lambda path: path.write_text("{nonsense"),
    "empty": lambda path: path.write_text(""),
    "bytes": lambda path: path.write_bytes(b"\xff\0"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "digits": lambda path: path.write_text("9" * 5_000),
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_every_verb_names_a_damaged_record_and_goes_on(
    cells: list[Cell], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    good, bad = cells[:2]
    _write(good, json.dumps(finished(good)))
    DAMAGE[kind](records.record_path(Path("out"), bad.id))
    DAMAGE[kind](Path("out/records/notes.json"))
    for words in READING:
        code = main([good.id if word == "CELL" else word for word in words])
        # plan --simulate also says that it counts operations.
        err = [line for line in capsys.readouterr().err.splitlines() if "toy-net at 8 pixels" not in line]
        assert code == (1 if words[0] == "merge" else 0), (words, err)
        assert len(err) == {"status": 1, "plan": 1, "show": 0}.get(words[0], 2), (words, err)
    assert main(["show", bad.id, "--output", "out"]) == 2
    assert f"{bad.id}.json is damaged; benchbd run computes it again (" in capsys.readouterr().err


def test_a_thousand_damaged_records_are_counted(cells: list[Cell], capsys: pytest.CaptureFixture[str]) -> None:
    _write(cells[0], json.dumps(finished(cells[0])))
    for number in range(1_000):
        Path(f"out/records/{number:016x}.json").write_text("{")
    for words in (["leaderboard", "--output", "out"], ["merge", "out", "--output", "merged"]):
        main(words)
        err = capsys.readouterr().err.splitlines()
        assert len(err) == 6
        assert "and 995 more" in err[-1]


def test_without_a_usable_record_there_is_one_line_and_exit_code_2(
    cells: list[Cell], capsys: pytest.CaptureFixture[str]
) -> None:
    _write(cells[0], "{")
    for words in (["leaderboard", "--output", "out"], ["export", "x.csv", "--output", "out"]):
        assert main(words) == 2
        assert capsys.readouterr().err.endswith("benchbd: out: none of its records can be used\n")


def test_a_gate_does_not_pass_over_a_damaged_record(cells: list[Cell], capsys: pytest.CaptureFixture[str]) -> None:
    _write(cells[0], json.dumps(finished(cells[0])))
    _write(cells[1], "{")
    assert main(["compare", "out", "out", "--fail", "ca:-1"]) == 2
    assert main(["leaderboard", "--check", "--write", "m.yaml", "--output", "out"]) == 2
    assert capsys.readouterr().err.count(f"{cells[1].id}.json: not JSON") == 2


@pytest.mark.parametrize("name", ["running", "store", "damaged", "failed_reruns", "logs", "records"])
def test_a_file_in_place_of_a_folder_of_the_output(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    for other in ("records", "logs"):
        (folder / "out" / other).mkdir(parents=True)
    if name in ("records", "logs"):
        (folder / "out" / name).rmdir()
    (folder / "out" / name).write_text("")
    assert main(["run", "good.yaml", "--output", "out"]) == 2
    line = capsys.readouterr().err
    assert (
        line
        == f"benchbd: --output 'out': cannot be written ({name} is not a folder); remove it, or name another folder\n"
    )


def test_results_are_read_by_their_matrix_without_the_data(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "data" / "images").mkdir(parents=True)
    rows = [f"{n}.png,{'ab'[n % 2]},{'train' if n < 40 else 'test'}" for n in range(60)]
    (folder / "data" / "images" / "labels.csv").write_text("\n".join(["file,label,split", *rows]) + "\n")
    text = "recipe: {epochs: 1}\ndataset: csv-folder\nmodel: resnet-s\nattacks: [bn-g]\ndefenses: [none, spectral]\n"
    Path("csv.yaml").write_text(text)
    with monkeypatch.context() as patch:
        patch.setenv("BENCHBD_DATA", str(folder / "data"))
        cell = matrix.load("csv.yaml").cells[0]
    records.write_record(Path("out"), finished(cell))
    (folder / "empty").mkdir()
    for more in ([], ["--data", "empty"], ["--data", "data"]):
        assert main(["leaderboard", "csv.yaml", "--output", "out", *more]) == 0
        out, err = capsys.readouterr()
        assert "90.00" in out
        assert err.count("\n") == (0 if more[-1:] == ["data"] else 1)


def _nested(depth: int) -> Any:
    return json.loads("[" * depth + "]" * depth)


ODD: list[Any] = [
    *(None, True, 0, -1, 2**62, 10**400, 1e308, 5e-324, -0.0, math.inf, "", "\0", "\ud800", "a\u202eb", "\u2028"),
    *(
        "x|y<b>&_$%{}\\",
        "=1+1",
        "x" * 3_000,
        [],
        {},
        [[]],
        {"": {}},
        [None] * 50,
        [1e308] * 20,
        {"a": [1, {"b": None}]},
    ),
    *({"epochs": None, "clean_mean": [None]}, {"edges": [1, 2], "clean": [1], "poisoned": [None]}, _nested(400)),
]
FREE = ("notes", "env", "time", "detection", "poison", "artifacts", "sources", "trainings", "error", "ca", "asr", "ra")


def _mutate(value: Any, rng: random.Random) -> Any:
    """Replace, remove or rename something at a random place."""

    def change(value: Any, key: Any) -> bool:
        how = rng.randrange(8)
        if how == 0:
            del value[key]
        elif how == 1 and isinstance(value, dict):
            value[rng.choice(["", "x", "\0", "\ud800", "<b>", "probe", "curve", "omitted"])] = rng.choice(ODD)
        else:
            return False
        return True

    return fuzzing.mutate(value, rng, ODD, change, 0.25)


def test_no_odd_record_is_an_internal_error_of_any_verb(cells: list[Cell], capsys: pytest.CaptureFixture[str]) -> None:
    usable: list[bool] = []

    @settings(
        max_examples=examples(60, 0.05),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.integers(0, 2**64))
    def fuzz(seed: int) -> None:
        rng = random.Random(seed)
        for cell in cells:
            record = finished(cell)
            for _ in range(rng.randrange(3)):
                name = rng.choice(FREE) if rng.random() < 0.5 else "notes"
                record[name] = _mutate(record[name], rng)
            _write(cell, json.dumps(record).replace("Infinity", "1e999"))
            usable.append(records.read_record(Path("out"), cell.id) is not None)
        for words in rng.sample(READING, 6):
            with in_time():
                code = main([cells[0].id if word == "CELL" else word for word in words])
            err = capsys.readouterr().err
            assert code in (0, 1, 2), (words, err)
            assert "internal error" not in err, (words, err)

    fuzz()
    assert sum(usable) > len(usable) / 3
