"""Trainings on a GPU: a graph equals eager, strict repeats bit for bit, sets that do not fit, resumes, packs."""

from __future__ import annotations

import sys

import pytest
import torch
from killed_training import Kept, Killed
from toy_training import EVERYTHING, SIMPLE

from benchbd.core.images import Normalisation
from benchbd.core.recipe import Recipe
from benchbd.engine import PerEpochWeights, build, fit, losses_of
from benchbd.engine.augment import draw_epoch
from benchbd.engine.packed import fit_packed
from benchbd.engine.state import make_optimizer
from benchbd.engine.step import Step, training_mode
from benchbd.plugins import registry


def same(one, other) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a.cpu(), b.cpu()) for a, b in pairs)


def close(one, other) -> None:
    """Equal but for the order of sums; Adam makes whole steps of gradients near zero, whatever their sign."""
    states = ({name: tensor.cpu() for name, tensor in net.state_dict().items()} for net in (one, other))
    torch.testing.assert_close(*states, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("recipe", [SIMPLE, EVERYTHING], ids=["simple", "everything"])
def test_a_graph_equals_eager(make_net, train, recipe):
    graphed, eager = make_net(), make_net()
    one, other = train(graphed, "fp32-strict", recipe), train(eager, "fp32-strict-eager", recipe)
    assert one.epoch_losses == pytest.approx(other.epoch_losses, rel=1e-4)
    close(graphed, eager)


def test_strict_repeats_bit_for_bit(make_net, train):
    one, other = make_net(dropout=True), make_net(dropout=True)
    assert train(one, "strict").epoch_losses == train(other, "strict").epoch_losses
    assert same(one, other)


@pytest.mark.parametrize("kill_at", [3, 5, 8])
def test_a_resumed_training_is_the_same_bit_for_bit(make_net, train, kill_at):
    """Killed within an epoch, at its end, and in the next one; the graph is captured again."""
    whole, resumed, kept = make_net(dropout=True), make_net(seed=99, dropout=True), Kept(kill_at)
    expected = train(whole, "fp32-strict", EVERYTHING)
    with pytest.raises(Killed):
        train(make_net(dropout=True), "fp32-strict", EVERYTHING, checkpoint=kept)
    kept.kill_at = 0
    assert train(resumed, "fp32-strict", EVERYTHING, checkpoint=kept).epoch_losses == expected.epoch_losses
    assert same(whole, resumed)


def test_a_set_that_stays_on_the_host_trains_the_same(make_net, train, monkeypatch):
    """A window of one batch on the device, which a graph reads."""
    resident, streamed = make_net(), make_net()
    train(resident, "fp32-strict")
    monkeypatch.setattr(sys.modules["benchbd.engine.fit"], "too_large", lambda images, device: True)
    train(streamed, "fp32-strict")
    assert same(resident, streamed)


def test_weights_of_each_epoch_reach_the_graph(make_net, train):
    weights = PerEpochWeights(make_net(seed=1), lambda losses: 1 / (1 + losses))
    graphed, eager, plain = make_net(), make_net(), make_net()
    train(graphed, "fp32-strict", epoch_weights=weights)
    train(eager, "fp32-strict-eager", epoch_weights=weights)
    train(plain, "fp32-strict")
    close(graphed, eager)
    assert not same(graphed, plain)


def test_a_training_learns_in_the_usual_class(make_net, toy_set, train, device):
    """bf16 on GPUs that have it: the losses of a whole pass fall."""
    net = make_net()
    before = losses_of(net, toy_set.images, toy_set.labels, device=device).mean()
    train(net, "auto", SIMPLE.but(epochs=6))
    assert losses_of(net, toy_set.images, toy_set.labels, device=device).mean() < before


def test_adversarial_batches_train_without_a_graph(make_net, train):
    def perturb(net, x01, labels):
        x01 = x01.detach().requires_grad_()
        (slope,) = torch.autograd.grad(net(x01).sum(), x01)
        return (x01 + 0.01 * slope.sign()).clamp(0, 1)

    assert len(train(make_net(), "auto", perturb=perturb).epoch_losses) == SIMPLE.epochs


def test_dropout_is_drawn_anew_at_each_replay_and_seeded(make_net, train):
    """lr 0 and frozen statistics: only the dropout can make two epochs differ."""
    recipe = Recipe(epochs=2, batch_size=50, lr=0.0, augment=(), bn="eval")
    one, other = (train(make_net(dropout=True), "fp32-strict", recipe) for _ in range(2))
    assert one.epoch_losses == other.epoch_losses
    assert abs(one.epoch_losses[0] - one.epoch_losses[1]) > 1e-4


def test_a_step_waits_for_nothing(make_net, toy_set, device, precision):
    """CUDA's mode in which waiting for the device is an error."""
    data = [t.to(device) for t in (*toy_set, torch.ones(150))]
    net, recipe = make_net().to(device).to(memory_format=torch.channels_last), EVERYTHING
    training_mode(net, recipe.bn)
    step = Step(net, make_optimizer(net, recipe, device), *data, recipe, precision("auto"))
    rows = draw_epoch(1, 0, 150, recipe.augment).to(device)
    step(rows[:32])
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(rows[32:64])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(tensor).all() for tensor in step.tensors().values())


def test_a_loss_that_looks_trains_without_a_graph(make_net, train, caplog):
    def curious(losses, weights):
        return losses.mean() if losses.mean() > 0 else losses.sum()

    net, eager = make_net(), make_net()
    train(net, "fp32-strict", loss=curious)
    train(eager, "fp32-strict-eager", loss=curious)
    close(net, eager)
    assert "training without a CUDA graph" in caplog.text


def test_packed_networks_train_as_alone(device, precision):
    nets, alone = ([_teacher(seed) for seed in range(3)] for _ in range(2))
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (64, 3, 16, 16), generator=generator, dtype=torch.uint8)
    labels, recipe = torch.arange(64) % 3, Recipe(epochs=2, batch_size=16, lr=1e-3, augment=())
    how = {"device": device, "precision": precision("fp32-strict")}
    fits = fit_packed(nets, [images] * 3, [labels] * 3, recipe, seeds=range(3), **how)
    for seed, (net, packed) in enumerate(zip(alone, fits, strict=True)):
        done = fit(net, images, labels, recipe, seed=seed, **how)
        assert packed.epoch_losses == pytest.approx(done.epoch_losses, rel=1e-2)


def _teacher(seed: int):
    return build(registry.make("models", "resnet-s"), 3, 16, Normalisation((0.4,) * 3, (0.2,) * 3), seed)
