"""Completion, in Python and in the shells that are here."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchbd.cli import VERBS, main
from benchbd.cli.completion import FILES, candidates
from benchbd.plan import matrix
from benchbd.storage import records, results_file

BIN = str(Path(sys.executable).parent)


def words(*typed: str) -> list[str]:
    return [word for word, _ in candidates(["benchbd", *typed])]


def test_verbs_come_first():
    assert set(words("")) == set(VERBS)
    assert words("pl") == ["plan", "plot"]
    assert words("--v") == ["--version"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (("run", "qui"), {"quickstart", FILES}),
        (("run", "quickstart", "--exec"), {"--executor", "--executor-config"}),
        (("run", "quickstart", "--executor", ""), {"inline", "local", "slurm", "ray"}),
        (("run", "quickstart", "--rerun", "fa"), {"failed"}),
        (("run", "--jobs", "2", "tab"), {"table2", FILES}),
        (("run", "quickstart", "--plugin", ""), {FILES}),
        (("run", "quickstart", "--jobs", ""), set()),
        (("plot", "fig4"), {"fig4a", "fig4b", "fig4c", FILES}),
        (("describe", "lf"), {"lfd", "lfd-adaptive", "lfd-ensemble"}),
        (("describe", "fas"), {"fast"}),
        (("describe", "rec"), {"recipe"}),
        (("describe", "matr"), {"matrix"}),
        (("describe", "prob"), {"probe"}),
        (("help", "desc"), {"describe"}),
        (("run", "-d", "lf"), {"lfd", "lfd-ensemble"}),
        (("plan", "--attack", "bn"), {"bn-a2a", "bn-g", "bn-w"}),
        (("run", "--recipe", "fas"), {"fast"}),
        (("check", "fas"), set()),
        (("check", "resnet-s"), {"resnet-s", "resnet-s1", "resnet-s2"}),
        (("preview", "bn"), {"bn-a2a", "bn-g", "bn-w"}),
        (("preview", "bn-g", "--dataset", "cif"), {"cifar10"}),
        (("list", "def"), {"defenses"}),
        (("new", "a"), {"attack"}),
        (("completion", "f"), {"fish"}),
        (("merge", "a", "b", ""), {FILES}),
        (("run", "quickstart", "more"), set()),
    ],
)
def test_what_may_stand_there(typed, expected):
    assert set(words(*typed)) == expected


def test_every_flag_of_every_verb_is_known():
    for verb in VERBS:
        assert "--help" in words(verb, "-")
    assert "--smoke" in words("run", "quickstart", "-")
    assert "--for" not in words("completion", "-")


def test_cells_are_those_of_the_results_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchbd-out" / "records").mkdir(parents=True)
    (tmp_path / "benchbd-out" / "records" / "0123456789abcdef.json").write_text("{}")
    assert words("show", "01") == ["0123456789abcdef"]


def test_cells_are_those_of_the_folder_or_file_that_is_named(toy_matrix):
    found = matrix.load(str(toy_matrix)).cells
    for number, cell in enumerate(found[:3]):
        records.write_record(Path(("benchbd-out", "part 2", "other")[number]), records.blank(cell, "done"))
    results_file.write([records.blank(cell, "done") | {"ca": 0.5} for cell in found[1:]], "all.jsonl")
    with Path("all.jsonl").open("a") as file:
        file.write("{\n")
    usual, part = ([cell.id] for cell in found[:2])
    assert words("show", "") == usual
    for place in (("--output", "part 2"), ("--output=part 2",), ("--output", "=", "part 2")):
        assert words("show", *place, "") == part
        assert words("rerun", *place, "") == part
    for place in (("--results", "all.jsonl"), ("--results=all.jsonl",), ("--json", "--results", "=", "all.jsonl")):
        assert dict(candidates(["benchbd", "show", *place, ""])) == {cell.id: cell.label for cell in found[1:]}
    assert words("show", "--results", "all.jsonl", found[1].id[:6]) == part
    for nothing in ("absent.jsonl", "~nobody-of-that-name/x", "."):
        assert words("show", "--results", nothing, "") == []


def test_nothing_typed_yet_is_no_error(capsys):
    assert main(["completion", "--for", "benchbd"]) == 0
    assert capsys.readouterr().out.startswith("run\trun a matrix")


SHELLS = {
    "bash": (
        'eval "$(benchbd completion bash)"; complete -p benchbd; '
        'try() { COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _benchbd; echo "=${COMPREPLY[*]}"; }; '
        "try benchbd pl; try benchbd run qui; try benchbd run q --executor s; try benchbd run a-fi"
    ),
    "fish": (
        "benchbd completion fish | source; "
        'for line in pl "run qui" "run q --executor s" "run a-fi"; '
        'echo "="(string split -f1 \\t (complete -C "benchbd $line")); end'
    ),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_in_a_real_shell(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    (tmp_path / "a-file.yaml").write_text("")
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [shell, "-c", SHELLS[shell]], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    for word in ("plan", "plot", "quickstart", "slurm", "a-file.yaml"):
        assert word in done.stdout, done.stdout


TERMINAL = r"""
autoload -Uz compinit; compinit -u -D; eval "$(command benchbd completion zsh)"
benchbd() { if [[ $1 == completion ]]; then command benchbd "$@"; else print -r -- "<<$*>>"; fi }
finish() { zle complete-word; zle accept-line }; zle -N finish; bindkey '^T' finish; print -r -- "<<"ready">>"
"""
"""A key that completes the line and enters it, and a command that says what it was given."""


def test_in_zsh_on_a_terminal(tmp_path):
    if shutil.which("zsh") is None:
        pytest.skip("there is no zsh here")
    (tmp_path / "a-file.yaml").write_text("")
    (tmp_path / "setup.zsh").write_text(TERMINAL)
    ours, its = pty.openpty()
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "TERM": "dumb"}
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"], stdin=its, stdout=its, stderr=its, cwd=tmp_path, env=env, start_new_session=True
    )
    os.close(its)

    def answer(typed):
        os.write(ours, typed.encode())
        seen = b""
        while not (found := re.search(rb"<<([^\r\n]*?)>>", seen)):
            assert select.select([ours], [], [], 60)[0], seen
            seen += os.read(ours, 4096)
        return found[1].decode().strip()

    try:
        assert answer("source setup.zsh\n") == "ready"
        assert answer("benchbd pla\x14") == "plan"
        assert answer("benchbd run quickstart --smo\x14") == "run quickstart --smoke"
        assert answer("benchbd describe lf\x14") == "describe lfd"
        assert answer("benchbd run qui\x14") == "run quickstart"
        assert answer("benchbd run q --executor s\x14") == "run q --executor slurm"
        assert answer("benchbd run a-fi\x14") == "run a-file.yaml"
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_for_the_shell_asked_for(shell, capsys):
    assert main(["completion", shell]) == 0
    said = capsys.readouterr().out
    assert {"bash": "COMP_CWORD", "zsh": "compdef", "fish": "commandline"}[shell] in said
    assert "completion --for" in said
