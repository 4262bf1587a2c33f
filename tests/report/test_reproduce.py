"""The command on a record's page reproduces a cell with the record's id."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchbd.plan import matrix
from benchbd.plan.shipped import shipped
from benchbd.report.formats.reproduce import command, matrix_of
from benchbd.storage.records import blank
from benchbd.storage.results_file import load


def cells_of(text):
    return matrix.resolve(matrix.parse(text, "-"), "-").cells


def record_of(cell):
    """The fields of a record that the command needs."""
    return blank(cell, "done")


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_cell_is_described_by_a_matrix_of_one(name):
    # One seed: the others differ in a number.
    for cell in matrix.load(name, seeds=[1]).cells:
        assert [again.id for again in cells_of(matrix_of(record_of(cell)))] == [cell.id]


@pytest.mark.parametrize(
    "sets",
    [
        ["epochs=2", "lr=1e-5", "augment=[]", "dataset=imagenet-subset", "dataset.size=64"],
        ["augment=[hflip]", "schedule=steps", "milestones=[1, 2]", "dataset=cifar10(train=5000)"],
        ["model=resnet18(width=8)", "probe.features=7", "horizon=90", "nesterov=true"],
        ["precision=strict-bf16", "threads=4"],
    ],
)
def test_what_was_set_on_the_command_line_is_in_it(sets):
    for cell in matrix.load("table2", sets=sets, seeds=[3]).cells[:12]:
        (again,) = cells_of(matrix_of(record_of(cell)))
        assert (again.id, again.label, again.matrix) == (cell.id, cell.label, "table2")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
@example("\u1e70" * 300)
def test_no_text_in_a_parameter_is_changed_or_leaves_its_line(text):
    params = {"dataset": {"file": text}, "model": {}, "attack": {text: text}, "defense": {}}
    names = {"dataset": "csv-folder", "model": "lenet", "attack": "none", "defense": "none"}
    record = {**names, "id": "0" * 16, "seed": 0, "recipe": {}, "params": params, "matrix": text, "spec": {}}
    said = matrix_of(record)
    data = matrix.parse(said, "-")
    assert data["dataset"] == {"csv-folder": {"file": text}}
    assert data["attacks"] == {"none": {text: text}}
    assert all(
        line.partition(":")[0] in ("name", "seeds", "recipe", *matrix.COMPONENTS.values())
        for line in said.split("\n")[:-1]
    )


@pytest.mark.parametrize("text", ["END\n$(touch taken)\nEND", "'; touch taken; '", "`touch taken`", "\U0001f600 \x7f"])
def test_a_shell_takes_the_command_literally(make_record, tmp_path, text):
    tool = tmp_path / "benchbd"
    tool.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\ncat\n')
    tool.chmod(0o755)
    record = make_record(given={"attack": {"note": text}}, attack="of mine", matrix=text)
    run = {"cwd": tmp_path, "env": {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, "capture_output": True}
    shell = subprocess.run(["sh", "-c", command(record)], **run, text=True, check=True)
    assert shell.stderr == ""
    words = ["run", "-", "--filter", f"id={record['id']}", "--output", "again"]
    assert shell.stdout == "\n".join(words) + "\n" + matrix_of(record)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchbd"]


def test_the_command_makes_the_record_again(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "{name: mine, dataset: digits, model: lenet-s, attacks: bn-g, defenses: [none, lfd]}"
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = {"cwd": tmp_path, "env": os.environ | {"PATH": path}, "check": True, "capture_output": True}
    words = ["--executor", "inline", "--set", "epochs=1", "--set", "dataset.train=200", "--set", "bn-g.rate=0.2"]
    words += ["--set", "augment=[]", "--seeds", "5", "--filter", "defense=none"]
    subprocess.run(["benchbd", "run", "mine.yaml", "--output", "out", *words], **run)
    (tmp_path / "mine.yaml").unlink()
    (first,) = load(tmp_path / "out")
    subprocess.run(["sh", "-c", command(first)], **run)
    (again,) = load(tmp_path / "again")
    for same in ("id", "label", "matrix", "spec", "ca", "asr", "ra", "artifacts"):
        assert json.dumps(again[same]) == json.dumps(first[same]), same
