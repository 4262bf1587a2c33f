"""The attack on LfD chooses its blend on teachers like LfD's own, poisons accordingly, and says what it saw."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchbd import testing
from benchbd.attacks.adaptive import LfdAdaptive
from benchbd.core.images import DatasetInfo
from benchbd.core.recipe import Recipe
from benchbd.errors import Impossible, UsageError
from benchbd.plugins import registry
from benchbd.plugins.contract import StampContext
from benchbd.testing.plugin_under_test import PluginUnderTest

SHORT = "lfd-adaptive(teacher_epochs=1, alphas=[0.3, 0.1])"


def attack(text: str = "lfd-adaptive"):
    return registry.make("attacks", text)


def chosen(monkeypatch, open_workshop, losses: dict[float, tuple[float, float]]):
    """What is prepared where surrogate teachers find these mean losses of poison and of clean images."""
    monkeypatch.setattr(LfdAdaptive, "_losses", lambda self, workshop, noise, alpha: losses[alpha])
    made = attack(f"lfd-adaptive(alphas={list(losses)})")
    workshop = open_workshop(made, count=20)
    trigger = made.prepare(workshop)
    return float(trigger["alpha"][0]), trigger, [e["warning"] for e in workshop.events if e.get("warning")]


def test_the_strongest_blend_that_the_teacher_does_not_learn_is_chosen(monkeypatch, open_workshop):
    losses = {0.05: (2.3, 1.7), 0.2: (0.4, 1.8), 0.1: (1.7, 1.7), 0.15: (1.6, 1.7)}
    alpha, trigger, warnings = chosen(monkeypatch, open_workshop, losses)
    assert alpha == 0.1  # at equality, too
    assert not warnings
    assert trigger["alphas"].tolist() == [0.2, 0.15, 0.1, 0.05]
    assert trigger["poison_loss"].tolist() == [0.4, 1.6, 1.7, 2.3]
    assert trigger["clean_loss"].tolist() == [1.8, 1.7, 1.7, 1.7]


def test_where_every_blend_is_learnt_the_weakest_is_taken_with_a_warning(monkeypatch, open_workshop):
    alpha, _, warnings = chosen(monkeypatch, open_workshop, {0.2: (0.4, 1.8), 0.05: (1.2, 1.7)})
    assert alpha == 0.05
    assert warnings == ["lfd-adaptive: the teacher finds poison easier than clean images even at alpha 0.05"]


def test_the_surrogate_teacher_is_trained_as_lfds_own_on_a_poisoned_set_like_the_one_to_come(open_workshop):
    made = attack("lfd-adaptive(teacher_epochs=7, rate=0.2, cover_ratio=0.5)")
    asked, workshop = {}, open_workshop(made, count=40)
    noise = np.zeros((1, 32, 32), np.uint8)

    def train(data, **given):
        asked.update(given, data=data)

    def losses(teacher, data):
        return np.arange(40, dtype=np.float32)

    stand_in = SimpleNamespace(clean=workshop.clean, info=workshop.info, seed=3, target=1, train=train, losses=losses)
    poison_loss, clean_loss = made._losses(stand_in, noise, 0.5)
    data = asked.pop("data")
    lfd = registry.make("defenses", "lfd", teacher_epochs=7)
    assert asked == {"kind": "teacher", "name": "0.5-teacher", "model": lfd.teacher, **lfd.teacher_recipe(Recipe(), 40)}

    changed = (data.images != workshop.clean.images).flatten(1).any(1).numpy()
    assert torch.equal(data.images[changed], workshop.clean.images[changed] // 2)  # half of black noise
    assert changed.sum() == 8 + 4
    _, poison, covers = made._trial(stand_in, noise, 0.5)
    assert sorted([*poison, *covers]) == np.flatnonzero(changed).tolist()
    assert (len(poison), len(covers)) == (8, 4)
    assert (data.labels[poison] == 1).all()
    rest = np.delete(np.arange(40), poison)
    assert torch.equal(data.labels[rest], workshop.clean.labels[rest])
    assert poison_loss == pytest.approx(poison.mean())
    assert clean_loss == pytest.approx(np.flatnonzero(~changed).mean())  # covers are neither


def test_a_trial_poisons_only_other_classes_where_the_attack_does(open_workshop):
    made = attack("lfd-adaptive(pool='non-target', rate=0.5)")
    workshop = open_workshop(made, count=40)
    poison = made._trial(workshop, np.zeros((1, 32, 32), np.uint8), 0.5)[1]
    assert len(poison) == 20
    assert (workshop.clean.labels[poison] != 1).all()


def test_what_it_prepares_is_repeatable_and_follows_the_trigger_seed(open_workshop):
    def prepared(text: str, where: str) -> dict[str, np.ndarray]:
        return attack(text).prepare(open_workshop(attack(text), count=40, where=where))

    first, again = prepared(SHORT, "a"), prepared(SHORT, "b")
    assert all(np.array_equal(first[name], again[name]) for name in first)
    other = prepared(SHORT.replace(")", ", trigger_seed=1)"), "c")
    assert not np.array_equal(first["noise"], other["noise"])
    assert not np.array_equal(first["poison_loss"], other["poison_loss"])
    assert np.isfinite([*first["poison_loss"], *first["clean_loss"]]).all()


def test_a_blend_that_is_given_trains_nothing(open_workshop):
    made = attack("lfd-adaptive(alpha=0.12)")
    trigger = made.prepare(open_workshop(made, count=20))
    assert made.trainings() == ()
    assert trigger["alpha"].tolist() == [0.12]
    assert trigger.keys() == {"noise", "alpha"}
    declared = attack().trainings()
    assert [(training.kind, training.shared[1]) for training in declared] == [
        ("teacher", alpha) for alpha in (0.1, 0.07, 0.05, 0.03)
    ]


def test_training_images_carry_the_chosen_blend_and_test_images_the_full_one():
    made, images = attack("lfd-adaptive(alpha=0.1)"), torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    trigger = {"noise": np.full((1, 32, 32), 200, np.uint8), "alpha": np.array([0.1])}
    context = StampContext("train", np.arange(2), trigger, 0)
    assert (made.stamp(images, context) == 110).all()
    assert (made.cover(images, images, context) == 110).all()
    assert (made.stamp(images, context._replace(split="test")) == 120).all()


def test_covers_carry_the_trigger_and_keep_their_labels():
    testing.register()
    bench = PluginUnderTest("attacks", "lfd-adaptive", alpha=0.2, cover_ratio=1.5)
    clean, poison = bench.clean[0], bench.poisons[0]
    covers = poison.indices[~poison.flags]
    assert (poison.facts["count"], poison.facts["cover"]) == (24, 36)
    assert np.array_equal(poison.labels[~poison.flags], clean.labels.numpy()[covers])
    context = StampContext("train", covers, poison.trigger, 0)
    stamped = bench.made.stamp(clean.images[torch.from_numpy(covers)], context)
    assert np.array_equal(poison.images[~poison.flags], stamped.numpy())


def test_seeds_share_what_was_prepared_and_rates_do_not():
    testing.register()
    of = {}
    for rate in (0.1, 0.2):
        bench = PluginUnderTest("attacks", "lfd-adaptive", rate=rate, alphas=[0.2])
        of[rate] = [bench.poisoner("one", seed=seed).poison(*bench.clean).prepared.key for seed in (0, 1)]
    assert of[0.1][0] == of[0.1][1] != of[0.2][0]


def test_what_means_nothing_is_refused():
    for text in ("alpha=0.0", "alpha=1.5", "alphas=[]", "alphas=[0.1, 0.1]", "alphas=[0.1, 2.0]", "alpha_test=0.0"):
        with pytest.raises(UsageError, match="alpha"):
            attack(f"lfd-adaptive({text})")
    for text in ("cover_ratio=-0.5", "teacher_epochs=0"):
        with pytest.raises(UsageError, match="cover_ratio"):
            attack(f"lfd-adaptive({text})")
    with pytest.raises(Impossible, match="50 poisoned images and 100 covers do not fit into 100 images"):
        attack("lfd-adaptive(rate=0.5, cover_ratio=2.0)").check(DatasetInfo(4, 32, 100, 10, (25,) * 4, 1))
    with pytest.raises(UsageError, match="resnet-z"):
        attack("lfd-adaptive(teacher='resnet-z')").check(DatasetInfo(4, 32, 100, 10, (25,) * 4, 1))
