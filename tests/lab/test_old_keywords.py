"""Old keywords of ``lab.train`` work for one release: they warn with the new name and change no key."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest

from benchbd.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Alike:
    """Weighs every sample alike."""

    def __call__(self, losses: np.ndarray) -> np.ndarray:
        return np.ones(len(losses), np.float32)


@dataclasses.dataclass(frozen=True)
class Idle:
    """A training loop that trains nothing."""

    def epoch(self, run) -> None:
        for rows in run.batches():
            run.step(run.net(run.views(rows)).sum() * 0)


OLD = {
    "kind": lambda trained: ({"what": "teacher"}, {"kind": "teacher"}),
    "scorer": lambda trained: (
        {"judge": trained, "weight_fn": Alike()},
        {"scorer": trained, "weight_fn": Alike()},
    ),
    "weight_fn": lambda trained: (
        {"scorer": trained, "weigh": Alike()},
        {"scorer": trained, "weight_fn": Alike()},
    ),
    "training_loop": lambda trained: ({"routine": Idle()}, {"training_loop": Idle()}),
}


@pytest.mark.parametrize("name", OLD)
def test_an_old_keyword_does_the_same_and_warns_with_the_new_name(open_lab, name):
    lab = open_lab()
    old, new = OLD[name](lab.train(lab.poisoned, epochs=1))
    (word,) = old.keys() - new.keys()
    with pytest.warns(FutureWarning, match=f"^train: the keyword {word} is now called {name};") as caught:
        trained = lab.train(lab.poisoned, epochs=1, repeat=1, **old)
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lab.train(lab.poisoned, epochs=1, repeat=1, **new).key == trained.key
    assert ("teacher" in lab._ledger.trainings) == (name == "kind")


def test_an_old_keyword_of_a_pack_does_the_same(open_lab):
    lab = open_lab()
    given = {"repeats": [0], "model": "resnet-s", "epochs": 0, "augment": ()}
    with pytest.warns(FutureWarning, match="^train_packed: the keyword what is now called kind;"):
        (one,) = lab.train_packed(lab.poisoned, what="fine-tune", **given)
    assert lab.train_packed(lab.poisoned, **given)[0].key == one.key
    assert lab._ledger.trainings == {"fine-tune": 1}


def test_both_names_at_once_are_refused(open_lab):
    lab = open_lab()
    with pytest.raises(UsageError, match="what is the old name of kind"):
        lab.train(lab.poisoned, what="full", kind="full")
