"""A training by a plugin's own loop is a stage like any other: memoised, resumed after a kill, charged for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from lab_inputs import tiny
from torch.nn import functional as F

from benchbd import engine
from benchbd.core.recipe import Recipe
from benchbd.errors import Diverged, UsageError
from benchbd.storage.artifacts import Store
from benchbd.storage.checkpoint import Checkpoint


@dataclasses.dataclass(frozen=True)
class Smoothed:
    """Cross-entropy with label smoothing, and a mask over the classes."""

    by: float = 0.1
    mask: np.ndarray | None = None

    def epoch(self, run):
        for rows in run.batches():
            logits = run.net(run.views(rows))
            run.step(F.cross_entropy(logits, run.labels[rows[:, 0]], label_smoothing=self.by))


@dataclasses.dataclass(frozen=True)
class Other(Smoothed):
    """The same under another name."""


@dataclasses.dataclass(frozen=True)
class Spoiled:
    def epoch(self, run):
        run.step(run.net(run.views(run.batches()[0])).sum() * float("inf"))


@pytest.fixture
def open_lab(lab_over, tmp_path):
    def build(**given):
        base = {"store": Store(tmp_path), "owner": ["mine", 1, "source"]}
        return lab_over(tiny(), Recipe(epochs=3, batch_size=16), **{**base, **given})

    return build


def train(lab, training_loop=None, **how):
    return lab.train(lab.poisoned, training_loop=training_loop or Smoothed(), **how)


def same(one, two):
    one, two = one.module().state_dict(), two.module().state_dict()
    return all(torch.equal(one[k], two[k]) for k in one)


def test_it_is_trained_once_and_charged_to_all_who_ask(open_lab, monkeypatch):
    first_lab, lab = open_lab(), open_lab()
    first = train(first_lab, name="smoothed", kind="feature-model")
    monkeypatch.setattr(engine, "fit_with_loop", lambda *args, **kwargs: pytest.fail("trained again"))
    again = train(lab, name="smoothed", kind="feature-model")
    assert again.key == first.key
    assert same(first, again)
    assert first.epoch_losses == again.epoch_losses
    assert len(first.epoch_losses) == 3
    for one, computed in ((first_lab, {"feature-model": 1}), (lab, {})):
        assert one._ledger.trainings == {"feature-model": 1}
        assert one._ledger.computed == computed
        assert one._ledger.epochs == 3
        assert one._ledger.stages["smoothed"] > 0


def test_all_that_decides_it_is_in_its_key(open_lab):
    lab = open_lab()
    keys = [
        train(lab).key,
        lab.train(lab.poisoned).key,
        train(lab, Smoothed(0.2)).key,
        train(lab, Other()).key,
        train(lab, Smoothed(mask=np.arange(4))).key,
        train(lab, Smoothed(mask=np.arange(1, 5))).key,
        train(lab, epochs=2).key,
        train(lab, repeat=1).key,
        train(lab, start=lab.train(lab.poisoned)).key,
        train(open_lab(seed=1)).key,
        train(open_lab(owner=["mine", 2, "source"])).key,
        train(open_lab(owner=["mine", 1, "changed"])).key,
    ]
    assert len(set(keys)) == len(keys)
    assert train(open_lab(checkpoint_every=1.0), name="x", kind="teacher").key == keys[0]


def test_a_start_is_where_it_starts(open_lab):
    lab = open_lab()
    start = lab.train(lab.poisoned, epochs=1)
    assert same(train(lab, start=start, epochs=0), start)


def test_killed_it_goes_on_to_the_same_bits_and_its_seconds_add_up(open_lab, tmp_path, monkeypatch):
    whole = train(open_lab(store=Store(tmp_path / "whole")))
    real, saves = Checkpoint.save, []

    def killing(self, state):
        real(self, state)
        saves.append(state["epoch"])
        if len(saves) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", killing)
        with pytest.raises(KeyboardInterrupt):
            train(open_lab(checkpoint_every=0.0))
    store = Store(tmp_path)
    spent = float(store.get("checkpoint", whole.key).arrays["seconds"])
    lab = open_lab()
    resumed = train(lab)
    assert same(whole, resumed)
    assert resumed.epoch_losses == whole.epoch_losses
    assert lab._ledger.stages["train"] > spent > 0
    assert store.get("checkpoint", whole.key) is None


def test_a_loss_that_is_not_finite_ends_it_with_its_name(open_lab):
    lab = open_lab()
    with pytest.raises(Diverged, match=r"^mine: loss is not finite in epoch 1 of 3"):
        train(lab, Spoiled(), name="mine")
    assert lab.broken_off["stage"] == "mine"


@pytest.mark.parametrize(
    ("training_loop", "how", "reason"),
    [
        (Smoothed, {}, "training_loop must be a frozen dataclass"),
        (lambda run: None, {}, "training_loop must be a frozen dataclass"),
        (Smoothed(), {"weights": np.ones(64)}, "takes no weights, scorer, loss and perturb"),
        (Smoothed(), {"loss": Smoothed()}, "takes no weights, scorer, loss and perturb"),
        (Smoothed(), {"perturb": Smoothed()}, "takes no weights, scorer, loss and perturb"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(open_lab, training_loop, how, reason):
    with pytest.raises(UsageError, match=reason):
        train(open_lab(), training_loop, **how)
