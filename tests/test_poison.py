"""Poison is drawn from seeds alone, within its budget, labelled as the attack says, and the same on every run."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbd import poison as module
from benchbd import registry, testing
from benchbd.cell import part_of
from benchbd.components import DatasetInfo, Images, Stamp, share_of
from benchbd.errors import Impossible, UsageError
from benchbd.execute import execute
from benchbd.lab import Lab, Ledger, NetworkPlan
from benchbd.poison import Poisoner, apply, clean_set, draw, fingerprint, stamp_seed
from benchbd.seeding import seed_for
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
    count = int(rate * (members if kind == "class" else 100) + 1e-9)
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


@pytest.mark.parametrize("edited", ["own file", "helper"])
def test_a_trigger_is_prepared_anew_when_its_code_changed(poisoner, plugin_file, edited):
    def write(size: int, seed: int) -> None:
        (plugin_file("", "_noise.py")).write_text(f"SEED = {seed}\n")
        path = plugin_file(
            f"""
            import importlib.util, numpy, pathlib
            def _noise():
                return numpy.full({size}, int(pathlib.Path(__file__).with_name("_noise.py").read_text()[7:]))
            @attack("edited", version=1)
            class Edited(Attack):
                \"\"\"Prepares by a function of its file, which reads a helper.\"\"\"
                def prepare(self, shop):
                    return {{"noise": _noise()}}
                def stamp(self, images, how):
                    return 255 - images
            """
        )
        registry.forget_plugin_file(str(path.resolve()))
        registry.add_plugin_file(str(path))

    write(2, 5)
    first = make(poisoner("edited"))[2]
    assert first.trigger["noise"].tolist() == [5, 5]
    assert make(poisoner("edited"))[2].prepared.key == first.prepared.key
    write(*((3, 5) if edited == "own file" else (2, 6)))
    second = make(poisoner("edited"))[2]
    assert second.prepared.key != first.prepared.key
    assert second.trigger["noise"].tolist() == ([5, 5, 5] if edited == "own file" else [6, 6])


def run(tmp_path, attack: str, defense: str = "none", on_event=None, **given) -> dict:
    this = testing.cell(dataset="tiny(train=80,test=20,size=16)", attack=attack, defense=defense, epochs=1, **given)
    record = execute(this.to_json(), output=tmp_path / "out", device="cpu", on_event=on_event)
    assert record["status"] == "done", record["error"]
    return record


def test_test_images_that_are_slow_to_stamp_are_stamped_once_for_a_row(tmp_path, monkeypatch):
    quick = run(tmp_path, "watch-drawn")
    assert calls() == ["prepare", "stamp", "stamp"]
    assert not (tmp_path / "out" / "store" / "triggered").exists()  # most attacks are quicker than the disk
    monkeypatch.setattr(module, "KEEP_FROM", 0.0)
    calls().clear()
    kept = run(tmp_path, "watch-drawn")
    assert calls() == ["stamp"]
    calls().clear()
    for other in ({"defense": "tiny-filter"}, {"defense": "oracle", "model": "tiny-net(width=4)"}, {}):
        last = run(tmp_path, "watch-drawn", **other)
    assert calls() == []
    measured = ("ca", "asr", "ra")
    assert [quick[k] for k in measured] == [kept[k] for k in measured] == [last[k] for k in measured]
    run(tmp_path, "watch-drawn", seed=1)
    assert calls() == ["stamp"]  # other training images; the test images' trigger is the same


def test_kept_test_images_are_those_of_this_attack_code_and_data(poisoner, monkeypatch):
    monkeypatch.setattr(module, "KEEP_FROM", 0.0)

    def stamped(attack="watch-drawn", test=None, **given) -> tuple[int, torch.Tensor]:
        worker = poisoner(attack, **given)
        _, info, poison = make(worker)
        calls().clear()
        images, labels = worker.triggered(test or worker.made.dataset.load("test", None), info, poison)
        assert len(images) == len(labels)
        return len(calls()), images

    assert stamped()[0] == 1
    count, images = stamped()
    assert count == 0
    assert images.dtype == torch.uint8
    data = registry.make("datasets", "tiny", train=200, test=40, size=16).load("test", None)
    other = Images(data.images.clone(), data.labels)
    other.images[3, 0, 15, 15] ^= 1
    assert stamped(test=other)[0] == 1
    assert stamped("watch-drawn(trigger_seed=1)")[0] == 1
    assert stamped("watch-drawn(target=2)")[0] == 1
    with monkeypatch.context() as patch:
        patch.setattr(registry, "source_digest", lambda kind, name: "edited")
        assert stamped()[0] == 1


def test_a_saved_trigger_makes_the_same_poison_again(tmp_path):
    """Out of the record, the store's files and the data set alone."""
    record = run(tmp_path, "watch-measured")
    key = record["artifacts"]["trigger"]
    file = tmp_path / "out" / "store" / "trigger" / key[:2] / key / "arrays.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == record["artifacts"]["trigger_sha256"]
    store = Store(tmp_path / "out" / "store")
    trigger = store.get("trigger", key).arrays
    poison = store.get("poison", record["artifacts"]["poisoned_set"]).arrays
    attack = registry.make("attacks", "watch-measured")
    data = registry.make("datasets", "tiny", train=80, test=20, size=16).load("train", None)
    part = part_of(registry.make("datasets", "tiny", train=80, test=20, size=16))
    how = Stamp("train", poison["indices"], trigger, stamp_seed(attack, part))
    again = attack.stamp(data.images[torch.from_numpy(poison["indices"])], how)
    assert np.array_equal(again.numpy(), poison["images"])
    assert not np.array_equal(again.numpy(), data.images[torch.from_numpy(poison["indices"])].numpy())
    assert seed_for("stamp", "tiny", "watch-measured", 0) == how.seed
    assert run(tmp_path, "watch-dirty")["artifacts"]["trigger"] is None


def test_what_was_measured_of_a_trigger_and_its_warnings_are_in_every_record_of_the_row(tmp_path):
    told = []
    for defense in ("none", "tiny-filter"):  # the second finds the trigger in the store
        events = []
        record = run(tmp_path, "watch-measured", defense, events.append)
        found = record["notes"]["trigger"]
        assert found.keys() == {"success", "activation", "warnings"}  # neither weights nor what is no measurement
        assert found["success"] == 0.123457
        assert found["activation"][0] == [1.0, 2.5]
        assert found["warnings"] == ["watch-measured: weak noise"]
        told.append([e["warning"] for e in events if e["event"] == "warning"])
    assert calls().count("prepare") == 1
    assert told == [["watch-measured: weak noise"]] * 2
    assert "trigger" not in run(tmp_path, "watch-drawn")["notes"]


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
