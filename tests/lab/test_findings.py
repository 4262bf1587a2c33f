"""What a defense says it found: suspicion, traced networks, notes, and what another defense would flag."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchbd.errors import BenchbdError, UsageError
from benchbd.plugins import registry


def test_suspicion_is_kept_as_scores_and_a_mask(open_lab):
    lab = open_lab()
    scores = np.arange(64, dtype=np.float32)
    for flagged in ([3, 60], torch.tensor([60, 3]), np.isin(np.arange(64), [3, 60])):
        lab.suspect(torch.from_numpy(scores), flagged)
        assert np.flatnonzero(lab.suspicion.flagged).tolist() == [3, 60]
    lab.suspect(scores)
    assert lab.suspicion.flagged is None
    scores[:] = 0  # the lab keeps its own
    assert lab.suspicion.scores[5] == 5
    lab.suspect(scores, [])
    assert not lab.suspicion.flagged.any()


def test_the_last_losses_of_the_whole_set_stand_beside_a_suspicion(open_lab):
    lab = open_lab()
    one, two = (lab.train(lab.poisoned, epochs=0, repeat=r) for r in (0, 1))
    lab.suspect(np.zeros(64))
    assert lab.suspicion.losses is None
    lab.losses(one, lab.poisoned)
    second = lab.losses(two, lab.poisoned)
    lab.losses(one, lab.poisoned.subset(np.arange(63)))
    want = second.astype(np.float64)
    second[:] = 0  # the lab keeps its own
    lab.suspect(np.zeros(64))
    assert np.array_equal(lab.suspicion.losses, want)
    lab.suspect(np.zeros(64), losses=torch.ones(64))
    assert lab.suspicion.losses.tolist() == [1.0] * 64


def test_traced_networks_are_kept_in_order_with_what_is_masked(open_lab):
    lab = open_lab()
    trained = lab.train(lab.poisoned, epochs=0, name="start", trace=True)
    lab.trace("pruned", trained, np.isin(np.arange(64), [7, 2]))
    lab.train(lab.poisoned, epochs=0, repeat=1)
    assert [(t.name, t.trained.key, t.channels.tolist()) for t in lab.traced] == [
        ("start", trained.key, []),
        ("pruned", trained.key, [2, 7]),
    ]
    assert lab._ledger.artifacts.keys() == {"start", "train"}  # tracing is no stage


def test_notes_are_kept_as_they_were(open_lab):
    lab = open_lab()
    curve = [1, 2]
    lab.note("curve", {"x": curve, "pair": (1, 2)})
    curve.append(3)
    assert lab.notes == {"curve": {"x": [1, 2], "pair": [1, 2]}}


def test_flags_of_another_defense_are_counted_without_its_student(open_lab, fits):
    lab = open_lab(truth=np.zeros(64, bool))
    assert lab.flagged_by("tiny-filter(fraction=0.25)") == 16
    assert [call["loss"] for call in fits] == [None]  # the probe alone
    assert lab._ledger.trainings == {"teacher": 1}
    assert lab.suspicion is None
    named = open_lab()
    registry.make("defenses", "tiny-filter", fraction=0.25).train(named)
    assert named.suspicion.flagged.sum() == 16
    assert len(fits) == 2
    with pytest.raises(UsageError, match="flags no samples"):
        lab.flagged_by("none")
    with pytest.raises(UsageError, match="needs clean images"):
        lab.flagged_by("fine-pruning")
    with pytest.raises(BenchbdError, match="did you mean"):
        lab.flagged_by("tiny-filtre")


def test_pools_are_kept_in_order_and_what_does_not_fit_is_refused(open_lab):
    lab = open_lab()
    lab.report_pool("first", torch.tensor([60, 3]))
    lab.report_pool("second", np.arange(64) < 5, epoch=2)
    lab.report_pool("nothing", [])
    found = [(pool.name, pool.epoch, np.flatnonzero(pool.members()).tolist()) for pool in lab.pools]
    assert found == [("first", None, [3, 60]), ("second", 2, [0, 1, 2, 3, 4]), ("nothing", None, [])]
    for wrong in ([64], [-1], np.ones(63, bool), [0.5], [[1]]):
        with pytest.raises(UsageError, match="report_pool 'wrong': "):
            lab.report_pool("wrong", wrong)
    for _ in range(997):
        lab.report_pool("more", [0])
    with pytest.raises(UsageError, match="1000 pools are reported already"):
        lab.report_pool("one too many", [0])
