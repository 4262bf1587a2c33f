"""LfD's ensemble: the teacher with the lowest mean loss weighs, as it would alone, and the record has the others."""

from __future__ import annotations

import os
from typing import ClassVar

import numpy as np
import pytest

from benchbd import testing
from benchbd.core import params
from benchbd.defenses.lfd import Lfd
from benchbd.defenses.lfd_ensemble import LfdEnsemble, best
from benchbd.errors import UsageError
from benchbd.pipeline.poison import Poisoner
from benchbd.pipeline.run_cell import execute
from tests.defenses.conftest import FakeTrained

RECIPE = {"schedule": "cosine", "horizon": 80, "augment": ()}


def test_best_is_the_lowest_finite_mean():
    assert best([1.7, 1.5, 1.6]) == 1
    assert best([1.5, 1.4, 1.4]) == 1
    assert best([float("nan"), 1.8, float("inf")]) == 1
    assert best([float("nan")] * 2) == 0


@pytest.fixture
def lab(fake_lab):
    """A lab whose pack has mean losses of about 1.4, 0.5 and 0.9 over 200 samples of four classes."""
    rng = np.random.default_rng(0)
    lab = fake_lab(np.arange(200) % 4)
    lab.tables = {f"teacher {n}": rng.gamma(2.0, mean / 2, 200) for n, mean in enumerate((1.4, 0.5, 0.9))}
    lab.packs, lab.asked = [], []

    def train_packed(data, **settings):
        lab.packs.append(settings)
        return [FakeTrained(f"teacher {n}", [1.0]) for n in settings["repeats"]]

    def losses(trained, data):
        lab.asked.append(trained.key)
        return lab.tables[trained.key].astype(np.float32)

    lab.train_packed, lab.losses = train_packed, losses
    return lab


def test_the_teacher_with_the_lowest_mean_loss_weighs_the_student(lab):
    LfdEnsemble(teachers=3, alpha=0.2, beta=0.003).train(lab)
    assert lab.packs == [{"repeats": range(3), "model": "resnet-s", "epochs": 20, **RECIPE}]
    np.testing.assert_array_equal(lab.scores, -lab.tables["teacher 1"].astype(np.float32))
    (student,) = lab.calls
    assert set(student.settings) == {"weights"}
    assert lab.notes["lfd-ensemble"] == {
        "chosen": 1,
        "loss_means": pytest.approx([lab.tables[f"teacher {n}"].mean() for n in range(3)], rel=1e-6),
        "at_chance": False,
    }
    assert lab.notes["lfd"]["teacher_tries"] == 3
    assert lab.notes["lfd"]["teacher_loss_mean"] == pytest.approx(min(lab.notes["lfd-ensemble"]["loss_means"]))
    assert lab.asked[-1] == "teacher 1"  # the lab reports the last losses beside the suspicion


def test_the_other_options_are_those_of_lfd(lab):
    LfdEnsemble(teachers=3, mode="drop", teacher="resnet-s1", teacher_epochs=4).train(lab)
    assert lab.packs[0] | {"epochs": 4, "model": "resnet-s1"} == lab.packs[0]
    assert len(lab.calls[0].ids) == 200 - lab.notes["lfd"]["candidates"]
    shared = params.defaults(Lfd).keys() - {"teacher_tries"}
    assert params.defaults(LfdEnsemble) == {k: params.defaults(Lfd)[k] for k in shared} | {"teachers": 8}


@pytest.mark.usefixtures("one_thread", "fresh_registry")
def test_it_does_what_lfd_does_with_the_chosen_repeat(small_lab, banded, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    data, _, _ = banded
    given = {"teacher_epochs": 4, "teacher_schedule": "constant"}
    ours = small_lab(data)
    student = LfdEnsemble(teachers=3, **given).train(ours)
    assert ours._ledger.trainings == {"teacher": 1, "full": 1}
    chosen = ours.notes["lfd-ensemble"]["chosen"]
    means = ours.notes["lfd-ensemble"]["loss_means"]
    assert chosen == int(np.argmin(means))

    class Drawn(Lfd):
        """LfD with one teacher of a given repeat."""

        repeat: ClassVar[int] = 0

        def _teach(self, lab, labels):
            teacher = lab.train(
                lab.poisoned, kind="teacher", model=self.teacher, repeat=self.repeat, **self._teacher_recipe()
            )
            return teacher, lab.losses(teacher, lab.poisoned).astype(np.float64), 1

    alone = []
    for Drawn.repeat in range(3):
        theirs = small_lab(data)
        alone.append((theirs, Drawn(**given).train(theirs)))
    assert [one.notes["lfd"]["teacher_loss_mean"] for one, _ in alone] == pytest.approx(means, rel=1e-3)
    theirs, expected = alone[chosen]
    np.testing.assert_allclose(ours.suspicion.scores, theirs.suspicion.scores, rtol=0.02, atol=0.005)
    np.testing.assert_array_equal(ours.suspicion.losses, -ours.suspicion.scores)
    assert ours.notes["lfd"]["gamma"] == pytest.approx(theirs.notes["lfd"]["gamma"], rel=1e-2)
    assert ours.notes["lfd"]["candidates"] == theirs.notes["lfd"]["candidates"]
    assert student.epoch_losses == pytest.approx(expected.epoch_losses, rel=1e-2)


@pytest.mark.usefixtures("one_thread", "fresh_registry")
def test_a_teacher_that_cannot_be_packed_ends_the_cell_before_its_trigger_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(Poisoner, "poison", lambda *_: pytest.fail("the set was poisoned"))
    data = "tiny(train=80,test=20,size=32)"
    cell = testing.cell(dataset=data, attack="tiny-patch", defense="lfd-ensemble(teacher='lenet')", epochs=1)
    record = execute(cell.to_json(), output=tmp_path, device="cpu")
    assert record["status"] == "failed"
    where = "defense 'lfd-ensemble': model 'lenet': hidden.0 (Linear) cannot be packed: it has trained weights; "
    assert record["error"].startswith(where)
    assert "\n" not in record["error"]


@pytest.mark.usefixtures("one_thread", "fresh_registry")
def test_a_record_has_the_losses_of_all_teachers(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    spec = "lfd-ensemble(teachers=3, teacher_epochs=1)"
    cell = testing.cell(dataset="tiny(train=80,test=20,size=16)", attack="tiny-patch", defense=spec, epochs=1)
    record = execute(cell.to_json(), output=tmp_path, device="cpu")
    assert record["status"] == "done", record["error"]
    assert record["trainings"] == record["trainings_computed"] == {"teacher": 1, "full": 1}
    assert record["epochs_trained"] == 3 + 1
    note = record["notes"]["lfd-ensemble"]
    assert len(note["loss_means"]) == 3
    assert note["loss_means"][note["chosen"]] == min(note["loss_means"]) == record["notes"]["lfd"]["teacher_loss_mean"]
    assert record["detection"]["loss_mean_clean"] == pytest.approx(-record["detection"]["score_mean_clean"])


def test_predicted_sharing():
    def plan(**given):
        return LfdEnsemble(**given).trainings(None)

    teacher, student = plan()
    assert (teacher.kind, student.kind) == ("teacher", "full")
    assert plan(beta=0.01)[0] == teacher
    assert plan(beta=0.01)[1] != student
    assert plan(teachers=4)[0] != teacher
    assert plan(teacher_epochs=5)[0] != teacher
    assert not set(plan()) & set(Lfd().trainings(None))  # a pack is never taken for a single teacher


@pytest.mark.parametrize(("given", "said"), [({"teachers": 1}, "one alone is lfd"), ({"alpha": 2.0}, "alpha")])
def test_numbers_that_mean_nothing_are_refused(given, said):
    with pytest.raises(UsageError, match=said):
        LfdEnsemble(**given)
