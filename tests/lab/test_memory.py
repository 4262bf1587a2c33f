"""What was computed once is found again, by whoever asks for the very same, and by nobody else."""

from __future__ import annotations

import numpy as np
import torch
from lab_inputs import tiny

from benchbd.plugins import registry


def test_what_was_trained_is_not_trained_again(open_lab, fits):
    first = open_lab().train(tiny())
    assert len(fits) == 1
    lab = open_lab()
    again = lab.train(tiny(), name="other name", kind="teacher")
    assert len(fits) == 1
    assert again.key == first.key
    assert again.epoch_losses == first.epoch_losses
    assert len(again.epoch_losses) == again.epochs == 2
    one, two = first.module().state_dict(), again.module().state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert lab._ledger.trainings == {"teacher": 1}
    assert lab._ledger.computed == {}
    for _ in range(2):
        lab.losses(again, lab.poisoned)
        lab.features(again, lab.poisoned)
        lab.logits(again, lab.poisoned)
    assert open_lab(where="elsewhere").train(tiny()).key == first.key
    assert len(fits) == 2


def test_a_row_of_defenses_shares_the_undefended_model(open_lab, fits):
    truth = np.zeros(64, bool)
    none = registry.make("defenses", "none").train(open_lab())
    oracle = registry.make("defenses", "oracle").train(open_lab(truth=truth))
    assert oracle.key == none.key  # nothing is poisoned, so the oracle keeps every sample
    assert len(fits) == 1
    truth[5] = True
    assert registry.make("defenses", "oracle").train(open_lab(truth=truth)).key != none.key
    assert len(fits) == 2


def test_passes_depend_on_model_data_and_kind(open_lab):
    lab = open_lab()
    trained, other = lab.train(lab.poisoned, epochs=0), lab.train(lab.poisoned, epochs=0, repeat=1)
    half = lab.poisoned.subset(np.arange(32))
    lab.losses(trained, lab.poisoned)
    lab.losses(other, lab.poisoned)
    lab.losses(trained, half)
    lab.features(trained, lab.poisoned)
    lab.logits(trained, lab.poisoned)
    kept = lab._ledger.artifacts
    assert set(kept) == {"train", "train 2", "losses", "losses 2", "losses 3", "features", "logits"}
    assert len(set(kept.values())) == len(kept)


def test_a_stage_is_found_again_only_by_the_same_plugin_on_the_same_data(open_lab):
    calls = []

    def work(name="mine", params=None, data=None, **given):
        lab = open_lab(data, owner=given.pop("owner", ["defenses", "x", 1, "source"]), **given)
        lab.stage(name, params or {"n": 1}, lambda: calls.append(1) or {"a": np.zeros(1)})
        return len(calls)

    assert work() == 1
    assert work() == 1
    others = [
        {"name": "yours"},
        {"params": {"n": 2}},
        {"data": tiny().subset(np.arange(60))},
        {"owner": ["defenses", "y", 1, "source"]},
        {"owner": ["defenses", "x", 2, "source"]},
        {"owner": ["defenses", "x", 1, "edited"]},
        {"seed": 1},
        {"model": "tiny-net(width=4)"},
        {"recipe": {"epochs": 9}},
    ]
    for number, other in enumerate(others, 2):
        assert work(**other) == number, other
