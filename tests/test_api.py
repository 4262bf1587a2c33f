"""benchbd as a library: what ``run_matrix`` runs, what ``load_results`` reads, and that importing either is light."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from benchbd import UsageError, load_results, run_matrix, testing
from benchbd.plugins import registry

RESULTS = Path(__file__).parents[1] / "leaderboard" / "results.jsonl"


@pytest.fixture
def tiny(fresh_registry, one_thread):
    testing.register()
    return {
        "name": "mine",
        "recipe": {"epochs": 1, "batch_size": 32, "augment": []},
        "dataset": "tiny",
        "model": "tiny-net",
        "attacks": ["none", {"tiny-patch": {"rate": 0.2}}],
        "defenses": ["none", {"tiny-filter": {"fraction": 0.1}}],
    }


def test_a_matrix_runs_and_is_read_as_one_row_a_cell(tiny, tmp_path):
    found = run_matrix(tiny, output=tmp_path, executor="inline", device="cpu")
    assert isinstance(found, pd.DataFrame)
    assert found.status.tolist() == ["done"] * 4
    assert set(zip(found.attack, found.defense, strict=True)) == {
        (a, d) for a in ("none", "tiny-patch") for d in ("none", "tiny-filter")
    }
    attacked = found.attack == "tiny-patch"
    assert found[["asr_all", "ca_non_target"]].notna().all(axis=1).tolist() == attacked.tolist()
    defended = attacked & (found.defense == "tiny-filter")
    (plain,), (other,) = (found[attacked & (found.defense == d)].itertuples() for d in ("none", "tiny-filter"))
    by_hand = (max(0, plain.asr - other.asr) - max(0, plain.ca - other.ca) + 1) / 2
    assert found.der.notna().tolist() == defended.tolist()
    assert found.der[defended].item() == pytest.approx(by_hand)
    assert found.asr.notna().tolist() == attacked.tolist()
    assert (found.loc[attacked, "attack.rate"] == 0.2).all()
    assert (found.loc[found.defense == "tiny-filter", "defense.fraction"] == 0.1).all()
    assert found.loc[found.defense == "none", "defense.fraction"].isna().all()
    assert (found["recipe.epochs"] == 1).all()
    assert (found.loc[attacked, "poison.count"] == 48).all()
    again = load_results(tmp_path)
    assert sorted(again.id) == sorted(found.id)
    assert list(again.columns) == list(found.columns)


def test_rates_of_flagged_samples_are_those_of_the_leaderboard(tmp_path):
    lines = [line for line in RESULTS.read_text().splitlines() if '"flagged"' in line]
    record = next(r for r in map(json.loads, lines) if r["detection"]["flagged"] and r["poison"]["count"])
    measured = {name: record["detection"].pop(name) for name in ("fpr", "f1", "confusion")}  # an older version's
    (tmp_path / "results.jsonl").write_text(json.dumps(record) + "\n")
    found = load_results(tmp_path / "results.jsonl").iloc[0]
    detection, poison = record["detection"], record["poison"]
    right = round(detection["precision"] * detection["flagged"])
    others = round(poison["count"] / poison["share_of_set"]) - poison["count"]
    assert found["detection.fpr"] == pytest.approx((detection["flagged"] - right) / others)
    assert found["detection.f1"] == pytest.approx(2 * right / (detection["flagged"] + poison["count"]))
    assert (found["detection.fpr"], found["detection.f1"]) == pytest.approx((measured["fpr"], measured["f1"]))
    assert (found["detection.precision"], found["detection.recall"]) == (detection["precision"], detection["recall"])


def test_what_is_done_is_not_run_again_and_filters_and_sets_are_heard(tiny, tmp_path, monkeypatch):
    one = run_matrix(tiny, output=tmp_path, executor="inline", device="cpu", filters=["defense=none", "attack=none"])
    assert len(one) == 1
    monkeypatch.setattr("benchbd.pipeline.run_cell.execute", lambda *_, **__: pytest.fail("it ran again"))
    again = run_matrix(tiny, output=tmp_path, executor="inline", device="cpu", filters=["defense=none", "attack=none"])
    pd.testing.assert_frame_equal(one, again)


def test_settings_are_changed_by_their_names(tiny, tmp_path):
    only = ["defense=tiny-filter", "attack=none"]
    changes = {"tiny-filter.fraction": 0.25, "batch_size": 48}
    found = run_matrix(
        tiny, output=tmp_path, executor="inline", device="cpu", seeds=[3], sets=changes, filters=only
    ).iloc[0]
    assert (found["defense.fraction"], found["recipe.batch_size"], found.seed) == (0.25, 48, 3)


def test_cells_that_cannot_exist_are_rows_with_the_reason(tiny, tmp_path):
    tiny["attacks"] = [{"tiny-patch": {"target": 9}}]
    found = run_matrix(tiny, output=tmp_path, executor="inline", device="cpu")
    assert set(found.status) == {"skipped"}
    assert found.error.str.contains("target class 9 does not exist").all()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"matrix": {"name": "x"}}, "dataset is missing"),
        ({"matrix": {"name": object()}}, "text, numbers, lists"),
        ({"jbos": 2}, "unknown setting 'jbos'"),
        ({"jobs": 0}, "jobs must be more than 0"),
        ({"filters": ["nonsense"]}, "nonsense"),
        ({"sets": {"lfd.nonsense": 1}}, "nonsense"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tiny, tmp_path, given, line):
    matrix = given.pop("matrix", tiny)
    with pytest.raises(UsageError, match=line):
        run_matrix(matrix, output=tmp_path / "out", executor="inline", **given)
    assert not (tmp_path / "out").exists()


def test_the_data_folder_is_that_of_one_call(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBD_DATA", "/usual")
    (tmp_path / "given").mkdir()
    seen = []
    monkeypatch.setattr(
        registry.load("datasets", "tiny"), "missing", lambda self, root: seen.append(os.environ["BENCHBD_DATA"])
    )
    run_matrix(
        tiny, data=tmp_path / "given", output=tmp_path / "out", executor="inline", device="cpu",
        filters=["defense=none", "attack=none"],
    )  # fmt: skip
    assert set(seen) == {str(tmp_path / "given")}
    assert os.environ["BENCHBD_DATA"] == "/usual"


def test_committed_results_read_as_numbers():
    found = load_results(RESULTS)
    assert len(found) == len(RESULTS.read_text().splitlines())
    assert found.id.is_unique
    assert found.ca.dtype == found.asr.dtype == float
    assert found.ca.dropna().between(0, 1).all()


def test_a_place_without_results_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no records found"):
        load_results(tmp_path)


def test_importing_is_light():
    code = (
        "import sys, benchbd; from benchbd import load_results, run_matrix, Defense; heavy = "
        "{'torch', 'pandas', 'numpy', 'matplotlib', 'sklearn', 'yaml', 'rich'} & set(sys.modules); print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there():
    import benchbd

    assert [name for name in benchbd.__all__ if not hasattr(benchbd, name)] == []


def test_numerics_are_arguments_and_columns(tiny, tmp_path):
    only = {"output": tmp_path, "executor": "inline", "device": "cpu", "filters": ["defense=none", "attack=none"]}
    run_matrix(tiny, **only)
    found = run_matrix(tiny, **only, precision="fp32-strict", threads=2)
    assert found[["precision", "threads", "env.precision"]].values.tolist() == [["fp32-strict", 2, "cpu-fp32-t2"]]
    both = load_results(tmp_path)
    assert sorted(zip(both.precision, both.threads, strict=True)) == [("auto", 1), ("fp32-strict", 2)]
    with pytest.raises(UsageError, match="--precision 'bf61'"):
        run_matrix(tiny, **only, precision="bf61")
