from __future__ import annotations

import csv
import io
import math
import xml.etree.ElementTree as ElementTree

import pytest

from benchbd.errors import UsageError
from benchbd.report.figures import panels, plots


def probe(scale=1.0, epochs=20):
    numbers = list(range(1, epochs + 1))
    clean = [2.0 * scale / e for e in numbers]
    over = [1000 - 10 * e for e in numbers]
    return {
        "epochs": numbers,
        "clean_mean": clean,
        "poison_mean": [v / 10 for v in clean],
        "poison_over_clean_mean": over,
    }


@pytest.fixture(scope="module")
def everything(make_record):
    """Records from which every figure can be drawn."""
    found = []
    models = ("resnet18", "resnet-s", "vgg11", "vgg-s", "lenet", "lenet-s")
    for model in models:
        for attack in ("bn-g", "sig"):
            for seed in (0, 1):
                xy = [[float(i), float(i % 7)] for i in range(40)]
                tsne = {"xy": xy, "poison": [int(i % 5 == 0) for i in range(40)], "label": [i % 10 for i in range(40)]}
                notes = {"probe": probe(1.0 + seed), "tsne": tsne} if model.startswith("resnet") else {"probe": probe()}
                found.append(make_record(attack, "none", seed, model=model, notes=notes))
    settings = [{"teacher": t} for t in ("resnet18", "resnet-s1", "resnet-s", "resnet-s2")]
    settings += [{"alpha": a} for a in (0.5, 0.01)] + [{"beta": b} for b in (0.01, 0.0)]
    settings += [{"mode": m} for m in ("none", "unweighted")]
    for number, setting in enumerate(settings):
        for attack in ("bn-g", "sig"):
            for seed in (0, 1, 2):
                ca, asr = 0.9 - 0.01 * number, 0.05 * number + 0.001 * seed
                found.append(make_record(attack, "lfd", seed, ca, asr, given={"defense": setting}))
    return found


def drawn(name, records):
    made = panels.figures(name, panels.source(records))
    assert len(made) == 1
    return made[0]


def test_fig1_puts_networks_in_rows_and_attacks_in_columns(everything):
    figure = drawn("fig1", everything)
    titles = [p.title for p in figure.panels]
    assert titles == ["resnet18, bn-g", "resnet18, sig", "resnet-s, bn-g", "resnet-s, sig"]
    assert (figure.columns, figure.shared) == (2, True)
    clean, poisoned = figure.panels[0].series
    assert (clean.name, poisoned.name) == ("clean", "poisoned")
    # The mean of seeds with scale 1 and 2.
    assert clean.y[:2] == [3.0, 1.5]
    assert poisoned.y[0] == pytest.approx(0.3)
    assert clean.x == list(range(1, 21))


def test_fig1_averages_over_the_epochs_all_seeds_have(make_record):
    records = [make_record(seed=s, notes={"probe": probe(epochs=n)}) for s, n in ((0, 20), (1, 8))]
    assert drawn("fig1", records).panels[0].series[0].x == list(range(1, 9))


def test_fig2_counts_at_epoch_five(everything):
    (panel,) = drawn("fig2", everything).panels
    assert [s.name for s in panel.series] == ["resnet18", "resnet-s"]
    assert panel.series[0].x == ["bn-g", "sig"]
    assert panel.series[0].y == [950.0, 950.0]


def test_fig2_takes_the_last_epoch_before_the_fifth(make_record):
    probed = {
        "epochs": [2, 4, 6],
        "clean_mean": [1, 1, 1],
        "poison_mean": [0, 0, 0],
        "poison_over_clean_mean": [30, 20, 10],
    }
    assert drawn("fig2", [make_record(notes={"probe": probed})]).panels[0].series[0].y == [20.0]


def test_five_seeds_have_an_interval(make_record):
    records = [make_record(seed=s, ca=ca) for s, ca in enumerate((0.90, 0.92, 0.91, 0.90, 0.92))]
    half = drawn("overview", records).panels[0].series[0].half
    assert half == pytest.approx([100 * 2.776445 * 0.01 / 5**0.5], rel=1e-5)


def test_sweeps_are_in_order_with_percent_intervals_and_the_mean(everything):
    ca, asr = drawn("fig4a", everything).panels
    assert ca.series[0].x == ["resnet-s1", "resnet-s", "resnet-s2", "resnet18"]
    assert [s.name for s in asr.series] == ["bn-g", "sig", "mean of attacks"]
    assert asr.series[0].y[0] == pytest.approx(5.1)
    assert math.isnan(asr.series[0].half[0])  # under five seeds
    assert asr.series[2].y[0] == pytest.approx(5.1)
    # 0.15 and 0.001 are the defaults, which the record with teacher resnet-s has.
    assert drawn("fig4b", everything).panels[0].series[0].x == ["0.01", "0.15", "0.5"]
    assert drawn("fig4c", everything).panels[0].series[0].x == ["0", "0.001", "0.01"]


def test_fig5_has_the_papers_three_ways(everything):
    ca, _ = drawn("fig5", everything).panels
    assert [s.name for s in ca.series] == ["(a) no ascent", "(b) ascent", "(c) weighted ascent"]
    assert ca.series[0].x == ["bn-g", "sig"]


def test_fig6_pairs_each_network_with_its_relative(everything):
    figure = drawn("fig6", everything)
    top = [p.title for p in figure.panels[: figure.columns]]
    low = [p.title for p in figure.panels[figure.columns :]]
    assert top == ["vgg11, bn-g", "vgg11, sig", "lenet, bn-g", "lenet, sig"]
    assert low == ["vgg-s, bn-g", "vgg-s, sig", "lenet-s, bn-g", "lenet-s, sig"]


def test_fig7_draws_poison_last_and_black(everything):
    figure = drawn("fig7", everything)
    assert [p.title for p in figure.panels[:2]] == ["resnet18, bn-g", "resnet-s, bn-g"]
    series = figure.panels[0].series
    assert series[-1].name == "poisoned"
    assert series[-1].strong
    assert sum(len(s.x) for s in series) == 40
    colours = [c.get_facecolor()[0][:3].tolist() for c in plots.canvas(figure).axes[0].collections]
    assert colours[-1] == [0, 0, 0]
    assert [0, 0, 0] not in colours[:-1]


def test_fig7_is_of_the_papers_two_networks_and_says_after_which_epoch(make_record):
    note = {"xy": [[float(i), 0.0] for i in range(4)], "poison": [True, False] * 2, "label": [0, 1, 2, 3], "epoch": 20}
    records = [
        make_record(a, model=m, notes={"tsne": note})
        for a in ("blend", "bn-g")
        for m in ("resnet-s", "resnet18", "vgg11")
    ]
    (figure,) = panels.figures("fig7", panels.source(records))
    wanted = ["resnet18, bn-g", "resnet-s, bn-g", "resnet18, blend", "resnet-s, blend"]
    assert [p.title for p in figure.panels] == wanted
    assert "after epoch 20" in figure.note


def test_bars_carry_their_values_so_that_nothing_at_zero_goes_unseen(make_record):
    note = {"epochs": [5], "clean_mean": [1.0], "poison_mean": [0.5]}
    counts = {"resnet18": 37, "resnet-s": 0}
    records = [
        make_record(model=m, notes={"probe": {**note, "poison_over_clean_mean": [n]}}) for m, n in counts.items()
    ]
    (figure,) = panels.figures("fig2", panels.source(records))
    assert [t.get_text() for t in plots.canvas(figure).axes[0].texts] == ["37", "0"]


def test_a_probed_record_is_shown_before_the_same_cell_unprobed(make_record):
    plain, probed = make_record(), make_record(notes={"probe": probe()})
    probed["spec"] = {**probed["spec"], "probe": {"losses": True, "features": None, "samples": 2000}}
    for ident in ("0" * 16, "f" * 16):
        for records in ([plain, {**probed, "id": ident}], [{**probed, "id": ident}, plain]):
            assert panels.figures("fig1", panels.source(records))


def test_scales_are_figures_of_their_own(make_record, tmp_path):
    records = [make_record(notes={"probe": probe()}, epochs=e) for e in (20, 80)]
    made = panels.figures("fig1", panels.source(records))
    assert len(made) == 2
    names = sorted(p.name for p in plots.save(made, tmp_path) if p.suffix == ".csv")
    assert names == ["fig1-cifar10-20-epochs.csv", "fig1-cifar10-80-epochs.csv"]


@pytest.mark.parametrize("name", [n for n in panels.FIGURES if n != "overview"])
def test_missing_records_are_said_with_the_command(name):
    with pytest.raises(UsageError, match=f"{name} needs .*benchbd run {name}"):
        panels.figures(name, panels.source([]))


def test_unknown_figure():
    with pytest.raises(UsageError, match="did you mean 'overview'"):
        panels.figures("overvew", panels.source([]))


@pytest.mark.parametrize(
    "broken",
    [
        {"epochs": [1, 2], "clean_mean": [1.0], "poison_mean": [1.0, 2.0]},
        {"epochs": [], "clean_mean": [], "poison_mean": []},
        {"epochs": [1], "clean_mean": ["a"], "poison_mean": [1.0]},
        {"epochs": [None], "clean_mean": [1.0], "poison_mean": [1.0]},
        [],
    ],
)
def test_broken_probes_are_no_probes(make_record, broken):
    with pytest.raises(UsageError, match="fig1 needs"):
        panels.figures("fig1", panels.source([make_record(notes={"probe": broken})]))


@pytest.mark.parametrize("name", list(panels.FIGURES))
def test_each_figure_is_written_three_ways_the_same_twice(everything, tmp_path, name):
    records = [r for r in everything if name != "overview" or r["model"] == "resnet18"]
    made = panels.figures(name, panels.source(records))
    first, second = (plots.save(made, tmp_path / run) for run in ("a", "b"))
    assert sorted(p.suffix for p in first) == [".csv", ".png", ".svg"]
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
    png, svg, table = first
    assert png.read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert len(rows) == sum(len(s.x) for p in made[0].panels for s in p.series)
    assert {r["panel"] for r in rows} == {p.title for p in made[0].panels}
    assert all(float(r["y"]) == pytest.approx(float(r["y"])) for r in rows)


def test_numbers_are_those_drawn(everything):
    figure = drawn("fig4b", everything)
    rows = list(csv.DictReader(io.StringIO(plots.numbers(figure))))
    row = next(r for r in rows if (r["panel"], r["series"], r["x"]) == ("ASR", "sig", "0.5"))
    assert float(row["y"]) == pytest.approx(20.1)
    lines = plots.canvas(figure).axes[1].get_lines()
    assert any(abs(y - 20.1) < 1e-9 for line in lines for y in line.get_ydata())


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_styles_differ_in_more_than_colour_and_are_seen_on_white():
    styles = [plots._style(i) for i in range(49)]
    assert len({(c, m, str(d)) for c, m, d, _ in styles}) == 49
    first = styles[:7]
    for place in range(4):
        assert len({str(s[place]) for s in first}) == 7
    assert all(1.05 / (luminance(c) + 0.05) > 2 for c in plots.COLOURS)


def test_text_is_readable_and_inside_the_picture(everything):
    for name in ("fig1", "fig4a", "fig5", "fig7"):
        made = plots.canvas(drawn(name, everything))
        made.canvas.draw()
        box = made.bbox
        texts = [t for ax in made.axes for t in (ax.title, ax.xaxis.label, ax.yaxis.label)]
        texts += [t for legend in made.legends for t in (*legend.get_texts(), legend.get_title())]
        for text in texts:
            if text.get_text() and text.get_visible():
                assert text.get_fontsize() >= 7
                extent = text.get_window_extent()
                assert extent.x0 >= box.x0 - 1, (name, text)
                assert extent.x1 <= box.x1 + 1, (name, text)
                assert extent.y0 >= box.y0 - 1, (name, text)


def test_an_overview_has_room_for_long_names_and_many_defenses(make_record, recwarn):
    long = {"mask_epochs": 8, "joint_epochs": 40, "drops": "late", "batch": 64, "fit_images": 5000}
    attacks = [("bn-g", {}), ("sig", {}), ("dynamic", {}), ("dynamic", long), *((f"attack-{n}", {}) for n in range(4))]
    records = [
        make_record(attack, f"a-defense-with-a-name-{number}", 0, given={"attack": given})
        for attack, given in attacks
        for number in range(16)
    ]
    made = plots.canvas(drawn("overview", records))
    made.canvas.draw()
    assert [str(warning.message) for warning in recwarn if "layout" in str(warning.message)] == []
    above, below = (ax.get_window_extent() for ax in made.axes)
    legend = made.legends[0].get_window_extent()
    labels = [label.get_window_extent() for ax in made.axes for label in ax.get_xticklabels()]
    assert min(above.height, below.height) > 0.5 * plots.PANEL[1] * made.dpi
    assert legend.y1 <= below.y0
    for label in labels:
        assert label.x0 >= made.bbox.x0 - 1
        assert not label.overlaps(legend)
        assert not any(label.y0 < ax.y1 - 1 and label.y1 > ax.y0 + 1 for ax in (above, below))


def test_unwritable_folder_is_one_line(everything, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        plots.save(panels.figures("fig4b", panels.source(everything)), tmp_path / "file" / "figures")
