"""D-BR: transformations against Pillow, the similarity by hand, which samples go where, the four trainings."""

from __future__ import annotations

import contextlib
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from benchbd import UNDEFENDED, registry
from benchbd.core.images import DatasetInfo
from benchbd.core.recipe import Recipe
from benchbd.defenses.d_br import ClassesApart, DBr, UnlearnRelearn, similarity_of_classes, transformed
from benchbd.errors import Diverged, Impossible, UsageError

INFO = DatasetInfo(classes=10, size=32, train=1000, test=100, class_counts=None, target=1)


def test_each_image_is_turned_and_shifted_as_pillow_does():
    images = torch.randint(1, 256, (300, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = transformed(images, 5)
    u = torch.rand(300, 3, generator=torch.Generator().manual_seed(5)).double()
    degrees, shifts = (2 * u[:, 0] - 1) * 180, ((2 * u[:, 1:] - 1) * 4).round().int()
    assert sorted(set(shifts.flatten().tolist())) == list(range(-4, 5))  # a fifth of 20 pixels at most
    same = 0.0
    for image, angle, (down, right), ours in zip(images, degrees, shifts.tolist(), found, strict=True):
        turned = Image.fromarray(image.permute(1, 2, 0).numpy()).rotate(float(angle))
        theirs = np.pad(np.asarray(turned), ((4, 4), (4, 4), (0, 0)))[4 - down : 24 - down, 4 - right : 24 - right]
        same += (ours.permute(1, 2, 0).numpy() == theirs).mean() / 300
    assert same > 0.97  # nearest pixels may differ where two are as near
    assert torch.equal(found, transformed(images, 5))


def test_the_similarity_is_the_mean_cosine_of_other_classes():
    features = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 2, 2, 2, 5, 5, 0, 5])
    centres = [features[labels == label].numpy().mean(0) for label in (0, 2, 5)]
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for i, a in enumerate(centres) for b in centres[i + 1 :]]
    assert similarity_of_classes(features, labels).item() == pytest.approx(2 * sum(cosines) / 9, abs=1e-6)


@pytest.fixture
def lab(fake_lab):
    """60 samples whose features change by their number: the look-up of turned images, which lost it, gives zeros."""
    change = np.random.default_rng(0).permutation(60).astype(np.float32)
    lab = fake_lab(np.arange(60) % 3, features=np.sqrt(change)[:, None] * np.ones((1, 4)))
    plain = lab.features
    lab.features = lambda trained, data: (
        plain(trained, data) if data.key == lab.poisoned.key else np.zeros((len(data), 4), np.float32)
    )
    lab.change = change
    return lab


def test_the_least_steady_are_unlearnt_and_the_steadiest_relearnt(lab):
    DBr().train(lab)
    np.testing.assert_allclose(lab.scores, lab.change, rtol=1e-5)
    assert lab.suspects() == set(np.argsort(lab.change)[-3:].tolist())  # 5 % of 60
    last = lab.calls[-1]
    assert set(last.ids[:3].tolist()) == lab.suspects()
    assert set(last.ids[3:].tolist()) == set(np.argsort(lab.change)[:13].tolist())  # up to entry 12, as in their code
    assert last.settings["training_loop"] == UnlearnRelearn(3)


@pytest.mark.parametrize("share", [1.0, 0.9])
def test_samples_that_change_alike_are_not_told_apart(fake_lab, share):
    """All alike, or so many that the threshold to unlearn is not above the one to relearn."""
    lab = fake_lab(np.arange(60) % 3, features=np.ones((60, 4)))
    steps = np.where(np.arange(60) < share * 60, 1.0, 2.0).astype(np.float32)
    lab.features = lambda trained, data: steps[:, None] * (data.key == lab.poisoned.key)
    if share == 1.0:
        with pytest.raises(Diverged, match=r"^d-br: the features of too many samples change alike[^\n]*$"):
            DBr().train(lab)
        assert lab.scores is None
    else:
        DBr().train(lab)
        assert lab.suspects() == set(range(54, 60))


def test_the_cost_is_a_full_training_and_17_epochs():
    for epochs, times in ((200, 1.1), (80, 1.2)):
        work = DBr().training_work(None, Recipe(epochs=epochs), INFO)
        total = sum(part.images for part in work) / (epochs * INFO.train)
        assert total == pytest.approx((epochs + 2 + 10 + 20 / 4) / epochs)
        assert round(total, 1) == times
        assert f"{times:g}" in DBr.__doc__


def test_the_trainings_are_those_of_the_authors_code(lab):
    DBr().train(lab)
    first, apart, undefended, last = lab.calls
    sgd = {"optimizer": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4, "batch_size": 128}
    early = {"lr": 0.01, "schedule": "cosine", "horizon": 100, "augment": ()}
    assert (sgd | early | {"epochs": 2}).items() <= first.settings.items()
    assert (sgd | early | {"epochs": 10, "training_loop": ClassesApart()}).items() <= apart.settings.items()
    assert apart.settings["start"].key == "trained 1"
    assert undefended.settings == {}
    assert (sgd | {"epochs": 20, "lr": 1e-4, "schedule": "constant"}).items() <= last.settings.items()
    assert last.settings["start"].key == "trained 3"
    assert "augment" not in last.settings


def test_an_epoch_ascends_on_poison_then_descends_on_the_rest():
    images, seen, losses = torch.zeros(11, 3, 4, 4), [], []
    labels = torch.arange(11) % 2
    weight = torch.tensor([1.0, 0.0], requires_grad=True)

    def views(rows):
        seen.append(rows[:, 0].tolist())
        return images[rows[:, 0]]

    loop = SimpleNamespace(
        net=lambda x01: weight.expand(len(x01), 2), images=images, labels=labels, step=losses.append, views=views,
        recipe=Recipe(batch_size=3), seed_for=lambda *purpose: 3, autocast=contextlib.nullcontext,
        rows=lambda picks, *purpose: torch.stack([picks] * 4, 1),
    )  # fmt: skip
    UnlearnRelearn(4).epoch(loop)
    # Four samples give a batch of three and one that is left alone; seven give two of three and one alone.
    assert [len(batch) for batch in seen] == [3, 3, 3]
    assert set(seen[0]) < {0, 1, 2, 3}
    assert set(seen[1] + seen[2]) < set(range(4, 11))
    for sign, batch, loss in zip((-1, 1, 1), seen, losses, strict=True):
        assert loss.item() == pytest.approx(sign * F.cross_entropy(weight.expand(3, 2), labels[batch]).item())


@pytest.mark.learning
@pytest.mark.usefixtures("one_thread", "fresh_registry")
def test_it_keeps_what_the_undefended_model_knows(small_lab, banded, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    data, poison, true = banded
    lab = small_lab(data)
    model = DBr(first_epochs=1, apart_epochs=2, unlearn_epochs=2).train(lab)
    undefended = lab.train(data)
    before, after = ((lab.logits(one, data).argmax(1) == true)[~poison].mean() for one in (undefended, model))
    assert after > before - 0.1
    assert lab._ledger.trainings == {"fine-tune": 3, "full": 1}


def test_predicted_sharing():
    def plan(**given):
        return DBr(**given).trainings(None)

    assert plan()[2] == UNDEFENDED
    assert plan(unlearn_epochs=5)[:3] == plan()[:3]
    assert plan(unlearn_epochs=5)[3] != plan()[3]
    assert plan(apart_epochs=5)[0] == plan()[0]
    assert len(set(plan())) == 4


@pytest.mark.parametrize("how", ["clean_ratio=0.0", "poison_ratio=0.9", "first_epochs=0", "batch=1", "unlearn_lr=0.0"])
def test_numbers_that_mean_nothing_are_refused(how):
    with pytest.raises(UsageError, match="d-br: "):
        registry.make("defenses", f"d-br({how})")
    with pytest.raises(Impossible, match="under two"):
        DBr(poison_ratio=0.0015).check(INFO, None)
