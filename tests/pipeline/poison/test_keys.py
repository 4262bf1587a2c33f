"""Triggers, poison and surrogates are made once, under keys of their code, their data and their content."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from poison_steps import calls, make

from benchbd import testing
from benchbd.core.images import Images
from benchbd.core.numerics import Numerics
from benchbd.lab.costs import CostLedger
from benchbd.pipeline.poison import clean_set, fingerprint, stamp_seed
from benchbd.plugins import registry
from benchbd.plugins.identity import part_of


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


def test_a_trigger_that_follows_the_cells_seed_is_one_for_each_seed(poisoner):
    """``trigger_seed=None``, the default of attacks that draw or train; a number pins it."""
    first, second = (make(poisoner("watch-drawn(trigger_seed=None)", seed=seed))[2] for seed in (0, 1))
    assert first.trigger_sha256 != second.trigger_sha256
    assert not np.array_equal(first.trigger["noise"], second.trigger["noise"])
    pinned = [make(poisoner("watch-drawn(trigger_seed=1)", seed=seed))[2] for seed in (0, 1, 2)]
    assert {p.prepared.key for p in pinned} == {second.prepared.key}, "one artifact, however its seed came about"
    assert calls().count("prepare") == 2


def test_random_numbers_of_stamping_follow_the_trigger_seed():
    part = part_of(registry.make("datasets", "digits"))
    follows, pinned = registry.make("attacks", "blend"), registry.make("attacks", "blend(trigger_seed=4)")
    assert stamp_seed(follows, part, 3) != stamp_seed(follows, part, 4) == stamp_seed(pinned, part, 3)
    assert {stamp_seed(pinned, part, seed) for seed in range(9)} == {stamp_seed(pinned, part, 4)}


def test_the_key_of_the_poisoned_set_is_its_content(poisoner, monkeypatch):
    """The poison's artifact cannot be found from it, and the same bytes made by edited code keep what was trained."""
    _, _, first = make(poisoner("watch-dirty"))
    assert first.data_key != first.key
    with monkeypatch.context() as patch:
        patch.setattr(registry, "source_digest", lambda kind, name: "edited")
        _, _, second = make(poisoner("watch-dirty"))
        assert second.key != first.key
        assert second.data_key == first.data_key
        patch.setattr(registry.load("attacks", "watch-dirty"), "stamp", lambda self, images, context: images * 0)
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
                def prepare(self, workshop):
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


def test_a_surrogate_is_no_cells_model_and_serves_all_seeds_with_the_same_trigger(poisoner, lab_over):
    ledger = CostLedger()
    worker = poisoner("watch-surrogate", ledger=ledger, seed=5)
    clean, _, poison = make(worker)
    assert ledger.trainings == ledger.computed == {"full": 1}
    for seed in (0, 5):
        lab = lab_over(clean, worker.components.recipe, store=worker.store, seed=seed)
        none = registry.make("defenses", "none").train(lab)
        assert lab._ledger.computed == {"full": 1}
        assert not np.array_equal(none.head()[0], poison.trigger["head"])
    other = CostLedger()
    make(poisoner("watch-surrogate", ledger=other, seed=6))
    assert other.trainings == {}  # the trigger itself was there
    third = CostLedger()
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


def test_threads_are_in_the_keys_of_what_an_attack_computes_on_the_cpu(poisoner):
    """A generator that stamps, or a trigger that is optimised, rounds differently on two threads."""
    one, two = poisoner("watch-chosen"), poisoner("watch-chosen")
    two = dataclasses.replace(two, cell=dataclasses.replace(two.cell, numerics=Numerics(threads=2)))
    first, second = make(one)[2], make(two)[2]
    assert first.prepared.key != second.prepared.key
    assert first.key != second.key
    assert first.data_key == second.data_key, "equal content is one training set"
    strict = dataclasses.replace(one, cell=dataclasses.replace(one.cell, numerics=Numerics("strict")))
    assert make(strict)[2].key == first.key
