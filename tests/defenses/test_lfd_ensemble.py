"""LfD's ensemble: the sign chooses rung and teacher, the valley sets alpha, and the record shows the whole ladder."""

from __future__ import annotations

import os

import numpy as np
import pytest

from benchbd import testing
from benchbd.core import params
from benchbd.core.images import DatasetInfo
from benchbd.defenses.lfd import Lfd
from benchbd.defenses.lfd_ensemble import LfdEnsemble
from benchbd.errors import UsageError
from benchbd.pipeline.run_cell import execute
from tests.defenses.conftest import FakeTrained
from tests.defenses.test_signs import planted

RECIPE = {"schedule": "cosine", "horizon": 80, "augment": ()}
POISON = 250


@pytest.fixture
def ladder(fake_lab):
    """Makes a lab whose rungs have given losses: ``ladder(a=[...], b=[...])`` by model and teacher."""

    def build(labels, **tables):
        lab = fake_lab(labels)
        lab.packs = []

        def train_packed(data, **settings):
            lab.packs.append(settings)
            return [FakeTrained(f"{settings['model']} {n}", [1.0]) for n in settings["repeats"]]

        def losses(trained, data):
            model, place = trained.key.split()
            return tables[model.replace("-", "_")][int(place)].astype(np.float32)

        lab.train_packed, lab.losses = train_packed, losses
        return lab

    return build


def blind(seed):
    """Losses that tell nothing, of 5,000 samples."""
    return planted(0, seed)[0]


def test_the_first_rung_with_the_sign_weighs_the_student_with_the_share_of_its_valley(ladder):
    seeing, labels = planted(POISON)
    lab = ladder(labels, resnet_s1=[blind(1), blind(2)], resnet_s=[0.1 * blind(3), seeing], resnet_s2=[seeing] * 2)
    LfdEnsemble(rungs=("resnet-s1", "resnet-s", "resnet-s2"), teachers=2, teacher_epochs=20).train(lab)
    assert [pack.pop("model") for pack in lab.packs] == ["resnet-s1", "resnet-s", "resnet-s2"]
    assert lab.packs == [{"repeats": range(2), "epochs": 20, **RECIPE}] * 3
    np.testing.assert_array_equal(lab.scores, -seeing.astype(np.float32))
    assert lab.flagged[:POISON].mean() > 0.95  # a fixed share of 0.15 would flag 751 samples
    assert lab.flagged.sum() == pytest.approx(POISON, rel=0.05)
    weights = lab.calls[0].settings["weights"]
    np.testing.assert_array_equal(weights <= 0, lab.flagged)
    note = lab.notes["lfd-ensemble"]
    assert (note["rung"], note["teacher"], note["sign"], note["alpha_from"]) == ("resnet-s", 1, True, "valley")
    assert note["alpha"] == pytest.approx((lab.flagged.sum() - 0.5) / 5000)
    assert [rung["model"] for rung in note["rungs"]] == ["resnet-s1", "resnet-s", "resnet-s2"]
    assert [[one["sign"] for one in rung["teachers"]] for rung in note["rungs"]] == [
        [False] * 2,
        [False, True],
        [True] * 2,
    ]
    assert note["rungs"][1]["teachers"][1]["loss_mean"] == pytest.approx(seeing.mean(), rel=1e-6)
    assert note["rungs"][1]["teachers"][1]["valley"]["below"] == pytest.approx(POISON, rel=0.05)
    assert lab.notes["lfd"]["candidates"] == lab.flagged.sum()
    assert lab.warnings == []


def test_the_valleys_share_counts_for_the_weights_of_views_too(ladder):
    seeing, labels = planted(POISON)
    lab = ladder(labels, resnet_s=[seeing] * 2)
    LfdEnsemble(rungs=("resnet-s",), teachers=2, recompute="epoch").train(lab)
    settings = lab.calls[0].settings
    assert settings["scorer"].key == "resnet-s 0"
    assert settings["weight_fn"].alpha == lab.notes["lfd-ensemble"]["alpha"] < 0.06


def test_without_the_sign_the_first_rung_and_the_fixed_share_are_used_with_a_warning(ladder):
    labels = planted(0)[1]
    lab = ladder(labels, resnet_s=[blind(1), 0.9 * blind(2)], resnet_s2=[0.5 * blind(3)] * 2)
    LfdEnsemble(rungs=("resnet-s", "resnet-s2"), teachers=2, mode="drop").train(lab)
    note = lab.notes["lfd-ensemble"]
    assert (note["rung"], note["teacher"], note["sign"]) == ("resnet-s", 1, False)
    assert (note["alpha"], note["alpha_from"]) == (0.15, "fixed")
    assert lab.flagged.sum() == 751
    assert len(lab.calls[0].ids) == 5000 - 751
    (line,) = lab.warnings
    assert line.startswith("lfd-ensemble: no teacher has learnt something that few samples share")


def test_a_valley_above_most_of_the_losses_leaves_the_fixed_share(ladder):
    rng = np.random.default_rng(0)
    labels = np.repeat([3, *range(10)], [300, *[470] * 10])
    losses = np.exp(rng.normal(-3, 0.1, 5000))
    losses[:300] = np.exp(rng.normal(-8, 1, 300))
    hard = (labels == 3) & (np.arange(5000) >= 300)
    losses[hard] = np.exp(rng.normal(2, 0.5, hard.sum()))
    lab = ladder(labels, resnet_s=[losses] * 2)
    LfdEnsemble(rungs=("resnet-s",), teachers=2).train(lab)
    note = lab.notes["lfd-ensemble"]
    assert (note["sign"], note["alpha"], note["alpha_from"]) == (True, 0.15, "fixed")
    assert "above most" in lab.warnings[0]


def test_the_other_options_are_those_of_lfd():
    shared = params.defaults(Lfd).keys() - {"teacher_tries", "teacher"}
    own = {"teachers": 4, "rungs": ("resnet-s1", "resnet-s", "resnet-s(stem=8)")}
    assert params.defaults(LfdEnsemble) == {k: params.defaults(Lfd)[k] for k in shared} | own
    assert LfdEnsemble().retries() == {"teacher": 0}


@pytest.mark.usefixtures("one_thread", "fresh_registry")
def test_a_record_shows_the_whole_ladder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    spec = "lfd-ensemble(teachers=2, teacher_epochs=1, rungs=['resnet-s1', 'resnet-s'])"
    cell = testing.cell(dataset="tiny(train=80,test=20,size=16)", attack="tiny-patch", defense=spec, epochs=1)
    record = execute(cell.to_json(), output=tmp_path, device="cpu")
    assert record["status"] == "done", record["error"]
    assert record["trainings"] == record["trainings_computed"] == {"teacher": 2, "full": 1}
    assert record["epochs_trained"] == 2 * 2 + 1
    note = record["notes"]["lfd-ensemble"]
    assert [len(rung["teachers"]) for rung in note["rungs"]] == [2, 2]
    assert not note["sign"]
    assert note["rungs"][0]["teachers"][note["teacher"]]["loss_mean"] == record["notes"]["lfd"]["teacher_loss_mean"]
    assert record["detection"]["loss_mean_clean"] == pytest.approx(-record["detection"]["score_mean_clean"])
    (line,) = record["notes"]["warnings"]
    assert line.startswith("lfd-ensemble: no teacher has learnt")


def test_predicted_sharing():
    def plan(**given):
        return LfdEnsemble(**given).trainings(None)

    *teachers, student = plan()
    assert [t.kind for t in (*teachers, student)] == ["teacher"] * 3 + ["full"]
    assert len(set(teachers)) == 3
    assert list(plan(beta=0.01)[:3]) == teachers
    assert plan(beta=0.01)[3] != student
    assert not set(plan(teachers=3)) & {*teachers, student}
    assert not set(plan(teacher_steps=5)) & {*teachers, student}
    # A rung is the pack that lfd with as many teachers trains; the student is not lfd's.
    assert teachers[1] == Lfd(teachers=4).trainings(None)[0]
    assert not set(plan()) & set(Lfd().trainings(None))
    one, other = plan(rungs=("resnet-s", "resnet-s1")), plan(rungs=("resnet-s1", "resnet-s"))
    assert set(one[:2]) == set(other[:2])
    assert one[2] != other[2]  # which rung comes first decides


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"teachers": 1}, "teachers must be 2"),
        ({"alpha": 2.0}, "alpha"),
        ({"rungs": ()}, "rungs"),
        ({"rungs": ("resnet-s", "resnet-s")}, "rungs"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(given, said):
    with pytest.raises(UsageError, match=said):
        LfdEnsemble(**given)


def test_check_knows_the_models():
    info = DatasetInfo(classes=10, size=32, train=1000, test=100, class_counts=None, target=1)
    LfdEnsemble().check(info, None)
    with pytest.raises(UsageError, match="did you mean 'resnet-s'"):
        LfdEnsemble(rungs=("resnet-s", "resnet-ss")).check(info, None)
