"""What may not be asked of a lab is refused in one line."""

from __future__ import annotations

import numpy as np
import pytest

from benchbd.errors import Diverged, UsageError
from benchbd.lab import stages

WRONG = {
    "nothing to train on": lambda lab, t: lab.train(lab.poisoned.subset([])),
    "unknown entry": lambda lab, t: lab.train(lab.poisoned, epoch=3),
    "entry of another type": lambda lab, t: lab.train(lab.poisoned, epochs="three"),
    "impossible entry": lambda lab, t: lab.train(lab.poisoned, epochs=-1),
    "unknown kind": lambda lab, t: lab.train(lab.poisoned, kind="student"),
    "unknown model": lambda lab, t: lab.train(lab.poisoned, model="resnet-1000"),
    "weights of another length": lambda lab, t: lab.train(lab.poisoned, weights=np.ones(63)),
    "start of another model": lambda lab, t: lab.train(lab.poisoned, start=t, model="tiny-net(width=4)"),
    "channel out of range": lambda lab, t: lab.prune(t, [64]),
    "channel mask too short": lambda lab, t: lab.prune(t, np.ones(3, bool)),
    "scores of another length": lambda lab, t: lab.suspect(np.zeros(63)),
    "flagged out of range": lambda lab, t: lab.suspect(np.zeros(64), [64]),
    "flagged negative": lambda lab, t: lab.suspect(np.zeros(64), [-1]),
    "flagged mask too long": lambda lab, t: lab.suspect(np.zeros(64), np.ones(65, bool)),
    "flagged as 0 and 1": lambda lab, t: lab.suspect(np.zeros(64), np.zeros(64, int)),
    "flagged as floats": lambda lab, t: lab.suspect(np.zeros(64), np.zeros(64)),
    "losses of another length": lambda lab, t: lab.suspect(np.zeros(64), None, np.zeros(63)),
    "traced channel out of range": lambda lab, t: lab.trace("x", t, [64]),
    "more traced than may be": lambda lab, t: [lab.trace("x", t) for _ in range(stages.MOST_TRACED + 1)],
    "note of arrays": lambda lab, t: lab.note("x", np.zeros(3)),
    "stage of arrays": lambda lab, t: lab.stage("x", {"a": np.zeros(3)}, dict),
    "stage of objects": lambda lab, t: lab.stage("x", {}, lambda: {"a": np.array([None])}),
    "clean images": lambda lab, t: lab.clean,
    "truth": lambda lab, t: lab.truth,
    "another's flags": lambda lab, t: lab.flagged_by("tiny-filter"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_makes_no_sense_is_refused_in_one_line(open_lab, name):
    lab = open_lab()
    trained = lab.train(lab.poisoned, epochs=0)
    with pytest.raises(UsageError) as caught:
        WRONG[name](lab, trained)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) > 20


def test_numbers_that_are_not_finite_end_as_diverged(open_lab, fits):
    lab = open_lab()
    with pytest.raises(Diverged, match="1 of 64 weights"):
        lab.train(lab.poisoned, weights=np.r_[np.ones(63), np.nan])
    with pytest.raises(Diverged, match="2 of 64 scores"):
        lab.suspect(np.r_[np.ones(62), np.nan, np.inf])
    assert fits == []
    assert lab.suspicion is None
