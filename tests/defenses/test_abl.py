"""ABL: losses and their gradients by hand, the three stages' settings, isolation, explosion."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchbd.core.images import DatasetInfo
from benchbd.defenses.abl import (
    EXPLODED,
    Abl,
    Flooding,
    GlobalGradientAscent,
    LocalGradientAscent,
    isolate,
)
from benchbd.engine.epochs import batch_bounds
from benchbd.errors import Diverged, Impossible, UsageError

HOW = ("kind", "name", "loss", "start", "trace")
"""Arguments of ``lab.train`` that are no entries of the recipe."""
INFO = DatasetInfo(classes=10, size=32, train=1000, test=100, class_counts=None, target=1)


def value_and_gradient(loss, losses, weights=None):
    values = torch.tensor(losses, requires_grad=True)
    out = loss(values, torch.ones(len(losses)) if weights is None else torch.tensor(weights))
    out.backward()
    return out.item(), values.grad.tolist()


def test_lga_descends_above_gamma_and_ascends_below():
    lga = LocalGradientAscent(0.5)
    assert value_and_gradient(lga, [1.0, 0.5]) == (0.75, [0.5, 0.5])
    assert value_and_gradient(lga, [0.25, 0.25]) == (-0.25, [-0.5, -0.5])
    # The batch decides: a sample of loss 0.125 still descends in a batch whose mean is above gamma.
    assert value_and_gradient(lga, [0.125, 1.875]) == (1.0, [0.5, 0.5])
    assert value_and_gradient(lga, [0.5, 0.5]) == (0.0, [0.0, 0.0])


def test_lga_per_sample_decides_on_each():
    assert value_and_gradient(LocalGradientAscent(0.5, "sample"), [0.125, 1.875]) == (0.875, [-0.5, 0.5])


def test_flooding():
    assert value_and_gradient(Flooding(0.5), [1.0, 0.5]) == (0.75, [0.5, 0.5])
    assert value_and_gradient(Flooding(0.5), [0.25, 0.25]) == (0.75, [-0.5, -0.5])
    assert value_and_gradient(Flooding(0.5, "sample"), [0.25, 1.0]) == (0.875, [-0.5, 0.5])


@pytest.mark.parametrize("level", ["batch", "sample"])
@given(losses=st.lists(st.floats(0, 10, width=32), min_size=1, max_size=20))
def test_lga_and_flooding_have_the_same_gradient(level, losses):
    one, other = (value_and_gradient(kind(0.5, level), losses)[1] for kind in (LocalGradientAscent, Flooding))
    assert one == other


def test_gga_is_plain_ascent_without_saturation():
    assert value_and_gradient(GlobalGradientAscent(), [1.0, 300.0]) == (-150.5, [-0.5, -0.5])
    assert value_and_gradient(GlobalGradientAscent(), [1.0, 3.0], [2.0, 0.0]) == (-1.0, [-1.0, 0.0])


def test_a_loss_is_named_by_all_that_it_does():
    texts = {
        repr(kind(g, s)) for kind in (LocalGradientAscent, Flooding) for g in (0.4, 0.5) for s in ("batch", "sample")
    }
    assert len(texts) == 8


def test_isolation_takes_the_lowest_with_ties_by_position():
    assert isolate(np.array([3.0, 1.0, 2.0, 1.0, 0.0]), 0.6).tolist() == [4, 1, 3]
    assert len(isolate(np.zeros(250), 0.01)) == 2


@pytest.fixture
def lab(fake_lab):
    return fake_lab(np.arange(300) % 3, losses=np.random.default_rng(0).permutation(300))


def test_the_three_stages(lab):
    Abl().train(lab)
    isolation, finetuning, unlearning = lab.calls
    sgd = {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
    assert [(call.settings["name"], call.settings["trace"]) for call in lab.calls] == [
        ("isolation", True), ("fine-tuning", True), ("unlearning", True),
    ]  # fmt: skip
    for call in lab.calls:
        assert sgd.items() <= call.settings.items()
        lab.recipe.but(**{k: v for k, v in call.settings.items() if k not in HOW})
    lowest = set(np.argsort(lab._given["losses"])[:3].tolist())

    assert isolation.ids.tolist() == list(range(300))
    assert {"epochs": 20, "lr": 0.1, "schedule": "constant", "augment": ()}.items() <= isolation.settings.items()
    assert isolation.settings["loss"] == LocalGradientAscent(0.5, "batch")
    assert "start" not in isolation.settings

    assert finetuning.ids.tolist() == [i for i in range(300) if i not in lowest]
    expected = {"epochs": 60, "lr": 0.1, "schedule": "steps", "milestones": (40,), "decay": 0.1}
    assert expected.items() <= finetuning.settings.items()
    assert finetuning.settings["start"].key == "trained 1"
    assert "augment" not in finetuning.settings
    assert "loss" not in finetuning.settings

    assert set(unlearning.ids.tolist()) == lowest
    expected = {"epochs": 80, "lr": 1e-4, "schedule": "constant", "augment": (), "bn": "train"}  # a step an epoch
    assert expected.items() <= unlearning.settings.items()
    assert unlearning.settings["loss"] == GlobalGradientAscent()
    assert unlearning.settings["start"].key == "trained 2"

    assert lab.suspects() == lowest
    assert sum(lab.notes["abl"]["isolated_per_class"]) == 3


@pytest.mark.parametrize(
    ("isolated", "batch"), [(500, 128), (392, 128), (94, 128), (129, 128), (1, 4), (9, 4), (50, 50)]
)
def test_the_ascent_has_the_published_number_of_steps_on_every_set(isolated, batch):
    """4 batches an epoch for 20 epochs, on CIFAR-10 and GTSRB; a single one on Imagenette, in 80 epochs."""
    batches = len(batch_bounds(isolated, batch))
    epochs = Abl()._ascent(isolated, batch)
    assert batches * (epochs - 1) < 80 <= batches * epochs
    assert Abl(unlearn_epochs=20)._ascent(isolated, batch) == 20


def test_the_ascent_at_the_paper_s_size_is_its_twenty_epochs():
    assert Abl()._ascent(int(50_000 * 0.01), 128) == 20
    assert Abl()._ascent(int(39_209 * 0.01), 128) == 20


def test_a_number_of_epochs_wins_over_the_steps(lab):
    Abl(unlearn_epochs=7).train(lab)
    Abl(unlearn_steps=3).train(lab)
    assert [call.settings["epochs"] for call in lab.calls[2::3]] == [7, 3]
    Abl(unlearn_steps=0).train(lab)
    assert len(lab.calls) == 8


def test_options(lab):
    Abl(loss="flooding", gamma=0.4, sign_level="sample", lr=0.01, finetune_data="all", bn_mode="eval").train(lab)
    isolation, finetuning, unlearning = lab.calls
    assert isolation.settings["loss"] == Flooding(0.4, "sample")
    assert isolation.settings["lr"] == finetuning.settings["lr"] == 0.01
    assert len(finetuning.ids) == 300
    assert unlearning.settings["bn"] == "eval"
    Abl(finetune_lr=0.02, unlearn_epochs=0).train(lab)
    assert len(lab.calls) == 5
    assert lab.calls[4].settings["lr"] == 0.02


def test_an_exploding_ascent_ends_as_diverged_with_its_epoch(fake_lab):
    def lab(*epoch_losses):
        return fake_lab(np.arange(300) % 3, losses=np.arange(300), epoch_losses=epoch_losses)

    Abl().train(lab(3.0, 500.0, EXPLODED))  # a large loss is the aim
    blown = lab(3.0, 500.0, 2 * EXPLODED)
    with pytest.raises(Diverged, match=r"exploded in epoch 3 of 80: mean cross-entropy 2e\+04"):
        Abl().train(blown)
    assert blown.notes["abl"]["unlearning_losses"] == [3.0, 500.0, 2 * EXPLODED]


@pytest.mark.parametrize(
    "settings",
    [
        {"ratio": 0.0},
        {"ratio": 1.0},
        {"turning_epochs": 0},
        {"unlearn_epochs": -1},
        {"unlearn_steps": -1},
        {"lr": 0.0},
        {"finetune_lr": -1.0},
        {"unlearn_lr": 0.0},
    ],
)
def test_numbers_that_mean_nothing_are_refused(settings):
    with pytest.raises(UsageError, match="abl"):
        Abl(**settings)


def test_check_refuses_a_ratio_that_isolates_nothing():
    Abl().check(INFO, None)
    with pytest.raises(Impossible, match="isolates none"):
        Abl(ratio=0.0005).check(INFO, None)


def test_predicted_sharing():
    def plan(**given):
        return Abl(**given).trainings(None)

    assert [t.kind for t in plan()] == ["fine-tune", "full", "fine-tune"]
    assert plan(ratio=0.02)[0] == plan()[0]
    assert plan(ratio=0.02)[1] != plan()[1]
    everything = plan(finetune_data="all", ratio=0.02)
    assert everything[:2] == plan(finetune_data="all")[:2]
    assert everything[2] != plan(finetune_data="all")[2]
    assert plan(finetune_lr=0.1) == plan()
    assert [t.kind for t in plan(finetune_epochs=0, unlearn_epochs=0)] == ["fine-tune"]
    assert plan(unlearn_epochs=80)[2] != plan()[2] != plan(unlearn_steps=20)[2]
    assert plan(unlearn_epochs=5, unlearn_steps=20) == plan(unlearn_epochs=5)
