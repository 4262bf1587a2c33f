"""The tutorial runs as it is written, in an empty folder, shrunk to seconds."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from benchbd.cli import main
from benchbd.plugins import registry

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorial"
TINY = ["--set", "dataset.train=200", "--set", "dataset.test=100", "--set", "epochs=1"]
CELLS = ("run", "plan", "status", "leaderboard", "plot")
"""Verbs whose cells are shrunk, where they name a matrix or cells."""


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Language, file and text of each code block."""
    text = (TUTORIAL / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^```([a-z]+)(?: file=(\S+))?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def follow(page: str) -> list[str]:
    """Write the files of a page and run its commands. Returns the commands."""
    followed = []
    for language, file, text in blocks(page):
        if file:
            Path(file).write_text(text, encoding="utf-8")
        for line in text.splitlines() if language == "sh" else ():
            program, *words = shlex.split(line)
            assert program == "benchbd"
            named = any(word.endswith(".yaml") for word in words) or "-a" in words
            if named and words[0] in CELLS:
                words += ["--seeds", "0"] if "--smoke" in words else [*TINY, "--seeds", "0"]
            if words[0] == "run":
                words += ["--executor", "inline", "--device", "cpu", "--display", "none"]
            known = set(registry.plugin_files())
            assert main(words) == 0, line
            # Every command is a process of its own where people type them.
            for path in set(registry.plugin_files()) - known:
                registry.forget_plugin_file(path)
            followed.append(line)
    return followed


@pytest.fixture
def empty(tmp_path, monkeypatch, fresh_registry, one_thread):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("page", "made", "said"),
    [
        ("first-run", ("trigger.png", "board.html", "heatmap.png"), ("| fine-pruning", "| oracle")),
        ("first-matrix", ("heatmap.pdf", "tables.tex"), ("| abl", "18 cells")),
        ("first-defense", ("trim_easy.py", "trim-easy.svg"), ("| trim-easy", "fraction=0.3", "passes all")),
    ],
)
def test_a_page_of_the_tutorial_runs(empty, capsys, page, made, said):
    assert len(follow(page)) >= 6
    out = capsys.readouterr().out
    assert [name for name in made if not (empty / name).stat().st_size] == []
    assert [text for text in said if text not in out] == []


def test_the_pages_lead_to_each_other():
    for page, following in (("first-run", "first-matrix.md"), ("first-matrix", "first-defense.md")):
        assert f"]({following})" in (TUTORIAL / f"{page}.md").read_text(encoding="utf-8")


def test_no_command_of_the_tutorial_is_left_out():
    for path in TUTORIAL.glob("*.md"):
        shown = re.findall(r"^ *benchbd .*$", path.read_text(encoding="utf-8"), re.MULTILINE)
        run = [line for language, _, text in blocks(path.stem) if language == "sh" for line in text.splitlines()]
        assert [line for line in shown if line not in run] == []
