"""Which folders may hold results, and what verbs say of one that holds none yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchbd import UsageError, run_matrix, testing
from benchbd.cli import main
from benchbd.plan import matrix
from benchbd.storage import records, results_file


def refusal(capsys: pytest.CaptureFixture[str], line: str) -> str:
    code = main(line.split())
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1), line
    return err


@pytest.fixture
def home(toy_matrix: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder, which has a folder and nothing else in it."""
    folder = toy_matrix.parent / "home"
    (folder / "Desktop").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def finished(toy_matrix: Path) -> list[records.Record]:
    """Records of a few of the matrix's cells."""
    return [records.blank(cell, "done") | {"ca": 0.5, "asr": 0.25} for cell in matrix.load(str(toy_matrix)).cells[:2]]


@pytest.mark.parametrize(
    "verb",
    [
        "run toys.yaml",
        "prepare toys.yaml",
        "merge good.jsonl",
        "validate toys.yaml",
        "plan toys.yaml",
        "export-poison toys.yaml --attack toy-attack --format npz --to set",
        "clean --artifacts --yes",
    ],
)
def test_the_root_and_the_home_folder_hold_no_results(
    verb: str, home: Path, finished: list[records.Record], capsys: pytest.CaptureFixture[str]
) -> None:
    results_file.write(finished, "good.jsonl")
    Path("link").symlink_to(home)
    rest = "give results a folder of their own, such as benchbd-out"
    for place, what in (
        ("/", "the root of the file system"),
        ("/tmp/..", "the root of the file system"),
        ("~", "your home folder"),
        ("link", "your home folder"),
        ("home/Desktop/..", "your home folder"),
    ):
        said = refusal(capsys, f"{verb} --output {place}")
        assert f": is {what}; {rest}\n" in said
        assert said.startswith("benchbd: --output '")
    assert [path.name for path in home.iterdir()] == ["Desktop"]


def test_the_library_refuses_them_too(home: Path, fresh_registry: None) -> None:
    testing.register()
    tiny = {"name": "t", "dataset": "tiny", "model": "tiny-net", "attacks": ["none"], "defenses": ["none"]}
    with pytest.raises(UsageError, match="is your home folder"):
        run_matrix(tiny, output=home, executor="inline", device="cpu")
    assert [path.name for path in home.iterdir()] == ["Desktop"]


def test_results_that_lie_there_already_stay_usable(
    home: Path, finished: list[records.Record], told: Callable[..., str]
) -> None:
    records.write_record(home, finished[0])
    assert "1 done" in told("status", "toys.yaml", "--output", "~")
    assert finished[0]["id"] in told("show", "--output", str(home))


def test_a_folder_without_records_yet_has_an_empty_list(
    toy_matrix: Path, told: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out/records").mkdir(parents=True)
    assert told("show", "--output", "out") == "No records yet.\n"
    assert json.loads(told("show", "--output", "out", "--json")) == []
    assert "No records yet." in told("leaderboard", "--output", "out")
    for verb in ("show ab", "export all.csv", "rerun ab"):
        said = refusal(capsys, f"{verb} --output out")
        assert said == "benchbd: no records in out yet; benchbd status MATRIX --output out shows how far its run is\n"
    Path("other").mkdir()
    for verb in ("show", "show --json", "leaderboard", "export all.csv"):
        for place in ("other", "absent"):
            said = refusal(capsys, f"{verb} --output {place}")
            assert said.startswith(f"benchbd: no records in {place}; run a matrix first"), verb


def test_the_state_of_a_results_file(
    toy_matrix: Path, finished: list[records.Record], told: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    results_file.write(finished, "good.jsonl")
    before = sorted(Path.cwd().rglob("*"))
    count = len(matrix.load(str(toy_matrix)).cells)
    said = told("status", "toys.yaml", "--results", "good.jsonl", "--all")
    assert said.splitlines()[0] == f"toys: 2 done, {count - 2} missing, 2 skipped"
    found = json.loads(told("status", "toys.yaml", "--results", "good.jsonl", "--json"))
    assert {row["id"] for row in found["cells"] if row["status"] == "done"} == {r["id"] for r in finished}
    assert "50.0/25.0" in told("status", "toys.yaml", "--results", "good.jsonl", "--grid")
    assert sorted(Path.cwd().rglob("*")) == before
    assert "give one of them" in refusal(capsys, "status toys.yaml --results good.jsonl --output out")
    assert "no such file" in refusal(capsys, "status toys.yaml --results absent.jsonl")
    Path("empty.jsonl").touch()
    assert "empty.jsonl: has no records" in refusal(capsys, "status toys.yaml --results empty.jsonl")


def test_verbs_that_need_a_folder_name_those_that_read_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("run quickstart", "plan quickstart", "export all.csv", "logs ab", "rerun ab"):
        said = refusal(capsys, f"{verb} --results r.jsonl")
        assert "leaderboard, plot, show and status read a results file; benchbd merge FILE --output DIR" in said


def test_a_reader_of_the_grid_that_goes_away_is_no_error(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "benchbd", "status", "quickstart", "--grid"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, cwd=tmp_path, env=env, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
