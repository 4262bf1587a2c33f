"""bf16 trainings within another autocast context: each step computes with the weights that the last one left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from benchbd.core.images import Normalisation
from benchbd.core.recipe import Recipe
from benchbd.engine import build, choose_precision, fit, fit_with_loop
from benchbd.engine.global_state import usual_settings
from benchbd.engine.packed import fit_packed
from benchbd.plugins import registry

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=3, batch_size=16, lr=0.01, augment=())


class Loop:
    """The engine's own training, as a plugin would write it, with a pass without gradients first."""

    def epoch(self, run):
        for rows in run.batches():
            views = run.views(rows)
            with torch.no_grad(), run.autocast():
                run.net(views)
            with run.autocast():
                logits = run.net(views)
            run.step(F.cross_entropy(logits, run.labels[rows[:, 0]]))


def alone(nets, images, labels, how):
    return [fit(nets[0], images, labels, RECIPE, seed=0, **how)]


def loop(nets, images, labels, how):
    return [fit_with_loop(Loop(), nets[0], images, labels, RECIPE, seed=0, **how)]


def packed(nets, images, labels, how):
    return fit_packed(nets, [images] * 2, [labels] * 2, RECIPE, seeds=range(2), **how)


def usual():
    return usual_settings(torch.get_num_threads())


def disabled():
    return torch.autocast("cpu", enabled=False)


@contextlib.contextmanager
def enabled():
    """A plugin that trains within its own autocast context."""
    with torch.autocast("cpu"), usual_settings(torch.get_num_threads()):
        yield


@pytest.mark.parametrize("train", [alone, loop, packed])
@pytest.mark.parametrize("around", [usual, disabled, enabled])
def test_a_step_in_bf16_sees_the_weights_of_the_last(train, around: Callable[[], contextlib.AbstractContextManager]):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 3
    images = torch.randint(0, 120, (48, 3, 16, 16), generator=generator).to(torch.uint8)
    images[torch.arange(48), labels] += 130
    how = {"device": CPU, "precision": choose_precision(CPU, "bf16")}

    def losses():
        model = registry.make("models", "resnet-s")
        nets = [build(model, 3, 16, Normalisation((0.5,) * 3, (0.25,) * 3), seed) for seed in range(2)]
        return [one.epoch_losses for one in train(nets, images, labels, how)]

    expected = losses()
    with around():
        assert losses() == expected
    assert all(of_one[-1] < of_one[0] for of_one in expected)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_usual_settings_end_an_autocast_mode_and_bring_it_back(kind):
    torch.set_autocast_enabled(kind, True)
    try:
        with usual_settings(None):
            assert not torch.is_autocast_enabled(kind)
        assert torch.is_autocast_enabled(kind)
    finally:
        torch.set_autocast_enabled(kind, False)
