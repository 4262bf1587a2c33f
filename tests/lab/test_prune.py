"""Pruning masks channels and leaves weights."""

from __future__ import annotations

import numpy as np
import torch


def test_pruning_silences_channels_and_leaves_weights(open_lab):
    lab = open_lab()
    trained = lab.train(lab.poisoned)
    pruned = lab.prune(trained, [5, 2, 5])
    assert pruned.key == lab.prune(trained, np.isin(np.arange(64), [2, 5])).key
    assert pruned.key != lab.prune(trained, [2]).key
    features, before = lab.features(pruned, lab.poisoned), lab.features(trained, lab.poisoned)
    assert not features[:, [2, 5]].any()
    assert before[:, [2, 5]].any()
    rest = np.delete(np.arange(64), [2, 5])
    assert np.array_equal(features[:, rest], before[:, rest])
    one, two = trained.module().state_dict(), pruned.module().state_dict()
    assert [k for k in one if not torch.equal(one[k], two[k])] == ["channel_mask"]
    assert lab.prune(trained, []) is trained
    assert lab._ledger.trainings == {"full": 1}
    tuned = lab.train(lab.poisoned, start=pruned, epochs=1)
    assert not lab.features(tuned, lab.poisoned)[:, [2, 5]].any()
