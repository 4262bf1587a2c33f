"""Poisoned samples beside the clean ones with the target's label: figures, numbers, claims, show and verify."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchbd.cli import main
from benchbd.plan.cell import identity
from benchbd.plugins import registry
from benchbd.report import board
from benchbd.report.figures import charts, panels, plots
from benchbd.report.verification.plausibility import beyond_the_data, contradictions
from benchbd.report.wording import joined
from benchbd.storage.record_schema import fault

Make = Callable[..., dict[str, Any]]
LISTS = {"epochs": [1, 5], "clean_mean": [2.0, 1.5], "poison_mean": [0.6, 0.1], "poison_over_clean_mean": [40, 3]}
TARGET = {"clean_target_mean": [1.0, 0.5], "poison_over_clean_target_mean": [90, 7], "clean_target_count": 4500}
REASON = {"no_clean_target": "every sample with the target's label is poisoned"}
SMALL_LISTS = {**LISTS, "clean_mean": [2.2, 2.0], "poison_mean": [1.9, 1.75], "poison_over_clean_mean": [50, 30]}
SMALL_TARGET = {**TARGET, "clean_target_mean": [2.0, 1.8], "poison_over_clean_target_mean": [60, 50]}
LINES = ["clean", "clean, target's label", "poisoned"]


def probed(make: Make, probe: dict[str, Any], attack: str = "bn-g", **more: Any) -> dict[str, Any]:
    """An undefended record whose probe asked for losses."""
    found = make(attack, notes={"probe": probe}, poison={"count": 5000, "share_of_set": 0.1, "target": 1}, **more)
    found["spec"] = {**found["spec"], "probe": {"losses": True, "features": None, "samples": 2000}}
    return {**found, "id": identity(found["spec"])}


@pytest.fixture(scope="module")
def both(make_record: Make) -> list[dict[str, Any]]:
    """ResNet-18 and ResNet-S on an attack that has such samples and on one that has none."""
    large = [probed(make_record, LISTS | TARGET), probed(make_record, LISTS | REASON, "sig")]
    small = [probed(make_record, SMALL_LISTS | SMALL_TARGET, model="resnet-s")]
    return [*large, *small, probed(make_record, SMALL_LISTS | REASON, "sig", model="resnet-s")]


def drawn(name: str, records: list[dict[str, Any]]) -> tuple[panels.Figure, list[dict[str, str]]]:
    (figure,) = panels.figures(name, panels.source(records))
    return figure, list(csv.DictReader(io.StringIO(plots.numbers(figure))))


def test_fig1_has_a_third_line_and_names_the_attack_without_it(both: list[dict[str, Any]]) -> None:
    figure, rows = drawn("fig1", both)
    assert [[s.name for s in panel.series] for panel in figure.panels] == 4 * [LINES]
    assert [[len(s.x) for s in panel.series] for panel in figure.panels] == 2 * [[2, 2, 2], [2, 0, 2]]
    assert [(r["x"], r["y"]) for r in rows if (r["panel"], r["series"]) == ("resnet18, bn-g", LINES[1])] == [
        ("1", "1"), ("5", "0.5")
    ]  # fmt: skip
    said = "no loss of clean samples with the target's label for sig (every sample with the target's label is poisoned)"
    assert said in figure.note
    canvas = plots.canvas(figure)
    assert [text.get_text() for text in canvas.legends[0].get_texts()] == LINES
    looks = [[(c[0].get_color(), c[0].get_linestyle()) for c in ax.containers] for ax in canvas.axes]
    assert looks[0] == looks[1]  # with and without the line
    assert len(set(looks[0])) == 3


def test_fig6_has_it_too(make_record: Make) -> None:
    figure, _ = drawn("fig6", [probed(make_record, LISTS | TARGET, model=m) for m in ("vgg11", "vgg-s")])
    assert [[s.name for s in panel.series] for panel in figure.panels] == [LINES, LINES]


def test_fig2_has_both_counts(both: list[dict[str, Any]]) -> None:
    figure, rows = drawn("fig2", both)
    assert figure.columns == 2
    assert figure.shared
    assert [(r["panel"], r["series"], r["x"], r["y"]) for r in rows] == [
        ("mean of all clean samples", "resnet18", "bn-g", "3"),
        ("mean of all clean samples", "resnet18", "sig", "3"),
        ("mean of all clean samples", "resnet-s", "bn-g", "30"),
        ("mean of all clean samples", "resnet-s", "sig", "30"),
        ("mean of clean samples with the target's label", "resnet18", "bn-g", "7"),
        ("mean of clean samples with the target's label", "resnet-s", "bn-g", "50"),
    ]
    assert figure.note.count("every sample with the target's label is poisoned") == 1


def test_a_network_looks_the_same_in_both_panels_of_fig2(make_record: Make) -> None:
    records = [probed(make_record, LISTS), probed(make_record, SMALL_LISTS | SMALL_TARGET, model="resnet-s")]
    figure, _ = drawn("fig2", records)
    assert [[s.x for s in panel.series] for panel in figure.panels] == [[["bn-g"], ["bn-g"]], [[], ["bn-g"]]]
    canvas = plots.canvas(figure)
    first, second = ([[p.get_facecolor() for p in c] for c in ax.containers] for ax in canvas.axes)
    assert second == [[], first[1]]
    assert [text.get_text() for text in canvas.legends[0].get_texts()] == ["resnet18", "resnet-s"]


def test_seeds_are_averaged_only_if_all_have_it(make_record: Make) -> None:
    other = {**TARGET, "clean_target_mean": [3.0, 1.5]}
    records = [probed(make_record, LISTS | TARGET, seed=0), probed(make_record, LISTS | other, seed=1)]
    assert drawn("fig1", records)[0].panels[0].series[1].y == [2.0, 1.0]
    figure, _ = drawn("fig1", [*records, probed(make_record, LISTS, seed=2)])
    assert [s.name for s in figure.panels[0].series] == ["clean", "poisoned"]
    assert "target's label for bn-g (measured on 2 of 3 seeds only)" in figure.note


@pytest.mark.parametrize("broken", [{"clean_target_mean": [1.0]}, {"poison_over_clean_target_mean": ["a", 1]}])
def test_older_and_broken_records_are_drawn_without_it(make_record: Make, broken: dict[str, Any]) -> None:
    old = drawn("fig1", [probed(make_record, LISTS)])
    assert [s.name for s in old[0].panels[0].series] == ["clean", "poisoned"]
    assert drawn("fig1", [probed(make_record, LISTS | TARGET | broken)]) == old
    (panel,) = drawn("fig2", [probed(make_record, LISTS)])[0].panels
    assert (panel.title, [s.y for s in panel.series]) == ("", [[3.0]])


def test_plot_curves_has_it(both: list[dict[str, Any]]) -> None:
    chart = charts.charts("curves", board([r for r in both if r["model"] == "resnet18"]), "loss")[0]
    rows = list(csv.DictReader(io.StringIO(charts.numbers(chart))))
    of_target = [(r["panel"], r["x"], r["y"]) for r in rows if r["series"] == "clean samples, target's label"]
    assert of_target == [("bn-g", "1", "1"), ("bn-g", "5", "0.5")]
    assert "No loss of clean samples with the target's label for sig (every sample" in chart.note


def judged(records: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Verdict and figures of each claim."""
    table = board(records, paper=True).tables[-1]
    return {row.label: (row.cells[1].display, row.cells[3].display) for row in table.rows}


def test_claims_state_both_gaps_and_are_judged_by_the_papers(both: list[dict[str, Any]]) -> None:
    figures = judged(both)
    reason = (
        "no loss of clean samples with the target's label for sig (every sample with the target's label is poisoned)"
    )
    assert figures["Poisoned samples have lower losses than clean ones early on (ResNet-18, to epoch 5)"] == (
        "holds",
        "bn-g clean 1.5 target's label 0.5 poisoned 0.1 at epoch 5; sig clean 1.5 poisoned 0.1 at epoch 5; " + reason,
    )
    # 1.5 - 0.1 and 2 - 1.75; from the target's label 0.5 - 0.1 and 1.8 - 1.75.
    assert figures["ResNet-S separates clean and poisoned losses more than ResNet-18"] == (
        "fails",
        "loss gap at epoch 5 on resnet18 and resnet-s: bn-g 1.4 and 0.25; sig 1.4 and 0.25; "
        "from the clean samples with the target's label: bn-g 0.4 and 0.05; " + reason,
    )
    assert figures["Fewer poisoned samples lie above the clean mean loss on ResNet-S than on ResNet-18"] == (
        "fails",
        "poisoned above the clean mean at epoch 5 on resnet18 and resnet-s: bn-g 3 and 30; sig 3 and 30; "
        "above that of the clean samples with the target's label: bn-g 7 and 50; " + reason,
    )


def test_the_second_gap_changes_no_verdict(make_record: Make) -> None:
    """The network's gap is wider, but the trigger explains none of it."""
    same = {**SMALL_TARGET, "clean_target_mean": [0.1, 0.1]}
    records = [
        probed(make_record, LISTS | TARGET, model="vgg11"),
        probed(make_record, {**LISTS, "clean_mean": [2.3, 2.2], "poison_mean": [0.1, 0.1]} | same, model="vgg-s"),
    ]
    verdict, figures = judged(records)["vgg-s separates clean and poisoned losses more than vgg11"]
    assert verdict == "holds"
    assert figures.endswith("from the clean samples with the target's label: bn-g 0.4 and 0")


@pytest.mark.parametrize(
    ("probe", "last"),
    [
        (LISTS | TARGET, "losses, epoch 5 clean 1.5, of the target's label 0.5, poisoned 0.1 (3 and 7 above)"),
        (LISTS | REASON, "losses, epoch 5 clean 1.5, poisoned 0.1 (3 above)"),
        (LISTS, "losses, epoch 5 clean 1.5, poisoned 0.1 (3 above)"),
    ],
)
def test_show_prints_it(
    make_record: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], probe: dict[str, Any], last: str
) -> None:
    record = probed(make_record, probe)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / f"{record['id']}.json").write_text(json.dumps(record))
    assert main(["show", record["id"], "--output", str(tmp_path)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert last in lines
    reason = "losses, target no clean samples with the target's label: every sample with the target's label is poisoned"
    assert (reason in lines) == ("no_clean_target" in probe)
    assert not any(line.startswith("note probe") for line in lines)


GOOD = [LISTS, LISTS | TARGET, LISTS | REASON]
ODD = [
    LISTS | {"clean_target_mean": [1.0, 0.5]},
    LISTS | TARGET | {"clean_target_mean": [1.0]},
    LISTS | TARGET | {"clean_target_mean": [1.0, -0.5]},
    LISTS | TARGET | {"poison_over_clean_target_mean": [1.5, 2]},
    LISTS | TARGET | {"clean_target_count": 0},
    LISTS | TARGET | {"epochs": None},
    LISTS | TARGET | REASON,
    LISTS | {"no_clean_target": ""},
    LISTS | {"no_clean_target": 3},
]


def test_the_schema_knows_the_fields(make_record: Make) -> None:
    assert [fault(probed(make_record, probe)) for probe in GOOD] == [None] * len(GOOD)
    for probe in ODD:
        assert (fault(probed(make_record, probe)) or "").startswith("notes.probe must hold clean_target_mean, "), probe
        unasked = make_record(notes={"probe": probe})  # a defense's own note of this name
        assert fault(unasked) is None


def test_verify_knows_how_many_training_images_there_are(make_record: Make) -> None:
    record, info = probed(make_record, LISTS | TARGET), registry.make("datasets", "cifar10").info()
    assert list(beyond_the_data(record, info, False)) == []
    record["notes"]["probe"]["clean_target_count"] = 45_001
    (line,) = beyond_the_data(record, info, False)
    assert line == (
        "has 45001 clean samples with the target's label in notes.probe and 5000 poisoned ones, but cifar10 has 50000 "
        "training images"
    )


@pytest.mark.parametrize(
    ("probe", "poison", "said"),
    [
        (LISTS | TARGET | {"poison_over_clean_target_mean": [5001, 7]}, {}, "counts 5001 poisoned samples, but"),
        # 1 is below 2, so at least as many samples lie above it.
        (LISTS | TARGET | {"poison_over_clean_target_mean": [39, 7]}, {}, "40 poisoned samples above 2 and 39 above 1"),
        (LISTS | TARGET, {"target": None}, "poison.target names no target"),
    ],
)
def test_verify_finds_what_contradicts_the_record(
    make_record: Make, probe: dict[str, Any], poison: dict[str, Any], said: str
) -> None:
    good = [line for each in GOOD for line in contradictions(probed(make_record, each)) if "notes.probe" in line]
    assert good == []
    record = probed(make_record, probe)
    record["poison"] |= poison
    assert [said in line for line in contradictions(record) if "notes.probe" in line] == [True]


@pytest.mark.parametrize("name", ["clean_mean", "poison_over_clean_mean"])
@pytest.mark.parametrize("value", ["2", None, [], {}])
def test_verify_leaves_out_what_is_no_number(make_record: Make, name: str, value: Any) -> None:
    """No rule of the schema checks these lists, since older versions wrote them."""
    record = probed(make_record, LISTS | TARGET | {name: [value, value]})
    assert fault(record) is None
    assert [line for line in contradictions(record) if "notes.probe" in line] == []


@pytest.mark.parametrize(
    ("texts", "expected"),
    [(("a", "", "b"), "a; b"), (("", "a"), "a"), (("", ""), ""), ((), ""), (("a; b", "c"), "a; b; c")],
)
def test_notes_are_joined_without_empty_ones(texts: tuple[str, ...], expected: str) -> None:
    assert joined(*texts) == expected
