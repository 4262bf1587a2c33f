"""``benchbd show CELL --results FILE``: a record of a results file, found by the same rules as in a folder."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchbd.cli import main
from benchbd.plan import matrix
from benchbd.plan.cell import Cell
from benchbd.storage import records, results_file

FILE = "results.jsonl"


@pytest.fixture
def cells(toy_matrix: Path) -> tuple[Cell, ...]:
    """Cells with finished records in a results folder and in a results file of the same records."""
    found = matrix.load(str(toy_matrix)).cells
    done = [records.blank(cell, "done") | {"ca": 0.5 + place / 100} for place, cell in enumerate(found)]
    for record in done:
        records.write_record(Path("benchbd-out"), record)
    results_file.write(done, FILE)
    return found


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code = main(("show", *words))
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    return err


def append(record: dict[str, Any]) -> None:
    with Path(FILE).open("a") as file:
        file.write(json.dumps(record) + "\n")


def test_a_file_gives_the_text_of_the_folder(cells: tuple[Cell, ...], told: Callable[..., str]) -> None:
    for cell in cells:
        in_folder = told("show", cell.id)
        assert cell.id in in_folder
        for wanted in (cell.id, cell.id[:8], cell.label):
            assert told("show", wanted, "--results", FILE) == in_folder
    assert json.loads(told("show", cells[1].label, "--results", FILE, "--json"))["ca"] == 0.51


def test_a_failed_rerun_in_the_results_folder_does_not_belong_to_the_file(
    cells: tuple[Cell, ...], told: Callable[..., str]
) -> None:
    records.write_record(Path("benchbd-out"), records.blank(cells[0], "failed", "no memory"))
    assert "no memory" in told("show", cells[0].id)
    assert "no memory" not in told("show", cells[0].id, "--results", FILE)


def test_a_label_of_several_records_is_refused_in_the_same_words(
    cells: tuple[Cell, ...], toy_matrix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = matrix.load(str(toy_matrix), sets=["epochs=3"]).cells
    twin = next(other for other in others if other.label == cells[0].label)
    assert twin.id != cells[0].id
    done = records.blank(twin, "done") | {"ca": 0.25}
    records.write_record(Path("benchbd-out"), done)
    append(done)
    in_file = refusal(capsys, cells[0].label, "--results", FILE)
    assert in_file == refusal(capsys, cells[0].label)
    assert f"matches 2 cells ({min(twin.id, cells[0].id)}, {max(twin.id, cells[0].id)}); give more of the ID" in in_file


def test_of_two_records_of_a_cell_the_finished_one_is_shown(cells: tuple[Cell, ...], told: Callable[..., str]) -> None:
    append(records.blank(cells[0], "failed", "no memory"))
    assert json.loads(told("show", cells[0].label, "--results", FILE, "--json"))["ca"] == 0.5


def test_an_unknown_label_gets_the_nearest_one(cells: tuple[Cell, ...], capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, f"{cells[0].label}9", "--results", FILE)
    assert f"among the {len(cells)} records in {FILE}; did you mean '{cells[0].label}'?" in said
    assert f"no cell '' among the {len(cells)} records" in refusal(capsys, "", "--results", FILE)


def test_without_a_near_label_the_command_that_lists_them_is_named(
    cells: tuple[Cell, ...], told: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(FILE).rename("my results.jsonl")
    Path("part 2").mkdir()
    shutil.copytree("benchbd-out", "part 2/out")
    for place in ((), ("--output", "part 2/out"), ("--results", "my results.jsonl")):
        said = refusal(capsys, "unlike", *place)
        command = shlex.split(re.search("; benchbd (.*) lists them\n", said)[1])
        assert command == ["show", *place]
        listed = [line.split() for line in told(*command).splitlines()]
        assert sorted(listed) == sorted([cell.id, "done", cell.label] for cell in cells)
        for ident, _, label in listed:
            assert told("show", label, *place) == told("show", ident, *place)


def test_the_list_has_each_cell_once_in_the_order_of_tables(cells: tuple[Cell, ...], told: Callable[..., str]) -> None:
    append(records.blank(cells[0], "failed", "no memory"))
    append(records.blank(Cell.from_json({"spec": cells[0].spec() | {"seed": 7}, "matrix": "m"}), "failed", "no"))
    found = json.loads(told("show", "--results", FILE, "--json"))
    other = cells[0].label.replace("/s0", "/s7")
    listed = [(each["label"], each["status"]) for each in found]
    assert sorted(listed) == sorted([*((cell.label, "done") for cell in cells), (other, "failed")])
    assert listed.index((other, "failed")) == listed.index((cells[0].label, "done")) + 1
    assert [(each["label"], each["status"]) for each in json.loads(told("show", "--json"))] == [
        each for each in listed if each != (other, "failed")
    ]


def test_a_list_of_nothing_says_what_to_do(toy_matrix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "benchbd: no records in benchbd-out; run a matrix first, or name its folder with --output\n"
    assert refusal(capsys) == line
    for words in (("show", "3f9a"), ("rerun", "3f9a"), ("leaderboard",), ("plot", "heatmap"), ("export", "all.csv")):
        assert main(words) == 2
        assert capsys.readouterr().err == line, words


def test_a_damaged_line_is_named_and_costs_only_itself(
    cells: tuple[Cell, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with Path(FILE).open("a") as file:
        file.write('{"id": 3\n')
    assert main(("show", cells[0].id, "--results", FILE)) == 0
    out, err = capsys.readouterr()
    assert cells[0].id in out
    assert err.startswith(f"benchbd: {FILE}, line {len(cells) + 1}: not JSON")
    assert err.count("\n") == 1


def test_both_places_of_results_are_refused(cells: tuple[Cell, ...], capsys: pytest.CaptureFixture[str]) -> None:
    line = "benchbd: --results and --output both name results; give one of them\n"
    for folder in ("part2", "benchbd-out"):
        assert refusal(capsys, cells[0].id, "--results", FILE, "--output", folder) == line
    for verb in (("leaderboard",), ("plot", "heatmap")):
        assert main((*verb, "--results", FILE, "--output", "part2")) == 2
        assert capsys.readouterr() == ("", line)


def test_what_is_no_results_file_is_refused(cells: tuple[Cell, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "--results absent.jsonl: no such file" in refusal(capsys, "x", "--results", "absent.jsonl")
    assert "benchbd-out: is a folder; name it with --output" in refusal(capsys, "x", "--results", "benchbd-out")
    Path("empty.jsonl").touch()
    assert "empty.jsonl: has no records" in refusal(capsys, "x", "--results", "empty.jsonl")
    Path("broken.jsonl").write_text("{\n")
    assert main(("show", "x", "--results", "broken.jsonl")) == 2
    assert "broken.jsonl: none of its records can be used" in capsys.readouterr().err
