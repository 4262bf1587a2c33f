"""A record says what poison it was: the trigger can be had again, and what was measured of it read."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from poison_steps import calls, run

from benchbd import testing
from benchbd.core.seeding import seed_for
from benchbd.pipeline.poison import stamp_seed
from benchbd.pipeline.run_cell import execute
from benchbd.plugins import registry
from benchbd.plugins.contract import StampContext
from benchbd.plugins.identity import part_of
from benchbd.storage.artifacts import Store


def test_a_saved_trigger_makes_the_same_poison_again(tmp_path):
    """Out of the record, the store's files and the data set alone."""
    record = run(tmp_path, "watch-measured")
    key = record["artifacts"]["trigger"]
    file = tmp_path / "out" / "store" / "trigger" / key[:2] / key / "arrays.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == record["artifacts"]["trigger_sha256"]
    store = Store(tmp_path / "out" / "store")
    trigger = store.get("trigger", key).arrays
    poison = store.get("poison", record["artifacts"]["poisoned_set"]).arrays
    attack = registry.make("attacks", "watch-measured")
    data = registry.make("datasets", "tiny", train=80, test=20, size=16).load("train", None)
    part = part_of(registry.make("datasets", "tiny", train=80, test=20, size=16))
    context = StampContext("train", poison["indices"], trigger, stamp_seed(attack, part, 0))
    again = attack.stamp(data.images[torch.from_numpy(poison["indices"])], context)
    assert np.array_equal(again.numpy(), poison["images"])
    assert not np.array_equal(again.numpy(), data.images[torch.from_numpy(poison["indices"])].numpy())
    assert seed_for("stamp", "tiny", "watch-measured", 0) == context.seed
    assert run(tmp_path, "watch-dirty")["artifacts"]["trigger"] is None


def test_what_was_measured_of_a_trigger_and_its_warnings_are_in_every_record_of_the_row(tmp_path):
    told = []
    for defense in ("none", "tiny-filter"):  # the second finds the trigger in the store
        events = []
        record = run(tmp_path, "watch-measured", defense, events.append)
        found = record["notes"]["trigger"]
        assert found.keys() == {"success", "activation", "warnings"}  # neither weights nor what is no measurement
        assert found["success"] == 0.123457
        assert found["activation"][0] == [1.0, 2.5]
        assert found["warnings"] == ["watch-measured: weak noise"]
        told.append([e["warning"] for e in events if e["event"] == "warning"])
    assert calls().count("prepare") == 1
    assert told == [["watch-measured: weak noise"]] * 2
    assert "trigger" not in run(tmp_path, "watch-drawn")["notes"]


def test_an_attacks_own_numbers_about_its_poison_are_in_the_record_if_they_are_finite(tmp_path, monkeypatch):
    cls = registry.load("attacks", "watch-measured")
    assert "measured" not in run(tmp_path / "a", "watch-measured")["poison"]
    monkeypatch.setattr(cls, "poison_facts", lambda self, trigger: {"gap": np.float32(0.12345678), "rank": 3})
    record = run(tmp_path / "b", "watch-measured")
    assert (record["status"], record["poison"]["measured"]) == ("done", {"gap": 0.123457, "rank": 3.0})
    monkeypatch.setattr(cls, "poison_facts", lambda self, trigger: {"gap": float("nan")})
    cell = testing.cell(dataset="tiny(train=80,test=20,size=16)", attack="watch-measured", epochs=1)
    record = execute(cell.to_json(), output=tmp_path / "c", device="cpu")
    assert record["status"] == "failed"
    assert "attack 'watch-measured': poison_facts: 'gap' is not finite; leave it out" in record["error"]
