"""LfD: threshold and weights against a from-scratch computation, properties, gradients, modes, the plan."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchbd.core.images import DatasetInfo
from benchbd.core.recipe import Recipe
from benchbd.defenses._teachers import READY, at_chance, best, compared, epochs_of, label_entropy, learnt, unready
from benchbd.defenses.lfd import (
    CappedAscent,
    Lfd,
    Weighing,
    ascent_weights,
    distinction_weights,
    mean_one,
    threshold,
)
from benchbd.engine.epochs import batch_bounds
from benchbd.errors import Diverged, Impossible, UsageError

INFO = DatasetInfo(classes=10, size=32, train=1000, test=100, class_counts=None, target=1)

several_losses = st.lists(st.floats(2.0**-20, 30.0, width=32), min_size=3, max_size=60)
shares = st.floats(0.02, 0.9)


def by_hand(losses: list[float], alpha: float, beta: float) -> tuple[float, list[float]]:
    """Equations 4 and 6, sample by sample in Python floats, sharing nothing with the defense."""
    ascending = sorted(losses)
    gamma = ascending[math.floor(len(losses) * alpha)]
    top = ascending[-1]
    weights = []
    for loss in losses:
        if loss > gamma:
            weights.append(loss / top)
        elif top == gamma:
            weights.append(0.0)
        else:
            weights.append(beta * (loss - gamma) / (top - gamma))
    return gamma, weights


def test_a_worked_example():
    losses = np.array([0.8, 0.1, 0.4, 1.0, 0.2])
    split = threshold(losses, 0.4)
    assert split.gamma == 0.4  # index floor(5 * 0.4) = 2 of 0.1 0.2 0.4 0.8 1.0
    assert split.candidates.tolist() == [False, True, True, False, True]
    weights = distinction_weights(losses, split, beta=0.6)
    np.testing.assert_allclose(weights, [0.8, -0.3, 0.0, 1.0, -0.2], atol=1e-15)


@given(several_losses, shares, st.floats(0.0, 2.0))
def test_weights_equal_a_from_scratch_computation(losses, alpha, beta):
    values = np.array(losses, np.float64)
    split = threshold(values, alpha)
    gamma, expected = by_hand(losses, alpha, beta)
    assert split.gamma == gamma
    np.testing.assert_allclose(distinction_weights(values, split, beta), expected, rtol=1e-15, atol=0)


@given(several_losses, shares, st.floats(1e-6, 2.0), st.sampled_from(["range", "gamma"]))
def test_what_the_paper_says_of_the_weights(losses, alpha, beta, neg_norm):
    values = np.array(losses, np.float64)
    split = threshold(values, alpha)
    weights = distinction_weights(values, split, beta, neg_norm).astype(np.float32)
    assert ((weights <= 0) == (values <= split.gamma)).all()
    assert (weights[values == split.gamma] == 0).all()
    if not split.candidates.all():
        assert weights.max() == 1.0
        assert weights.argmax() == values.argmax()
    floor = -beta if neg_norm == "gamma" else -beta * split.gamma / max(values.max() - split.gamma, 1e-30)
    assert weights.min() >= floor * (1 + 1e-6)


@given(several_losses, shares)
def test_candidates_are_the_lowest_losses(losses, alpha):
    values = np.array(losses, np.float64)
    index = math.floor(len(losses) * alpha)
    split = threshold(values, alpha)
    assert split.candidates.sum() >= index + 1
    assert split.candidates.sum() == (values <= split.gamma).sum()
    if not split.candidates.all():
        assert values[split.candidates].max() < values[~split.candidates].min()
    if index >= 1:
        ranked = threshold(values, alpha, "rank")
        assert ranked.candidates.sum() == index
        assert values[ranked.candidates].max() == ranked.gamma <= values[~ranked.candidates].min()


def test_rank_rule_splits_ties_by_position():
    split = threshold(np.array([0.0, 0.0, 0.0, 0.0, 5.0]), 0.4, "rank")
    assert split.candidates.tolist() == [True, True, False, False, False]
    assert threshold(np.array([0.0, 0.0, 0.0, 0.0, 5.0]), 0.4).candidates.tolist() == [True] * 4 + [False]


def test_percentile_scale_clips_the_outlier():
    losses = np.append(np.linspace(0.01, 1.0, 999), 1000.0)
    split = threshold(losses, 0.1)
    exact = distinction_weights(losses, split, 1e-3)
    clipped = distinction_weights(losses, split, 1e-3, max_rule="p99.9")
    assert exact[-2] == pytest.approx(1e-3)
    assert clipped.max() == 1.0
    assert clipped[-2] == pytest.approx(1.0 / np.percentile(losses, 99.9))


def test_equal_losses_weigh_nothing_and_never_divide_by_zero():
    with np.errstate(all="raise"):
        for losses in (np.zeros(5), np.full(5, 2.0)):
            for neg_norm in ("range", "gamma"):
                assert not distinction_weights(losses, threshold(losses, 0.5), 1.0, neg_norm).any()


def test_ascent_weights_are_the_signs_or_two_means():
    candidates = np.array([True, False, False, False, True, False, False, False])
    assert ascent_weights(candidates, "signs", 0.5).tolist() == [-1, 1, 1, 1, -1, 1, 1, 1]
    assert ascent_weights(candidates, "beta", 0.5).tolist() == [-0.5, 1, 1, 1, -0.5, 1, 1, 1]
    losses = np.arange(1.0, 9.0)
    equation_5 = losses[~candidates].mean() - losses[candidates].mean()
    assert (ascent_weights(candidates, "two-means", 0.5) * losses).mean() == pytest.approx(equation_5)


def test_capped_ascent_and_its_gradient_by_hand():
    losses = torch.tensor([2.0, 3.0, 12.0, 12.0], requires_grad=True)
    weights = torch.tensor([1.0, -1.0, -1.0, 0.5])
    value = CappedAscent(10.0)(losses, weights)
    assert value.item() == (2.0 - 3.0 - 10.0 + 6.0) / 4
    value.backward()
    assert losses.grad.tolist() == [0.25, -0.25, 0.0, 0.125]  # the third is beyond the cap, the fourth descends


def test_mean_one():
    assert mean_one(np.array([1.0, 3.0])).tolist() == [0.5, 1.5]
    with pytest.raises(Diverged, match="sum to nothing positive"):
        mean_one(np.array([-2.0, 1.0]))


@pytest.fixture
def losses():
    return np.random.default_rng(0).gamma(2.0, 0.25, 200).astype(np.float32)


@pytest.fixture
def lab(fake_lab, losses):
    return fake_lab(np.arange(200) % 4, losses=losses)


def test_weighted_student_gets_the_from_scratch_weights(lab, losses):
    Lfd(alpha=0.2, beta=0.003).train(lab)
    teacher, student = lab.calls
    gamma, expected = by_hand([float(x) for x in losses], 0.2, 0.003)
    assert student.settings["weights"].dtype == np.float32
    np.testing.assert_array_equal(student.settings["weights"], np.array(expected, np.float64).astype(np.float32))
    assert set(student.settings) == {"weights"}  # base recipe, the cell's model, the default loss
    assert lab.notes["lfd"]["gamma"] == gamma
    assert lab.notes["lfd"]["candidates"] == 41 == sum(lab.notes["lfd"]["candidates_per_class"])
    np.testing.assert_array_equal(lab.scores, -losses)
    np.testing.assert_array_equal(lab.flagged, losses <= gamma)
    assert len(teacher.ids) == 200


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"teachers": 1}, {"epochs": 2000, "batch_size": 128, "schedule": "cosine", "horizon": 2000, "repeat": 0}),
        ({}, {"epochs": 2000, "batch_size": 128, "schedule": "cosine", "horizon": 2000, "repeats": range(8)}),
        ({"teacher_steps": 100, "teachers": 3}, {"epochs": 50, "horizon": 80, "repeats": range(3)}),
        ({"teacher_epochs": 20}, {"epochs": 20, "schedule": "cosine", "horizon": 80}),
        ({"teacher_epochs": 100}, {"epochs": 100, "schedule": "cosine", "horizon": 100}),
        ({"teacher_schedule": "cosine", "teacher_epochs": 7}, {"epochs": 7, "schedule": "cosine", "horizon": 7}),
        ({"teacher_schedule": "constant"}, {"schedule": "constant"}),
    ],
)
def test_teacher_is_small_unaugmented_and_short(lab, given, expected):
    Lfd(teacher="resnet-s(stem=64)", **given).train(lab)
    settings = lab.calls[0].settings
    assert settings["kind"] == "teacher"
    assert settings["model"] == "resnet-s(stem=64)"
    assert settings["augment"] == ()
    assert expected.items() <= settings.items()
    lab.recipe.but(**{k: v for k, v in settings.items() if k not in ("kind", "name", "model", "repeat", "repeats")})


def test_modes(lab, losses):
    candidates = losses <= np.sort(losses)[30]
    Lfd(mode="unweighted").train(lab)
    assert lab.calls[1].settings["loss"] == CappedAscent(10.0)
    np.testing.assert_array_equal(lab.calls[1].settings["weights"], np.where(candidates, -1, 1))
    assert lab.notes["lfd"]["candidates_beyond_cap"] == 0.0
    Lfd(mode="none").train(lab)
    np.testing.assert_array_equal(lab.calls[3].settings["weights"], ~candidates)
    Lfd(mode="drop").train(lab)
    assert lab.calls[5].ids.tolist() == np.flatnonzero(~candidates).tolist()
    assert lab.calls[5].settings == {}
    Lfd(normalise="weights").train(lab)
    assert lab.calls[7].settings["weights"].mean() == pytest.approx(1.0, rel=1e-6)


def test_a_teacher_that_tells_nothing_apart_is_a_failure(fake_lab):
    with pytest.raises(Diverged, match="no loss exceeds"):
        Lfd().train(fake_lab(np.arange(20) % 2, losses=np.full(20, 0.7)))
    with pytest.raises(Diverged, match="not finite"):
        Lfd().train(fake_lab(np.arange(20) % 2, losses=np.append(np.arange(19), np.nan)))


@given(st.lists(st.integers(0, 4), min_size=2, max_size=50), st.lists(st.floats(-3, 3), min_size=5, max_size=5))
def test_no_constant_answer_is_above_chance(labels, logits):
    shares = np.exp(logits) / np.exp(logits).sum()
    assert at_chance(-np.log(shares[labels]), np.array(labels))


def test_who_knows_something_is_above_chance():
    labels = np.arange(100) % 4
    assert not at_chance(np.full(100, 0.9 * math.log(4)), labels)
    assert at_chance(np.full(100, 0.995 * math.log(4)), labels)
    assert at_chance(np.full(100, np.nan), labels)


@pytest.fixture
def sluggish(fake_lab, losses):
    """Makes a lab whose first teachers stay at chance level, with these mean losses."""

    def build(*dead):
        lab = fake_lab(np.arange(200) % 4, losses=losses)
        answers = [*(np.random.default_rng(n).normal(d, 1e-4, 200) for n, d in enumerate(dead)), losses]
        lab.losses = lambda trained, data: np.asarray(answers[int(trained.key.split()[-1]) - 1], np.float32)
        return lab

    return build


def repeats(lab):
    """Which repeat each training asked for; the student for none."""
    return [call.settings.get("repeat") for call in lab.calls]


def test_a_teacher_at_chance_level_is_drawn_anew(sluggish, losses):
    lab = sluggish(1.40, 1.39)
    Lfd(teachers=1).train(lab)
    assert repeats(lab) == [0, 1, 2, None]
    assert lab.notes["lfd"]["teacher_tries"] == 3
    assert lab.notes["lfd"]["teacher_at_chance"] is False
    np.testing.assert_array_equal(lab.scores, -losses)
    assert lab.warnings == []


def test_of_teachers_at_chance_level_the_best_counts_and_the_record_says_so(sluggish):
    lab = sluggish(1.42, 1.39, 1.41)
    Lfd(teachers=1).train(lab)
    np.testing.assert_array_equal(lab.reported, -lab.scores)  # of the chosen teacher, not of the last one
    assert repeats(lab) == [0, 1, 2, None]
    assert lab.notes["lfd"]["teacher_at_chance"] is True
    assert lab.notes["lfd"]["teacher_loss_mean"] == pytest.approx(1.39, abs=1e-3)
    lab = sluggish(1.42, 1.39, 1.41)
    Lfd(teachers=1, teacher_tries=1).train(lab)
    assert repeats(lab) == [0, None]


@pytest.mark.parametrize(
    ("steps", "samples", "batch", "epochs"),
    [(4000, 50_000, 128, 11), (3910, 50_000, 128, 10), (3911, 50_000, 128, 11), (4000, 9_469, 128, 55), (1, 7, 128, 1)],
)
def test_steps_are_rounded_up_to_whole_epochs(steps, samples, batch, epochs):
    per_epoch = len(range(0, samples, batch))
    assert epochs_of(steps, samples, batch) == epochs
    assert (epochs - 1) * per_epoch < steps <= epochs * per_epoch


@pytest.mark.parametrize("batch", [2, 7, 128])
def test_steps_are_counted_in_the_batches_that_the_engine_makes(batch):
    for samples in range(1, 5 * batch + 3):
        per_epoch = len(batch_bounds(samples, batch))
        for steps in (1, 2, 3, 40, 4000):
            epochs = epochs_of(steps, samples, batch)
            assert (epochs - 1) * per_epoch < steps <= epochs * per_epoch, (samples, steps)


def test_a_teacher_of_another_model_makes_its_steps_in_the_batches_that_it_trains_with():
    fast = Recipe.parse({"preset": "fast"})
    assert fast.batch_size == 256
    assert Lfd().teacher_recipe(fast, 50_000) | {"epochs": 11, "batch_size": 128} == Lfd().teacher_recipe(fast, 50_000)
    small = Recipe(batch_size=64)
    assert Lfd().teacher_recipe(small, 5_000)["epochs"] == 51  # of 79 batches
    assert "batch_size" not in Lfd(teacher_epochs=3).teacher_recipe(small, 5_000)


@pytest.fixture
def several(fake_lab):
    """A lab whose pack of three teachers has mean losses of about 1.35, 0.5 and 0.9 on 200 samples of four classes."""
    rng = np.random.default_rng(0)
    lab = fake_lab(np.arange(200) % 4)
    lab.tables = [rng.gamma(2.0, mean / 2, 200).astype(np.float32) for mean in (1.35, 0.5, 0.9)]
    lab.losses = lambda trained, data: lab.tables[int(f"{trained.key}.0".split(".")[1])]
    return lab


def test_of_several_teachers_the_one_with_the_lowest_mean_loss_weighs_the_student(several):
    Lfd(teachers=3, alpha=0.2, beta=0.003).train(several)
    pack, student = several.calls
    assert (pack.settings["repeats"], pack.settings["model"]) == (range(3), "resnet-s")
    losses = several.tables[1]
    np.testing.assert_array_equal(several.scores, -losses)
    np.testing.assert_array_equal(several.reported, losses)
    _, expected = by_hand([float(x) for x in losses], 0.2, 0.003)
    np.testing.assert_array_equal(student.settings["weights"], np.array(expected).astype(np.float32))
    means = [table.mean(dtype=np.float64) for table in several.tables]
    note = several.notes["lfd"]
    assert (note["teacher_tries"], note["teacher_loss_mean"]) == (1, pytest.approx(min(means)))
    assert note["teachers"] == {
        "loss_means": pytest.approx(means),
        "chosen": 1,
        "behind": pytest.approx([means[0] - means[1], 0.0, means[2] - means[1]]),
        "spread": pytest.approx(means[0] - means[1]),
        "learnt": pytest.approx(1 - means[1] / math.log(4)),
    }


def test_a_model_that_cannot_be_packed_trains_one_by_one_with_the_same_choice(several):
    tables = several.tables

    def refuse(data, **settings):
        raise UsageError("cannot be packed")

    several.train_packed = refuse
    several.losses = lambda trained, data: tables[int(trained.key.split()[1]) - 1]
    Lfd(teachers=3).train(several)
    assert repeats(several) == [0, 1, 2, None]
    assert {call.settings["kind"] for call in several.calls[:3]} == {"teacher"}
    np.testing.assert_array_equal(several.scores, -tables[1])
    assert several.notes["lfd"]["teachers"]["chosen"] == 1


def test_best_is_the_lowest_finite_mean():
    assert best([1.7, 1.5, 1.6]) == 1
    assert best([1.5, 1.4, 1.4]) == 1
    assert best([float("nan"), 1.8, float("inf")]) == 1
    assert best([float("nan")] * 2) == 0
    found = compared([float("nan"), 1.8, 1.9], np.arange(4))
    assert (found["loss_means"], found["behind"][0]) == ([None, 1.8, 1.9], None)
    assert found["spread"] == pytest.approx(0.1)


def bn_g_labels():
    """Labels of CIFAR-10 under BN-G at 10 %: 500 images of each class are poison and get label 1."""
    return np.repeat(np.arange(10), [4500, 9500, *[4500] * 8])


def test_entropy_of_labels_by_hand():
    assert label_entropy(np.arange(100) % 10) == pytest.approx(math.log(10))
    assert label_entropy(np.zeros(5, np.int64)) == 0.0
    by_class = -0.19 * math.log(0.19) - 9 * 0.09 * math.log(0.09)
    assert label_entropy(bn_g_labels()) == pytest.approx(by_class)
    assert learnt(by_class / 2, bn_g_labels()) == pytest.approx(0.5)
    assert learnt(float("nan"), bn_g_labels()) == 0.0
    assert learnt(0.5, np.zeros(5, np.int64)) == 0.0


def test_teachers_that_were_measured_to_be_ready_are_and_the_blind_ones_look_unready():
    # Mean losses on all of CIFAR-10 with BN-G: after 1,950 steps and after 7,800.
    labels = bn_g_labels()
    for ready in (1.63, 1.70, 1.41, 1.54):
        assert unready("lfd", [ready, 1.89], labels) is None
    for blind in (1.78, 1.89, 1.79):
        line = unready("lfd", [blind, 2.0], labels)
        assert line.startswith(f"lfd: the best of 2 teachers looks unready: its mean loss of {blind:.2f} is ")
        assert f"{READY:.0%}" in line
    assert unready("lfd", [1.79], labels).startswith("lfd: the teacher looks unready: ")
    assert unready("lfd", [float("nan")], labels) is not None


def test_a_warning_says_that_the_teachers_look_unready(fake_lab):
    losses = np.random.default_rng(0).normal(1.2, 0.1, 200)  # 13 % below log 4
    for lfd in (Lfd(), Lfd(teachers=1)):
        lab = fake_lab(np.arange(200) % 4, losses=losses)
        lfd.train(lab)
        (line,) = lab.warnings
        assert "unready" in line
        assert "13% below the labels' entropy of 1.39" in line


def test_retries_are_those_of_a_single_teacher():
    assert Lfd().retries() == {"teacher": 0}
    assert Lfd(teachers=1).retries() == {"teacher": 2}


@pytest.mark.usefixtures("one_thread", "fresh_registry")
def test_a_single_teacher_and_an_ensemble_of_three_are_the_trainings_of_the_lab(small_lab, banded, monkeypatch):
    """One teacher is the lab's training of repeat 0, bit for bit; three are its pack."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    data, _, _ = banded
    recipe = {"epochs": 4, "schedule": "cosine", "horizon": 80, "augment": ()}
    lab = small_lab(data)
    Lfd(teachers=1, teacher_epochs=4, teacher_tries=1).train(lab)
    alone = lab.train(data, kind="teacher", model="resnet-s", repeat=0, **recipe)
    assert alone.key in lab._ledger.artifacts.values()
    assert lab._ledger.trainings == {"teacher": 1, "full": 1}
    np.testing.assert_array_equal(-lab.suspicion.scores, lab.losses(alone, data).astype(np.float64))

    lab = small_lab(data)
    Lfd(teachers=3, teacher_steps=30).train(lab)  # 8 batches of 32 in an epoch
    assert lab._ledger.trainings == {"teacher": 1, "full": 1}
    pack = lab.train_packed(data, repeats=range(3), model="resnet-s", **recipe)
    assert lab._ledger.trainings == {"teacher": 1, "full": 1}  # it is in the store
    chosen = int(np.argmin([lab.losses(net, data).mean() for net in pack]))
    assert lab.notes["lfd"]["teachers"]["chosen"] == chosen
    np.testing.assert_array_equal(lab.suspicion.losses, lab.losses(pack[chosen], data))


def test_recomputed_weights_are_those_of_the_views(lab, losses):
    lfd = Lfd(alpha=0.2, beta=0.003, recompute="epoch")
    lfd.train(lab)
    settings = lab.calls[1].settings
    assert set(settings) == {"scorer", "weight_fn"}
    assert settings["scorer"].key == "trained 1"
    views = losses[::-1]
    _, expected = by_hand([float(x) for x in views], 0.2, 0.003)
    np.testing.assert_array_equal(settings["weight_fn"](views), np.array(expected).astype(np.float32))
    np.testing.assert_array_equal(lab.scores, -losses)  # the verdict is about the images as they are
    for mode in ("unweighted", "none"):
        Lfd(mode=mode, recompute="epoch").train(lab)
        assert lab.calls[-1].settings["weight_fn"] == Weighing(
            0.15, 1e-3, mode, "threshold", "range", "max", "batch", "signs"
        )
    with pytest.raises(UsageError, match="mode drop"):
        Lfd(mode="drop", recompute="epoch")


@pytest.mark.parametrize(
    "given",
    [
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"alpha": 15.0},
        {"alpha": -0.1},
        {"beta": -1.0},
        {"ga_cap": 0.0},
        {"teachers": 0},
        {"teacher_steps": 0},
        {"teacher_steps": None},
        {"teacher_epochs": 0},
        {"teacher_tries": 0},
        {"teacher_horizon": 0},
    ],
)
def test_numbers_that_mean_nothing_are_refused(given):
    with pytest.raises(UsageError, match="lfd"):
        Lfd(**given)


@pytest.mark.parametrize("alpha", [0.0005, 0.9999])
def test_check_refuses_a_threshold_that_this_set_is_too_small_for(alpha):
    with pytest.raises(Impossible, match="1000 images"):
        Lfd(alpha=alpha).check(INFO, None)


def test_check_accepts_the_paper_and_knows_the_models():
    Lfd().check(INFO, None)
    Lfd(alpha=0.20, beta=0.003).check(INFO, None)
    with pytest.raises(UsageError, match="did you mean 'resnet-s'"):
        Lfd(teacher="resnet-ss").check(INFO, None)


def test_predicted_sharing():
    def plan(**given):
        return Lfd(**given).trainings(None)

    teacher, student = plan()
    assert (teacher.kind, student.kind) == ("teacher", "full")
    more_beta = plan(beta=0.01)
    assert more_beta[0] == teacher
    assert more_beta[1] != student
    assert plan(teacher="resnet-s()") == plan()
    assert plan(teacher_epochs=5)[0] != teacher
    assert plan(teacher_epochs=5, teacher_steps=None) == plan(teacher_epochs=5)
    assert plan(teacher_steps=5)[0] != plan(teacher_epochs=5)[0]
    assert plan(teacher_schedule="cosine")[0] != teacher
    assert plan(teachers=1)[0] != teacher
    assert plan(teacher_tries=1) == plan()  # several teachers are not tried again
    assert plan(teachers=1, teacher_tries=1)[0] == plan(teachers=1)[0]
    assert plan(teachers=1, teacher_tries=1)[1] != plan(teachers=1)[1]
    assert plan(mode="drop", beta=0.5) == plan(mode="drop")
    assert plan(mode="drop") != plan(mode="none")
    assert plan(mode="unweighted", ga_scale="beta", beta=0.5) != plan(mode="unweighted", ga_scale="beta")
