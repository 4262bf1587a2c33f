"""LfD: threshold and weights against a from-scratch computation, properties, gradients, modes, the plan."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchbd.core.images import DatasetInfo
from benchbd.defenses.lfd import (
    CappedAscent,
    Lfd,
    Weighing,
    ascent_weights,
    at_chance,
    distinction_weights,
    mean_one,
    threshold,
)
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
        ({}, {"schedule": "cosine", "horizon": 80}),
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
    lab.recipe.but(**{k: v for k, v in settings.items() if k not in ("kind", "name", "model", "repeat")})


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
    Lfd().train(lab)
    assert repeats(lab) == [0, 1, 2, None]
    assert lab.notes["lfd"]["teacher_tries"] == 3
    assert lab.notes["lfd"]["teacher_at_chance"] is False
    np.testing.assert_array_equal(lab.scores, -losses)


def test_of_teachers_at_chance_level_the_best_counts_and_the_record_says_so(sluggish):
    lab = sluggish(1.42, 1.39, 1.41)
    Lfd().train(lab)
    assert repeats(lab) == [0, 1, 2, None]
    assert lab.notes["lfd"]["teacher_at_chance"] is True
    assert lab.notes["lfd"]["teacher_loss_mean"] == pytest.approx(1.39, abs=1e-3)
    lab = sluggish(1.42, 1.39, 1.41)
    Lfd(teacher_tries=1).train(lab)
    assert repeats(lab) == [0, None]


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
    assert plan(mode="drop", beta=0.5) == plan(mode="drop")
    assert plan(mode="drop") != plan(mode="none")
    assert plan(mode="unweighted", ga_scale="beta", beta=0.5) != plan(mode="unweighted", ga_scale="beta")
