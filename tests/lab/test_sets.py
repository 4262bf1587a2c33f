"""Training sets and their subsets: the order given, a key of their own, no change in place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lab_inputs import tiny

from benchbd import testing
from benchbd.errors import UsageError
from benchbd.plugins.train_set import TrainSet, positions


@given(st.lists(st.integers(0, 63), max_size=80), st.lists(st.integers(0, 63), max_size=80))
@settings(max_examples=60, deadline=None)
def test_a_subset_keeps_the_order_given_and_has_a_key_of_its_own(one, two):
    testing.register()
    data = tiny()
    part = data.subset(one)
    assert len(part) == len(one)
    assert torch.equal(part.images, data.images[one])
    assert part.labels.tolist() == [int(data.labels[i]) for i in one]
    assert (part.key == data.subset(two).key) == (one == two)
    assert (part.key == data.key) == (one == list(range(64)))


@given(st.lists(st.booleans(), min_size=64, max_size=64))
@settings(max_examples=20, deadline=None)
def test_a_mask_means_its_positions(mask):
    testing.register()
    data = tiny()
    assert data.subset(np.array(mask)).key == data.subset(np.flatnonzero(mask)).key
    assert data.subset(torch.tensor(mask)).labels.tolist() == data.labels[torch.tensor(mask)].tolist()


@pytest.mark.parametrize(
    "indices", [[64], [-1], [0.5], np.ones(63, bool), np.zeros((2, 2), int), ["a"], 3, np.array([[True] * 64])], ids=str
)
def test_subsets_that_name_no_samples_are_refused(indices):
    testing.register()
    with pytest.raises(UsageError, match="subset: ") as caught:
        tiny().subset(indices)
    assert "\n" not in str(caught.value)


MASK = np.arange(64) % 3 > 0


@pytest.mark.parametrize(
    "mask",
    [MASK.astype(int), MASK.astype(np.uint8), MASK.astype(float), MASK.astype(int).tolist(), torch.tensor(MASK).int()],
    ids=lambda mask: str(getattr(mask, "dtype", "list")),
)
def test_a_mask_of_numbers_is_refused_with_what_to_write(mask):
    """As positions it would be sample 0 and sample 1 over and over."""
    testing.register()
    with pytest.raises(UsageError, match=r"subset: .*; write mask\.astype\(bool\)$"):
        tiny().subset(mask)


def test_positions_that_look_like_a_mask_are_positions():
    assert positions([0, 1], 2, "subset").tolist() == [0, 1]
    assert positions([1], 2, "subset").tolist() == [1]
    assert positions([0, 1, 1, 0], 64, "subset").tolist() == [0, 1, 1, 0]  # a bootstrap of few samples
    assert positions([], 3, "subset").tolist() == []
    assert positions(MASK.tolist(), 64, "subset").tolist() == np.flatnonzero(MASK).tolist()


@pytest.mark.parametrize(
    "given",
    [
        np.array([True, None]),
        [[1], [2, 3]],
        None,
        {1, 2},
        [2**70],
        torch.ones(64, dtype=torch.bfloat16),
        torch.ones(64, dtype=torch.bool, device="meta"),
        torch.ones(64, 1, dtype=torch.bool),
        torch.ones(64, requires_grad=True),
        np.array([2**64 - 1], np.uint64),
    ],
    ids=str,
)
def test_selections_of_other_kinds_are_refused_in_one_line(given):
    with pytest.raises(UsageError, match=r"^subset: ") as caught:
        positions(given, 64, "subset")
    assert "\n" not in str(caught.value)


def test_positions_may_have_to_be_distinct():
    assert positions([3, 1], 64, "flagged", distinct=True).tolist() == [3, 1]
    with pytest.raises(UsageError, match="flagged names a position twice; a mask must be of type bool"):
        positions([3, 1, 3], 64, "flagged", distinct=True)


@pytest.mark.parametrize("labels", [np.zeros(64, np.int64), [0] * 64, torch.zeros(64), torch.zeros(64, device="meta")])
def test_labels_of_other_kinds_are_refused_in_one_line(labels):
    testing.register()
    with pytest.raises(UsageError, match="a training set needs"):
        tiny().replace(labels=labels)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.labels.__setitem__(3, (data.labels[3] + 1) % 4),
        lambda data: data.labels.numpy().__setitem__(3, (data.labels[3] + 1) % 4),
        lambda data: data.images.fill_(0),
        lambda data: data.images.numpy().fill(0),
    ],
)
def test_a_set_changed_in_place_is_noticed(open_lab, fits, spoil):
    """What is trained on it would be stored under the key of the set as it was, and served to other cells."""
    lab = open_lab()
    trained = lab.train(lab.poisoned)
    spoil(lab.poisoned)
    for act in (
        lambda: lab.train(lab.poisoned),
        lambda: lab.train(lab.poisoned, epochs=1),
        lambda: lab.losses(trained, lab.poisoned),
        lambda: lab.stage("mine", {}, lambda: {"a": np.zeros(1)}),
    ):
        with pytest.raises(UsageError, match="changed in place"):
            act()
    assert len(fits) == 1


def test_replaced_labels_make_another_set_and_leave_the_first_alone():
    testing.register()
    data = tiny()
    before = data.labels.clone()
    other = data.replace(labels=data.labels.flip(0))
    assert other.key != data.key
    assert other.key == data.replace(labels=data.labels.flip(0).clone()).key
    assert torch.equal(data.labels, before)
    data.check()


@pytest.mark.parametrize("what", ["images", "labels", "lengths"])
def test_sets_of_other_types_are_refused(what):
    images, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    given = {"images": (images.float(), labels), "labels": (images, labels.int()), "lengths": (images, labels[:3])}
    with pytest.raises(UsageError, match="needs images uint8"):
        TrainSet(*given[what], "ab" * 32)
