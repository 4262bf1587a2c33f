"""Subsets: balanced, seeded, nested, in the data set's order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchbd.datasets._subset import choose, part, share_out
from benchbd.errors import UsageError

counts_lists = st.lists(st.integers(1, 400), min_size=1, max_size=50)


@given(counts_lists, st.data())
def test_shares_add_up_and_fit(counts: list[int], data: st.DataObject) -> None:
    wanted = data.draw(st.integers(len(counts), sum(counts)))
    shares = share_out(counts, wanted, "x: train")
    assert sum(shares) == wanted
    assert all(1 <= share <= count for share, count in zip(shares, counts, strict=True))


@given(counts_lists, st.data())
def test_shares_are_proportional_within_one_image(counts: list[int], data: st.DataObject) -> None:
    wanted = data.draw(st.integers(len(counts), sum(counts)))
    shares = share_out(counts, wanted, "x: train")
    exact = [count * wanted / sum(counts) for count in counts]
    if min(exact) >= 1:
        assert all(abs(share - e) < 1 for share, e in zip(shares, exact, strict=True))


@given(st.integers(1, 30), st.integers(1, 500), st.data())
def test_equal_classes_get_equal_shares(classes: int, each: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(classes, classes * each))
    shares = share_out([each] * classes, wanted, "x: train")
    assert max(shares) - min(shares) <= 1
    assert list(shares) == sorted(shares, reverse=True), "the lower class gets the extra image"


def test_nothing_left_out_where_nothing_is_wanted() -> None:
    assert share_out((3, 0, 5), None, "x: train") == (3, 0, 5)
    assert share_out((3, 0, 5), 8, "x: train") == (3, 0, 5)


def test_a_tiny_class_keeps_one_image() -> None:
    assert share_out((1000, 1000, 1), 20, "x: train") == (9, 10, 1)


@pytest.mark.parametrize(
    ("wanted", "message"), [(9, "at least 10, one image of each class, not 9"), (51, "is 51 but there are only 50")]
)
def test_impossible_sizes_are_refused_with_numbers(wanted: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        share_out((5,) * 10, wanted, "cifar10: train")


labels_and_shares = st.lists(st.integers(0, 4), min_size=5, max_size=200).flatmap(
    lambda labels: st.tuples(
        st.just(np.array(labels)),
        st.tuples(*(st.integers(0, labels.count(c)) for c in range(5))),
        st.integers(0, 2**31),
    )
)


Case = tuple[np.ndarray, tuple[int, ...], int]


@given(labels_and_shares)
def test_choice_has_the_shares_asked_for(case: Case) -> None:
    labels, shares, seed = case
    picked = choose(labels, shares, seed)
    assert picked.dtype == np.int64
    assert (np.diff(picked) > 0).all(), "ascending, no image twice"
    assert np.bincount(labels[picked], minlength=5).tolist() == list(shares)
    assert np.array_equal(picked, choose(labels, shares, seed))


@given(labels_and_shares, st.data())
def test_smaller_choices_are_part_of_larger_ones(case: Case, data: st.DataObject) -> None:
    labels, shares, seed = case
    fewer = [data.draw(st.integers(0, share)) for share in shares]
    assert set(choose(labels, fewer, seed)) <= set(choose(labels, shares, seed))


def test_choice_is_the_same_everywhere() -> None:
    """Pinned: a change here changes every subset, and with it every published number."""
    labels = np.arange(40) % 2
    assert choose(labels, (3, 2), 0).tolist() == [6, 15, 20, 31, 32]
    assert choose(labels, (10, 10), 0).tolist() != choose(labels, (10, 10), 1).tolist()


def test_too_large_a_share_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="3 images of class 0 wanted, 2 there"):
        choose(np.array([0, 0, 1]), (3, 1), 0)


def test_part_takes_images_with_their_labels() -> None:
    labels = np.arange(20) % 4
    images = np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(3, 1)
    some = part(images, labels, (2, 2, 2, 2), 0)
    assert len(some.labels) == 8
    assert (some.images[:, 0, 0, 0] % 4 == some.labels).all()
    whole = part(images, labels, (5, 5, 5, 5), 0)
    assert whole.images.data_ptr() == images.ctypes.data, "the whole set is not copied"
