"""Alignment: a planted, perfectly separable poison is found under any order, and a misaligned lab is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from benchbd.defenses.abl import Abl
from benchbd.defenses.ac import Ac
from benchbd.defenses.lfd import Lfd
from benchbd.defenses.spectral import Spectral
from benchbd.plugins.train_set import TrainSet

N, CLASSES = 800, 4
POISON = np.arange(300, 380)
FEW = np.arange(300, 308)


def planted(fake_lab, order, poison=POISON, **given):
    """Poison has lower losses than anything else and features of its own, all in class 1."""
    rng = np.random.default_rng(11)
    labels = np.arange(N) % CLASSES
    labels[poison] = 1
    losses = rng.uniform(0.5, 3.0, N)
    losses[poison] = rng.uniform(0.0, 0.1, len(poison))
    features = rng.normal(0, 0.2, (N, 12)) + 5 * np.eye(12)[labels]
    features[poison] += 9 * np.eye(12)[10]
    return fake_lab(labels, order, losses=losses, features=features, poison=poison, **given)


def orders():
    shuffled = np.random.default_rng(2).permutation(N)
    return {"in order": np.arange(N), "shuffled": shuffled, "subset": shuffled[shuffled % 5 != 0]}


def check_lfd(lab):
    there = set(lab.order[lab.truth].tolist())
    Lfd().train(lab)
    candidates = int(len(lab.order) * 0.15) + 1
    assert there <= lab.suspects()
    assert len(lab.suspects()) == candidates  # precision is poison over candidates, no more
    assert lab.scores[lab.truth].min() > lab.scores[~lab.truth].max()
    student = lab.calls[-1]
    negative = set(student.ids[student.settings["weights"] <= 0].tolist())
    assert negative == lab.suspects()


def check_lfd_drop(lab):
    there = set(lab.order[lab.truth].tolist())
    Lfd(mode="drop").train(lab)
    assert there <= lab.suspects()
    assert set(lab.calls[-1].ids.tolist()) == set(lab.order.tolist()) - lab.suspects()


def check_abl(lab):
    there = set(lab.order[lab.truth].tolist())
    Abl(ratio=len(there) / len(lab.order) + 1e-9).train(lab)
    _, finetuning, unlearning = lab.calls
    assert lab.suspects() == there  # as many isolated as there are: recall and precision 1
    assert set(unlearning.ids.tolist()) == there
    assert not there & set(finetuning.ids.tolist())
    assert len(finetuning.ids) == len(lab.order) - len(there)
    assert lab.scores[lab.truth].min() > lab.scores[~lab.truth].max()


def check_abl_few(lab):
    there = set(lab.order[lab.truth].tolist())
    Abl(ratio=0.01).train(lab)
    assert len(lab.suspects()) == int(0.01 * len(lab.order))
    assert lab.suspects() <= there  # 1 % of the set isolated, all of it poison


def check_ac(lab):
    there = set(lab.order[lab.truth].tolist())
    Ac(preset="per-class").train(lab)
    assert there <= lab.suspects()
    assert not there & set(lab.calls[-1].ids.tolist())
    in_class = {i for i in lab.suspects() if lab.labels[i] == 1}
    assert in_class == there  # in the poisoned class nothing else goes


def check_ac_trojanzoo(lab):
    there = set(lab.order[lab.truth].tolist())
    Ac(preset="trojanzoo", scope="label").train(lab)
    assert lab.suspects() == there
    assert set(lab.calls[-1].ids.tolist()) == set(lab.order.tolist()) - there


def check_spectral(lab):
    there = set(lab.order[lab.truth].tolist())
    share = len(there) / int((lab.labels[lab.order] == 1).sum())
    Spectral(eps=share / 1.5 + 1e-9).train(lab)
    assert {i for i in lab.suspects() if lab.labels[i] == 1} == there  # as many as there are: recall 1
    assert set(lab.calls[-1].ids.tolist()) == set(lab.order.tolist()) - lab.suspects()
    assert lab.scores[lab.truth].min() > lab.scores[~lab.truth].max()


CHECKS = [check_lfd, check_lfd_drop, check_abl, check_abl_few, check_ac, check_ac_trojanzoo, check_spectral]


@pytest.mark.parametrize("order", orders().values(), ids=orders().keys())
@pytest.mark.parametrize("check", CHECKS)
def test_planted_poison_is_found(fake_lab, check, order):
    check(planted(fake_lab, order))


def test_abl_isolates_all_of_one_percent_poison(fake_lab):
    lab = planted(fake_lab, orders()["shuffled"], FEW)
    Abl().train(lab)
    assert lab.suspects() == set(FEW.tolist())


@pytest.mark.parametrize("check", CHECKS)
def test_a_lab_that_permutes_its_results_fails_the_same_checks(fake_lab, check):
    with pytest.raises(AssertionError):
        check(planted(fake_lab, orders()["shuffled"], misalign=True))


class ShiftedSet(TrainSet):
    """The bug: a subset that is off by one."""

    __slots__ = ()

    def subset(self, indices):
        return super().subset((np.asarray(indices) + 1) % len(self))


@pytest.mark.parametrize("check", [check_lfd_drop, check_abl, check_ac, check_ac_trojanzoo, check_spectral])
def test_a_subset_that_is_off_by_one_fails_the_same_checks(fake_lab, check):
    lab = planted(fake_lab, orders()["shuffled"])
    lab.poisoned = ShiftedSet(lab.poisoned.images, lab.poisoned.labels, lab.poisoned.key)
    with pytest.raises(AssertionError):
        check(lab)
