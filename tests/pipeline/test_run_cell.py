"""A cell's life ends in one complete record, whatever happens in it, and its time is charged fairly."""

from __future__ import annotations

import dataclasses
import errno
import getpass
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from benchbd import testing
from benchbd.core.numerics import Numerics
from benchbd.errors import UsageError
from benchbd.pipeline.run_cell import execute
from benchbd.plan.cell import Cell, identity
from benchbd.plugins import registry
from benchbd.storage import artifacts, records
from benchbd.storage import results_file as reading

SMALL = "tiny(train=80,test=20,size=16)"


@pytest.fixture(autouse=True)
def endings(zoo):
    return zoo("endings")


def cell(defense: str = "none", **given) -> Cell:
    return testing.cell(**{"dataset": SMALL, "attack": "tiny-patch", "defense": defense, "epochs": 1, **given})


@pytest.fixture
def run(tmp_path):
    """Run a cell: ``run(cell, where="a")``; its record as it lies on the disk."""

    def go(this: Cell, where: str = "out", **given) -> dict:
        record = execute(this.to_json(), output=tmp_path / where, device="cpu", **given)
        text = (tmp_path / where / "records" / f"{this.id}.json").read_text()
        on_disk = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in a record"))
        assert on_disk["status"] == record["status"]
        return on_disk

    return go


FIELDS = {
    **dict.fromkeys(("id", "label", "matrix", "dataset", "attack", "defense", "model", "status"), str),
    **dict.fromkeys(("params", "recipe", "trainings", "env", "artifacts", "notes", "spec", "sources", "time"), dict),
    **dict.fromkeys(("ca", "asr", "ra"), float),
    **dict.fromkeys(("seed", "peak_memory_bytes", "epochs_trained"), int),
    **{"detection": dict, "poison": dict, "needs": list, "control": bool, "error": type(None)},
}


def test_a_finished_record_has_every_field(run, tmp_path):
    this = cell("tiny-filter", epochs=2, seed=3)
    record = run(this)
    assert record["status"] == "done"
    assert {k: type(record[k]) for k in FIELDS} == FIELDS
    assert record["id"] == this.id == identity(record["spec"])
    assert record["params"]["attack"]["rate"] == 0.1
    assert record["recipe"] == this.recipe
    assert record["poison"] == {
        "count": 8,
        "share_of_set": 0.1,
        "share_of_target_class": pytest.approx(0.1, abs=0.1),
        "target": 1,
    }
    assert {"auroc", "precision", "recall", "flagged"} <= record["detection"].keys()
    assert record["detection"]["flagged"] == 8
    assert {"total", "own", "stages", "waited", "stages_not_charged"} <= record["time"].keys()
    assert record["time"]["total"] == pytest.approx(sum(record["time"]["stages"].values()))
    assert record["time"]["own"] > record["time"]["stages_not_charged"]["evaluate"] > 0
    assert record["trainings"] == record["trainings_computed"] == {"teacher": 1, "full": 1}
    assert record["epochs_trained"] == 3
    assert record["peak_memory_bytes"] > 50_000_000
    assert {"versions", "git", "device", "precision", "threads"} <= record["env"].keys()
    assert record["env"]["threads"] == 1
    assert all(len(digest) == len("code:") + 64 for digest in record["sources"].values())
    assert record["sources"].keys() == {"dataset", "model", "attack", "defense"}
    for kind, key in (("model", record["artifacts"]["model"]), ("poison", record["artifacts"]["poisoned_set"])):
        assert (tmp_path / "out" / "store" / kind / key[:2] / key / "arrays.safetensors").is_file()
    assert record["artifacts"]["stages"].keys() == {"probe", "losses", "train"}
    assert len(record["notes"]["train_loss"]["model"]) == 2
    assert sum(record["notes"]["suspicion"]["poisoned"]) == 8
    assert len(record["notes"]["ca_per_class"]) == 4
    assert records.read_record(tmp_path / "out", this.id) == record
    assert reading.load(tmp_path / "out", identity) == [record]


def test_records_name_no_host_and_no_user(run, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "a-host-of-mine")
    monkeypatch.setenv("USER", "a-user-of-mine")
    text = json.dumps(run(cell()))
    assert "a-host-of-mine" not in text
    assert "a-user-of-mine" not in text
    assert str(Path.home()) not in text
    real = os.uname().nodename
    assert len(real) < 4 or real not in text
    user = getpass.getuser()
    assert user == "root" or user not in text


def test_the_clean_row_has_neither_poison_nor_asr(run):
    record = run(cell("tiny-filter", attack="none"))
    assert record["status"] == "done"
    assert [record[k] for k in ("asr", "ra", "poison")] == [None] * 3
    assert record["ca"] is not None
    assert [record["detection"][k] for k in ("auroc", "recall")] == [None, None]
    assert record["detection"]["precision"] == 0.0
    assert run(cell(attack="none"))["detection"] is None


ENDS = {
    "well": ("done", None),
    "raise": ("failed", "ValueError: first line second line"),
    "silent": ("failed", "KeyError"),
    "usage": ("failed", "the defense cannot be asked that"),
    "impossible": ("skipped", "needs ten images of each class, one has 3"),
    "diverged": ("diverged", "ascent exploded in epoch 2 of 9"),
    "nan": ("diverged", "train: loss is not finite in epoch"),
    "nan-scores": ("diverged", "80 of 80 scores are not finite"),
    "nan-note": ("done", None),
    "device-oom": ("oom", "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."),
    "host-oom": ("oom", "out of memory"),
    "allocator-oom": ("oom", "can't allocate memory"),
    "full": ("failed", "the disk is full (/data/x); free some space and run the same command again"),
    "exit": ("failed", "SystemExit: 3"),
    "nothing": (
        "failed",
        "defense 'ends' returned nothing; return a model that the lab gave: lab.train's, lab.adopt(net.state_dict()) "
        "for weights of your own, or lab.read_model's for another network",
    ),
    "spoil": ("failed", "changed in place"),
}


@pytest.mark.parametrize("how", ENDS)
def test_every_end_is_a_row_with_its_reason(run, how):
    events = []
    record = run(cell(f"ends(how={how!r})"), on_event=events.append)
    status, error = ENDS[how]
    assert record["status"] == status, record["error"]
    assert (record["error"] is None) if error is None else error in record["error"]
    assert "\n" not in (record["error"] or "")
    assert FIELDS.keys() <= record.keys()
    assert (record["ca"] is not None) == (status == "done")
    assert (record["time"]["total"] is not None) == (status == "done")
    # What was done until then is told all the same.
    assert record["epochs_trained"] >= 1
    assert record["time"]["stages"]["train"] > 0
    assert record["poison"]["count"] == 8
    logged = [e["line"] for e in events if e["event"] == "log"]
    unforeseen = how in ("raise", "silent", "device-oom", "host-oom", "allocator-oom", "full", "exit")
    assert any("Traceback" in line for line in logged) == unforeseen
    if how == "nan-note":
        assert record["notes"]["curve"] == [1.0, None, None]
    # What it had found too: it may tell why.
    assert record["notes"]["seen"] == {"epochs": 1}
    assert record["detection"]["flagged"] == 1
    assert sum(record["notes"]["suspicion"]["poisoned"]) == 8
    assert ("broken_off" in record["notes"]) == (how == "nan")


ABL = "abl(turning_epochs=2, finetune_epochs=1, unlearn_epochs=3, ratio=0.1, lr=0.01"


@pytest.mark.learning
@pytest.mark.parametrize("unlearn_lr", ["1.0e+30", "1000.0"])
def test_a_diverged_unlearning_leaves_its_curve_and_what_was_isolated(run, unlearn_lr):
    record = run(cell(f"{ABL}, unlearn_lr={unlearn_lr})"))
    assert record["status"] == "diverged"
    notes = record["notes"]
    assert len(notes["abl"]["isolation_losses"]) == 2
    if "broken_off" in notes:
        assert record["error"].startswith("unlearning: ")
        assert notes["broken_off"]["stage"] == "unlearning"
        curve = notes["broken_off"]["epoch_losses"]
        assert curve[-1] is None or record["error"].startswith("unlearning: weights")
    else:
        assert "exploded" in record["error"]
        curve = notes["abl"]["unlearning_losses"]
        assert max(curve) > 1e4
    assert 1 <= len(curve) <= 3
    found = record["detection"]
    assert found["flagged"] == sum(notes["abl"]["isolated_per_class"]) == 8
    assert 0 <= found["auroc"] <= 1
    assert found["loss_mean_clean"] == -found["score_mean_clean"] > 0


def test_evidence_that_cannot_be_judged_hides_no_failure(run, monkeypatch):
    def broken(*given):
        raise RuntimeError("no memory for that")

    monkeypatch.setattr("benchbd.pipeline.evaluate.detection", broken)
    events = []
    record = run(cell("ends(how='diverged')"), on_event=events.append)
    assert (record["status"], record["error"]) == ("diverged", "ascent exploded in epoch 2 of 9")
    assert record["notes"]["seen"] == {"epochs": 1}
    assert record["detection"] is None
    assert any("no memory for that" in e["line"] for e in events if e["event"] == "log")


SUSPECT = ["tiny-filter", f"{ABL})", "lfd(teacher='tiny-net', teachers=1, teacher_epochs=1, teacher_tries=1)", "ac"]


@pytest.mark.parametrize("defense", SUSPECT)
def test_mean_losses_of_clean_and_poisoned_samples_stand_beside_a_suspicion(run, tmp_path, defense):
    record = run(cell(defense))
    assert record["status"] == "done", record["error"]
    shelf = artifacts.Store(tmp_path / "out" / "store")
    losses = shelf.get("array", record["artifacts"]["stages"]["losses"]).arrays["losses"].astype(float)
    poisoned = np.zeros(80, bool)
    poisoned[shelf.get("poison", record["artifacts"]["poisoned_set"]).arrays["indices"]] = True
    assert record["detection"]["loss_mean_clean"] == pytest.approx(losses[~poisoned].mean(), rel=1e-9)
    assert record["detection"]["loss_mean_poisoned"] == pytest.approx(losses[poisoned].mean(), rel=1e-9)


def test_without_losses_there_are_no_means(run):
    found = run(cell("oracle"))["detection"]
    assert (found["loss_mean_clean"], found["loss_mean_poisoned"]) == (None, None)


def test_what_a_defense_traced_is_measured_afterwards_and_charged_to_nobody(run):
    record = run(cell(f"{ABL})", epochs=2))
    curve = record["notes"]["curve"]
    assert [point["name"] for point in curve] == ["isolation", "fine-tuning", "unlearning"]
    assert [curve[-1][k] for k in ("ca", "asr", "ra")] == [record[k] for k in ("ca", "asr", "ra")]
    assert record["artifacts"]["stages"].keys() == {"isolation", "losses", "fine-tuning", "unlearning"}
    assert charged(record).keys() == record["artifacts"]["stages"].keys()
    clean = run(cell(f"{ABL})", attack="none"))["notes"]["curve"]
    assert [point["asr"] for point in clean] == [None] * 3
    assert "curve" not in run(cell())["notes"]


def test_a_failed_stage_of_another_component_is_a_row_too(run, endings):
    assert run(cell(model="broken-net"))["error"] == "RuntimeError: no such layer"
    record = run(cell(attack="tiny-patch(rate=0.9, pool='non-target')"))
    assert record["status"] == "skipped"
    assert "72 images to poison" in record["error"]
    assert "60 to choose from" in record["error"]
    record = run(cell(dataset="cifar10"), data_root=str(endings.parent))
    assert record["status"] == "failed"
    assert "cifar-10-batches-py" in record["error"]


def test_an_unknown_device_is_a_row(tmp_path):
    record = execute(cell().to_json(), output=tmp_path, device="abacus")
    assert record["status"] == "failed"
    assert "abacus" in record["error"]


def test_a_cell_of_unknown_plugins_is_refused_without_a_record(tmp_path):
    data = cell().to_json()
    data["spec"]["defense"] = {"name": "nonesuch", "version": 1, "params": {}}
    with pytest.raises(UsageError, match="no defense is called 'nonesuch'"):
        execute(data, output=tmp_path)
    data = cell().to_json()
    data["spec"]["attack"]["version"] = 99
    with pytest.raises(UsageError, match="version 1 here, but the cell needs version 99"):
        execute(data, output=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_cannot_be_written_raises_and_loses_nothing(run, tmp_path, monkeypatch):
    this = cell()
    first = run(this)

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(records, "atomic_write", full)
        with pytest.raises(OSError, match="the disk of the results is full"):
            execute(this.to_json(), output=tmp_path / "out", device="cpu")
    assert records.read_record(tmp_path / "out", this.id) == first


def test_a_full_disk_in_the_middle_is_told_and_what_was_stored_serves_the_next_try(run, monkeypatch):
    this = cell("tiny-filter")
    real, written = artifacts.write_synced, []

    def full(path, data):
        if path.name == "arrays.safetensors" and len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        if path.name == "arrays.safetensors":
            written.append(path)
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "write_synced", full)
        record = run(this)
    assert record["status"] == "failed"
    assert record["error"].startswith("the disk of the results is full (")
    assert record["trainings"] == {"teacher": 1}
    again = run(this)
    assert again["status"] == "done"
    assert again["trainings_computed"] == {"full": 1}


def test_a_damaged_artifact_is_said_and_made_again(run, tmp_path):
    this = cell()
    first = run(this)
    key = first["artifacts"]["model"]
    path = tmp_path / "out" / "store" / "model" / key[:2] / key / "arrays.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    events = []
    again = run(this, on_event=events.append)
    lines = [e["line"] for e in events if e["event"] == "log"]
    assert len(lines) == 1
    assert lines[0].startswith(f"artifact model/{key[:16]} is damaged")
    assert again["trainings_computed"] == {"full": 1}
    assert (again["ca"], again["asr"], again["ra"]) == (first["ca"], first["asr"], first["ra"])


def own(record: dict) -> float:
    return record["time"]["stages"]["defense's own"]


def charged(record: dict) -> dict:
    return {k: v for k, v in record["time"]["stages"].items() if k != "defense's own"}


@pytest.mark.parametrize("defense", ["none", "tiny-filter", "ac"])
def test_a_cell_costs_the_same_whether_it_computed_or_found_its_stages(run, defense):
    first = run(cell(defense))
    again = run(cell(defense))
    assert first["trainings_computed"]
    assert again["trainings_computed"] == {}
    assert charged(again) == charged(first)
    assert charged(first).keys() == first["artifacts"]["stages"].keys()
    for record in (first, again):
        assert record["time"]["total"] == pytest.approx(sum(charged(record).values()) + own(record), abs=1e-9)
        assert own(record) < 0.5
    assert again["trainings"] == first["trainings"]
    assert again["epochs_trained"] == first["epochs_trained"]


def test_fine_pruning_is_charged_the_undefended_training_it_starts_from(run):
    none = run(cell())
    pruned = run(cell("fine-pruning(clean_frac=0.5)"))
    assert pruned["trainings_computed"] == {}
    assert pruned["trainings"] == {"full": 1}
    assert charged(pruned)["train"] == charged(none)["train"] > 0
    assert pruned["time"]["total"] > charged(none)["train"]
    assert pruned["epochs_trained"] == none["epochs_trained"] == 1
    alone = run(cell("fine-pruning(clean_frac=0.5)"), where="elsewhere")
    assert charged(alone).keys() == charged(pruned).keys()
    assert alone["artifacts"]["model"] == pruned["artifacts"]["model"]


def test_what_a_defense_does_outside_stages_is_charged(run):
    record = run(cell("dawdles(seconds=0.3)"))
    assert 0.3 <= own(record) < 1.5
    assert record["time"]["total"] >= 0.3 + charged(record)["train"]


def test_poisoning_and_evaluation_are_not_charged(run):
    record = run(cell(attack="slow-patch"))
    assert record["time"]["stages_not_charged"]["poison"] >= 0.5
    assert record["time"]["stages_not_charged"]["evaluate"] >= 0.5
    assert record["time"]["own"] >= 1.0 + record["time"]["total"] - own(record)
    assert own(record) < 0.4


def test_events_tell_where_a_cell_is(run):
    events = []
    run(cell("tiny-filter"), on_event=events.append)
    stages = [e["stage"] for e in events if e["event"] == "stage"]
    assert stages == ["poison", "probe", "losses", "train", "evaluate"]


def test_plugins_given_by_file_are_known(run, endings, tmp_path):
    this = cell("dawdles(seconds=0.0)").to_json()
    registry.forget_plugin_file(str(endings.resolve()))
    with pytest.raises(UsageError, match="no defense is called"):
        execute(this, output=tmp_path)
    record = execute(this, output=tmp_path, plugins=[str(endings)], device="cpu")
    assert record["status"] == "done"


def test_a_cell_does_not_depend_on_what_ran_before_it_in_the_process(run):
    """A worker runs many cells; global generators, thread counts and caches must not leak from one to the next."""
    torch.manual_seed(1)
    first = run(cell("tiny-filter"), where="a")
    torch.manual_seed(2)
    torch.rand(7)
    run(cell("tiny-filter", seed=9), where="b")
    second = run(cell("tiny-filter"), where="b")
    for field in ("ca", "asr", "ra", "detection", "poison", "trainings"):
        assert first[field] == second[field]
    assert first["artifacts"] == second["artifacts"]


def test_a_cell_computes_with_its_own_threads_whatever_the_process_has(run, one_thread):
    torch.set_num_threads(2)
    alone, several = (run(dataclasses.replace(cell(), numerics=Numerics(threads=n))) for n in (1, 3))
    assert torch.get_num_threads() == 2
    assert [r["env"]["threads"] for r in (alone, several)] == [1, 3]
    assert several["env"]["precision"] == f"{alone['env']['precision']}-t3"
    assert several["spec"] == {**alone["spec"], "threads": 3}
    for key in ("model", "poisoned_set"):
        assert several["artifacts"][key] != alone["artifacts"][key], key


def test_the_precision_that_a_cell_asks_for_is_the_one_it_trains_in(run):
    records = {wish: run(dataclasses.replace(cell(), numerics=Numerics(wish))) for wish in ("auto", "fp32", "bf16")}
    assert len({r["id"] for r in records.values()}) == 3
    assert [records[wish]["env"]["precision"] for wish in ("fp32", "bf16")] == ["cpu-fp32", "cpu-bf16"]
    assert records["fp32"]["artifacts"]["model"] != records["bf16"]["artifacts"]["model"]
    # auto is one of the two, and shares its trainings.
    same = records[records["auto"]["env"]["precision"].removeprefix("cpu-")]
    assert same["artifacts"] == records["auto"]["artifacts"]
    assert [same[k] for k in ("ca", "asr", "ra")] == [records["auto"][k] for k in ("ca", "asr", "ra")]
    assert same["trainings_computed"] == {}
