"""Training sets and their subsets: the order given, a key of their own, no change in place."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lab_inputs import tiny

from benchbd import testing
from benchbd.errors import Misused, UsageError
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
        lambda data: data.images[1, 2, 3].__setitem__(4, data.images[1, 2, 3, 4] ^ 1),
        lambda data: data.images.numpy().__setitem__((33, 1, 7, 7), data.images.numpy()[33, 1, 7, 7] ^ 1),
        lambda data: data.images.set_(data.images.flip(0)),
        lambda data: setattr(data.labels, "data", data.labels.flip(0)),
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
        lambda: lab.train(lab.poisoned.subset(np.arange(9))),
        lambda: lab.train_packed(lab.poisoned, repeats=[0]),
        lambda: pickle.dumps(lab.poisoned),
        lambda: copy.deepcopy(lab.poisoned),
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


@dataclasses.dataclass(frozen=True)
class Relabels:
    """A loop that changes the labels it was handed, and takes that back at the end on request."""

    takes_back: bool

    def epoch(self, loop):
        loop.labels[3] += 1
        for rows in loop.batches():
            loop.step(torch.nn.functional.cross_entropy(loop.net(loop.views(rows)), loop.labels[rows[:, 0]] % 4))
        if self.takes_back:
            loop.labels[3] -= 1


@pytest.mark.parametrize("takes_back", [False, True])
@pytest.mark.parametrize("every", [180.0, 0.0])
def test_a_set_changed_while_a_training_runs_leaves_nothing_in_the_store(open_lab, takes_back, every):
    """Neither weights nor a checkpoint, from which the next process would go on."""
    lab = open_lab(checkpoint_every=every)
    with pytest.raises(Misused, match="changed in place"):
        lab.train(lab.poisoned, training_loop=Relabels(takes_back))
    stored = [path.parent.name for path in lab._store.root.rglob("arrays.safetensors")]
    assert stored == []


def test_a_stage_that_changes_the_set_is_not_stored(open_lab):
    lab = open_lab()

    def compute():
        lab.poisoned.images[5] = 0
        return {"a": np.zeros(1)}

    with pytest.raises(Misused, match="changed in place"):
        lab.stage("mine", {}, compute)
    assert open_lab().stage("mine", {}, lambda: {"a": np.ones(1)})["a"] == 1


def test_the_clean_set_is_watched_too(open_lab):
    lab = open_lab(clean=tiny().subset(np.arange(20)))
    lab.clean.labels[0] += 1
    with pytest.raises(Misused, match="changed in place"):
        lab.stage("mine", {}, lambda: {"a": np.zeros(1)})
    with pytest.raises(Misused, match="changed in place"):
        lab.check_handed_out()


@pytest.mark.parametrize("name", ["images", "labels", "key"])
def test_attributes_of_a_set_cannot_be_assigned(name):
    testing.register()
    data = tiny()
    with pytest.raises(Misused, match=f"{name} cannot be assigned; use replace"):
        setattr(data, name, getattr(data, name))
    with pytest.raises(Misused, match="cannot be deleted"):
        delattr(data, name)


@pytest.mark.parametrize("name", ["poisoned", "clean", "truth", "recipe", "device", "classes", "size"])
def test_attributes_of_a_lab_cannot_be_assigned(open_lab, name):
    lab = open_lab(clean=tiny(), truth=np.zeros(64, bool))
    with pytest.raises(Misused, match=f"{name} cannot be assigned"):
        setattr(lab, name, getattr(lab, name))


def test_a_copied_set_is_the_same_set():
    testing.register()
    data = tiny()
    for other in (copy.copy(data), copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert other.key == data.key
        assert torch.equal(other.images, data.images)
        other.check()


def test_two_sets_given_one_key_have_two(open_lab, fits):
    """A constant key in a plugin must not serve one set's model to the other."""
    lab = open_lab()
    one = TrainSet(lab.poisoned.images, lab.poisoned.labels.flip(0), lab.poisoned.key)
    two = TrainSet(lab.poisoned.images, lab.poisoned.labels.roll(1), lab.poisoned.key)
    again = TrainSet(lab.poisoned.images.clone(), lab.poisoned.labels.flip(0), lab.poisoned.key)
    assert len({lab.poisoned.key, one.key, two.key}) == 3
    assert again.key == one.key
    assert lab.train(one).key != lab.train(lab.poisoned).key


def test_something_else_than_a_set_is_refused(open_lab):
    lab = open_lab()
    with pytest.raises(Misused, match=r"is not a training set; pass lab\.poisoned"):
        lab.train(lab.poisoned.images)


def test_what_the_caller_owns_may_be_changed(open_lab):
    """Arrays that the lab returns are the caller's; the next call returns what was stored."""
    lab = open_lab(truth=np.arange(64) < 8)
    trained = lab.train(lab.poisoned)
    asked = [
        lambda: lab.losses(trained, lab.poisoned),
        lambda: lab.features(trained, lab.poisoned),
        lambda: lab.logits(trained, lab.poisoned),
        lambda: lab.stage("mine", {}, lambda: {"a": np.arange(3.0)})["a"],
        lambda: lab.truth,
        lambda: trained.head()[0],
        lambda: np.array(trained.epoch_losses),
    ]
    for ask in asked:
        for _ in range(2):
            found = ask()
            before = found.copy()
            found[...] = 1 - found
            assert np.array_equal(ask(), before)
    losses = trained.epoch_losses
    losses.append(0.0)
    assert len(trained.epoch_losses) == 2


def test_weights_changed_while_a_training_runs_are_those_of_its_key(open_lab):
    lab = open_lab()
    given = np.ones(64, np.float32)

    @dataclasses.dataclass(frozen=True)
    class Spoils:
        def __call__(self, losses, weights):
            given[:] = 0
            return (losses * weights).mean()

    spoilt = lab.train(lab.poisoned, weights=given, loss=Spoils())
    again = open_lab(where="other").train(tiny(), weights=np.ones(64, np.float32), loss=Spoils())
    assert spoilt.key == again.key
    assert all(np.array_equal(spoilt._state[name], again._state[name]) for name in again._state)


@dataclasses.dataclass(frozen=True)
class Remembers:
    """A loss that keeps what it saw in its own field, which is part of the key."""

    seen: np.ndarray

    def __call__(self, losses, weights):
        self.seen[0] += 1
        return (losses * weights).mean()


def test_a_loss_that_changes_its_own_fields_is_refused(open_lab):
    lab = open_lab()
    with pytest.raises(Misused, match="the fields of its loss"):
        lab.train(lab.poisoned, loss=Remembers(np.zeros(2)))
    assert not list(lab._store.root.rglob("arrays.safetensors"))
