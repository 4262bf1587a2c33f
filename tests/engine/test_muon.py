"""Muon: its matrices against the singular value decomposition, its steps against a plain loop, its packs."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from toy_training import EVERYTHING

from benchbd.core.recipe import Recipe
from benchbd.engine import Precision, fit
from benchbd.engine.augment import draw_epoch
from benchbd.engine.epochs import batch_bounds
from benchbd.engine.muon import nearly_orthogonal
from benchbd.engine.state import make_optimizer
from benchbd.errors import UsageError

CPU = torch.device("cpu")
MUON = EVERYTHING.but(epochs=2, optimizer="muon", muon_lr=0.02, bias_lr=4.0, schedule="cosine", augment=())


def by_decomposition(matrix: np.ndarray) -> np.ndarray:
    """The polynomial of Jordan et al., three times, on the singular values, in float64."""
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    values = values / np.sqrt((values**2).sum())
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left * values @ right


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6), (1, 5), (16, 144)])
def test_the_matrix_is_the_polynomial_of_the_singular_values(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    found = nearly_orthogonal(matrices)
    for matrix, mine in zip(matrices, found, strict=True):
        np.testing.assert_allclose(mine.numpy(), by_decomposition(matrix.numpy()), rtol=1e-3, atol=1e-4)


def test_singular_values_come_out_near_one():
    """As the docstring says: from a tenth of the norm on, between 0.6 and 1.3; small ones grow about fortyfold."""
    side = 8
    axes = torch.linalg.qr(torch.randn(side, side, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    shares = torch.tensor([0.9, 0.3, 0.2, 0.15, 0.1, 0.1, 0.1, 1e-4], dtype=torch.float64)
    matrix = axes @ torch.diag(shares) @ axes.T
    values = torch.linalg.svdvals(nearly_orthogonal(matrix[None] * 7)[0])
    assert values[:-1].min() > 0.6
    assert values.max() < 1.3
    assert 38 < values[-1] / (shares[-1] / shares.norm()) < 42


def test_a_gradient_of_zero_leaves_the_direction_of_filters():
    assert torch.equal(nearly_orthogonal(torch.zeros(1, 4, 9)), torch.zeros(1, 4, 9))


def textbook(net, data, recipe: Recipe) -> None:
    """Two epochs of Muon and SGD, written out with numpy's decomposition and plain arithmetic."""
    mean = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    net.train()
    for epoch in range(recipe.epochs):
        order, bounds = draw_epoch(2, epoch, 150, recipe.augment)[:, 0], batch_bounds(150, recipe.batch_size)
        for start, end in bounds:
            share = recipe.lr_at(epoch) / recipe.lr
            picks = order[start:end]
            net.zero_grad()
            F.cross_entropy(net(data.images[picks].float() / 255), data.labels[picks]).backward()
            for name, p in net.named_parameters():
                filters, gentle = p.ndim == 4, name.endswith("bias") or "norm" in name
                rate = share * recipe.lr * (recipe.bias_lr if gentle else 1)
                gradient = p.grad if filters else p.grad + recipe.weight_decay / (recipe.bias_lr if gentle else 1) * p
                mean[name] = recipe.momentum * mean[name] + gradient
                gradient = (gradient + recipe.momentum * mean[name]) if recipe.nesterov else mean[name]
                with torch.no_grad():
                    if not filters:
                        p -= rate * gradient
                        continue
                    p *= len(p) ** 0.5 / p.norm()
                    flat = by_decomposition(gradient.detach().flatten(1).numpy())
                    p -= share * recipe.muon_lr * torch.from_numpy(flat).float().view_as(p)
    net.eval()


@pytest.mark.parametrize(
    "changes",
    [{}, {"nesterov": False}, {"momentum": 0.0, "nesterov": False}, {"bias_lr": 1.0}],
    ids=["nesterov", "momentum", "no momentum", "one rate"],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_equals_a_plain_loop(make_net, toy_set, changes, channels_last):
    recipe = dataclasses.replace(MUON, **changes)
    net, expected = make_net(), make_net()
    textbook(expected, toy_set, recipe)
    precision = Precision("cpu-fp32", channels_last=channels_last, graph=False)
    fit(net, *toy_set, recipe, device=CPU, precision=precision, seed=2)
    for (name, mine), theirs in zip(net.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=2e-4, msg=name)


def test_filters_train_by_muon_and_all_else_by_sgd(make_net):
    net = make_net()
    made = make_optimizer(net, MUON, CPU)
    groups = {group["orthogonal"]: group for group in made.param_groups if group["lr_factor"] != MUON.bias_lr}
    assert {id(p) for p in groups[True]["params"]} == {id(net.net.first.weight), id(net.net.second.weight)}
    assert {id(p) for p in groups[False]["params"]} == {id(net.head.weight)}
    assert groups[True]["lr"] == pytest.approx(MUON.muon_lr)
    assert groups[True]["weight_decay"] == 0


def test_frozen_filters_stay(make_net, toy_set, plain):
    net = make_net()
    net.net.first.weight.requires_grad_(False)
    before = net.net.first.weight.clone()
    fit(net, *toy_set, MUON, device=CPU, precision=plain, seed=2)
    assert torch.equal(net.net.first.weight, before)
    assert not torch.equal(net.net.second.weight.norm(), before.norm())


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        (
            {"optimizer": "muon", "lr": 0.0},
            "muon_lr follows the schedule of lr, so a muon_lr above 0 needs an lr above 0",
        ),
        ({"optimizer": "muon", "muon_lr": -1.0}, "muon_lr must be 0 or more, not -1.0"),
    ],
)
def test_rates_that_mean_nothing_are_refused(entries, problem):
    with pytest.raises(UsageError, match=problem):
        Recipe(**entries)


def test_a_recipe_without_muon_keeps_its_identity():
    assert "muon_lr" not in Recipe().spec()
    assert Recipe(optimizer="muon", muon_lr=0.1).spec()["muon_lr"] == 0.1
    assert Recipe(optimizer="muon", muon_lr=0.1).but(optimizer="sgd").muon_lr == Recipe().muon_lr


def test_a_network_of_one_kind_of_weights_trains():
    """A rate of zero for both leaves filters their direction; without filters Muon is SGD."""
    still = Recipe(optimizer="muon", lr=0.0, muon_lr=0.0)
    filters, layer = torch.nn.Conv2d(2, 4, 3, bias=False), torch.nn.Linear(3, 2)
    for net, images in ((filters, torch.randn(1, 2, 3, 3)), (layer, torch.randn(1, 3))):
        before = net.weight.detach().clone()
        made = make_optimizer(net, still, CPU)
        net(images).square().sum().backward()
        made.step()
        after = net.weight.detach()
        torch.testing.assert_close(after / after.norm(), before / before.norm())


def test_a_step_within_autocast_is_the_step_without():
    """A plugin's loop may call ``run.step`` where it computes the loss."""

    def stepped(context):
        net = torch.nn.Conv2d(3, 8, 3, bias=False)
        torch.nn.init.normal_(net.weight, generator=torch.Generator().manual_seed(3))
        made = make_optimizer(net, MUON, CPU)
        net.weight.grad = torch.randn(net.weight.shape, generator=torch.Generator().manual_seed(4))
        with context:
            made.step()
        return net.weight.detach()

    assert torch.equal(stepped(torch.autocast("cpu")), stepped(contextlib.nullcontext()))
