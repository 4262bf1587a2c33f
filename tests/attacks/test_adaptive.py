"""The attack on LfD chooses its blend on its target's own teachers, verifies the choice, and says what it saw."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from benchbd import testing
from benchbd.attacks._gap import Gap, gap_between
from benchbd.attacks.adaptive import LfdAdaptive, Trial
from benchbd.core.images import DatasetInfo
from benchbd.core.recipe import Recipe
from benchbd.errors import Impossible, UsageError
from benchbd.plugins import registry
from benchbd.plugins.contract import StampContext
from benchbd.testing.plugin_under_test import PluginUnderTest

ONE = "lfd(teachers=1, teacher_epochs=1, teacher_tries=1)"
SHORT = f"lfd-adaptive(of={ONE!r}, alphas=[0.3, 0.1])"
INFO = DatasetInfo(4, 32, 100, 10, (25,) * 4, 1)


def attack(text: str = "lfd-adaptive"):
    return registry.make("attacks", text)


# The choice, and its verification ------------------------------------------------------------------------------------


def chosen(monkeypatch, open_workshop, losses: dict[float, tuple[float, float]], *, check=(1.7, 1.7), more=""):
    """What is prepared where surrogates find these mean losses of poison and of clean images, and these in the end."""
    asked = []

    def gap(self, workshop, noise, trial):
        asked.append(trial)
        return Gap(*(check if trial.draw == "second" else losses[trial.alpha]), 0.5)

    monkeypatch.setattr(LfdAdaptive, "_gap", gap)
    made = attack(f"lfd-adaptive(alphas={list(losses)}{more})")
    workshop = open_workshop(made, count=20)
    trigger = made.prepare(workshop)
    assert set(map(tuple, asked)) == {
        (float(trigger["alpha"][0]) if trial.alpha is None else trial.alpha, *trial[1:]) for trial in made.trials()
    }
    return made, trigger, [e["warning"] for e in workshop.events if e.get("warning")]


def test_the_strongest_blend_that_the_teacher_does_not_learn_is_chosen(monkeypatch, open_workshop):
    losses = {0.05: (2.3, 1.7), 0.2: (0.4, 1.8), 0.1: (1.7, 1.7), 0.15: (1.6, 1.7)}
    _, trigger, warnings = chosen(monkeypatch, open_workshop, losses)
    assert trigger["alpha"].tolist() == [0.1]  # at equality, too
    assert not warnings
    assert trigger["alphas"].tolist() == [0.2, 0.15, 0.1, 0.05]
    assert trigger["poison_loss"].tolist() == [0.4, 1.6, 1.7, 2.3]
    assert trigger["clean_loss"].tolist() == [1.8, 1.7, 1.7, 1.7]


def test_where_every_blend_is_learnt_the_weakest_is_taken_with_a_warning(monkeypatch, open_workshop):
    _, trigger, warnings = chosen(monkeypatch, open_workshop, {0.2: (0.4, 1.8), 0.05: (1.2, 1.7)})
    assert trigger["alpha"].tolist() == [0.05]
    assert warnings == ["lfd-adaptive: the teacher finds poison easier than clean images even at alpha 0.05"]


def test_the_record_says_how_much_of_the_gap_second_surrogates_find_closed(monkeypatch, open_workshop):
    losses = {0.2: (0.3, 1.8), 0.1: (1.8, 1.7)}
    made, trigger, warnings = chosen(monkeypatch, open_workshop, losses, check=(1.65, 1.75))
    assert not warnings
    found = made.poison_facts(trigger)
    assert found == pytest.approx(
        {
            "poison_loss": 1.65,
            "clean_loss": 1.75,
            "gap": 0.1,
            "auroc": 0.5,
            "plain_gap": 1.5,
            "plain_auroc": 0.5,
            "closed": 1 - 0.1 / 1.5,
        }
    )
    made, trigger, warnings = chosen(monkeypatch, open_workshop, losses, check=(1.0, 1.8))
    assert made.poison_facts(trigger)["closed"] == pytest.approx(1 - 0.8 / 1.5)
    assert warnings == [
        "lfd-adaptive: the gap is not closed: on a second surrogate, poison has a mean loss of 1.00 and clean images "
        "1.80 (plain trigger: 0.30 and 1.80)"
    ]


def test_a_target_that_does_not_even_see_the_plain_trigger_is_no_proof(monkeypatch, open_workshop):
    made, trigger, warnings = chosen(monkeypatch, open_workshop, {0.2: (1.9, 1.8)}, check=(1.9, 1.8))
    assert warnings == [
        "lfd-adaptive: the target's teacher does not learn the plain trigger, so there is no gap to close"
    ]
    assert "closed" not in made.poison_facts(trigger)


def test_trials_are_each_share_with_covers_a_second_draw_and_the_plain_trigger_each_once():
    made = attack("lfd-adaptive(alphas=[0.1, 0.2], cover_ratio=1.0)")
    check = Trial(None, 1.0, "second")
    assert made.trials() == [
        Trial(0.2, 1.0, "trial"),
        Trial(0.1, 1.0, "trial"),
        check,
        Trial(0.2, 0.0, "trial"),
    ]
    bare = attack("lfd-adaptive(alphas=[0.1, 0.2])")
    assert bare.trials() == [Trial(0.2, 0.0, "trial"), Trial(0.1, 0.0, "trial"), check._replace(cover_ratio=0.0)]
    assert attack("lfd-adaptive(alphas=[0.1], verify=False)").trials() == [Trial(0.1, 0.0, "trial")]
    given = attack("lfd-adaptive(alpha=0.12)")
    assert given.trials() == [Trial(0.12, 0.0, "second"), Trial(0.2, 0.0, "trial")]


def test_what_is_chosen_with_covers_is_compared_with_the_plain_trigger_without_them(monkeypatch, open_workshop):
    losses = {0.2: (1.8, 1.7), 0.1: (2.0, 1.7)}
    _, trigger, _ = chosen(monkeypatch, open_workshop, losses, more=", cover_ratio=1.0")
    assert trigger["plain"].tolist() == [1.8, 1.7, 0.5]


def test_the_gap_is_that_of_the_means_and_its_auroc_scikit_learns():
    rng = np.random.default_rng(0)
    losses = rng.normal(size=300).round(1)  # with ties
    order = rng.permutation(300)
    poison, covers = order[:40], order[40:60]
    gap = gap_between(losses, poison, covers)
    truth = np.isin(np.arange(300), poison)
    assert gap.auroc == pytest.approx(roc_auc_score(truth, -losses))
    assert gap.poison == pytest.approx(losses[truth].mean())
    assert gap.clean == pytest.approx(losses[~np.isin(np.arange(300), order[:60])].mean())
    assert gap.size == gap.clean - gap.poison


# The surrogates are the target's teachers ----------------------------------------------------------------------------


def spied(clean, info):
    """A workshop that keeps what is trained in it: the sets and the settings. Losses are the samples' positions."""
    asked, count = [], len(clean)

    def train(data, **given):
        asked.append((data, given))

    def train_packed(data, *, repeats, **given):
        asked.append((data, {"repeats": list(repeats), **given}))
        return [None] * len(repeats)

    def losses(teacher, data):
        return np.arange(count, dtype=np.float32)

    workshop = SimpleNamespace(clean=clean, info=info, seed=3, target=1, recipe=Recipe(batch_size=20))
    workshop.train, workshop.train_packed, workshop.losses, workshop.asked = train, train_packed, losses, asked
    return workshop


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (
            "lfd(teachers=1, teacher_tries=1, teacher_epochs=7, teacher='resnet-s(stem=4)')",
            [{"kind": "teacher", "name": "teacher", "model": "resnet-s(stem=4)", "repeat": 1000, "epochs": 7}],
        ),
        # 40 images in batches of 20: 11 steps take 6 epochs.
        ("lfd(teachers=3, teacher_steps=11)", [{"repeats": [1000, 1001, 1002], "model": "resnet-s", "epochs": 6}]),
        (
            "lfd-ensemble(teachers=2, teacher_epochs=5, rungs=['resnet-s1', 'resnet-s'])",
            [{"repeats": [1000, 1001], "model": model, "epochs": 5} for model in ("resnet-s1", "resnet-s")],
        ),
    ],
)
def test_the_surrogates_are_trained_as_the_targets_teachers_but_from_weights_that_it_never_has(
    open_workshop, of, expected
):
    made = attack(f"lfd-adaptive(of={of!r})")
    workshop = open_workshop(made, count=40)
    clean, info = workshop.clean, workshop.info
    spy = spied(clean, info)
    made._gap(spy, np.zeros((1, 32, 32), np.uint8), Trial(0.5, 0.0, "trial"))
    recipe = {"schedule": "cosine", "horizon": 80, "augment": ()}
    found = [{k: v for k, v in given.items() if k != "batch_size"} for _, given in spy.asked]
    assert found == [{**one, **recipe} for one in expected]
    assert len(made.trainings()) == len(made.trials()) * len(expected)

    lab = spied(clean, info)  # what the target itself asks for, on a set of the same size
    registry.make("defenses", of)._teach(lab, clean)
    for (_, mine), (_, theirs) in zip(spy.asked, lab.asked, strict=True):
        first = {"repeat": mine.pop("repeat", None), "repeats": mine.pop("repeats", None)}
        same = {"repeat": theirs.pop("repeat", None), "repeats": theirs.pop("repeats", None)}
        assert mine == theirs
        assert not set(first["repeats"] or [first["repeat"]]) & set(same["repeats"] or [same["repeat"]])


def test_a_trial_is_poisoned_like_the_set_to_come_and_the_check_has_other_images_and_weights(open_workshop):
    made = attack(f"lfd-adaptive(of={ONE!r}, rate=0.2, cover_ratio=0.5)")
    workshop = open_workshop(made, count=40)
    spy, noise = spied(workshop.clean, workshop.info), np.zeros((1, 32, 32), np.uint8)
    gap = made._gap(spy, noise, Trial(0.5, 0.5, "trial"))
    ((data, given),) = spy.asked
    changed = (data.images != workshop.clean.images).flatten(1).any(1).numpy()
    assert torch.equal(data.images[changed], workshop.clean.images[changed] // 2)  # half of black noise
    assert changed.sum() == 8 + 4
    _, poison, covers = made._poisoned(spy, noise, Trial(0.5, 0.5, "trial"))
    assert sorted([*poison, *covers]) == np.flatnonzero(changed).tolist()
    assert (len(poison), len(covers)) == (8, 4)
    assert (data.labels[poison] == 1).all()
    rest = np.delete(np.arange(40), poison)
    assert torch.equal(data.labels[rest], workshop.clean.labels[rest])
    assert gap.poison == pytest.approx(poison.mean())
    assert gap.clean == pytest.approx(np.flatnonzero(~changed).mean())  # covers are neither

    made._gap(spy, noise, Trial(0.5, 0.5, "second"))
    (_, again) = spy.asked[1]
    assert {**again, "repeat": 0} == {**given, "repeat": 0}
    assert again["repeat"] != given["repeat"]
    assert set(made._poisoned(spy, noise, Trial(0.5, 0.5, "second"))[1]) != set(poison)


@pytest.mark.parametrize("covers", [0.0, 1.0])
@pytest.mark.parametrize(
    "of",
    [
        ONE,
        "lfd(teachers=2, teacher_epochs=1)",
        "lfd-ensemble(teachers=2, teacher_epochs=1, rungs=['resnet-s1', 'resnet-s'])",
    ],
)
def test_it_attacks_single_teachers_several_and_ensembles_with_and_without_covers(open_workshop, of, covers):
    made = attack(f"lfd-adaptive(of={of!r}, cover_ratio={covers}, alphas=[0.2])")
    workshop = open_workshop(made, count=40)
    trigger = made.prepare(workshop)
    assert trigger["alpha"].tolist() == [0.2]
    assert {"poison_loss", "clean_loss", "gap", "plain_gap", "auroc"} <= made.poison_facts(trigger).keys()
    assert workshop._ledger.trainings == {"teacher": len(made.trainings())}


def test_a_trial_poisons_only_other_classes_where_the_attack_does(open_workshop):
    made = attack("lfd-adaptive(pool='non-target', rate=0.5)")
    workshop = open_workshop(made, count=40)
    poison = made._poisoned(workshop, np.zeros((1, 32, 32), np.uint8), Trial(0.5, 0.0, "trial"))[1]
    assert len(poison) == 20
    assert (workshop.clean.labels[poison] != 1).all()


def test_what_it_prepares_is_repeatable_and_follows_the_trigger_seed(open_workshop):
    def prepared(text: str, where: str) -> dict[str, np.ndarray]:
        return attack(text).prepare(open_workshop(attack(text), count=40, where=where))

    first, again = prepared(SHORT, "a"), prepared(SHORT, "b")
    assert all(np.array_equal(first[name], again[name]) for name in first)
    other = prepared(f"{SHORT[:-1]}, trigger_seed=1)", "c")
    assert not np.array_equal(first["noise"], other["noise"])
    assert not np.array_equal(first["poison_loss"], other["poison_loss"])
    assert np.isfinite([*first["poison_loss"], *first["clean_loss"]]).all()


def test_a_blend_that_is_given_is_only_verified_and_without_that_trains_nothing(open_workshop):
    made = attack("lfd-adaptive(alpha=0.12, verify=False)")
    trigger = made.prepare(open_workshop(made, count=20))
    assert made.trainings() == ()
    assert trigger["alpha"].tolist() == [0.12]
    assert trigger.keys() == {"noise", "alpha"}
    assert made.poison_facts(trigger) == {}
    assert [training.kind for training in attack("lfd-adaptive(alpha=0.12)").trainings()] == ["teacher"] * 2


def test_training_images_carry_the_chosen_blend_and_test_images_the_full_one():
    made, images = attack("lfd-adaptive(alpha=0.1)"), torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    trigger = {"noise": np.full((1, 32, 32), 200, np.uint8), "alpha": np.array([0.1])}
    context = StampContext("train", np.arange(2), trigger, 0)
    assert (made.stamp(images, context) == 110).all()
    assert (made.cover(images, images, context) == 110).all()
    assert (made.stamp(images, context._replace(split="test")) == 120).all()


def test_covers_carry_the_trigger_and_keep_their_labels():
    testing.register()
    bench = PluginUnderTest("attacks", "lfd-adaptive", alpha=0.2, cover_ratio=1.5, verify=False)
    clean, poison = bench.clean[0], bench.poisons[0]
    covers = poison.indices[~poison.flags]
    assert (poison.facts["count"], poison.facts["cover"]) == (24, 36)
    assert np.array_equal(poison.labels[~poison.flags], clean.labels.numpy()[covers])
    context = StampContext("train", covers, poison.trigger, 0)
    stamped = bench.made.stamp(clean.images[torch.from_numpy(covers)], context)
    assert np.array_equal(poison.images[~poison.flags], stamped.numpy())


def test_seeds_with_one_trigger_seed_share_what_was_prepared_and_rates_do_not():
    testing.register()
    of = {}
    for rate, drawn in ((0.1, 0), (0.2, 0), (0.1, None)):
        given = {} if drawn is None else {"trigger_seed": drawn}
        bench = PluginUnderTest("attacks", "lfd-adaptive", rate=rate, alphas=[0.2], of=ONE, verify=False, **given)
        of[rate, drawn] = [bench.poisoner("one", seed=seed).poison(*bench.clean).prepared.key for seed in (0, 1)]
    assert of[0.1, 0][0] == of[0.1, 0][1] != of[0.2, 0][0]
    assert of[0.1, None][0] != of[0.1, None][1]


def test_a_trigger_is_prepared_again_where_the_targets_code_is_another(monkeypatch):
    testing.register()
    bench = PluginUnderTest("attacks", "lfd-adaptive", alpha=0.2, of=ONE)
    poison = bench.poisoner("one").poison(*bench.clean)
    digest = registry.source_digest
    monkeypatch.setattr(registry, "source_digest", lambda kind, name: f"{digest(kind, name)}{'x' * (name == 'ac')}")
    assert bench.poisoner("one").poison(*bench.clean).prepared.key == poison.prepared.key
    monkeypatch.setattr(registry, "source_digest", lambda kind, name: f"{digest(kind, name)}{'x' * (name == 'lfd')}")
    assert bench.poisoner("one").poison(*bench.clean).prepared.key != poison.prepared.key
    measured = poison.facts["measured"]
    assert measured["gap"] == pytest.approx(measured["clean_loss"] - measured["poison_loss"], abs=1e-4)


def test_what_means_nothing_is_refused():
    for text in ("alpha=0.0", "alpha=1.5", "alphas=[]", "alphas=[0.1, 0.1]", "alphas=[0.1, 2.0]", "alpha_test=0.0"):
        with pytest.raises(UsageError, match="alpha"):
            attack(f"lfd-adaptive({text})")
    with pytest.raises(UsageError, match="cover_ratio"):
        attack("lfd-adaptive(cover_ratio=-0.5)")
    with pytest.raises(UsageError, match=r"^attack 'lfd-adaptive': of: ac has no teachers; name lfd or lfd-ensemble$"):
        attack("lfd-adaptive(of='ac')")
    for of, wrong in (("lfx", "lfx"), ("lfd(teachers=0)", "teachers"), ("lfd(tutors=3)", "tutors")):
        with pytest.raises(UsageError, match=wrong):
            attack(f"lfd-adaptive(of={of!r})")
    with pytest.raises(Impossible, match="50 poisoned images and 100 covers do not fit into 100 images"):
        attack("lfd-adaptive(rate=0.5, cover_ratio=2.0)").check(INFO)
    with pytest.raises(UsageError, match="resnet-z"):
        attack("lfd-adaptive(of=\"lfd(teacher='resnet-z')\")").check(INFO)


def test_retries_are_the_targets():
    assert attack(f"lfd-adaptive(of={ONE!r})").retries() == {"teacher": 0}
    assert attack("lfd-adaptive(of='lfd(teachers=1)')").retries() == {"teacher": 2}
