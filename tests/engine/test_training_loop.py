"""Trainings by a loop of a plugin's own: seeds, schedule, checkpoints between epochs, what is left behind."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchbd.core.recipe import Recipe
from benchbd.engine import fit, fit_with_loop
from benchbd.engine.augment import draw_epoch, draw_views
from benchbd.engine.epochs import NotFinite
from benchbd.errors import Diverged

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
SGD = {"optimizer": "sgd", "lr": 0.05, "schedule": "constant", "augment": ()}


@dataclasses.dataclass(frozen=True)
class Plain:
    """Cross-entropy, as the engine's own loop."""

    noise: float = 0.0

    def epoch(self, run):
        for rows in run.batches():
            logits = run.net(run.views(rows))
            loss = F.cross_entropy(logits, run.labels[rows[:, 0]])
            run.step(loss + self.noise * torch.rand(()))


@dataclasses.dataclass(frozen=True)
class WithHead(Plain):
    """A second head beside the network, which is frozen but for its own head."""

    def prepare(self, net):
        net.requires_grad_(False)
        net.head.requires_grad_(True)
        return nn.Linear(8, 3)

    def epoch(self, run):
        for rows in run.batches():
            features = run.net.features(run.views(rows))
            logits = run.net.head(features) + run.extra_module(features)
            run.step(F.cross_entropy(logits, run.labels[rows[:, 0]]))


class Kept:
    """A checkpoint in memory that stops the training after a number of saves."""

    def __init__(self, stop_after: int = 99) -> None:
        self.state, self.saves, self.stop_after = None, 0, stop_after

    def due(self):
        return True

    def save(self, state):
        self.state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}
        self.saves += 1
        if self.saves == self.stop_after:
            raise KeyboardInterrupt

    def load(self):
        return self.state


def trained(training_loop, net, data, plain, *, epochs=3, checkpoint=None, seed=4, told=None, **recipe):
    recipe = Recipe(**{"epochs": epochs, "batch_size": 32, **SGD, **recipe})
    result = fit_with_loop(
        training_loop, net, data.images, data.labels, recipe, device=CPU, precision=plain, seed=seed,
        checkpoint=checkpoint, on_progress=told,
    )  # fmt: skip
    return result, {k: v.clone() for k, v in net.state_dict().items()}


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.learning
def test_a_plain_routine_learns_and_tells_the_mean_of_what_it_minimised(toy_set, make_net, plain):
    told = []
    result, _ = trained(Plain(), make_net(), toy_set, plain, epochs=12, told=told.append, lr=0.3)
    assert len(result.epoch_losses) == 12
    assert result.steps == 12 * 5
    assert result.epoch_losses[-1] < 0.7 * result.epoch_losses[0]
    assert [(t["epoch"], t["epochs"], t["loss"]) for t in told] == [
        (n + 1, 12, loss) for n, loss in enumerate(result.epoch_losses)
    ]


def test_one_epoch_in_one_batch_equals_the_engines_own(toy_set, make_net, plain):
    """The order within a batch does not matter, so both do the same single step."""
    recipe = Recipe(epochs=1, batch_size=150, **SGD)
    own = make_net()
    fit(own, toy_set.images, toy_set.labels, recipe, device=CPU, precision=plain, seed=4)
    result, state = trained(Plain(), make_net(), toy_set, plain, epochs=1, batch_size=150)
    assert result.steps == 1
    for name, value in own.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)


def test_the_seed_decides_everything_and_the_callers_randomness_is_left_alone(toy_set, make_net, plain):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = trained(Plain(0.5), make_net(dropout=True), toy_set, plain)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two = trained(Plain(0.5), make_net(dropout=True), toy_set, plain)
    assert equal(one[1], two[1])
    assert one[0].epoch_losses == two[0].epoch_losses
    assert not equal(one[1], trained(Plain(0.5), make_net(dropout=True), toy_set, plain, seed=5)[1])


@pytest.mark.parametrize("training_loop", [Plain(0.5), WithHead()])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_killed_between_any_two_epochs_it_goes_on_to_the_same_bits(toy_set, make_net, plain, training_loop, optimizer):
    how = {"optimizer": optimizer, "lr": 0.01, "schedule": "cosine", "augment": ("crop4", "hflip")}
    whole, state = trained(training_loop, make_net(dropout=True), toy_set, plain, epochs=4, **how)
    for stop_after in (1, 3):
        kept = Kept(stop_after)
        with pytest.raises(KeyboardInterrupt):
            trained(training_loop, make_net(dropout=True), toy_set, plain, epochs=4, checkpoint=kept, **how)
        assert kept.state["epoch"] == stop_after
        kept.stop_after = 99
        resumed, again = trained(
            training_loop, make_net(9, dropout=True), toy_set, plain, epochs=4, checkpoint=kept, **how
        )
        assert equal(state, again)
        assert resumed.epoch_losses == whole.epoch_losses
        assert resumed.steps == whole.steps
        assert resumed.seconds > float(kept.state["seconds"])


def test_what_is_frozen_does_not_move_and_thaws_afterwards(toy_set, make_net, plain):
    net = make_net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    _, after = trained(WithHead(), net, toy_set, plain)
    moved = {k for k in after if not torch.equal(after[k], before[k]) and "norm" not in k}
    assert moved == {"net.head.weight", "net.head.bias"}
    assert all(p.requires_grad for p in net.parameters())
    assert not net.training


def test_what_is_trained_beside_is_drawn_from_the_seed_and_trained(toy_set, make_net, plain):
    heads = []

    @dataclasses.dataclass(frozen=True)
    class Watch(WithHead):
        def epoch(self, run):
            heads.append(run.extra_module.weight.detach().clone())
            super().epoch(run)

    for seed in (4, 4, 5):
        trained(Watch(), make_net(), toy_set, plain, epochs=2, seed=seed)
    first, trained_once, again, _, other, _ = heads
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, trained_once)


def test_the_schedule_is_the_recipes(toy_set, make_net, plain):
    rates = []

    @dataclasses.dataclass(frozen=True)
    class Watch(Plain):
        def epoch(self, run):
            rates.append(run.optimizer.param_groups[0]["lr"])
            super().epoch(run)

    trained(Watch(), make_net(), toy_set, plain, epochs=4, schedule="steps", milestones=(2,), lr=0.1)
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01])


@dataclasses.dataclass(frozen=True)
class Idle:
    def epoch(self, run):
        pass


@dataclasses.dataclass(frozen=True)
class Ruined:
    """Finite but for the second epoch's first step."""

    def epoch(self, run):
        for rows in run.batches():
            loss = F.cross_entropy(run.net(run.views(rows)), run.labels[rows[:, 0]])
            run.step(loss * float("nan") if run.epoch == 1 else loss)


def test_what_makes_no_step_or_no_finite_one_is_diverged(toy_set, make_net, plain):
    with pytest.raises(Diverged, match="epoch 1 of 3 made no step"):
        trained(Idle(), make_net(), toy_set, plain)
    with pytest.raises(NotFinite, match="not finite in epoch 2 of 3") as caught:
        trained(Ruined(), make_net(), toy_set, plain)
    assert len(caught.value.epoch_losses) == 2


def test_batches_hold_each_image_once_in_an_order_of_the_epoch(toy_set, make_net, plain):
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Watch(Plain):
        def epoch(self, run):
            own = torch.cat(run.batches())[:, 0]
            other = torch.cat(run.batches(7, turn=1))[:, 0]
            assert [len(rows) for rows in run.batches(75)] == [75, 75]
            seen.extend([own.tolist(), other.tolist()])
            super().epoch(run)

    trained(Watch(), make_net(), toy_set, plain, epochs=2)
    assert all(sorted(order) == list(range(150)) for order in seen)
    assert len({tuple(order) for order in seen}) == 4


def test_views_of_chosen_images_keep_their_order(toy_set, make_net, plain):
    picks = torch.tensor([5, 5, 149, 0])

    @dataclasses.dataclass(frozen=True)
    class Watch(Plain):
        def epoch(self, run):
            rows = run.rows(picks, "mine")
            assert rows[:, 0].tolist() == picks.tolist()
            assert torch.equal(rows, run.rows(picks, "mine"))
            assert not torch.equal(run.rows(picks.repeat(8), 1), run.rows(picks.repeat(8), 2))
            np.testing.assert_allclose(run.views(rows).numpy(), toy_set.images[picks].numpy() / 255, rtol=1e-6)
            logits = run.logits()
            assert logits.shape == (150, 3)
            run.net.eval()
            torch.testing.assert_close(logits[picks], run.net(run.views(rows)), rtol=1e-4, atol=1e-5)
            run.net.train()
            super().epoch(run)

    trained(Watch(), make_net(), toy_set, plain, epochs=1)


def test_drawn_rows_do_not_depend_on_who_asks_and_epochs_are_as_they_were():
    rows = draw_views(7, torch.arange(5))
    assert rows.shape == (5, 4)
    assert (rows[:, 1:3] <= 8).all()
    assert torch.equal(rows, draw_views(7, torch.arange(5)))
    # The engine's own trainings are stored under keys that say nothing of how an epoch is drawn.
    assert draw_epoch(3, 1, 4).tolist() == [[0, 5, 7, 1], [2, 4, 5, 0], [1, 3, 6, 0], [3, 8, 3, 0]]


@dataclasses.dataclass(frozen=True)
class Splitting(Plain):
    """Reports a pool of the even or odd positions in each epoch."""

    def epoch(self, run):
        places = torch.arange(run.epoch % 2, len(run.images), 2, device=run.device)
        mask = torch.zeros(len(run.images), dtype=torch.bool)
        mask[places] = True
        run.report_pool("half", places if run.epoch % 2 else mask)
        super().epoch(run)


def test_reported_pools_survive_a_kill_and_change_no_number(toy_set, make_net, plain):
    found, state = trained(Splitting(), make_net(), toy_set, plain)
    alone, same = trained(Plain(), make_net(), toy_set, plain)
    assert all(torch.equal(state[name], same[name]) for name in state)
    assert (alone.pools, found.epoch_losses) == ((), alone.epoch_losses)
    checkpoint = Kept(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        trained(Splitting(), make_net(), toy_set, plain, checkpoint=checkpoint)
    again, _ = trained(Splitting(), make_net(), toy_set, plain, checkpoint=Kept())
    checkpoint.stop_after = 99
    resumed, _ = trained(Splitting(), make_net(), toy_set, plain, checkpoint=checkpoint)
    assert resumed.pools == again.pools == found.pools
    assert [(pool.name, pool.epoch) for pool in found.pools] == [("half", 1), ("half", 2), ("half", 3)]
    for pool in found.pools:
        places = np.flatnonzero(pool.members())
        assert places.tolist() == list(range((pool.epoch - 1) % 2, len(toy_set.images), 2))
