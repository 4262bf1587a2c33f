"""Labels and images after poisoning: changed as the attack says, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from poison_steps import PLUGINS, make

from benchbd import testing
from benchbd.core.images import Images
from benchbd.errors import Impossible
from benchbd.pipeline.poison import Poisoner, apply
from benchbd.plugins import registry
from benchbd.storage.artifacts import Store


@given(rate=st.floats(0.03, 1.0), target=st.integers(0, 3), seed=st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_a_clean_label_attack_never_changes_a_label(tmp_path_factory, rate, target, seed):
    registry.add_plugin_file(str(PLUGINS))
    testing.register()
    this = testing.cell(
        dataset="tiny(train=200,test=40,size=16)", attack=f"watch-clean(rate={rate}, target={target})", seed=seed
    )
    store = Store(tmp_path_factory.mktemp("store"))
    clean, _, poison = make(Poisoner(this, this.components(), store, torch.device("cpu"), lambda event: None, None))
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
    test = worker.components.dataset.load("test", None)
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
    with pytest.raises(Impossible, match="181 cover images requested but only 180 of 200"):
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
        test = worker.components.dataset.load("test", None)
        images, labels = worker.triggered(test, info, poison)
        assert len(images) == len(labels) == 30
        assert torch.equal(labels, test.labels[test.labels != target])
        assert (images[:, :, :4, :4] == 255).all()
        assert torch.equal(images[:, :, 4:], test.images[test.labels != target][:, :, 4:])
    only = Images(test.images[test.labels == 3], test.labels[test.labels == 3])
    assert len(worker.triggered(only, info, poison)[1]) == 0
