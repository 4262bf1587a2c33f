"""The words of messages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import benchbd
from benchbd.errors import agrees, counted, shown, with_article
from benchbd.report.wording import needs_text


@pytest.mark.parametrize(
    ("an", "names"),
    [
        ("an", "asr asr_all airbench(width=16) int OrderedDict mlp LfD RNN ndarray unknown ASR Array effnet imported"),
        ("a", "ca_non_target clean_asr resnet18 vgg11 unet uint8 UsageError list NoneType CNN toy-net _toy 3d b"),
    ],
)
def test_articles_follow_the_sound(an: str, names: str) -> None:
    for name in names.split():
        assert with_article(name) == f"{an} {name}"


def test_messages_have_them() -> None:
    assert shown(10**5000) == "an int too large to print"
    assert needs_text([], False, "airbench(width=16)") == "nothing; returns an airbench(width=16)"
    assert needs_text([], False, "resnet-s") == "nothing; returns a resnet-s"


def test_numbers_and_their_nouns() -> None:
    assert [counted(n, "more record") for n in (0, 1, 2)] == ["0 more records", "1 more record", "2 more records"]
    assert counted(12_345, "image", ",") == "12,345 images"
    assert f"{counted(1, 'cell')} {agrees(1, 'is', 'are')}" == "1 cell is"
    assert f"{counted(0, 'cell')} {agrees(0, 'is', 'are')}" == "0 cells are"


SEVERAL = {
    "len(array) entries",  # fewer or more than the images, or another number of them
    "len(images) training images",
    "len(simulate) times",
    "len(self.columns) columns",  # of a defect of the program
    "len(probed) seeds",  # of which some have something
    "len(rows) rows",  # of which several fail
    "len(same) records",
    "len(x) images",  # the two or more of a trial
    "len(given) characters",
}
"""Counts that cannot be 1 where their message is written."""


def _plurals(tree: ast.AST) -> Iterator[str]:
    """The lengths and plural nouns that stand side by side in f-strings."""
    for text in (node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)):
        for value, after in zip(text.values, text.values[1:], strict=False):
            if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant):
                number = ast.unparse(value.value)
                noun = re.match(r" ((?:more |other )?(?:[a-z]+ )?[a-z]+s)\b", str(after.value))
                if noun and re.match(r"len\(|int\(.*\.sum\(\)\)$", number):
                    yield number + noun[0]


def test_no_message_counts_one_cells() -> None:
    tree = ast.parse(
        "f'{len(cells)} cells', f'{len(cells):,} more cells left', f'{len(a)} of', f'{int(x.sum())} samples'"
    )
    assert [*_plurals(tree)] == ["len(cells) cells", "len(cells) more cells", "int(x.sum()) samples"]
    folder = Path(benchbd.__file__).parent
    for name in ("cli", "core", "exchange", "pipeline", "plan", "report", "run", "storage"):
        for file in sorted((folder / name).rglob("*.py")):
            found = {text for text in _plurals(ast.parse(file.read_text())) if text not in SEVERAL}
            assert found == set(), f"{file}: counted(number, noun) of benchbd.errors writes 1 cell and 2 cells"
