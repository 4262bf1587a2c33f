"""Baselines: augmentation's mixtures by hand; DP-SGD's gradients by sample, its noise, its epsilon by quadrature."""

from __future__ import annotations

import contextlib
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchbd.core.images import Normalisation
from benchbd.core.recipe import Recipe
from benchbd.defenses import dp_sgd
from benchbd.defenses._privacy import ORDERS, divergence, epsilon
from benchbd.defenses.augment import Augment, Box, Mixing, box, cut_and_pasted
from benchbd.defenses.dp_sgd import DpSgd, Private, clipped_sum, steps_of_epoch
from benchbd.engine import build
from benchbd.errors import UsageError
from benchbd.plugins import registry

# Augmentation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "row", "column", "wanted"),
    [
        (0.75, 16, 16, Box(8, 24, 8, 24)),  # a quarter of 32 x 32 is a square of 16
        (0.75, 2, 31, Box(0, 10, 23, 32)),
        (1.0, 5, 5, Box(5, 5, 5, 5)),
        (0.0, 16, 16, Box(0, 32, 0, 32)),
    ],
)
def test_boxes(share, row, column, wanted):
    assert box(32, share, row, column) == wanted


def test_the_share_is_what_is_left():
    one, other = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)
    mixed, left = cut_and_pasted(one, other, Box(1, 4, 2, 8))
    assert mixed[:, :, 1:4, 2:8].min() == 1
    assert mixed.sum() == 2 * 3 * 18
    assert left == pytest.approx(1 - 18 / 64)
    assert one.sum() == 0


class Recorder(nn.Module):
    """Keeps what it sees; the logits are the mean of each colour."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.ones(3)), []

    def forward(self, x01):
        self.seen.append(x01.detach().clone())
        return x01.mean((2, 3)) * self.weight


def loop_over(images, labels, net, batches, smoothing=0.0):
    losses = []
    return SimpleNamespace(
        net=net, labels=labels, device=torch.device("cpu"), autocast=contextlib.nullcontext, losses=losses,
        recipe=Recipe(label_smoothing=smoothing, augment=()), seed_for=lambda *purpose: 11, step=losses.append,
        batches=lambda: [torch.stack([rows, rows, rows, rows], 1) for rows in torch.arange(len(images)).chunk(batches)],
        views=lambda rows: images[rows[:, 0]],
    )  # fmt: skip


def loss_of(seen, labels, own, partners, share, smoothing):
    logits = seen.mean((2, 3))
    parts = [F.cross_entropy(logits, labels[which], label_smoothing=smoothing) for which in (own, partners)]
    return (share * parts[0] + (1 - share) * parts[1]).item()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mixup_mixes_images_and_labels_alike(smoothing):
    """Image i is bright at pixel i alone, so that a mixture shows what it was made of."""
    images = torch.eye(64).view(64, 1, 8, 8) * torch.tensor([1.0, 5.0, 9.0]).view(1, 3, 1, 1)
    labels, net = torch.arange(64) % 3, Recorder()
    loop = loop_over(images, labels, net, 8, smoothing)
    Mixing("mixup", 1.0).epoch(loop)
    shares = []
    for number, (seen, loss) in enumerate(zip(net.seen, loop.losses, strict=True)):
        own = torch.arange(8) + 8 * number
        bright = seen[:, 0].flatten(1).clone()
        kept = bright[torch.arange(8), own]
        bright[torch.arange(8), own] = 0
        partners = torch.where(bright.max(1).values > 0, bright.argmax(1), own)
        share = kept.min().item()
        assert kept[partners != own].tolist() == pytest.approx([share] * int((partners != own).sum()))
        assert bright.max(1).values[partners != own].tolist() == pytest.approx(
            [1 - share] * int((partners != own).sum())
        )
        assert sorted(partners.tolist()) == own.tolist()
        assert loss.item() == pytest.approx(loss_of(seen, labels, own, partners, share, smoothing), abs=1e-4)
        shares.append(share)
    assert np.std(shares) > 0.1


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cutmix_weighs_labels_by_area(smoothing):
    """Each image has one value, which no other has: what a mixture shows tells what it was made of."""
    values = torch.arange(1, 129).float() / 128
    images = values.view(-1, 1, 1, 1) * torch.tensor([1.0, 5.0, 9.0]).view(1, 3, 1, 1).expand(128, 3, 8, 8)
    labels, net = torch.arange(128) % 3, Recorder()
    loop = loop_over(images, labels, net, 16, smoothing)
    Mixing("cutmix", 1.0).epoch(loop)
    mixed = 0
    for number, (seen, loss) in enumerate(zip(net.seen, loop.losses, strict=True)):
        own = torch.arange(8) + 8 * number
        inside = (seen[:, 0] != values[own].view(-1, 1, 1)).any(0)
        rows, columns = (inside.any(axis).nonzero().squeeze(1) for axis in (1, 0))
        assert inside.sum() == len(rows) * len(columns)  # a box
        share, where, partners = 1 - inside.float().mean().item(), inside.nonzero(), own
        if len(where):
            mixed += 1
            partners = (seen[:, 0, where[0, 0], where[0, 1]] * 128 - 1).round().long()
        assert sorted(partners.tolist()) == own.tolist()
        assert loss.item() == pytest.approx(loss_of(seen, labels, own, partners, share, smoothing), abs=1e-4)
    assert 3 <= mixed <= 13  # half of 16 batches


def test_cutout_is_the_recipe_s_own(fake_lab):
    lab = fake_lab(np.arange(8) % 2)
    Augment(policy="cutout").train(lab)
    assert lab.calls[0].settings == {"augment": ("crop4", "hflip", "cutout")}
    Augment().train(lab)
    assert lab.calls[1].settings == {"training_loop": Mixing("cutmix", 1.0)}


def test_what_a_plan_tells_apart():
    plans = {Augment(policy=policy, alpha=alpha).trainings(None) for policy in ("cutmix", "mixup") for alpha in (1, 2)}
    assert len(plans) == 4
    assert Augment(policy="cutout", alpha=2.0).trainings(None) == Augment(policy="cutout").trainings(None)


# DP-SGD ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def net(fresh_registry, one_thread):
    """A network with batch norm, whose layers keep their initial statistics."""
    from benchbd.engine.step import training_mode
    from benchbd.testing.plugin_under_test import register

    register()
    model = registry.make("models", "tiny-net", width=3)
    net = build(model, 4, 16, Normalisation((0.5,) * 3, (0.25,) * 3), 0)
    training_mode(net, "eval")
    return net


def by_samples(net, x01, labels, norm):
    """One backward pass for each sample, and numpy."""
    sums = {name: np.zeros(p.shape) for name, p in net.named_parameters()}
    squares = {name: np.zeros(p.shape) for name, p in net.named_parameters()}
    losses = []
    for image, label in zip(x01, labels, strict=True):
        net.zero_grad()
        loss = F.cross_entropy(net(image[None]), label[None])
        loss.backward()
        length = np.sqrt(sum((p.grad.double() ** 2).sum().item() for p in net.parameters()))
        for name, p in net.named_parameters():
            sums[name] += p.grad.numpy() * min(1.0, norm / length)
            squares[name] += (p.grad.numpy() * min(1.0, norm / length)) ** 2
        losses.append(loss.item())
    net.zero_grad()
    return sums, losses, squares


@pytest.mark.parametrize("chunk", [dp_sgd.CHUNK, 1])
def test_every_sample_is_clipped_alone(net, monkeypatch, chunk):
    monkeypatch.setattr(dp_sgd, "CHUNK", chunk)
    x01 = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(7) % 4
    for norm in (0.5, 1000.0):
        wanted, wanted_losses, _ = by_samples(net, x01, labels, norm)
        sums, losses = clipped_sum(net, x01, labels, norm)
        np.testing.assert_allclose(losses.numpy(), wanted_losses, rtol=1e-4)
        for name, total in sums.items():
            np.testing.assert_allclose(total.numpy(), wanted[name], rtol=1e-3, atol=1e-5)
    sums, losses = clipped_sum(net, x01[:0], labels[:0], 1.0)
    assert len(losses) == 0
    assert all(not total.any() for total in sums.values())


def test_a_step_has_the_gradient_of_the_lot_plus_noise(net):
    """The sum over many steps, the noise of which is drawn afresh, has the mean and deviation that it should."""
    images = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 4
    wanted, _, squares = by_samples(net, images, labels, 0.5)
    seen = []

    def step(loss):
        seen.append([g.numpy() for g in torch.autograd.grad(loss, list(net.parameters()))])

    picked = []
    loop = SimpleNamespace(
        net=net, images=images, labels=labels, device=torch.device("cpu"), recipe=Recipe(batch_size=10), step=step,
        rows=lambda picks, *purpose: picked.append(len(picks)) or torch.stack([picks] * 4, 1),
        views=lambda rows: images[rows[:, 0]],
    )  # fmt: skip
    for epoch in range(40):
        loop.seed_for = lambda *purpose, epoch=epoch: epoch
        Private(2.0, 0.5).epoch(loop)
    assert len(seen) == 160  # 40 samples in lots of 10
    assert np.mean(picked) == pytest.approx(10, abs=1)
    assert np.std(picked) == pytest.approx(np.sqrt(40 * 0.25 * 0.75), rel=0.25)
    for place, (name, _) in enumerate(net.named_parameters()):
        gradients = np.stack([step[place] for step in seen])
        # A lot has each sample with a chance of a quarter; the noise is sigma times the norm; both are over 10.
        mean, variance = wanted[name] / 40, (0.25 * 0.75 * squares[name] + (2.0 * 0.5) ** 2) / 10**2
        spread = gradients.std(0)
        assert np.sqrt((spread**2).mean()) == pytest.approx(np.sqrt(variance.mean()), rel=0.1)
        assert np.abs(gradients.mean(0) - mean).max() < 5 * spread.max() / np.sqrt(160)


@pytest.mark.parametrize(("rate", "sigma", "order"), [(0.01, 1.1, 2), (0.04, 1.5, 8), (0.3, 2.0, 17), (1.0, 1.0, 3)])
def test_the_divergence_is_that_of_two_densities(rate, sigma, order):
    x = np.linspace(-40, 60, 400_001)
    density = np.exp(-(x**2) / (2 * sigma**2)) / np.sqrt(2 * np.pi * sigma**2)
    ratio = 1 - rate + rate * np.exp((2 * x - 1) / (2 * sigma**2))
    with np.errstate(over="ignore", invalid="ignore"):
        integrand = np.nan_to_num(density * ratio**order, posinf=0.0)
    wanted = np.log(np.trapezoid(integrand, x)) / (order - 1)
    assert divergence(rate, sigma, order) == pytest.approx(wanted, rel=1e-4)


def test_epsilon_is_the_smallest_of_all_orders():
    found = epsilon(0.04, 1.5, 2250, 1e-5)
    assert found == pytest.approx(min(2250 * divergence(0.04, 1.5, a) + np.log(1e5) / (a - 1) for a in ORDERS))
    assert epsilon(0.04, 1.5, 100, 1e-5) < found < epsilon(0.04, 1.0, 2250, 1e-5)
    # One step with the whole set: a / (2 s^2) + log(1/delta) / (a - 1), smallest at a = 1 + s sqrt(2 log(1/delta)).
    exact = 1 / (2 * 5**2) + np.sqrt(2 * np.log(1e5)) / 5
    assert exact <= epsilon(1.0, 5.0, 1, 1e-5) < 1.01 * exact


@pytest.mark.learning
@pytest.mark.usefixtures("one_thread", "fresh_registry")
def test_it_learns_with_little_noise_and_says_how_private_it_is(small_lab, banded, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    data, poison, true = banded
    lab = small_lab(data)
    model = DpSgd(sigma=0.3, norm=1.0, epochs=20, batch=40, lr=0.5).train(lab)
    assert (lab.logits(model, data).argmax(1) == true)[~poison].mean() > 0.5  # chance is 0.25
    note = lab.notes["dp-sgd"]
    assert note["steps"] == 120
    assert note["epsilon"] == pytest.approx(epsilon(40 / 240, 0.3, 120, 1e-5))
    assert not any("running_mean" in name and value.any() for name, value in model._state.items())


def test_a_training_has_the_settings_of_opacus_example(fake_lab):
    lab = fake_lab(np.arange(100) % 2)
    plain = lab.train

    def train(data, **settings):
        trained = plain(data, **settings)
        trained.module = lambda: SimpleNamespace(net=SimpleNamespace(initialise_from=print))
        return trained

    lab.train = train
    DpSgd(batch=50).train(lab)
    (call,) = lab.calls
    wanted = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0, "epochs": 90}
    assert (wanted | {"schedule": "cosine", "bn": "eval", "augment": ()}).items() <= call.settings.items()
    assert call.settings["training_loop"] == Private(1.5, 10.0)
    assert lab.notes["dp-sgd"] == {"epsilon": None, "delta": 1e-5, "steps": 180, "sample_rate": 0.5}
    assert (DpSgd().batch, steps_of_epoch(50_000, 2000), steps_of_epoch(100, 2000)) == (2000, 25, 1)


@pytest.mark.parametrize("how", ["dp-sgd(sigma=0.0)", "dp-sgd(delta=1.0)", "dp-sgd(epochs=0)", "augment(alpha=0.0)"])
def test_numbers_that_mean_nothing_are_refused(how):
    with pytest.raises(UsageError, match=f"^{how.split('(')[0]}: "):
        registry.make("defenses", how)
