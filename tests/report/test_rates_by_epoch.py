"""Rates by epoch in the reports: plots, the page, ``show``, and what contradicts them in somebody's results."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchbd.cli import main
from benchbd.errors import UsageError
from benchbd.plan.cell import identity
from benchbd.report import board
from benchbd.report.figures import charts
from benchbd.report.verification.plausibility import contradictions

PROBE = {"losses": False, "features": None, "samples": 2000, "rates": 1}
COURSE = {"epochs": [1, 2, 3], "ca": [0.3, 0.6, 0.9], "asr": [0.0, 0.5, 0.8], "ra": [0.4, 0.3, 0.2]}
LATER = {"epochs": [2, 3], "ca": [0.5, 0.9], "asr": [0.25, 0.8], "ra": [0.4, 0.2]}
COUNTS = {"test_images": 10, "triggered_test_images": 20}


@pytest.fixture
def probed(make_record: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A record whose probe asked for rates: ``probed({"model": COURSE}, defense="lfd")``."""

    def made(rates: dict[str, Any], *, notes: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
        found = make_record(**{"ca": 0.9, "asr": 0.8, "ra": 0.2, **given})
        found["notes"] = {"rates_by_epoch": rates, **COUNTS, **(notes or {})}
        found["spec"]["probe"] = PROBE
        found["id"] = identity(found["spec"])
        return found

    return made


def rows(chart: charts.Chart) -> list[tuple[str, str, str, float]]:
    read = csv.DictReader(io.StringIO(charts.numbers(chart)))
    return [(r["panel"], r["series"], r["x"], float(r["y"])) for r in read]


def test_plots_are_means_over_seeds_at_the_epochs_that_all_have(probed: Callable[..., dict[str, Any]]) -> None:
    records = [probed({"model": COURSE}, defense="lfd"), probed({"model": LATER}, defense="lfd", seed=1)]
    (chart,) = charts.charts("curves", board(records), "asr")
    assert rows(chart) == [("lfd", "bn-g", "2", pytest.approx(37.5)), ("lfd", "bn-g", "3", pytest.approx(80.0))]
    (panel,) = chart.body.panels  # type: ignore[union-attr]
    assert (panel.x, panel.y) == ("epoch", "ASR in %")
    assert "mean of up to 2 seeds" in chart.note
    (chart,) = charts.charts("curves", board(records), "ca")
    assert [y for *_, y in rows(chart)] == [pytest.approx(55.0), pytest.approx(90.0)]


def test_traced_models_have_a_panel_of_their_own(probed: Callable[..., dict[str, Any]]) -> None:
    way = [{"name": f"{n} pruned", "ca": 0.9, "asr": 0.8, "ra": 0.1} for n in (0, 1)]
    (chart,) = charts.charts("curves", board([probed({"model": COURSE}, notes={"curve": way}, defense="lfd")]), "asr")
    panels = chart.body.panels  # type: ignore[union-attr]
    assert [(panel.title, panel.x) for panel in panels] == [("lfd", "epoch"), ("lfd, traced", "pruned")]


BROKEN: list[Any] = [
    *({}, [], {"model": {"no_rates": "a pack"}}, {"model": 7}),
    *({"model": {**COURSE, "ca": [0.1]}}, {"model": {**LATER, "epochs": ["a", "b"]}}),
]


@pytest.mark.parametrize("rates", BROKEN)
def test_records_without_rates_are_not_drawn(probed: Callable[..., dict[str, Any]], rates: Any) -> None:
    record = probed(rates, defense="lfd")
    with pytest.raises(UsageError, match=r"needs records with notes.rates_by_epoch \(probe: \{rates: true\}"):
        charts.charts("curves", board([record]), "ca")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "fraction": (COURSE | {"ca": [0.3, 0.6123, 0.9]}, "ca 0.6123 is not a whole number of its 10 test images"),
    "end": (COURSE | {"asr": [0.0, 0.5, 0.7]}, "ends with asr 0.7, but the record has 0.8"),
    "sum": (COURSE | {"ra": [0.4, 0.6, 0.2]}, "asr 0.5 and ra 0.6 of epoch 2 add up to more than 1"),
    "epoch": (COURSE | {"epochs": [1, 2, 4]}, "has other epochs than a probe keeps of a training of 4 epochs"),
    "attack": (COURSE | {"asr": [None] * 3}, "has asr where the record has none, or the reverse"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_verify_finds_what_contradicts_the_record(probed: Callable[..., dict[str, Any]], kind: str) -> None:
    course, said = WRONG[kind]
    assert not [line for line in contradictions(probed({"model": COURSE})) if "by_epoch" in line]
    found = [line for line in contradictions(probed({"model": course})) if "by_epoch" in line]
    assert any(line.startswith("notes.rates_by_epoch.model") and said in line for line in found)


def test_a_pruned_model_and_the_undefended_training_may_end_otherwise(probed: Callable[..., dict[str, Any]]) -> None:
    other = {"epochs": [1], "ca": [0.1], "asr": [0.05], "ra": [0.1]}
    whole = {"epochs": [*range(1, 81)], **{name: 80 * other[name] for name in ("ca", "asr", "ra")}}
    rates = {"model": {**other, "pruned": True}, "undefended": whole}
    assert not [line for line in contradictions(probed(rates)) if "by_epoch" in line]


def test_verify_knows_how_long_trainings_are(probed: Callable[..., dict[str, Any]]) -> None:
    three = {"train_loss": {"model": [0.3, 0.2, 0.1]}}
    for training, epochs, notes in (("undefended", 80, {}), ("model", 3, three)):
        record = probed({training: {name: values[:2] for name, values in COURSE.items()}}, notes=notes)
        said = f"other epochs than a probe keeps of a training of {epochs} epochs"
        assert any(line.endswith(said) for line in contradictions(record))
    assert not [line for line in contradictions(probed({"model": COURSE}, notes=three)) if "by_epoch" in line]
    huge = probed({"model": COURSE | {"epochs": [1, 2, 10**15]}})
    assert any("other epochs" in line for line in contradictions(huge))


def test_show_prints_some_epochs(
    probed: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"epochs": [*range(1, 21)], **{name: [n / 20 for n in range(20)] for name in ("ca", "asr", "ra")}}
    record = probed({"model": {**long, "pruned": True}, "undefended": {"no_rates": "the training diverged"}})
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / f"{record['id']}.json").write_text(json.dumps(record))
    assert main(["show", record["id"], "--output", str(tmp_path)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert [line.split()[2] for line in lines if line.startswith("model, epoch")] == [
        "1", "4", "7", "11", "14", "17", "20"
    ]  # fmt: skip
    assert "model, epoch 20 0.9500 / 0.9500 / 0.9500" in lines
    assert "model, then channels were pruned" in lines
    assert "undefended, by epoch the training diverged" in lines
    assert not any("rates_by_epoch" in line for line in lines)
