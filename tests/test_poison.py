"""Poison is drawn from seeds alone, within its budget, labelled as the attack says, and the same on every run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbd import registry, testing
from benchbd.cell import part_of
from benchbd.components import DatasetInfo, Images
from benchbd.errors import Impossible, UsageError
from benchbd.lab import Lab, Ledger, NetworkPlan
from benchbd.poison import Poisoner, apply, clean_set, draw, fingerprint
from benchbd.store import Store

PLUGINS = Path(__file__).with_name("poison_plugins.py")


@pytest.fixture(autouse=True)
def _ready(monkeypatch, fresh_registry):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    registry.add_plugin_file(str(PLUGINS))
    calls().clear()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def calls() -> list[str]:
    """What the watched attacks did."""
    return registry.load("attacks", "watch-drawn").prepare.__globals__["CALLS"]


@pytest.fixture
def poisoner(tmp_path):
    """``poisoner(attack, defense=..., seed=..., where=...)`` at work on the tiny set."""

    def build(attack: str, *, where: str = "store", ledger: Ledger | None = None, **given) -> Poisoner:
        given = {"dataset": "tiny(train=200,test=40,size=16)", **given}
        this = testing.cell(attack=attack, **given)
        store = Store(tmp_path / where)
        more = [ledger] if ledger else []
        return Poisoner(this, this.made(), store, torch.device("cpu"), lambda event: None, None, *more)

    return build


def make(poisoner: Poisoner):
    clean, info = poisoner.train_set()
    return clean, info, poisoner.poison(clean, info)


# The draw -------------------------------------------------------------------------------------------------------------


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
    count = int(rate * (members if kind == "class" else 100))
    dataset = part_of(registry.make("datasets", "digits"))
    if not 1 <= count <= pool:
        with pytest.raises(Impossible, match=f"{pool}") as caught:
            draw(attack, info, labels, seed, dataset)
        assert str(rate) in str(caught.value) or str(count) in str(caught.value)
        return
    found = draw(attack, info, labels, seed, dataset)
    assert found.dtype == np.int64
    assert len(found) == count
    assert (np.diff(found) > 0).all()
    if clean_label:
        assert (labels[found] == target).all()
    if kind == "non-target":
        assert (labels[found] != target).all()


def test_the_published_budgets_come_out():
    """10 % of CIFAR-10, 80 % of one of its classes, 10 % of GTSRB's 39,209 (LfD Table 1)."""
    for count, rate_of, want in ((50_000, "set", 5000), (50_000, "class", 4000), (39_209, "set", 3920)):
        rate = 0.8 if rate_of == "class" else 0.1
        name = "watch-clean" if rate_of == "class" else "watch-dirty"
        attack = registry.make("attacks", name, rate=rate, **({"rate_of": "class"} if rate_of == "class" else {}))
        labels = np.arange(count) % 10
        assert (
            len(
                draw(
                    attack,
                    DatasetInfo(10, 32, count, 10, None, 1),
                    labels,
                    0,
                    part_of(registry.make("datasets", "digits")),
                )
            )
            == want
        )


# Labels and images ----------------------------------------------------------------------------------------------------


@given(rate=st.floats(0.03, 1.0), target=st.integers(0, 3), seed=st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_a_clean_label_attack_never_changes_a_label(tmp_path_factory, rate, target, seed):
    registry.add_plugin_file(str(PLUGINS))
    testing.register()
    this = testing.cell(
        dataset="tiny(train=200,test=40,size=16)", attack=f"watch-clean(rate={rate}, target={target})", seed=seed
    )
    store = Store(tmp_path_factory.mktemp("store"))
    clean, _, poison = make(Poisoner(this, this.made(), store, torch.device("cpu"), lambda event: None, None))
    poisoned = apply(clean, poison)
    assert torch.equal(poisoned.labels, clean.labels)
    assert (clean.labels[poison.indices] == target).all()
    assert poison.facts["share_of_target_class"] == len(poison.indices) / 50
    assert poison.facts["share_of_set"] == len(poison.indices) / 200


def test_a_dirty_label_attack_changes_the_chosen_and_no_others(poisoner):
    clean, _, poison = make(poisoner("watch-dirty(target=2)"))
    before = (clean.images.clone(), clean.labels.clone(), clean.key)
    poisoned = apply(clean, poison)
    assert torch.equal(clean.images, before[0])
    assert torch.equal(clean.labels, before[1])
    assert (clean.key, poisoned.key == clean.key) == (before[2], False)
    clean.check()
    changed = np.zeros(200, bool)
    changed[poison.indices] = True
    assert changed.sum() == 20 == poison.facts["count"]
    assert np.array_equal(poison.truth(200), changed)
    assert (poisoned.labels[changed] == 2).all()
    assert (poisoned.images[changed][:, :, :4, :4] == 255).all()
    assert torch.equal(poisoned.labels[~changed], clean.labels[~changed])
    assert torch.equal(poisoned.images[~changed], clean.images[~changed])
    of_target = (clean.labels[poison.indices] == 2).sum().item()
    assert poison.facts == {"count": 20, "share_of_set": 0.1, "share_of_target_class": of_target / 50, "target": 2}


def test_an_attack_that_stamps_in_place_spoils_nothing(poisoner):
    worker = poisoner("in-place")
    clean, info, poison = make(worker)
    clean.check()
    test = worker.made.dataset.load("test", None)
    before = test.images.clone()
    images, _ = worker.triggered(test, info, poison)
    assert torch.equal(test.images, before)
    assert (images[:, :, :4, :4] == 255).all()


def test_covers_carry_anothers_trigger_keep_their_label_and_are_no_poison(poisoner):
    clean, _, poison = make(poisoner("watch-cover"))
    assert len(poison.indices) == 30
    assert poison.facts["count"] == 20
    assert poison.facts["cover"] == 10
    assert (np.diff(poison.indices) > 0).all()
    covers = poison.indices[~poison.flags]
    assert poison.truth(200).sum() == 20
    assert not poison.truth(200)[covers].any()
    poisoned = apply(clean, poison)
    assert torch.equal(poisoned.labels[covers], clean.labels[covers])
    assert (poisoned.images[covers][:, :, :4, :4] < 128).all()
    assert (poisoned.images[poison.indices[poison.flags]][:, :, :4, :4] == 255).all()
    with pytest.raises(Impossible, match="181 cover images wanted but only 180 of 200"):
        make(poisoner("watch-cover(covers=181)"))


def test_without_an_attack_the_set_is_the_clean_one(poisoner):
    clean, _, poison = make(poisoner("none"))
    assert apply(clean, poison) is clean
    assert poison.facts == {}
    assert not poison.truth(200).any()


def test_attack_success_is_measured_on_no_image_of_the_target(poisoner):
    for target in range(4):
        worker = poisoner(f"watch-dirty(target={target})")
        _, info, poison = make(worker)
        test = worker.made.dataset.load("test", None)
        images, labels = worker.triggered(test, info, poison)
        assert len(images) == len(labels) == 30
        assert torch.equal(labels, test.labels[test.labels != target])
        assert (images[:, :, :4, :4] == 255).all()
        assert torch.equal(images[:, :, 4:], test.images[test.labels != target][:, :, 4:])
    only = Images(test.images[test.labels == 3], test.labels[test.labels == 3])
    assert len(worker.triggered(only, info, poison)[1]) == 0


# Keys and artifacts ---------------------------------------------------------------------------------------------------


def test_two_runs_write_the_same_bytes(poisoner, tmp_path):
    for where in ("one", "two"):
        make(poisoner("watch-chosen", where=where))
    one, two = (
        {p.relative_to(tmp_path / where): p.read_bytes() for p in (tmp_path / where).rglob("*.safetensors")}
        for where in ("one", "two")
    )
    assert len(one) == 2
    assert one == two


def test_a_poison_is_made_once(poisoner):
    first = make(poisoner("watch-drawn"))[2]
    assert calls() == ["prepare", "stamp"]
    again = make(poisoner("watch-drawn", defense="oracle", model="lenet-s"))[2]
    assert calls() == ["prepare", "stamp"]
    assert again.images.tobytes() == first.images.tobytes()
    make(poisoner("watch-drawn", seed=1))
    make(poisoner("watch-drawn(rate=0.2)"))
    assert calls() == ["prepare", "stamp", "stamp", "stamp"]  # one trigger serves all seeds and budgets
    make(poisoner("watch-drawn(trigger_seed=1)"))
    make(poisoner("watch-drawn(target=2)"))
    assert calls().count("prepare") == 3
    calls().clear()
    for seed in range(2):
        make(poisoner("watch-chosen", seed=seed))
    assert calls().count("prepare") == 2  # prepared for these very images


def test_the_key_of_the_poisoned_set_is_its_content(poisoner, monkeypatch):
    """The poison's artifact cannot be found from it, and the same bytes made by edited code keep what was trained."""
    _, _, first = make(poisoner("watch-dirty"))
    assert first.data_key != first.key
    with monkeypatch.context() as patch:
        patch.setattr(registry, "source_digest", lambda kind, name: "edited")
        _, _, second = make(poisoner("watch-dirty"))
        assert second.key != first.key
        assert second.data_key == first.data_key
        patch.setattr(registry.load("attacks", "watch-dirty"), "stamp", lambda self, images, how: images * 0)
        patch.setattr(registry, "source_digest", lambda kind, name: "edited again")
        assert make(poisoner("watch-dirty"))[2].data_key != first.data_key


def test_a_surrogate_is_the_clean_rows_undefended_model(poisoner):
    """One training for both; trained with the trigger's seed, so one serves all seeds."""
    ledger = Ledger()
    worker = poisoner("watch-surrogate", ledger=ledger, seed=5)
    clean, info, poison = make(worker)
    assert ledger.trainings == ledger.computed == {"full": 1}
    this = testing.cell(dataset="tiny(train=200,test=40,size=16)")
    made = this.made()
    lab = Lab(
        clean,
        store=worker.store,
        network=NetworkPlan(made.model, this.model, info.classes, info.size, made.dataset.normalisation),
        recipe=made.recipe,
        seed=0,
        device=torch.device("cpu"),
        ledger=Ledger(),
        on_event=lambda event: None,
    )
    none = registry.make("defenses", "none").train(lab)
    assert lab._ledger.computed == {}
    assert np.array_equal(none.head()[0], poison.trigger["head"])
    other = Ledger()
    make(poisoner("watch-surrogate", ledger=other, seed=6))
    assert other.trainings == {}  # the trigger itself was there
    third = Ledger()
    make(poisoner("watch-surrogate", ledger=third, epochs=3))
    assert third.computed == {"full": 1}


@pytest.mark.parametrize("change", ["pixel", "label"])
def test_copies_of_a_data_set_that_differ_in_one_value_have_other_keys(change):
    testing.register()
    data = registry.make("datasets", "tiny").load("train", None)
    other = Images(data.images.clone(), data.labels.clone())
    assert fingerprint(other) == fingerprint(data)
    if change == "pixel":
        other.images[101, 1, 7, 9] ^= 1
    else:
        other.labels[101] += 1
    assert fingerprint(other) != fingerprint(data)
    part = part_of(registry.make("datasets", "tiny"))
    assert clean_set(part, other).key != clean_set(part, data).key
    assert clean_set(part_of(registry.make("datasets", "digits")), data).key != clean_set(part, data).key
    turned = Images(data.images.contiguous(memory_format=torch.channels_last), data.labels)
    assert fingerprint(turned) == fingerprint(data)


# What attacks may not do ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ["bad-shape", "bad-type", "bad-none", "bad-prepare"])
def test_attacks_that_return_something_else_are_told_so_in_one_line(poisoner, attack):
    with pytest.raises(UsageError, match=f"attack '{attack}': ") as caught:
        make(poisoner(attack))
    assert "\n" not in str(caught.value)


def test_indices_are_told_only_to_attacks_that_declare_it(poisoner, monkeypatch):
    assert len(make(poisoner("watch-chosen"))[2].trigger["indices"]) == 20
    drawn = registry.load("attacks", "watch-drawn")
    monkeypatch.setattr(drawn, "prepare", lambda self, shop: {"indices": shop.indices})
    with pytest.raises(UsageError, match="prepared_from_poison"):
        make(poisoner("watch-drawn"))
