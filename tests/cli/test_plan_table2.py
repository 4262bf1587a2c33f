"""``benchbd plan table2``: what the paper's table costs, and what is missing for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchbd.cli import main

ROWS = 3 * (10 + 7 + 5)
"""Three seeds of the attacks on CIFAR-10, GTSRB and ImageNet, no attack included."""


@pytest.fixture
def told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fresh_registry: None
) -> Callable[..., str]:
    """What a plan of table2 says where there are no data and no network."""
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchbd.datasets._fetch.reachable", lambda url: False)

    def tell(*words: str) -> str:
        assert main(["plan", "table2", "--data", "data", *words]) == 0
        return capsys.readouterr().out

    return tell


def test_each_missing_data_set_is_named_with_where_it_was_looked_for(told: Callable[..., str]) -> None:
    missing = json.loads(told("--json"))["missing_data"]
    places = {
        "cifar10": "data/cifar-10-batches-py/data_batch_1",
        "gtsrb": "data/gtsrb",
        "imagenette": "data/imagenette2-128",
    }
    assert [line.partition(" ")[0].rstrip(":") for line in missing] == list(places)
    for line, place in zip(missing, places.values(), strict=True):
        assert place in line
        assert "https://" in line, "and where it is to be had"
    assert [line for line in told().splitlines() if line.startswith("data: ")] == [f"data: {line}" for line in missing]


def test_cells_and_trainings_are_counted(told: Callable[..., str]) -> None:
    plan = json.loads(told("--json"))
    assert (len(plan["cells"]), plan["skipped"]) == (7 * ROWS, [])
    assert plan["trainings"] == {
        # Undefended, both of AC's, ABL's and both of LfD's. In each seed, cl's robust surrogate on three data sets, and
        # the surrogate of tj-sq, tj-wm and l2 on two.
        "full": 6 * ROWS + 3 * (3 + 2),
        "feature-model": ROWS,
        "teacher": 2 * ROWS,  # LfD's pack of eight, and the paper's single one, which alone is tried again
        "fine-tune": 2 * ROWS,
    }
    assert plan["retries"] == {"teacher": 2 * ROWS}


def test_retries_are_told_where_there_may_be_any(told: Callable[..., str]) -> None:
    assert f"plus up to {2 * ROWS} teacher retries if trainings fail to learn\n" in told()
    assert "plus up to 66 teacher retries" in told("--set", "lfd.teacher_tries=2")
    assert "retries" not in told("--set", "lfd.teacher_tries=1")
    assert "retries" not in told("--exclude", "defense=lfd*")
