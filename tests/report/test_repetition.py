"""The draw of cells and the tolerances of verify, against hand counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from benchbd.report.verification.repetition import drawn, repetition, tolerance

Make = Callable[..., dict[str, Any]]
VERSIONS = {
    "torch": "2.13.0",
    "torchvision": "0.28.0",
    "numpy": "2.4.6",
    "scikit-learn": "1.9.1",
    "benchbd": "0.1.0",
}


def env(device: str = "P", precision: str = "cpu-fp32", **versions: str) -> dict[str, Any]:
    return {"device": device, "precision": precision, "threads": 1, "versions": {**VERSIONS, **versions}}


def test_the_draw_depends_on_set_number_and_seed_only() -> None:
    ids = [f"{n:016x}" for n in range(50)]
    first = drawn(ids, 5, 3)
    assert drawn([*reversed(ids), *ids], 5, 3) == first
    assert len(set(first)) == 5
    assert {*first} <= {*ids}
    assert any(drawn(ids, 5, seed) != first for seed in range(4, 8))
    assert drawn(ids[:2], 5, 0) == ids[:2]
    assert drawn([], 5, 0) == []


def test_tolerances_by_class(make_record: Make) -> None:
    one = make_record(ca=0.5, asr=0.5, ra=0.5, notes={"test_images": 96, "triggered_test_images": 96}, env=env())
    assert tolerance(one, {**one}, "ca") == 0.0
    assert tolerance(one, {**one}, "ca", 0.02) == 0.02
    error = 3 * math.sqrt(2 * 0.25 / 96)  # of the difference of two shares of 96 images, half of them right
    others = (
        env("Q"),
        *(env(**{name: "9.9"}) for name in VERSIONS),
        {**env(), "system": "Windows AMD64"},
        env(precision="cpu-bf16"),
        env(precision="cuda-bf16"),
    )
    for other in others:
        for metric, base in (("ca", 0.07), ("asr", 0.42), ("ra", 0.16)):
            assert math.isclose(tolerance(one, {**one, "env": other}, metric), base + error)
    gpu = {**one, "env": env(precision="cuda-fp32")}
    assert tolerance(gpu, {**gpu}, "ca") > 0.07  # the fastest kernels of a GPU do not add in a fixed order


def test_a_difference_beyond_the_tolerance_is_a_finding(make_record: Make) -> None:
    sizes = {"test_images": 10_000, "triggered_test_images": 9_000}
    one = make_record(ca=0.9, asr=0.8, ra=0.1, notes=sizes, env=env())
    # 0.07 and three errors of 0.0042 are 0.0827
    assert repetition(one, {**one, "ca": 0.82, "env": env("Q")}, "").findings == ()
    (finding,) = repetition(one, {**one, "ca": 0.81, "env": env("Q")}, "").findings
    assert "ca is 90.00 in the record, but 81.00 here; the tolerance is 8.27 points" in finding.text
    assert finding.ids == (one["id"],)
    (finding,) = repetition(one, {**one, "ra": None, "env": env("Q")}, "").findings
    assert "ra is 10.00 in the record, but null here" in finding.text
    (finding,) = repetition(one, {**one, "poison": {"count": 4999}}, "").findings
    assert "has 5000 poisoned samples, but 4999 here" in finding.text
    (finding,) = repetition(one, None, "stopped").findings
    assert "has no result on this machine (not run: stopped)" in finding.text


def test_where_shares_must_be_equal_the_rest_must_be_too(make_record: Make) -> None:
    detection = {"auroc": 0.75, "confusion": {"tp": 1, "fp": 2, "fn": 3, "tn": 4}}
    one = make_record(env=env(), detection=detection, trainings={"full": 1}, clean_asr=0.1)
    changes: dict[str, Any] = {
        "trainings": {"full": 2},
        "clean_asr": 0.2,
        "epochs_trained": 81,
        "triggered": {"gained": 3},
        "detection": {**detection, "auroc": 0.76},
    }
    for name, value in changes.items():
        other = {**one, name: value}
        assert [f.text.split()[2] for f in repetition(other, one, "").findings] == [
            "detection.auroc" if name == "detection" else name
        ]
        assert repetition({**other, name: None}, one, "").findings == ()  # not claimed
        assert repetition(other, {**one, "env": env("Q")}, "").findings == ()
        assert repetition(other, one, "", 0.01).findings == ()


def test_ends_that_say_something_about_this_machine_are_no_findings(make_record: Make) -> None:
    one = make_record(env=env())
    for status in ("oom", "timeout", "killed", "lost", "cancelled"):
        result = repetition(one, {**one, "status": status, "error": "so"}, "")
        assert (result.findings, result.repeats) == ((), False)
        assert f"has no result on this machine ({status}: so)" in result.note
    for status in ("failed", "diverged", "skipped"):
        result = repetition(one, {**one, "status": status, "error": "so"}, "")
        assert (len(result.findings), result.repeats, result.note) == (1, False, "")
