"""Packs in a lab: stored once, under keys of their own, equal to single trainings within the engine's tolerance."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
from lab_inputs import tiny

from benchbd import testing
from benchbd.core.recipe import Recipe
from benchbd.defenses.none import Undefended
from benchbd.engine import Precision
from benchbd.errors import UsageError
from benchbd.lab.lab import Lab
from benchbd.pipeline.poison import Poisoner
from benchbd.pipeline.run_cell import execute


@pytest.fixture
def lab(lab_over: Callable[..., Lab]) -> Lab:
    return lab_over(tiny(48), Recipe(epochs=2, batch_size=16, augment=()), "resnet-s")


@pytest.mark.learning
def test_a_pack_equals_single_trainings_and_is_stored_once(lab: Lab) -> None:
    lab.precision_for = lambda plan: Precision("cpu-fp32")  # type: ignore[method-assign]  # the tolerance is float32's
    packed = lab.train_packed(lab.poisoned, repeats=range(3))
    assert lab._ledger.computed == {"teacher": 1}
    for repeat, one in enumerate(packed):
        alone = lab.train(lab.poisoned, kind="teacher", name="alone", repeat=repeat)
        assert one.epoch_losses == pytest.approx(alone.epoch_losses, rel=1e-3)
        assert one.key != alone.key
        losses = lab.losses(one, lab.poisoned)
        np.testing.assert_allclose(losses, lab.losses(alone, lab.poisoned), rtol=0.05, atol=0.01)
    before = dict(lab._ledger.computed)
    again = lab.train_packed(lab.poisoned, repeats=[0, 1, 2])
    assert lab._ledger.computed == before
    assert [one.key for one in again] == [one.key for one in packed]
    assert len({one.key for one in packed}) == 3
    for one, other in zip(again, packed, strict=True):
        assert all(np.array_equal(one._state[name], other._state[name]) for name in other._state)


def test_a_pack_initialises_its_networks_from_the_data(lab: Lab) -> None:
    packed = lab.train_packed(lab.poisoned, repeats=range(2), model="airbench(width=2)")
    alone = lab.train(lab.poisoned, kind="teacher", name="alone", model="airbench(width=2)")
    for one in packed:
        np.testing.assert_array_equal(one._state["net.whitening.filters"], alone._state["net.whitening.filters"])


@pytest.mark.parametrize("changes", [{"repeats": [0, 2]}, {"lr": 0.1}, {"epochs": 1}, {"model": "resnet-s1"}])
def test_whatever_determines_a_pack_is_in_its_key(lab: Lab, changes: dict[str, object]) -> None:
    plain = {"repeats": [0, 1]}
    first = lab.train_packed(lab.poisoned, **plain)[0].key
    assert lab.train_packed(lab.poisoned, **{**plain, **changes})[0].key != first


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"repeats": []}, "repeats"),
        ({"repeats": [1, 1]}, "repeats"),
        ({"repeats": [0], "kind": "student"}, "kind"),
        ({"repeats": [0, 1], "model": "lenet"}, r"^teachers: model 'lenet': hidden\.0 \(Linear\) cannot be packed"),
    ],
)
def test_what_cannot_be_packed_is_one_clear_line(lab: Lab, given: dict[str, object], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        lab.train_packed(lab.poisoned, **given)


@pytest.mark.usefixtures("one_thread", "fresh_registry")
def test_a_model_that_cannot_be_packed_ends_the_cell_before_its_trigger_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(Undefended, "packed_models", lambda self: ("lenet",))
    monkeypatch.setattr(Poisoner, "poison", lambda *_: pytest.fail("the set was poisoned"))
    data = "tiny(train=80,test=20,size=32)"
    cell = testing.cell(dataset=data, attack="tiny-patch", defense="none", epochs=1)
    record = execute(cell.to_json(), output=tmp_path, device="cpu")
    assert record["status"] == "failed"
    where = "defense 'none': model 'lenet': hidden.0 (Linear) cannot be packed: it has trained weights; "
    assert record["error"].startswith(where)
    assert "\n" not in record["error"]
