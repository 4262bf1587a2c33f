"""A record is what the phases of its cell found until one of them failed, and nothing else."""

from __future__ import annotations

import pytest

from benchbd import testing
from benchbd.core import environment
from benchbd.pipeline import evaluate, run_cell
from benchbd.pipeline.cell_results import CellResults, DefenseNotes, record_of
from benchbd.pipeline.poison import Poisoner
from benchbd.pipeline.run_cell import execute
from benchbd.plan.cell import Cell
from benchbd.storage import records


@pytest.fixture(autouse=True)
def _endings(zoo):
    zoo("endings")


def cell(defense: str = "tiny-filter") -> Cell:
    return testing.cell(dataset="tiny(train=80,test=20,size=16)", attack="tiny-patch", defense=defense, epochs=1)


def test_a_cell_that_did_nothing_leaves_a_blank_record():
    blank = records.blank(cell(), "failed")
    record = record_of(blank, CellResults(), status="failed", error="no such device", seconds=1.5)
    assert record == {**blank, "error": "no such device", "time": {"total": None, "own": 1.5, "stages": {}}}


def test_notes_of_the_harness_win_over_the_defense_s():
    results = CellResults(
        defense_notes=DefenseNotes({"curve": "mine", "mine": 1, "trigger_png": 2}, None), curve=[{"name": "a"}]
    )
    record = record_of(records.blank(cell(), "done"), results, status="done", error=None, seconds=0.0)
    assert record["notes"] == {"curve": [{"name": "a"}], "mine": 1, "trigger_png": 2}


POISONED = {"poisoned_set", "poisoned_set_sha256", "trigger", "trigger_sha256", "stages"}
MODEL = POISONED | {"model", "model_sha256"}
PICTURE = {"trigger_png"}
MEASURED = {"train_loss", "test_images", "ca_per_class", "triggered_test_images"}
PHASES = {
    # The phase that fails: fields that are filled, artifacts, notes.
    "apply": ((run_cell, "apply"), {"poison"}, POISONED, set()),
    "env": ((environment, "describe"), {"poison"}, POISONED, set()),
    "defense": (None, {"poison", "env", "detection"}, POISONED, {"seen", "suspicion"} | PICTURE),
    "detection": ((evaluate, "detection"), {"poison", "env"}, MODEL, PICTURE),
    "histogram": ((evaluate, "histogram"), {"poison", "env", "detection"}, MODEL, PICTURE),
    "test images": (
        (Poisoner, "triggered"),
        {"poison", "env", "detection"},
        MODEL,
        {"suspicion"} | PICTURE,
    ),
    "done": (None, {"poison", "env", "detection", "ca"}, MODEL, {"suspicion"} | PICTURE | MEASURED),
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_failure_keeps_what_the_phases_before_it_found(tmp_path, monkeypatch, phase):
    def broken(*args, **kwargs):
        raise RuntimeError("broken")

    place, filled, artifacts, notes = PHASES[phase]
    if place:
        monkeypatch.setattr(*place, broken)
    record = execute(
        cell("ends(how='raise')" if phase == "defense" else "tiny-filter").to_json(), output=tmp_path, device="cpu"
    )
    assert record["status"] == ("done" if phase == "done" else "failed")
    assert record["error"] == {"done": None, "defense": "ValueError: first line second line"}.get(
        phase, "RuntimeError: broken"
    )
    assert {name for name in ("poison", "env", "detection", "ca", "asr", "ra") if record[name]} - {
        "asr",
        "ra",
    } == filled
    assert record["artifacts"].keys() == artifacts
    assert record["notes"].keys() == notes
    assert record["sources"].keys() == {"dataset", "model", "attack", "defense"}
    assert record["peak_memory_bytes"] > 0
    defended = "model" in artifacts
    assert (record["time"]["total"] is not None) == ("trainings_computed" in record) == defended
    assert ("defense's own" in record["time"]["stages"]) == defended
    assert ("stages_not_charged" in record["time"]) == (phase == "done")
    trained = {"full": 1} if phase == "defense" else {"teacher": 1, "full": 1} if defended else {}
    assert record["trainings"] == trained
    assert record["epochs_trained"] == sum(trained.values())
    assert record["time"]["waited"] == 0.0
