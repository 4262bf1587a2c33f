"""Numbers of different data stand in no table without a sign, in no format, and win nothing."""

from __future__ import annotations

import json

import pytest

from benchbd import load_results
from benchbd.cli import main
from benchbd.report import board
from benchbd.report.figures import panels
from benchbd.report.mixed_data import OTHER_DATA
from benchbd.report.wording import TIMES
from benchbd.storage import results_file


def data(train="a", test="b", weights=None):
    return {"train": train * 64, "test": test * 64, "files": None, "weights": weights and weights * 64}


def tables(records):
    return board(records).tables


def marked(table):
    return {row.label: row.mark for row in table.rows if OTHER_DATA in row.mark}


def test_records_of_one_version_or_of_none_are_not_marked(make_record):
    for fields in ({}, {"data": None}, {"data": data()}):
        found = tables(
            [make_record(a, d, s, **fields) for a in ("bn-g", "sig") for d in ("none", "lfd") for s in (0, 1)]
        )
        assert OTHER_DATA not in str(found)
    old, new = make_record("bn-g", "none"), make_record("bn-g", "lfd", data=data())
    assert OTHER_DATA not in str(tables([old, new])), "an old record says nothing"


@pytest.mark.parametrize(
    ("other", "what"),
    [(data(train="c"), "training set"), (data(test="c"), "test set"), (data(weights="c"), "initial weights")],
)
def test_a_cell_of_other_data_is_marked_and_named(make_record, other, what):
    records = [
        make_record(a, d, s, data=data()) for a in ("bn-g", "sig") for d in ("none", "lfd", "ac") for s in (0, 1)
    ]
    for record in records:
        if (record["attack"], record["defense"]) == ("bn-g", "ac"):
            record |= {"data": other, "ca": 0.99, "asr": 0.01}
    table, summary = tables(records)
    assert marked(table) == {"bn-g": OTHER_DATA}
    assert sum(OTHER_DATA in cell.display for row in table.rows for cell in row.cells if row.kind == "body") == 2
    (note,) = (note for note in table.notes if note.startswith(OTHER_DATA))
    assert f"bn-g {TIMES} ac seeds 0, 1 (another {what})" in note
    rows = {row.label: row for row in table.rows}
    assert not any(cell.best for cell in rows["bn-g"].cells), "nothing wins a row of different data"
    average = next(row for row in table.rows if row.kind == "average")
    assert [OTHER_DATA in cell.display for cell in average.cells] == [c.tag == "ac" for c in table.columns]
    assert not any(cell.best for cell in average.cells)
    assert marked(summary) == {"ac": OTHER_DATA}
    assert not any(cell.best for row in summary.rows for cell in row.cells)


def test_a_mean_over_seeds_of_two_versions_is_marked(make_record):
    records = [make_record(seed=s, data=data(train="c" if s == 2 else "a")) for s in range(3)]
    table = tables(records)[0]
    assert all(cell.display.endswith(OTHER_DATA) for cell in table.rows[0].cells)
    assert any(f"bn-g {TIMES} none seed 2 (another training set)" in note for note in table.notes)


def test_failed_records_do_not_count(make_record):
    records = [make_record(data=data()), make_record(defense="lfd", status="failed", error="no", data=data(train="c"))]
    assert OTHER_DATA not in str(tables(records))


def test_a_sign_joins_that_of_the_gate(make_record):
    records = [make_record(asr=0.1, data=data()), make_record(defense="lfd", data=data(train="c"))]
    table = tables(records)[0]
    assert table.rows[0].mark == f"†{OTHER_DATA}"
    assert sum(note.startswith(("†", OTHER_DATA)) for note in table.notes) == 2


@pytest.mark.parametrize(("fmt", "sign"), [("md", "§"), ("csv", "§"), ("json", "§"), ("html", "§"), ("latex", "\\S{}")])
def test_every_format_shows_the_sign_and_the_note(make_record, fmt, sign):
    text = board([make_record(data=data()), make_record(defense="lfd", data=data(train="c"))]).render(fmt)
    if fmt == "json":
        text = json.dumps(json.loads(text), ensure_ascii=False)
    assert text.count(sign) > 2
    if fmt != "csv":
        assert "measured on different data than the rest" in text


@pytest.fixture
def sides(make_record, tmp_path):
    """Two files of results, A and B: in B, the training set of bn-g and the test set of one seed of wanet differ."""
    a = [make_record(attack, seed=s, data=data()) for attack in ("bn-g", "wanet", "blend") for s in (0, 1)]
    b = [dict(record) for record in a]
    for record in b:
        if record["attack"] == "bn-g":
            record["data"] = data(train="c")
        elif (record["attack"], record["seed"]) == ("wanet", 1):
            record["data"] = data(test="c")
    for name, records in (("a", a), ("b", b)):
        results_file.write(records, tmp_path / f"{name}.jsonl")
    return [str(tmp_path / f"{name}.jsonl") for name in "ab"]


def test_compare_names_the_configurations_of_different_data(sides, capsys):
    bn_g, wanet = (f"cifar10/resnet18/{attack}/none" for attack in ("bn-g", "wanet"))
    assert main(["compare", *sides]) == 0
    said = capsys.readouterr().out
    assert f"not comparable: {bn_g} (another training set), {wanet} (another test set)\n" in said
    assert main(["compare", sides[0], sides[0], "--fail", "asr:+2"]) == 0
    assert "data" not in capsys.readouterr().out


def test_compare_with_a_limit_refuses_different_data(sides, capsys):
    assert main(["compare", *sides, "--fail", "asr:+2"]) == 1
    said = capsys.readouterr().out
    assert "FAIL cifar10/resnet18/bn-g/none: measured on different data (another training set)\n" in said
    assert said.count("FAIL") == 2
    assert main(["compare", *sides, "--fail", "asr:+2", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    found = {line["label"].split("/")[2]: line["data"] for line in told["cells"]}
    assert found == {"bn-g": "training set", "wanet": "test set", "blend": None}
    assert len(told["broken"]) == 2


def test_compare_says_nothing_of_earlier_releases_nor_within_one_side(make_record, tmp_path, capsys):
    new = [make_record(seed=s, data=data(train="ac"[s])) for s in (0, 1)]
    results_file.write(new, tmp_path / "a.jsonl")
    results_file.write([make_record(seed=s) for s in (0, 1)], tmp_path / "b.jsonl")
    for other in "ab":
        place = str(tmp_path / f"{other}.jsonl")
        assert main(["compare", str(tmp_path / "a.jsonl"), place, "--fail", "asr:+2"]) == 0
        assert "data" not in capsys.readouterr().out


def test_a_frame_ends_with_the_fingerprints(sides):
    found = load_results(sides[1])
    assert list(found.columns)[-2:] == ["data.train", "data.test"]
    assert set(found["data.train"]) == {"a" * 64, "c" * 64}
    assert set(found["data.test"]) == {"b" * 64, "c" * 64}


def sweep_records(make_record, other):
    """LfD at two alphas and undefended networks with probes; ``other`` is the data of one cell of each."""
    probe = {"epochs": [1, 5], "clean_mean": [2, 1], "poison_mean": [1, 0.5], "poison_over_clean_mean": [9, 5]}
    found = []
    for number, network in enumerate(("resnet18", "resnet-s")):
        version = other if number else data(weights="d")
        found.append(make_record(model=network, notes={"probe": probe}, data=version))
    for number, alpha in enumerate((0.01, 0.5)):
        version = other if number else data()
        found.append(make_record(defense="lfd", given={"defense": {"alpha": alpha}}, data=version))
    return found


@pytest.mark.parametrize("name", ["fig1", "fig2", "fig4b"])
def test_a_figure_of_different_data_says_so(make_record, name):
    def note(other):
        return panels.figures(name, panels.source(sweep_records(make_record, other)))[0].note

    assert note(data(train="c")).endswith("; § mixes different data (training set)")
    assert OTHER_DATA not in note(data()), "each network has weights of its own"


def test_the_overview_of_different_data_says_so(make_record):
    for other, sign in ((data(), False), (data(weights="c"), True)):
        found = panels.source([make_record(data=data()), make_record(defense="lfd", data=other)])
        note = panels.figures("overview", found)[0].note
        assert note.endswith("; § mixes different data (initial weights)") is sign


SINGLE = {"defense": {"teachers": 1}}
"""The paper's single teacher of LfD."""


def verdicts(records):
    table = board(records, paper=True).tables[-1]
    return {row.label: [cell.display for cell in row.cells] for row in table.rows if row.cells[1].display[0] != "n"}, [
        note for note in table.notes if note.startswith(OTHER_DATA)
    ]


def test_a_verdict_on_different_data_says_so(make_record):
    other = data(train="c")
    found, notes = verdicts([make_record(data=data()), make_record(defense="lfd", asr=0.01, data=data(), given=SINGLE)])
    assert OTHER_DATA not in str(found)
    assert found
    assert notes == []
    found, notes = verdicts([make_record(data=data()), make_record(defense="lfd", asr=0.01, data=other, given=SINGLE)])
    cost = next(cells for label, cells in found.items() if "costs less than" in label)
    assert cost[1] == f"holds {OTHER_DATA}"
    assert "§ mixes different data (training set)" in cost[3]
    level = next(cells for label, cells in found.items() if "to the published level" in label)
    assert OTHER_DATA not in str(level), "one version behind the number"
    assert len(notes) == 1
    found, _ = verdicts(sweep_records(make_record, other))
    for text in ("ResNet-S separates", "higher alpha costs CA"):
        assert OTHER_DATA in next(cells for label, cells in found.items() if text in label)[1]
