"""Figures of the leaderboard: the numbers are those of its tables, and papers can print them."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from benchbd.cli import main
from benchbd.errors import UsageError
from benchbd.report import board, points
from benchbd.report.course import counted_names
from benchbd.report.figures import chart_plots, charts, files, scatter
from benchbd.report.wording import TIMES
from benchbd.storage import results_file

ATTACKS = ("bn-g", "bn-w", "blend", "sig", "cl", "l2", "none")
HOSTILE = "a_$x^2$%&#~{\\中é|"


@pytest.fixture(scope="module")
def records(make_record):
    """Two ranked defenses, a control, a defense with one attack, a failed cell and a name that LaTeX would read."""
    found = []
    for row, attack in enumerate(ATTACKS):
        for seed in (0, 1):
            small = (row + seed) / 1000
            notes = {
                "train_loss": {"model": [2.0, 1.0 + seed, 0.5]},
                "curve": [{"name": f"{n} pruned", "ca": 0.9, "asr": 0.8 - n / 10, "ra": 0.1} for n in (0, 2, 4 + seed)],
                "probe": {"epochs": [1, 2], "clean_mean": [2.0, 1.0], "poison_mean": [0.5, 0.1]},
            }
            found.append(make_record(attack, "none", seed, 0.90 + small, 0.95, notes={"probe": notes.pop("probe")}))
            found.append(make_record(attack, "lfd", seed, 0.88 + small, 0.02 + small, notes=notes))
            found.append(make_record(attack, "abl", seed, 0.80 + small, 0.40 + small))
            found.append(make_record(attack, "oracle", seed, 0.91, 0.01, control=True))
    found.append(make_record("bn-g", HOSTILE, 0, 0.70, 0.30))
    found.append(make_record("bn-w", HOSTILE, 0, status="oom"))
    return found


@pytest.fixture(scope="module")
def made(records):
    return board(records)


def rows(chart):
    return list(csv.DictReader(io.StringIO(charts.numbers(chart))))


def texts(drawing):
    """Every text of a drawing that is shown."""
    import matplotlib.text

    drawing.canvas.draw()
    beyond = set()  # Labels of ticks outside the limits are not drawn, nor is anything of hidden axes.
    for ax in drawing.axes:
        if not ax.get_visible():
            beyond |= set(ax.findobj(matplotlib.text.Text))
        for place, axis in enumerate((ax.xaxis, ax.yaxis)):
            low, high = sorted(axis.get_view_interval())
            beyond |= {label for label in axis.get_ticklabels() if not low <= label.get_position()[place] <= high}
    found = [t for t in drawing.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]
    return [text for text in found if text not in beyond]


def test_the_scatter_has_the_means_of_the_summary(made):
    (chart,) = charts.charts("scatter", made)
    (overview,) = made.overviews()
    by_name = {row["defense"]: row for row in rows(chart)}
    for line in overview.lines:
        assert float(by_name[line.name]["ca"]) == pytest.approx(line.ca.mean, rel=1e-5)
        assert float(by_name[line.name]["asr"]) == pytest.approx(line.asr.mean, rel=1e-5)
    assert {name for name, row in by_name.items() if row["front"]} == {"none", "lfd"}
    assert by_name["oracle"]["control"] == "yes"
    drawing = chart_plots.chart_canvas(chart)
    (line,) = drawing.axes[0].get_lines()
    asr, ca = zip(*[[100 * x for x in corner] for corner in points.front_line(chart.body)], strict=True)
    assert (list(line.get_xdata()), list(line.get_ydata())) == (list(asr), list(ca))
    assert asr[0] == pytest.approx(100 * float(by_name["lfd"]["asr"]), rel=1e-5)
    assert ca[-1] == pytest.approx(100 * float(by_name["none"]["ca"]), rel=1e-5)
    assert "Upper left is best." in chart.note


def test_the_area_of_a_point_is_its_cost(make_record):
    found = []
    for attack in ("bn-g", "sig"):
        for defense, ca, asr, seconds in (("none", 0.9, 0.9, 100.0), ("lfd", 0.8, 0.1, 300.0)):
            time = {"total": seconds, "own": seconds, "stages": {}}
            found.append(make_record(attack, defense, 0, ca, asr, time=time))
    (chart,) = charts.charts("scatter", board(found))
    areas = [c.get_sizes()[0] for c in chart_plots.chart_canvas(chart).axes[0].collections if len(c.get_sizes())]
    assert sorted(areas) == pytest.approx([scatter.AREA, 3 * scatter.AREA])


def test_the_heat_map_has_every_cell_and_marks_the_failed_one(made):
    (chart,) = charts.charts("heatmap", made)
    cells = {(row["defense"], row["attack"]): row for row in rows(chart)}
    assert float(cells["lfd", "bn-g"]["value"]) == pytest.approx(0.0205)
    assert cells["abl", "sig"]["n"] == "2"
    (failed,) = [row for row in cells.values() if row["text"] == "oom"]
    assert failed["attack"] == "bn-w"
    drawing = chart_plots.chart_canvas(chart, 7.0)
    shown = [t.get_text() for t in texts(drawing)]
    assert shown.count("2.1") == 1  # 2.05 rounds as in the tables
    assert shown.count(TIMES) == 1
    (ca,) = charts.charts("heatmap", made, "ca")
    assert {row["attack"] for row in rows(ca)} == set(ATTACKS)


def test_severity_is_read_in_grey_and_changes_where_the_tables_colours_do():
    from matplotlib.colors import to_rgb

    grey = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b in (to_rgb(c) for _, c in chart_plots.SEVERITY)]
    assert grey == sorted(grey, reverse=True)
    colours, norm = chart_plots._colours("asr", [])
    lightness = [sum(w * v for w, v in zip((0.299, 0.587, 0.114), colours(norm(a)), strict=False)) for a in
                 (0.05, 0.095, 0.105, 0.3, 0.49, 0.51, 0.9)]  # fmt: skip
    steps = [a - b for a, b in itertools.pairwise(lightness)]
    assert all(step > 0 for step in steps)
    assert steps[1] > steps[0]  # from 9.5 to 10.5 %, more than from 5 to 9.5 %
    assert steps[4] > 2 * steps[3]  # from 49 to 51 %


def contrast(one, other):
    def luminance(colour):
        parts = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in colour[:3]]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_numbers_are_readable_on_every_colour():
    from matplotlib.colors import to_rgb

    for metric, values in (("asr", []), ("ca", [0.2, 0.9])):
        colours, norm = chart_plots._colours(metric, values)
        for step in range(101):
            colour = colours(norm(step / 100))
            assert contrast(colour, to_rgb(chart_plots._ink(colour))) >= 4.5


def test_the_ranking_has_the_duels_of_the_table_and_joins_what_shares_a_letter(made):
    (overview,) = made.overviews()
    ranking = overview.rankings["der"]
    assert len(ranking.order) == 2
    (chart,) = charts.charts("ranking", made)
    found = {(row["defense"], row["other"]): row for row in rows(chart)}
    duel = ranking.duels[ranking.order]
    row = found["lfd", "abl"]
    assert (row["wins"], row["ties"], row["losses"]) == tuple(map(str, (duel.wins, duel.ties, duel.losses)))
    assert float(row["p"]) == pytest.approx(duel.adjusted, rel=1e-5)
    shown = [t.get_text() for t in texts(chart_plots.chart_canvas(chart))]
    assert "6/0/0*" in shown
    assert [t for t in shown if t in ("a", "b")] == ["a", "b"]


def test_letters_of_groups():
    assert chart_plots._letters("abz2") == ["a", "b", "z2"]


def test_the_reason_without_a_ranking_is_the_error(make_record):
    found = [make_record(a, d) for a in ("bn-g", "sig") for d in ("none", "lfd", "abl")]
    with pytest.raises(UsageError, match=r"ranking: cifar10 .*: No ranking by DER: a test needs 6 attacks"):
        charts.charts("ranking", board(found))


def test_curves_are_means_over_seeds_at_the_places_that_all_have(made):
    found = {chart.name: rows(chart) for chart in charts.charts("curves", made)}
    assert set(found) == {"curves-loss", "curves-train-loss", "curves-ca", "curves-asr"}
    train = [
        (r["x"], float(r["y"])) for r in found["curves-train-loss"] if (r["panel"], r["series"]) == ("bn-g", "lfd")
    ]
    assert train == [("1", 2.0), ("2", 1.5), ("3", 0.5)]
    asr = [(r["x"], float(r["y"])) for r in found["curves-asr"] if (r["panel"], r["series"]) == ("lfd", "bn-g")]
    assert asr == [("0", 80.0), ("2", pytest.approx(60.0))]
    loss = [float(r["y"]) for r in found["curves-loss"] if (r["panel"], r["series"]) == ("sig", "poisoned samples")]
    assert loss == [0.5, 0.1]


def test_names_of_stages_are_numbers_only_if_all_are():
    assert counted_names(["0 pruned", "12 pruned"]) == ([0.0, 12.0], "pruned")
    assert counted_names(["epoch 3", "epoch 7"]) == ([3.0, 7.0], "epoch")
    assert counted_names(["isolation", "2 pruned"]) == ([], "")
    assert counted_names(["1 a", "2 b"]) == ([], "")


@pytest.mark.parametrize(
    "broken",
    [
        {"train_loss": {"model": ["a"]}, "curve": {}},
        {"train_loss": [None, float("inf")], "curve": [3]},
        {"train_loss": 7, "curve": [{"name": 3, "ca": 0.5}]},
        {"train_loss": {"other": [1.0]}, "curve": [{"name": "a", "ca": None}]},
    ],
)
def test_broken_notes_are_no_curves(make_record, broken):
    with pytest.raises(UsageError, match=r"curves: .*needs undefended records with notes.probe"):
        charts.charts("curves", board([make_record(notes=broken)]))


@pytest.mark.parametrize("name", list(charts.METRICS))
@pytest.mark.parametrize("width", [3.4, 7.0])
def test_texts_are_large_enough_inside_and_cover_each_other_nowhere(made, name, width):
    for chart in charts.charts(name, made):
        drawing = chart_plots.chart_canvas(chart, width)
        found = texts(drawing)
        page = drawing.bbox
        boxes = []
        for text in found:
            extent = text.get_window_extent()
            assert text.get_fontsize() >= 5
            assert extent.x0 >= page.x0 - 1, (chart.name, text)
            assert extent.x1 <= page.x1 + 1, (chart.name, text)
            assert page.y0 - 1 <= extent.y0, (chart.name, text)
            assert extent.y1 <= page.y1 + 1, (chart.name, text)
            boxes.append((text, extent.padded(-1)))
        for place, (text, box) in enumerate(boxes):
            for other, extent in boxes[place + 1 :]:
                assert not box.overlaps(extent), (chart.name, text, other)


def test_a_caption_says_most_cells_only_if_seeds_differ_and_counts_one_attack_as_one(records):
    blend = [record for record in records if record["attack"] == "blend" and record["status"] == "done"]
    (chart,) = charts.charts("heatmap", board(blend))
    assert "mean over 2 seeds." in chart.note
    (chart,) = charts.charts("heatmap", board([r for r in blend if r["defense"] != "lfd" or r["seed"] == 0]))
    assert "mean over 2 seeds in most cells." in chart.note
    (chart,) = charts.charts("scatter", board(blend))
    assert "Means over 1 attack that is implanted." in chart.note


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_same_records_give_the_same_bytes(made, tmp_path, kind):
    contents = []
    for run in ("a", "b"):
        (chart,) = charts.charts("scatter", made)
        drawn = files.Drawn(chart.name, chart.scale, lambda chart=chart: chart_plots.chart_canvas(chart), "")
        (path,) = files.write_named([drawn], tmp_path / run / f"figure.{kind}")
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert not re.search(rb"20\d\d-\d\d-\d\dT|/CreationDate", contents[0])
    if kind == "svg":
        assert ElementTree.fromstring(contents[0]).tag.endswith("svg")
    if kind == "pdf":
        assert b"/Type3" not in contents[0]


@pytest.fixture
def place(records, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results_file.write([*records, *(r for r in others(records))], tmp_path / "results.jsonl")
    return tmp_path


def others(records):
    """One record at another scale."""
    from benchbd.plan.cell import identity

    record = json.loads(json.dumps(records[1]))
    record["dataset"] = record["spec"]["dataset"]["name"] = "gtsrb"
    record["params"]["dataset"] = record["spec"]["dataset"]["params"] = {}
    return [record | {"id": identity(record["spec"])}]


def said(capsys, *words):
    code = main(["plot", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_one_file_as_asked_or_one_for_each_scale(place, capsys):
    code, out, _ = said(capsys, "heatmap", "results.jsonl", "--filter", "dataset=cifar10", "--write", "deep/h.svg")
    assert (code, out) == (0, "deep/h.svg\n")
    assert (place / "deep" / "h.svg").is_file()
    code, out, _ = said(capsys, "heatmap", "results.jsonl", "--write", "h.csv")
    assert code == 0
    assert out.split() == ["h-cifar10-resnet18-80-epochs.csv", "h-gtsrb-resnet18-80-epochs.csv"]
    code, out, _ = said(
        capsys, "curves", "--results", "results.jsonl", "--exclude", "dataset=gtsrb", "--write", "c.csv"
    )
    assert out.split() == [f"c-curves-{metric}.csv" for metric in charts.METRICS["curves"]]
    code, out, _ = said(
        capsys, "curves", "--results", "results.jsonl", "--exclude", "dataset=gtsrb", "--write", "curves.csv"
    )
    assert out.split() == [f"curves-{metric}.csv" for metric in charts.METRICS["curves"]]
    code, out, _ = said(capsys, "ranking", "results.jsonl", "--metric", "asr", "--out", "figures")
    assert out.split() == [f"figures/ranking-asr.{kind}" for kind in ("png", "svg", "csv")]


def test_bare_figures_have_their_rules_on_standard_error(place, capsys):
    words = ("scatter", "results.jsonl", "--filter", "dataset=cifar10", "--bare", "--write")
    code, _, error = said(capsys, *words, "s.svg")
    assert code == 0
    assert error.startswith("scatter: cifar10 · resnet18 · 80 epochs. Means over 6 attacks that are implanted.")


MISTAKES = [
    (("heatmap", "results.jsonl", "--write", "a.jpg"), "the name must end with one of .png, .svg, .pdf, .csv"),
    (("heatmap", "results.jsonl", "--metric", "der"), "--metric 'der': heatmap shows asr or ca"),
    (("scatter", "results.jsonl", "--metric", "ca"), "scatter has no --metric"),
    (("heatmap", "results.jsonl", "--width", "nan"), "--width is in inches, from 2 to 40, not nan"),
    (("heatmap", "results.jsonl", "--gate", "7"), "--gate is an ASR in [0, 1]"),
    (("overview", "results.jsonl", "--width", "7"), "--width is for scatter, heatmap, ranking, curves"),
    (("heatmp", "results.jsonl"), "figure 'heatmp' is unknown; did you mean 'heatmap'?"),
    (("heatmap", "absent.jsonl"), "absent.jsonl: no such file"),
    (("heatmap", "results.jsonl", "--filter", "attack=nothing"), "no cell has attack 'nothing'"),
    (("heatmap", "results.jsonl", "--filter", "attack=sig", "--exclude", "seed=*"), "no record is left after"),
    (("heatmap", "results.jsonl", "--seeds", "0"), "select cells of a matrix; give a MATRIX"),
    (
        ("heatmap", "results.jsonl", "--filter", "dataset=cifar10", "--write", "results.jsonl/a.png"),
        "cannot be written",
    ),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_mistakes_are_one_line_and_exit_2(place, capsys, words, message):
    code, out, error = said(capsys, *words)
    assert (code, out) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def test_records_are_selected_by_label_seed_numerics_and_id_whatever_their_version(make_record):
    from benchbd.report.selection import select_records

    records = [make_record("bn-g", "lfd", seed, given={"defense": {"alpha": a}}) for seed in (0, 1) for a in (0.1, 0.3)]
    older = {**records[0], "id": "f" * 16}  # An id that the cell does not have today.
    found = [*records, older]
    assert select_records(found, ["defense=lfd(alpha=0.1)"], []) == [records[0], records[2], older]
    assert select_records(found, ["seed=1"], ["defense=*0.3*"]) == [records[2]]
    assert select_records(found, ["defense=lfd(alpha=0.1)|*0.3*,seed=1"], []) == [records[2], records[3]]
    assert select_records(found, [f"id={'f' * 16}"], []) == [older]
    with pytest.raises(UsageError, match="no cell has precision 'bf16'"):
        select_records(found, ["precision=bf16"], [])
