"""MixMatch's pieces, and the symmetric cross-entropy, against their formulas."""

from __future__ import annotations

import math
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbd.defenses._mixmatch import (
    MixMatch,
    guessed,
    losses,
    mixed,
    mixing_share,
    passes,
    sharpened,
    train_epoch,
)
from benchbd.defenses._sce import symmetric_cross_entropy
from benchbd.errors import UsageError

logits_of = st.lists(st.lists(st.floats(-8, 8, width=32), min_size=3, max_size=3), min_size=1, max_size=6)


@given(logits_of)
@settings(max_examples=50, deadline=None)
def test_sharpening_keeps_the_order_and_makes_the_first_surer(rows):
    before = torch.tensor(rows).softmax(1)
    after = sharpened(before, 0.5)
    torch.testing.assert_close(after.sum(1), torch.ones(len(rows)))
    assert (after.max(1).values >= before.max(1).values - 1e-6).all()
    assert torch.equal(after.argmax(1), before.argmax(1))
    torch.testing.assert_close(sharpened(before, 1.0), before)


def test_sharpening_is_a_power():
    np.testing.assert_allclose(sharpened(torch.tensor([[0.5, 0.3, 0.2]]), 0.5)[0], np.array([25, 9, 4]) / 38, rtol=1e-6)


def test_a_guess_is_the_sharpened_mean_of_two_views():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    found = guessed(logits, 0.5)
    for i in range(3):
        mean = (logits[i].softmax(0) + logits[i + 3].softmax(0)) / 2
        torch.testing.assert_close(found[i], mean**2 / (mean**2).sum())


@given(st.integers(2, 9), st.floats(0.5, 1.0), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_mixing_stays_nearer_to_the_own_image_and_its_label(count, share, seed):
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator)
    images, targets = torch.rand(count, 3, 2, 2, generator=generator), torch.eye(count)
    blend, labels = mixed(images, order, share), mixed(targets, order, share)
    for i in range(count):
        torch.testing.assert_close(blend[i], share * images[i] + (1 - share) * images[order[i]])
        assert labels[i, i] >= 0.5 - 1e-6
    torch.testing.assert_close(labels.sum(1), torch.ones(count))
    assert torch.equal(mixed(images, order, 1.0), images)


def test_the_share_is_drawn_from_a_beta_turned_to_the_upper_half():
    rng = np.random.default_rng(0)
    drawn = np.array([mixing_share(rng, 0.75) for _ in range(4000)])
    assert ((drawn >= 0.5) & (drawn <= 1.0)).all()
    # E|2 beta(a, a) - 1| by numerical integration
    x = np.linspace(1e-6, 1 - 1e-6, 200_001)
    density = (x * (1 - x)) ** -0.25
    expected = 0.5 + 0.5 * (abs(2 * x - 1) * density).sum() / density.sum()
    assert drawn.mean() == pytest.approx(expected, abs=0.01)


def test_losses_are_cross_entropy_and_mean_squared_distance():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(5, 3, generator=generator)
    targets = torch.rand(5, 3, generator=generator).softmax(1)
    near, far = losses(logits, targets, 2)
    p = [[math.exp(v) / sum(map(math.exp, row)) for v in row] for row in logits.tolist()]
    t = targets.tolist()
    assert float(near) == pytest.approx(-sum(t[i][c] * math.log(p[i][c]) for i in (0, 1) for c in range(3)) / 2)
    assert float(far) == pytest.approx(sum((p[i][c] - t[i][c]) ** 2 for i in (2, 3, 4) for c in range(3)) / 9)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 30), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_passes_go_through_all_before_any_comes_again(count, size, steps, seed):
    size = min(size, count)
    positions = torch.arange(100, 100 + count)
    found = passes(positions, size, steps, seed)
    assert found.shape == (steps, size)
    each = count // size
    for start in range(0, steps, each):
        seen = found[start : start + each].flatten().tolist()
        assert len(set(seen)) == len(seen)
        assert set(seen) <= set(positions.tolist())
    assert torch.equal(found, passes(positions, size, steps, seed))


def test_the_weight_of_unlabelled_images_grows_evenly_and_stays():
    how = MixMatch(weight=15.0, rampup=190)
    assert how.weight_at(0) == 0
    assert how.weight_at(95) == pytest.approx(7.5)
    assert how.weight_at(190) == how.weight_at(300) == 15
    assert MixMatch(rampup=0).weight_at(0) == 15


@pytest.mark.parametrize("wrong", [{"iterations": 0}, {"temperature": 0.0}, {"alpha": 0.0}, {"weight": -1.0}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UsageError, match="mixmatch:"):
        MixMatch(**wrong)


class FakeLoop:
    """A run over images that are their own number, whose network sees all and learns nothing."""

    def __init__(self, count, batch_size, number=0):
        self.labels = torch.arange(count) % 3
        self.recipe = SimpleNamespace(batch_size=batch_size)
        self.device, self.epoch = torch.device("cpu"), number
        self.asked, self.fed, self.losses = [], [], []
        self.net = self

    head = SimpleNamespace(out_features=3)

    def __call__(self, images):
        self.fed.append(images)
        return torch.stack([images, -images, 0 * images], 1)

    def seed_for(self, *purpose):
        return zlib.crc32(repr(purpose).encode())  # hash() differs from process to process

    def rows(self, picks, *purpose):
        self.asked.append(picks)
        return picks[:, None]

    def views(self, rows):
        return rows[:, 0].float()

    def autocast(self):
        return torch.no_grad()

    def step(self, loss):
        self.losses.append(float(loss))


def test_an_epoch_takes_labelled_images_once_and_unlabelled_ones_twice_a_step():
    run = FakeLoop(40, 8)
    labelled, unlabelled = torch.arange(10), torch.arange(10, 40)
    train_epoch(run, labelled, unlabelled, MixMatch(iterations=5))
    assert len(run.losses) == 5
    for picks in run.asked:
        ours, one, other = picks.split(8)
        assert torch.equal(one, other)
        assert set(ours.tolist()) <= set(labelled.tolist())
        assert set(one.tolist()) <= set(unlabelled.tolist())
    assert [len(images) for images in run.fed] == [16, 24] * 5  # guesses, then all in one pass


def test_the_ramp_counts_epochs_done_before():
    def far_weight(number, before):
        run = FakeLoop(12, 4, number)
        train_epoch(run, torch.arange(6), torch.arange(6, 12), MixMatch(iterations=1, rampup=10), before)
        return run.losses[0]

    assert far_weight(2, 3) != far_weight(2, 0)
    assert far_weight(10, 0) == far_weight(12, 3)


def test_small_pools_make_small_batches_and_an_empty_one_no_step():
    run = FakeLoop(12, 8)
    train_epoch(run, torch.arange(3), torch.arange(3, 12), MixMatch(iterations=2))
    assert [len(picks) for picks in run.asked] == [9, 9]
    idle = FakeLoop(12, 8)
    train_epoch(idle, torch.arange(12), torch.arange(0), MixMatch(iterations=2))
    assert idle.losses == []


@given(logits_of, st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_symmetric_cross_entropy_is_its_formula(rows, seed):
    logits = torch.tensor(rows, dtype=torch.float64)
    labels = torch.randint(0, 3, (len(rows),), generator=torch.Generator().manual_seed(seed))
    found = symmetric_cross_entropy(logits, labels, 0.1, 1.0)
    for row, label, loss in zip(rows, labels.tolist(), found.tolist(), strict=True):
        p = [math.exp(v) / sum(map(math.exp, row)) for v in row]
        reverse = -sum(q * math.log(1.0 if c == label else 1e-4) for c, q in enumerate(p))
        assert loss == pytest.approx(-0.1 * math.log(p[label]) + 1.0 * reverse, rel=1e-6, abs=1e-9)


@given(st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=12))
@settings(max_examples=30, deadline=None)
def test_symmetric_and_plain_cross_entropy_sort_alike(margins):
    """What lets a split by one be told by the other."""
    logits = torch.zeros(len(margins), 3, dtype=torch.float64)
    logits[:, 1] = torch.tensor(margins, dtype=torch.float64)
    labels = torch.ones(len(margins), dtype=torch.int64)
    plain = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    both = symmetric_cross_entropy(logits, labels, 0.1, 1.0)
    assert (both[plain.argsort(stable=True)].diff() >= -1e-9).all()
