"""Scorers: which samples go, what the record says of them, and scorers of a few lines that score as defenses do."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchbd import UNDEFENDED, Diverged, Impossible, Training, UsageError, testing
from benchbd.core import params
from benchbd.core.images import DatasetInfo
from benchbd.defenses.spectral import signature
from benchbd.pipeline.run_cell import execute
from benchbd.plugins import registry
from benchbd.plugins.scorer import Scorer, highest
from tests.defenses.conftest import FakeLab

INFO = DatasetInfo(classes=4, size=32, train=240, test=60, class_counts=None, target=1)

SCORERS = '''
"""Scorers for tests."""

import numpy as np

from benchbd import Scorer, Training, defense


@defense("spectral-like", version=1)
class SpectralLike(Scorer):
    """Squared projection on the top singular vector of the class's centred features."""

    drop_of: str = "class"
    """Every class loses the share."""

    def scores(self, lab):
        """Scores float64 (N,)."""
        features = lab.features(lab.train(lab.poisoned), lab.poisoned).astype(float)
        labels = lab.poisoned.labels.numpy()
        found = np.zeros(len(labels))
        for label in np.unique(labels):
            own = features[labels == label] - features[labels == label].mean(0)
            found[labels == label] = (own @ np.linalg.svd(own, full_matrices=False)[2][0]) ** 2
        return found


@defense("ac-like", version=1)
class AcLike(Scorer):
    """How small a sample's cluster is, of two in its class."""

    def scoring(self, attack):
        """AC's feature model."""
        return (Training("feature-model", ("no augmentation",)),)

    def scores(self, lab):
        """Scores float64 (N,)."""
        from sklearn.cluster import KMeans

        model = lab.train(lab.poisoned, kind="feature-model", augment=())
        features, labels = lab.features(model, lab.poisoned), lab.poisoned.labels.numpy()
        found = np.zeros(len(labels))
        for label in np.unique(labels):
            half = KMeans(2, n_init=5, random_state=0).fit_predict(features[labels == label])
            found[labels == label] = 1 - np.bincount(half)[half] / len(half)
        return found


@defense("short", version=1)
class Short(Scorer):
    """One score too few."""

    def scores(self, lab):
        """Too few."""
        return np.zeros(len(lab.poisoned) - 1)
'''


@pytest.fixture
def scorers(plugin_file, fresh_registry, one_thread):
    file = plugin_file(SCORERS)
    registry.add_plugin_file(str(file))
    return file


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=40), st.floats(0, 0.99))
def test_the_highest_of_each_group_go(samples, share):
    groups, scores = (np.array(column) for column in zip(*samples, strict=True))
    chosen = highest(scores.astype(float), groups, share)
    for group in set(groups.tolist()):
        ranked = sorted(np.flatnonzero(groups == group).tolist(), key=lambda place: (-scores[place], place))
        wanted = set(ranked[: int(share * len(ranked) + 1e-9)])
        assert set(np.flatnonzero(chosen & (groups == group)).tolist()) == wanted


class Given(Scorer):
    """Scores by the position that a sample's image carries."""

    table = np.zeros(0)

    def scores(self, lab):
        return self.table


Given.name = "given"


def given_scores(table, **how):
    scorer = Given(**how)
    object.__setattr__(scorer, "table", table)
    return scorer


def test_scores_decide_what_the_training_sees():
    labels = np.array([0] * 6 + [1] * 14)
    table = np.random.default_rng(0).permutation(20) / 7
    lab = FakeLab(labels)
    given_scores(table, drop=0.25).train(lab)
    assert lab.suspects() == set(np.argsort(table)[-5:].tolist())
    np.testing.assert_array_equal(lab.scores, table)
    assert lab.calls[0].settings == {}
    assert set(lab.calls[0].ids.tolist()) == set(range(20)) - lab.suspects()
    lab = FakeLab(labels)
    given_scores(table, drop=0.25, drop_of="class").train(lab)
    assert lab.notes == {"given": {"dropped_per_class": [1, 3]}}
    assert lab.suspects() == {int(table[:6].argmax()), *(6 + np.argsort(table[6:])[-3:]).tolist()}


def test_the_record_has_the_rates_of_the_dropped_samples(scorers, tmp_path):
    """Recall is the rate of true positives; that of false ones follows from flags and precision."""
    cell = testing.cell(attack="tiny-patch", defense="spectral-like(drop=0.2)")
    record = execute(cell.to_json(), output=tmp_path, device="cpu")
    assert record["status"] == "done", record["error"]
    assert record["trainings"] == {"full": 2}
    found = record["detection"]
    per_class = [int(0.2 * count) for count in _counts(tmp_path)]
    assert found["flagged_per_class"] == per_class == record["notes"]["spectral-like"]["dropped_per_class"]
    hits = found["precision"] * found["flagged"]
    assert hits == pytest.approx(found["recall"] * record["poison"]["count"])
    assert 0 <= found["auroc"] <= 1


def _counts(folder):
    """Samples of each label in the poisoned set of 240: 60 of each, of which 24 moved to class 1."""
    import torch

    from benchbd.pipeline.poison import Poisoner, apply
    from benchbd.storage.artifacts import Store

    cell = testing.cell(attack="tiny-patch")
    poisoner = Poisoner(cell, cell.components(), Store(folder / "store"), torch.device("cpu"), print, None)
    clean, info = poisoner.train_set()
    return np.bincount(apply(clean, poisoner.poison(clean, info)).labels.numpy(), minlength=4).tolist()


def test_a_few_lines_score_as_spectral_does(scorers):
    rng = np.random.default_rng(3)
    features, labels = (rng.normal(size=(90, 6)) * [4, 1, 1, 1, 1, 1]).astype(np.float32), np.arange(90) % 3
    lab = FakeLab(labels, features=features)
    registry.make("defenses", "spectral-like").train(lab)
    theirs = signature(features, labels, 0.15)
    np.testing.assert_allclose(lab.scores, theirs.scores, rtol=1e-5)
    np.testing.assert_array_equal(lab.flagged, theirs.removed)


@pytest.mark.parametrize("name", ["spectral-like", "ac-like"])
def test_scorers_keep_what_every_defense_promises(scorers, name):
    assert testing.check("defenses", name) == []


def test_a_wrong_number_of_scores_is_one_line(scorers, tmp_path):
    cell = testing.cell(attack="tiny-patch", defense="short")
    record = execute(cell.to_json(), output=tmp_path, device="cpu")
    assert record["status"] == "failed"
    assert "240 samples but scores of shape (239,)" in record["error"]


def test_a_control_can_imitate_a_scorer(scorers):
    control = registry.make("defenses", "random-filter", of="ac-like")
    control.check(INFO, registry.make("attacks", "bn-g"))
    assert [t.kind for t in control.trainings(None)] == ["feature-model", "full"]


def test_what_a_plan_counts(scorers):
    one, other = (registry.make("defenses", f"ac-like(drop={share})").trainings(None) for share in (0.1, 0.2))
    assert one[0] == other[0] == Training("feature-model", ("no augmentation",))
    assert one[1] != other[1]
    assert registry.make("defenses", "spectral-like").trainings(None)[0] == UNDEFENDED


def test_a_scorer_has_documented_parameters(scorers):
    kind = registry.load("defenses", "ac-like")
    assert params.defaults(kind) == {"drop": 0.15, "drop_of": "set"}
    assert all(param.help for param in params.schema(kind))


def test_shares_that_mean_nothing_are_refused(scorers):
    for share in (1.0, -0.1):
        with pytest.raises(UsageError, match="ac-like: drop is a share"):
            registry.make("defenses", "ac-like", drop=share)
    with pytest.raises(Impossible, match="drops none"):
        registry.make("defenses", "ac-like", drop=0.004).check(INFO, None)
    registry.make("defenses", "ac-like", drop=0.0).check(INFO, None)
    with pytest.raises(Diverged, match="none is left"):
        given_scores(np.zeros(10), drop=0.99999999999).train(FakeLab(np.zeros(10, int)))


def test_the_document_lists_the_hooks_of_a_scorer():
    text = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    assert re.findall(r"^\| scorer \| (\w+) \| `(\w+)", text, re.MULTILINE) == [
        ("required", "scores"),
        ("optional", "scoring"),
    ]
