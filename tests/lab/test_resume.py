"""A training that breaks off goes on to the same bits, and what cannot be used of it is not."""

from __future__ import annotations

import errno
import time

import pytest
from lab_inputs import Slow, tiny

from benchbd.errors import Diverged
from benchbd.storage.artifacts import Store
from benchbd.storage.checkpoint import Checkpoint


class Killed(BaseException):
    """The process dies here."""


def killing(real, saves: int):
    """``Checkpoint.save`` that kills after so many saves."""
    count = []

    def save(self, state):
        real(self, state)
        count.append(1)
        if len(count) == saves:
            raise Killed

    return save


def state_of(trained) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in trained.module().state_dict().items()}


@pytest.mark.parametrize("saves", [1, 5, 8])
def test_a_killed_training_goes_on_to_the_same_bits_and_its_seconds_add_up(open_lab, monkeypatch, saves):
    whole = open_lab(where="whole").train(tiny(), epochs=3, loss=Slow())
    real = Checkpoint.save
    monkeypatch.setattr(Checkpoint, "save", killing(real, saves))
    lab = open_lab(checkpoint_every=0.0)
    with pytest.raises(Killed):
        lab.train(lab.poisoned, epochs=3, loss=Slow())
    store = lab._store
    saved = store.get("checkpoint", whole.key)
    before = float(saved.arrays["seconds"])
    assert before >= 0.01 * saves
    assert store.get("model", whole.key) is None

    monkeypatch.setattr(Checkpoint, "save", real)
    began = time.perf_counter()
    lab = open_lab()
    resumed = lab.train(lab.poisoned, epochs=3, loss=Slow())
    wall = time.perf_counter() - began
    assert resumed.key == whole.key
    assert resumed.epoch_losses == whole.epoch_losses
    assert state_of(resumed) == state_of(whole)
    assert before < lab._ledger.stages["train"] <= before + wall
    assert store.get("checkpoint", whole.key) is None
    assert list((store.root / "locks").iterdir()) == []


def test_a_kill_while_the_finished_weights_are_stored_costs_little(open_lab, monkeypatch):
    """The checkpoint must be there until they are."""
    lab = open_lab(checkpoint_every=0.0)
    real = Store.put

    def put(self, kind, key, arrays, facts):
        if kind == "model":
            raise Killed
        return real(self, kind, key, arrays, facts)

    monkeypatch.setattr(Store, "put", put)
    with pytest.raises(Killed):
        lab.train(lab.poisoned)
    key = next(p.name for p in (lab._store.root / "checkpoint").glob("*/*"))
    assert lab._store.get("checkpoint", key) is not None
    monkeypatch.setattr(Store, "put", real)
    assert lab.train(lab.poisoned).key == key


def test_a_damaged_checkpoint_starts_the_training_over(open_lab, monkeypatch):
    whole = open_lab(where="whole").train(tiny())
    lines = []
    lab = open_lab(checkpoint_every=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", killing(Checkpoint.save, 3))
        with pytest.raises(Killed):
            lab.train(lab.poisoned)
    store = Store(lab._store.root, lines.append)
    (store.path("checkpoint", whole.key) / "arrays.safetensors").write_bytes(b"short")
    again = open_lab(store=store).train(tiny())
    assert state_of(again) == state_of(whole)
    assert len(lines) == 1
    assert lines[0].startswith("artifact checkpoint/")


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(open_lab, monkeypatch):
    lines = []
    real = Store.put

    def put(self, kind, key, arrays, facts):
        if kind == "checkpoint":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, kind, key, arrays, facts)

    monkeypatch.setattr(Store, "put", put)
    lab = open_lab(checkpoint_every=0.0)
    lab._store.say = lines.append
    assert lab.train(lab.poisoned, epochs=1).epochs == 1
    assert lines
    assert all("no checkpoint was saved" in line for line in lines)


def test_a_diverged_training_leaves_nothing(open_lab):
    lab = open_lab(checkpoint_every=0.0)
    with pytest.raises(Diverged, match=r"^probe: (loss is|weights are) not finite (in|after) epoch \d of 3$"):
        lab.train(lab.poisoned, name="probe", optimizer="sgd", lr=1e30, epochs=3, augment=())
    assert lab.broken_off["stage"] == "probe"
    assert 1 <= len(lab.broken_off["epoch_losses"]) <= 3
    assert [p for p in lab._store.root.rglob("*") if p.is_file()] == []
    assert lab._ledger.trainings == {}
