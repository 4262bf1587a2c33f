"""Cells named on the command line are those of the equivalent YAML; the plan, status and run of them; refusals."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable

import pytest

from benchbd.cli import main, parser
from benchbd.cli.one_off import component
from benchbd.cli.run_arguments import same_command
from benchbd.errors import UsageError
from benchbd.plan import matrix

WORDS = (
    *("-a", "bn-g", "--attack", "blend(alpha=0.3)", "-d", "none", "-d", "ac(preset=per-class)", "-d", "lfd(beta=0)"),
    *("--dataset", "digits(train=200)", "--model", "resnet18(width=8)", "--recipe", "fast", "--seeds", "0-1"),
)
YAML = """
dataset: digits(train=200)
model: {resnet18: {width: 8}}
attacks: [bn-g, {blend: {alpha: 0.3}}]
defenses: [none, {ac: {preset: per-class}}, {lfd: {beta: 0}}]
recipe: fast
seeds: [0, 1]
"""


def ids(out: str) -> set[str]:
    return {cell["id"] for cell in json.loads(out)["cells"]}


def test_the_cells_are_those_of_the_yaml(told: Callable[..., str]) -> None:
    wanted = {cell.id for cell in matrix.resolve(matrix.parse(YAML, "x"), "x.yaml").cells}
    assert len(wanted) == 12
    assert ids(told("plan", *WORDS, "--json")) == wanted
    assert ids(told("status", *WORDS, "--json")) == wanted
    assert "of the command line: fine, 12 cells" in told("validate", *WORDS)


def test_defaults(told: Callable[..., str]) -> None:
    out = told("plan", "-a", "badnets-grid", "--dataset", "digits")
    assert out.startswith("cells: 1 cell (1 missing)\n")
    assert "digits/resnet18/bn-g/none/s0" in out
    sets = ("--set", "epochs=2", "--recipe", "{batch_size: 64}")
    data = {"dataset": "digits", "model": "resnet18", "attacks": "bn-g", "defenses": "none"}
    changed = matrix.resolve({**data, "recipe": {"epochs": 2, "batch_size": 64}}, "x.yaml").cells[0].id
    assert ids(told("plan", "-a", "bn-g", "--dataset", "digits", *sets, "--json")) == {changed}


@pytest.mark.parametrize("kind", ["attack", "defense"])
def test_what_tables_print_can_be_read(kind: str) -> None:
    specs = {
        "attack": ["bn-g", "bn-a2a(rate=0.5,smoothing=0.1)", "tj-sq(mode=random)", "blend(alpha=0.3)", "wanet"],
        "defense": ["lfd(alpha=0.2,teacher=resnet-s2)", "random-filter(of=lfd(beta=0))", "ac(preset=per-class)"],
    }[kind]
    data = {"dataset": "digits", "model": "lenet", "attacks": "bn-g", "defenses": "none"}
    for text in specs:
        plan = matrix.resolve({**data, f"{kind}s": component(text, kind)}, "x.yaml")
        assert [getattr(cell, kind).text for cell in plan.cells] == [text]


def test_quoted_specs_and_lists_are_read_as_in_a_matrix() -> None:
    assert component("lfd(beta=[0, 1], teacher='resnet-s')", "defense") == {
        "lfd": {"beta": [0, 1], "teacher": "resnet-s"}
    }
    for text in ("lfd(beta)", "lfd(a=1,a=2)", "lfd(beta=0", "lfd(beta=$(x))", "", "lfd(=1)"):
        with pytest.raises(UsageError, match=r"^defense"):
            component(text, "defense")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["-a", "bn-g", "quickstart"], "--attack names cells without a matrix, but there is a MATRIX, 'quickstart'"),
        (["quickstart", "--recipe", "fast"], "--recipe names cells without a matrix"),
        (["-a", "bn-g"], "cells without a matrix need --dataset D, such as -a bn-g -d lfd --dataset digits"),
        (["-d", "lfd", "--dataset", "digits"], "cells without a matrix need -a ATTACK"),
        ([], "the following arguments are required: MATRIX; see benchbd plan --help, also for -a ATTACK -d DEFENSE"),
        (["-a", "badnets", "--dataset", "digits"], "of the command line: attack 'badnets' may mean bn-g or bn-w"),
        (["-a", "bn-g", "-d", "lfdd", "--dataset", "digits"], "no defense is called 'lfdd'; did you mean 'lfd'?"),
        (["-a", "bn-g", "--dataset", "digits", "--recipe", "quick"], "preset must be one of paper"),
        (["-a", "bn-g", "--dataset", "digits", "--recipe", "{"], "--recipe '{': line 1: not YAML"),
        (["-a", "", "--dataset", "digits"], "attack: '' is neither NAME nor NAME(parameter=value)"),
    ],
)
def test_refusals(words: list[str], answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert answer in err
    assert err.count("\n") == 1


def test_the_command_that_a_summary_prints_names_the_same_cells(told: Callable[..., str]) -> None:
    args = parser("run").parse_args(["run", *WORDS])
    again = shlex.split(same_command(args))
    assert again[:2] == ["benchbd", "run"]
    assert "None" not in again
    assert ids(told("plan", *again[2:], "--json")) == ids(told("plan", *WORDS, "--json"))


def test_that_command_has_the_flags_that_were_given_and_no_default() -> None:
    given = ["--fail-fast", "--retries", "2", "--threads", "3", "--jobs-per-gpu", "4", "--smoke"]
    line = shlex.split(same_command(parser("run").parse_args(["run", *WORDS, *given])))
    plain = shlex.split(same_command(parser("run").parse_args(["run", *WORDS])))
    assert sorted(line) == sorted([*plain, *given])
    assert not {"--retries", "--executor", "--fail-fast"} & set(plain)
