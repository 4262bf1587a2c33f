"""Operations of an image, held to counts by hand and to a second count by another method."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
import torch
from torch import nn

from benchbd.core.images import Normalisation
from benchbd.core.recipe import Recipe
from benchbd.engine import LoopContext, choose_precision
from benchbd.engine.network import Classifier, build
from benchbd.engine.operations import count_operations
from benchbd.engine.training_rate import seconds_per_image
from benchbd.plugins import registry

HALF = Normalisation((0.5,) * 3, (0.5,) * 3)


class Small(nn.Module):
    """Two convolutions, of which the second may have groups, and a head."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=groups)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 2)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.second(self.first(x).relu())).relu().mean((2, 3))


@pytest.mark.parametrize("groups", [1, 4])
def test_a_small_network_by_hand(groups: int) -> None:
    """Multiply-adds: 8x8 pixels x 4 filters of 3x3x3; 4x4 x 8 filters of 3x3x4 (a group sees 4 / groups); 8x2."""
    first, second, head = 64 * 4 * 27, 16 * 8 * 36 // groups, 16
    found = count_operations(Classifier(Small(groups), HALF), 8)
    assert found.forward == 2 * (first + second + head)
    # Backward: gradients of filters and of inputs, which for the first layer are images and need none.
    assert found.step == 2 * (2 * first + 3 * second + 3 * head)


def independent(net: Classifier, size: int) -> tuple[float, float]:
    """Multiply-adds of forward pass and step by hooks: outputs times what each output sums up."""
    found: list[float] = []

    def note(module: nn.Module, _: object, output: torch.Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        found.append(output[0].numel() * weight[0].numel())

    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(note)
    with torch.no_grad():
        net.eval()(torch.rand(1, 3, size, size))
    return sum(found), 3 * sum(found) - found[0]


@pytest.mark.parametrize(
    ("model", "size"),
    [("lenet-s", 32), ("resnet18", 32), ("resnet-s", 32), ("mobilenetv2", 32), ("resnet18(width=8)", 64)],
)
def test_shipped_models_agree_with_another_count(model: str, size: int) -> None:
    net = build(registry.make("models", model), 10, size, HALF, 0)
    forward, step = independent(net, size)
    found = count_operations(build(registry.make("models", model), 10, size, HALF, 0), size)
    assert found.forward == 2 * forward
    assert found.step == 2 * step


def test_resnet18_has_the_published_number() -> None:
    """0.56 billion multiply-adds on CIFAR-10 (kuangliu's network, as model zoos count it)."""
    found = count_operations(build(registry.make("models", "resnet18"), 10, 32, HALF, 0), 32)
    assert found.forward == pytest.approx(2 * 0.5556e9, rel=1e-3)


def test_a_frozen_first_layer_needs_no_gradients() -> None:
    """Neither of its weights nor of its outputs."""
    net = Small()
    net.first.requires_grad_(False)
    moving = count_operations(Classifier(Small(), HALF), 8)
    still = count_operations(Classifier(net, HALF), 8)
    assert moving.step - still.step == 2 * (64 * 4 * 27 + 16 * 8 * 36)


@pytest.mark.parametrize("optimizer", get_args(get_type_hints(Recipe)["optimizer"]))
def test_a_rate_is_measured_with_the_training_loop(optimizer: str) -> None:
    """The weights stay, as nothing is learnt; Muon gives filters their norm."""
    device = torch.device("cpu")
    recipe = Recipe(batch_size=16, augment=("hflip",)).but(optimizer=optimizer)
    net = Classifier(Small(), HALF)
    before = net.net.first.weight.detach().clone()
    seconds = seconds_per_image(net, 8, recipe, device, choose_precision(device, "fp32"), seconds=0.01)
    assert 0 < seconds < 0.1
    after = net.net.first.weight.detach()
    if optimizer == "muon":
        torch.testing.assert_close(after / after.norm(), before / before.norm())
    else:
        assert torch.equal(after, before)


def test_a_rate_is_measured_with_a_plugins_own_loop() -> None:
    """It trains as the loop says: in batches of the recipe, at a learning rate of 0."""
    seen: list[tuple[int, float]] = []

    class Loop:
        def epoch(self, loop: LoopContext) -> None:
            for rows in loop.batches():
                seen.append((len(rows), loop.optimizer.param_groups[0]["lr"]))
                loop.step(loop.net(loop.views(rows)).square().mean())

    device = torch.device("cpu")
    how = (8, Recipe(batch_size=16, augment=()), device, choose_precision(device, "fp32"))
    net = Classifier(Small(), HALF)
    assert 0 < seconds_per_image(net, *how, seconds=0.01, loop=Loop()) < 0.1
    assert all(4 <= size <= 16 for size, _ in seen)  # slow networks have smaller batches
    assert {rate for _, rate in seen} == {0.0}
    assert len(seen) > 2
