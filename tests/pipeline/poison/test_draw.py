"""What is poisoned is drawn from seeds alone, within its budget and its pool."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from poison_steps import PLUGINS, make

from benchbd.core.images import DatasetInfo
from benchbd.errors import Impossible
from benchbd.pipeline.selection import select_cover, select_poison
from benchbd.plugins import registry
from benchbd.plugins.contract import share_of
from benchbd.plugins.identity import part_of


@pytest.mark.parametrize("attack", ["watch-dirty", "watch-clean", "watch-drawn", "watch-chosen", "watch-cover"])
def test_every_defense_of_a_row_is_handed_the_same_set(poisoner, attack):
    """Without anything shared: the bytes must agree because they are derived alike, not because one was stored."""
    made = [
        make(poisoner(attack, defense=defense, where=defense, model=model))
        for defense, model in (("none", "tiny-net"), ("tiny-filter", "tiny-net"), ("oracle", "tiny-net(width=4)"))
    ]
    (_, _, first), *others = made
    for _, _, other in others:
        assert other.key == first.key
        assert other.data_key == first.data_key
        for field in ("indices", "images", "labels", "flags"):
            assert getattr(other, field).tobytes() == getattr(first, field).tobytes()
        assert other.trigger.keys() == first.trigger.keys()
        assert all(other.trigger[k].tobytes() == first.trigger[k].tobytes() for k in first.trigger)


def test_seed_attack_and_data_decide_the_draw_and_nothing_else(poisoner):
    def drawn(attack="watch-dirty", **given):
        return make(poisoner(attack, **given))[2].indices.tolist()

    base = drawn()
    assert drawn(epochs=7, model="lenet-s", where="elsewhere") == base
    assert drawn("watch-dirty(trigger_seed=3)") == base
    assert drawn("watch-dirty(target=2)") == base
    assert set(drawn("watch-dirty(rate=0.05)")) < set(base)  # nested: a smaller budget is part of a larger
    for other in ({"seed": 1}, {"attack": "watch-drawn"}, {"dataset": "tiny(train=200,test=44,size=16)"}):
        assert drawn(**other) != base


@given(
    rate=st.floats(0.01, 1.0),
    seed=st.integers(0, 50),
    target=st.integers(0, 3),
    kind=st.sampled_from(["all", "non-target", "class", "set"]),
)
@settings(max_examples=80, deadline=None)
def test_budgets_are_met_within_their_pool_or_refused_with_the_numbers(rate, seed, target, kind):
    registry.add_plugin_file(str(PLUGINS))
    clean_label = kind in ("class", "set")
    extra = {"rate_of": kind} if clean_label else {"pool": kind}
    attack = registry.make(
        "attacks", "watch-clean" if clean_label else "watch-dirty", rate=rate, target=target, **extra
    )
    labels = np.random.RandomState(1).permutation(np.repeat(np.arange(4), [10, 20, 30, 40]))
    info = DatasetInfo(4, 16, 100, 10, None, 0)
    members = int((labels == target).sum())
    pool = {"all": 100, "non-target": 100 - members, "class": members, "set": members}[kind]
    count = int(rate * (members if kind == "class" else 100) + 1e-9)
    dataset = part_of(registry.make("datasets", "digits"))
    if not 1 <= count <= pool:
        with pytest.raises(Impossible, match=f"{pool}") as caught:
            select_poison(attack, info, labels, seed, dataset)
        assert str(rate) in str(caught.value) or str(count) in str(caught.value)
        return
    found = select_poison(attack, info, labels, seed, dataset)
    assert found.dtype == np.int64
    assert len(found) == count
    assert (np.diff(found) > 0).all()
    if clean_label:
        assert (labels[found] == target).all()
    if kind == "non-target":
        assert (labels[found] != target).all()


@pytest.mark.parametrize(
    ("count", "poisoned", "covers"), [(2, 0, 2), (2, 1, 1), (5, 2, 3), (300, 40, 260), (300, 0, 90)]
)
def test_covers_come_from_the_rest_and_their_partners_are_any_other_image(count, poisoned, covers):
    registry.add_plugin_file(str(PLUGINS))
    attack = registry.make("attacks", "watch-cover", covers=covers)
    info, dataset = DatasetInfo(4, 16, count, 10, None, 0), part_of(registry.make("datasets", "digits"))
    apart = set()
    for seed in range(60):
        indices = np.arange(poisoned) * (count // max(poisoned, 1))
        chosen, partners = select_cover(attack, info, indices, count, seed, dataset)
        assert len(chosen) == len(partners) == covers
        assert (np.diff(chosen) > 0).all()
        assert not set(chosen) & set(indices)
        assert (chosen != partners).all()
        assert set(partners) <= set(range(count))
        apart |= set((partners - chosen) % count)
    assert apart == set(range(1, count))  # the nearest and the farthest image, too


@pytest.mark.parametrize(("rate", "count", "want"), [(0.29, 50_000, 14_500), (0.57, 50_000, 28_500), (0.1, 5000, 500)])
def test_a_share_that_comes_out_whole_loses_no_image_to_rounding(rate, count, want):
    assert share_of(rate, count) == want
    assert share_of(rate, count - 1) == want - 1


def test_the_published_budgets_come_out():
    """10 % of CIFAR-10, 80 % of one of its classes, 10 % of GTSRB's 39,209 (LfD Table 1)."""
    for count, rate_of, want in ((50_000, "set", 5000), (50_000, "class", 4000), (39_209, "set", 3920)):
        rate = 0.8 if rate_of == "class" else 0.1
        name = "watch-clean" if rate_of == "class" else "watch-dirty"
        attack = registry.make("attacks", name, rate=rate, **({"rate_of": "class"} if rate_of == "class" else {}))
        labels = np.arange(count) % 10
        assert (
            len(
                select_poison(
                    attack,
                    DatasetInfo(10, 32, count, 10, None, 1),
                    labels,
                    0,
                    part_of(registry.make("datasets", "digits")),
                )
            )
            == want
        )
