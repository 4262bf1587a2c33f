"""Parameters that name the user's files: every spelling of a name is the same component, and so the same cell."""

from __future__ import annotations

import pytest

from benchbd.errors import UsageError
from benchbd.plugins import registry
from benchbd.plugins.identity import part_of

NAMING = [
    ("models", "torchvision(weights={!r})"),
    ("models", "timm(weights={!r})"),
    ("attacks", "imported(file={!r})"),
    ("datasets", "imported(file={!r})"),
    ("datasets", "csv-folder(folder={!r})"),
    ("datasets", "csv-folder(labels={!r})"),
    ("datasets", "parquet(folder={!r})"),
    ("defenses", "command(run='x', files=[{!r}])"),
]


@pytest.mark.parametrize(("kind", "spec"), NAMING)
def test_every_spelling_of_a_name_is_the_same_component(kind: str, spec: str) -> None:
    plain = part_of(registry.make(kind, spec.format("a/w.pth"))).json
    assert '"a/w.pth"' in plain
    for text in ("./a/w.pth", "a//w.pth", "a/./w.pth", "././/a/w.pth"):
        assert part_of(registry.make(kind, spec.format(text))).json == plain
    assert part_of(registry.make(kind, spec.format("b/w.pth"))).json != plain


@pytest.mark.parametrize("name", ["", ".", "/w.pth", "../w.pth", "a/../w.pth", "~/w.pth", "./~/w.pth"])
@pytest.mark.parametrize(("kind", "spec"), NAMING)
def test_a_name_that_leads_elsewhere_is_refused_in_one_line(kind: str, spec: str, name: str) -> None:
    with pytest.raises(UsageError, match=r"must (lie|be a name) below") as caught:
        registry.make(kind, spec.format(name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("twice", ["['code', 'code/']", "['./code', 'code']", "['code/.', 'code//', 'code']"])
def test_a_name_that_is_listed_twice_counts_once(twice: str) -> None:
    def files(names: str) -> str:
        return part_of(registry.make("defenses", f"command(run='x', files={names})")).json

    assert files(twice) == files("['code']")
    assert files(f"['b', {twice[1:-1]}, 'a', 'b/']") == files("['b', 'code', 'a']")
    assert files("['code', 'code/a']") != files("['code']")
    assert files("['Code', 'code']") != files("['code']")
