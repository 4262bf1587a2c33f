from __future__ import annotations

import pytest

from benchbd.errors import UsageError
from benchbd.plan.cell import identity
from benchbd.report import board
from benchbd.report.groups import TRANSFORMED
from benchbd.report.table import Column, Row, Table, TableCell, grid
from benchbd.report.wording import DASH, TIMES


def first(records, **options):
    return board(records, **options).tables[0]


def row(table, label):
    found = [r for r in table.rows if r.label == label]
    assert len(found) == 1, [r.label for r in table.rows]
    return found[0]


def cell(table, label, group, metric):
    place = next(i for i, c in enumerate(table.columns) if (c.group, c.label) == (group, metric))
    return grid(row(table, label))[place]


def summary(board_, label, column):
    table = next(t for t in board_.tables if t.title.startswith("Summary"))
    return row(table, label).cells[[c.label for c in table.columns].index(column)]


def test_mean_interval_and_n(make_record):
    cas = (0.90, 0.92, 0.91, 0.90, 0.92)
    table = first([make_record(seed=s, ca=ca) for s, ca in enumerate(cas)])
    found = cell(table, "bn-g", "none", "CA")
    # 2.776445 is t(0.975, 4); the standard deviation is 0.01.
    assert found.value == pytest.approx(0.91)
    assert found.interval == pytest.approx(2.776445 * 0.01 / 5**0.5, rel=1e-5)
    assert found.display == "91.00 [89.76, 92.24]"
    assert found.n == 5
    assert table.lead == ["Mean over 5 seeds unless a cell says otherwise."]


def test_a_table_without_a_result_names_no_number_of_seeds(make_record):
    found = board([make_record(status="oom"), make_record(seed=1, status="timeout")])
    assert found.tables[0].lead == []
    for form in ("md", "html", "latex", "csv", "json"):
        assert "0 seeds" not in found.render(form)


@pytest.mark.parametrize("transform", [None, {}, {"stamp": None, "label_map": None}, {"stamp": None, "label_map": []}])
def test_a_test_transform_that_changes_nothing_has_no_mark(make_record, transform):
    found = board([make_record(), make_record(defense="pdb", test_transform=transform)])
    table, summed = found.tables
    assert not any(TRANSFORMED in text for text in (*table.notes, *summed.notes, *(row.mark for row in summed.rows)))
    assert not any(column.mark for column in table.columns)


def test_one_seed_has_the_interval_of_its_test_set(make_record):
    assert cell(first([make_record(ca=0.9)]), "bn-g", "none", "CA").spread is None
    found = cell(first([make_record(ca=0.9, notes={"test_images": 1000})]), "bn-g", "none", "CA")
    assert (found.display, found.interval) == ("90.00", None)
    # Wilson by hand: z = 1.959964, z^2 / n = 0.00384146.
    assert found.spread.low == pytest.approx(0.879853, abs=1e-5)
    assert found.spread.high == pytest.approx(0.917082, abs=1e-5)


def test_few_seeds_have_a_range(make_record):
    found = cell(first([make_record(asr=0.2), make_record(seed=1, asr=0.9)]), "bn-g", "none", "ASR")
    assert found.display == f"55.00 (20.00{DASH}90.00)"
    assert found.interval is None


def test_columns_are_undefended_then_defenses_then_controls(make_record):
    records = [make_record(defense=d, control=d == "oracle") for d in ("oracle", "lfd", "zz", "ac")]
    records += [make_record(), make_record(defense="lfd", given={"defense": {"beta": 0.0}})]
    table = first(records)
    assert [c.group for c in table.columns[::2]] == ["none", "ac", "lfd(beta=0)", "lfd", "zz", "oracle"]
    assert [c.rule for c in table.columns] == [False] * 10 + [True, False]
    assert [c.heading for c in table.columns[:2]] == ["CA ↑", "ASR ↓"]
    assert [c.control for c in table.columns[::2]] == [False] * 5 + [True]


def test_rows_follow_the_paper_with_the_clean_row_last(make_record):
    table = first([make_record(attack=a) for a in ("none", "zzz", "sig", "bn-g", "blend")])
    assert [r.label for r in table.rows if r.kind == "body"] == ["bn-g", "blend", "sig", "zzz", "none"]


def test_scales_are_tables_of_their_own(make_record):
    records = [make_record(), make_record(epochs=20), make_record(model="resnet34")]
    records += [make_record(given={"dataset": {"train": 10000}, "model": {"width": 16}}), make_record(dataset="gtsrb")]
    titles = [t.title for t in board(records).tables if t.level == 2]
    assert set(titles) == {
        "cifar10(train=10000) · resnet18(width=16) · 80 epochs",
        "cifar10 · resnet18 · 20 epochs",
        "cifar10 · resnet18 · 80 epochs",
        "cifar10 · resnet34 · 80 epochs",
        "gtsrb · resnet18 · 80 epochs",
    }
    assert len(titles) == 5
    assert titles[-1].startswith("gtsrb")


def test_attack_variants_are_rows_of_their_own(make_record):
    table = first([make_record("blend", given={"attack": {"alpha": a}}, asr=a) for a in (0.1, 0.2)])
    assert cell(table, "blend(alpha=0.1)", "none", "ASR").value == 0.1
    assert cell(table, "blend", "none", "ASR").value == 0.2


def test_best_shares_and_leaves_out_undefended_and_controls(make_record):
    values = {"none": 0.99, "ac": 0.90, "abl": 0.909, "lfd": 0.898, "oracle": 0.99}
    records = [
        make_record(defense=d, seed=s, ca=v + s / 1000, asr=1 - v, control=d == "oracle")
        for d, v in values.items()
        for s in range(3)
    ]
    table = first(records)
    # One point of CA, two points of ASR.
    assert {d for d in values if cell(table, "bn-g", d, "CA").best} == {"ac", "abl"}
    assert {d for d in values if cell(table, "bn-g", d, "ASR").best} == {"ac", "abl", "lfd"}


def test_nothing_is_best_on_one_seed(make_record):
    table = first([make_record(defense=d, ca=v) for d, v in (("ac", 0.9), ("lfd", 0.5))])
    assert not any(c.best for r in table.rows for c in r.cells)


def test_nothing_is_best_without_a_rival(make_record):
    table = first([make_record(defense=d, seed=s) for d in ("none", "lfd") for s in range(3)])
    assert not any(c.best for r in table.rows for c in r.cells)


def test_a_cell_with_a_failed_seed_does_not_compete(make_record):
    values = {"ac": 0.9, "lfd": 0.5, "abl": 0.4}
    records = [make_record(defense=d, seed=s, ca=v) for d, v in values.items() for s in range(3)]
    records.append(make_record(defense="ac", seed=3, status="diverged", error="loss is not finite"))
    table = first(records)
    assert not cell(table, "bn-g", "ac", "CA").best
    assert cell(table, "bn-g", "lfd", "CA").best


def test_failures_are_named_in_cell_and_note(make_record):
    records = [make_record(seed=s) for s in (0, 1)]
    ends = [("ac", s, "oom", "out of memory\nTraceback") for s in (0, 1)]
    ends += [("abl", 0, "timeout", None), ("abl", 1, "killed", None), ("lfd", 1, "diverged", "epoch 3")]
    records += [make_record(defense=d, seed=s, status=status, error=e) for d, s, status, e in ends]
    records += [make_record(defense="lfd", seed=0)]
    records += [make_record(attack="sig", seed=s) for s in (0, 1)]
    table = first(records)
    assert cell(table, "bn-g", "ac", "CA").display == "oom"
    assert cell(table, "bn-g", "ac", "ASR").display == "oom"
    assert cell(table, "bn-g", "abl", "CA").display == "killed, timeout"
    assert cell(table, "bn-g", "lfd", "CA").display == "90.00 (n=1; diverged)"
    assert cell(table, "sig", "lfd", "CA").display == "not run"
    note = next(n for n in table.notes if n.startswith("Cells without a result"))
    assert f"bn-g {TIMES} ac seeds 0, 1: oom out of memory" in note
    assert "Traceback" not in note
    assert f"bn-g {TIMES} lfd seed 1: diverged epoch 3" in note


def test_every_status_that_is_not_done_shows_by_name(make_record):
    from benchbd.storage.record_schema import STATUSES

    for status in set(STATUSES) - {"done"}:
        assert cell(first([make_record(status=status)]), "bn-g", "none", "CA").display == status


def test_gate_marks_what_is_not_implanted(make_record):
    records = [make_record("bn-g", asr=0.9), make_record("sig", asr=0.45), make_record("cl", "lfd", asr=0.1)]
    records += [make_record("none")]
    table = first(records)
    assert [row(table, a).mark for a in ("bn-g", "sig", "cl", "none")] == ["", "†", "‡", ""]
    assert any(n.startswith("†") and "50 %" in n for n in table.notes)
    assert any(n.startswith("‡") for n in table.notes)
    assert [row(first(records, gate=0.4), a).mark for a in ("bn-g", "sig")] == ["", ""]
    assert [row(first(records, gate=0.95), a).mark for a in ("bn-g", "sig")] == ["†", "†"]


def test_average_says_its_coverage_and_leaves_out_the_clean_row(make_record):
    records = [make_record(a, ca=v, asr=v) for a, v in (("bn-g", 0.8), ("sig", 0.9), ("cl", 0.7), ("none", 0.1))]
    records += [make_record(a, "lfd", ca=v, asr=v) for a, v in (("bn-g", 0.5), ("sig", 0.6))]
    records += [make_record(a, "ac", ca=v, asr=v) for a, v in (("bn-g", 0.5), ("sig", 0.6), ("cl", 0.1))]
    table = first(records)
    assert cell(table, "Average over attacks", "none", "CA").display == "80.00 (3/3)"
    assert cell(table, "Average over attacks", "lfd", "CA").display == "55.00 (2/3)"
    assert cell(table, "Average, attacks in common", "ac", "CA").display == "55.00 (2/2)"
    assert cell(table, "Average, attacks in common", "lfd", "CA").display == "55.00 (2/2)"


def test_average_has_the_interval_of_the_seeds_averages(make_record):
    # Row values move in opposite directions with the seed: the averages do not move at all.
    records = [make_record(a, seed=s, ca=0.8 + d * s) for a, d in (("bn-g", 0.01), ("sig", -0.01)) for s in range(5)]
    found = cell(first(records), "Average over attacks", "none", "CA")
    assert (found.value, found.interval) == (pytest.approx(0.8), pytest.approx(0.0, abs=1e-12))
    records = records[:-1]
    assert cell(first(records), "Average over attacks", "none", "CA").interval is None


def test_average_of_implanted_attacks_apart(make_record):
    records = [make_record(a, "none", asr=v) for a, v in (("bn-g", 0.9), ("sig", 0.1))]
    records += [make_record(a, "lfd", asr=v) for a, v in (("bn-g", 0.95), ("sig", 0.15))]
    table = first(records)
    assert cell(table, "Average, implanted attacks", "none", "ASR").display == "90.00 (1/1)"
    assert cell(table, "Average over attacks", "none", "ASR").display == "50.00 (2/2)"


def test_averages_over_different_attacks_are_never_best(make_record):
    records = [make_record(a, "ac", s, ca=0.5) for a in ("bn-g", "sig") for s in range(2)]
    records += [make_record("bn-g", "lfd", s, ca=0.9) for s in range(2)]
    table = first(records)
    assert not any(c.best for c in row(table, "Average over attacks").cells)
    assert cell(table, "Average, attacks in common", "lfd", "CA").best


def test_wall_clock_is_of_one_device(make_record):
    slow = {"device": "Old box", "precision": "cpu-fp32"}
    records = [make_record(seed=s, time={"total": 60.0}) for s in (0, 1)]
    records += [make_record("sig", time={"total": 9000.0}, env=slow)]
    records += [make_record(defense="lfd", time={"total": 5.0}, env=slow)]
    table = first(records)
    clock = row(table, "Wall-clock time per cell").cells
    assert [c.display for c in clock] == ["60.0 s", DASH]
    assert any("Processor X, cpu-fp32 only" in n for n in table.notes)


def test_needs_are_printed(make_record):
    records = [make_record(), make_record(defense="fine-pruning", needs=["clean"])]
    records += [make_record(defense="oracle", needs=["truth"], control=True)]
    needs = row(first(records), "Needs beyond the poisoned set").cells
    assert [c.display for c in needs] == ["nothing", "clean images", "ground truth (control)"]


def test_a_model_of_another_architecture_is_marked(make_record):
    records = [make_record(), make_record(defense="fine-pruning", needs=["clean"])]
    records[1]["notes"]["architecture"] = "resnet-s"
    needs = row(first(records), "Needs beyond the poisoned set").cells
    assert [c.display for c in needs] == ["nothing", "clean images; returns a resnet-s"]


def test_newer_plugin_version_counts_and_the_older_is_reported(make_record):
    result = board([make_record(ca=0.1, version=1), make_record(ca=0.9, version=2)])
    found = cell(result.tables[0], "bn-g", "none", "CA")
    assert (found.value, found.n) == (0.9, 1)
    assert any("older plugin versions" in n for n in result.notes)


def test_duplicates_count_once_finished_first(make_record):
    twin = make_record(ca=0.9) | {"id": "0" * 16}
    result = board([make_record(status="failed"), twin])
    assert cell(result.tables[0], "bn-g", "none", "CA").display == "90.00"
    assert any("duplicate record" in n for n in result.notes)


def test_summary(make_record):
    records = []
    for seed in (0, 1):
        for attack, asr in (("bn-g", 1.0), ("sig", 0.6)):
            records.append(make_record(attack, "none", seed, ca=0.9, asr=asr, time={"total": 100.0}))
            detection = {"auroc": 0.9 if attack == "bn-g" else 0.7, "precision": 0.5, "recall": 0.5}
            trainings = {"full": 1, "feature-model": 1, "teacher": 1}
            lfd = {"detection": detection, "trainings": trainings, "time": {"total": 130.0}, "ra": 0.4}
            records.append(make_record(attack, "lfd", seed, ca=0.8, asr=asr / 10, **lfd))
        records.append(make_record("bn-g", "oracle", seed, control=True, needs=["truth"]))
    result = board(records)
    assert summary(result, "lfd", "CA, mean").value == pytest.approx(0.8)
    assert summary(result, "lfd", "ASR, mean").value == pytest.approx(0.08)
    assert summary(result, "lfd", "ASR, worst").display == "10.00 (bn-g)"
    assert summary(result, "lfd", "RA, mean").value == pytest.approx(0.4)
    assert summary(result, "lfd", "Detection AUROC").display == "0.800"
    assert summary(result, "none", "Detection AUROC").display == DASH
    assert summary(result, "lfd", "Trainings").display == "1 full + 1 feature-model + 1 teacher"
    assert summary(result, "lfd", f"Full trainings {TIMES}").value == 2
    assert summary(result, "lfd", f"Time {TIMES}").value == pytest.approx(1.3)
    assert summary(result, "oracle", "Attacks").display == "1/2"
    table = result.tables[1]
    assert [r.rule for r in table.rows] == [False, False, True]


def test_relative_time_pairs_attack_seed_and_device(make_record):
    records = [make_record("bn-g", time={"total": 10.0}), make_record("sig", time={"total": 1000.0})]
    records += [make_record("bn-g", "lfd", time={"total": 20.0})]
    elsewhere = {"device": "Fast GPU", "precision": "cuda-bf16"}
    records += [make_record("sig", "lfd", time={"total": 1.0}, env=elsewhere)]
    assert summary(board(records), "lfd", f"Time {TIMES}").value == pytest.approx(2.0)


def test_no_records_make_an_empty_board():
    result = board([])
    assert result.tables == []
    assert "No records yet" in result.render("md")
    assert "No records yet" in result.render("html")
    assert result.render("jsonl") == ""


def test_a_row_that_does_not_fill_its_columns_is_a_fault():
    table = Table("t", "T", "x", [Column("a"), Column("b")], [Row("r", [TableCell("1")])])
    with pytest.raises(ValueError, match="fills 1 of 2"):
        table.check()


def test_unknown_format():
    with pytest.raises(UsageError, match="did you mean 'html'"):
        board([]).render("htm")


def measured_in(record, name, threads=1):
    return {**record, "env": {**record["env"], "precision": name, "threads": threads}}


def asked_for(record, **numerics):
    spec = {**record["spec"], **numerics}
    return {**record, "spec": spec, "id": identity(spec)}


def test_a_table_says_where_it_mixes_precision_classes(make_record):
    records = [make_record(), make_record(defense="lfd"), make_record("blend"), make_record("sig")]
    assert not any("precision" in note for table in board(records).tables for note in table.notes)
    records[1] = measured_in(records[1], "cuda-bf16", 8)
    records[3] = measured_in(records[3], "cuda-bf16", 8)
    table, means = board(records).tables
    said = "Measured in two precision classes, which round differently: cpu-fp32 (2 cells), cuda-bf16 (2 cells)."
    assert f"{said} Rows that mix them: bn-g." in table.notes
    assert f"{said} Means over cells mix them." in means.notes
    records[1] = measured_in(records[1], "cpu-fp32", 4)  # of an earlier release
    text = board(records).render("md")
    assert text.count("three precision classes") == 2
    assert "cpu-fp32 (2 cells), cpu-fp32-t4 (1 cell), cuda-bf16 (1 cell)." in text
    only = [records[0], records[3]]
    assert "Every row is of one class; averages over rows mix them." in first(only).notes[-1]


def test_cells_that_ask_for_other_numerics_have_a_table_of_their_own(make_record):
    plain = [make_record(seed=s) for s in (0, 1)]
    others = [asked_for(r, precision="bf16", threads=2) for r in plain]
    found = board([*plain, *others])
    titles = [t.title for t in found.tables if not t.title.startswith("Summary")]
    assert titles == ["cifar10 · resnet18 · 80 epochs", "cifar10 · resnet18 · 80 epochs · precision=bf16,threads=2"]
    assert found.notes == [], "nothing is left out as a duplicate"
    assert cell(found.tables[2], "bn-g", "none", "CA").records == tuple(r["id"] for r in others)
    page = found.render("html")
    assert "precision=bf16,threads=2" in page


def test_compare_says_that_the_classes_differ(make_record, tmp_path, capsys):
    from benchbd.cli import main
    from benchbd.storage import results_file

    records = [make_record(seed=s) for s in (0, 1)]
    results_file.write(records, tmp_path / "a.jsonl")
    results_file.write([measured_in(r, "cuda-bf16") for r in records], tmp_path / "b.jsonl")
    results_file.write([asked_for(r, precision="bf16") for r in records], tmp_path / "c.jsonl")
    names = {name: str(tmp_path / f"{name}.jsonl") for name in "abc"}
    assert main(["compare", names["a"], names["b"]]) == 0
    line = "changes between precision classes, which round differently: A cpu-fp32 (2 cells); B cuda-bf16 (2 cells)"
    assert line in capsys.readouterr().out
    assert main(["compare", names["a"], names["a"]]) == 0
    assert "precision" not in capsys.readouterr().out
    # Two configurations in two classes on both sides: each change is within a class.
    both = [make_record(), measured_in(make_record("wanet"), "cuda-bf16")]
    results_file.write(both, tmp_path / "d.jsonl")
    assert main(["compare", str(tmp_path / "d.jsonl"), str(tmp_path / "d.jsonl")]) == 0
    assert "precision" not in capsys.readouterr().out
    results_file.write([both[0], measured_in(both[1], "cpu-fp32")], tmp_path / "e.jsonl")
    assert main(["compare", str(tmp_path / "d.jsonl"), str(tmp_path / "e.jsonl")]) == 0
    line = "A cuda-bf16 (1 cell); B cpu-fp32 (1 cell): cifar10/resnet18/wanet/none\n"
    assert line in capsys.readouterr().out
    assert main(["compare", names["a"], names["c"]]) == 0
    assert "nothing in common" in capsys.readouterr().out


def test_the_best_trained_models_of_a_data_set_come_first(make_record):
    small = {"given": {"dataset": {"train": 500}}}
    low = [make_record(ca=0.4, **small), make_record(defense="lfd", ca=0.99, **small)]
    high = [make_record(ca=0.9), make_record(defense="lfd", ca=0.3)]
    titles = [table.title for table in board([*low, *high]).tables]
    places = [index for index, title in enumerate(titles) if "train=500" in title]
    assert places
    assert min(places) == len(titles) - len(places)
