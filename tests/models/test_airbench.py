"""The whitening network: filters that whiten, where they come from, and what may not move them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchbd.core.images import Normalisation
from benchbd.core.recipe import Recipe
from benchbd.engine import Classifier, Precision, build, fit, fit_with_loop
from benchbd.engine.packed import fit_packed
from benchbd.errors import Impossible
from benchbd.plugins import registry

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
GREY = Normalisation((0.5,) * 3, (0.25,) * 3)


def network(size: int = 32, seed: int = 0, width: int = 4) -> Classifier:
    return build(registry.make("models", f"airbench(width={width})"), 3, size, GREY, seed)


def pictures(count: int = 60, size: int = 32) -> torch.Tensor:
    """Smooth images, whose neighbouring pixels agree as those of photographs do."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(count, 3, size // 4, size // 4, generator=generator)
    return (F.interpolate(coarse, size=(size, size), mode="bilinear") * 255).to(torch.uint8)


def patches(x: torch.Tensor) -> np.ndarray:
    """All 2x2 patches, (12, P), by numpy."""
    windows = np.lib.stride_tricks.sliding_window_view(x.double().numpy(), (2, 2), axis=(2, 3))
    return windows.transpose(1, 4, 5, 0, 2, 3).reshape(12, -1)


def test_filters_whiten_the_patches_of_the_images():
    """Twelve uncorrelated values of variance 1, as far as the patches vary at all; and their negatives."""
    net, images = network(), pictures()
    net.initialise_from(images)
    x = net.normalise(images.float() / 255)
    filters = net.net.whitening.filters
    out = filters[:12].view(12, 12).double().numpy() @ patches(x)
    covariance = out @ out.T / out.shape[1]
    spread = np.linalg.eigvalsh(patches(x) @ patches(x).T / out.shape[1])[::-1]
    np.testing.assert_allclose(covariance, np.diag(spread / (spread + 5e-4)), atol=1e-4)
    assert torch.equal(filters[12:], -filters[:12])
    np.testing.assert_allclose(
        net.net.whitening(x).detach()[0, :12].double().numpy().ravel(), _first(out, x), atol=1e-3
    )


def _first(out: np.ndarray, x: torch.Tensor) -> np.ndarray:
    per_image = (x.shape[2] - 1) * (x.shape[3] - 1)
    return out[:, :per_image].ravel()


def test_images_are_read_in_chunks_and_spread_over_the_set(monkeypatch):
    from benchbd.engine import network as module
    from benchbd.models import _airbench

    whole = network()
    whole.initialise_from(pictures())
    monkeypatch.setattr(_airbench, "CHUNK", 7)
    chunked = network()
    chunked.initialise_from(pictures())
    torch.testing.assert_close(
        chunked.net.whitening.filters.abs(), whole.net.whitening.filters.abs(), atol=1e-3, rtol=1e-3
    )
    monkeypatch.setattr(module, "DATA_PIXELS", 20 * 32 * 32)
    seen = []
    monkeypatch.setattr(_airbench.Whitening, "whiten", lambda self, images: seen.append(images))
    network().initialise_from(pictures(61))
    assert len(seen[0]) == 20
    torch.testing.assert_close(seen[0][1], (pictures(61)[3].float() / 255 - 0.5) / 0.25)


def test_a_network_that_draws_from_the_generator_draws_the_same_and_leaves_it_alone(monkeypatch):
    from benchbd.models import _airbench

    drawn = []
    monkeypatch.setattr(_airbench.Whitening, "whiten", lambda self, images: drawn.append(torch.rand(3)))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    for _ in range(2):
        network().initialise_from(pictures(2))
        torch.rand(1)
    assert torch.equal(*drawn)
    torch.set_rng_state(before)
    network().initialise_from(pictures(2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [9, 16, 31, 32, 48, 64, 96, 224])
def test_any_size_from_nine_pixels_on(size):
    net = network(size).eval()
    x = torch.rand(2, 3, size, size)
    assert net(x).shape == (2, 3)
    assert net.net.halvings == {64: 1, 96: 1, 224: 2}.get(size, 0)


def test_smaller_images_are_refused():
    from benchbd.core.images import DatasetInfo

    with pytest.raises(Impossible, match="9x9"):
        registry.make("models", "airbench").check(DatasetInfo(10, 8, 100, 10, None, 0))


RECIPE = Recipe.parse({"preset": "fast", "epochs": 2, "batch_size": 32})


@dataclasses.dataclass(frozen=True)
class Thawing:
    """A plugin's loop that lets every parameter be trained, as DBD's second stage does."""

    def prepare(self, net: nn.Module) -> None:
        net.requires_grad_(True)

    def epoch(self, run: Any) -> None:
        for rows in run.batches():
            run.step(F.cross_entropy(run.net(run.views(rows)), run.labels[rows[:, 0]]))


def test_no_training_moves_the_filters_and_batch_norms_scale_stays_one():
    images, labels = pictures(), torch.arange(60) % 3
    for train in (fit, lambda net, *args, **how: fit_with_loop(Thawing(), net, *args, **how)):
        net = network()
        net.initialise_from(images)
        before = {k: v.clone() for k, v in net.state_dict().items()}
        train(net, images, labels, RECIPE, device=CPU, precision=Precision("cpu-fp32"), seed=1)
        assert torch.equal(net.net.whitening.filters, before["net.whitening.filters"])
        assert not torch.equal(net.net.groups[0].conv1.weight, before["net.groups.0.conv1.weight"])
        if train is fit:
            assert all(bool((m.weight == 1).all()) for m in net.modules() if isinstance(m, nn.BatchNorm2d))


MUON = Recipe.parse({"preset": "muon", "epochs": 2, "batch_size": 32, "lr": 0.01, "muon_lr": 0.01})


@pytest.mark.parametrize(
    "recipe", [RECIPE.but(lr=0.01), Recipe(epochs=2, batch_size=32, lr=1e-3), MUON], ids=["fast", "adam", "muon"]
)
def test_a_pack_trains_what_each_network_trains_alone(recipe):
    """Each is whitened by its own images. The tolerance is that of tests/engine/test_packed.py."""
    images = [pictures(), pictures().flip(1).div(2, rounding_mode="floor")]
    labels = [torch.arange(60) % 3, torch.arange(60) // 2 % 3]
    alone, packed = ([network(seed=seed, width=2) for seed in range(2)] for _ in range(2))
    for nets in (alone, packed):
        for net, own in zip(nets, images, strict=True):
            net.initialise_from(own)
    filters = [net.net.whitening.filters.clone() for net in packed]
    assert not torch.equal(*filters)
    precision = Precision("cpu-fp32")
    found = fit_packed(packed, images, labels, recipe, device=CPU, precision=precision, seeds=[0, 1])
    for number, net in enumerate(alone):
        theirs = fit(net, images[number], labels[number], recipe, device=CPU, precision=precision, seed=number)
        assert found[number].epoch_losses == pytest.approx(theirs.epoch_losses, rel=1e-3)
        mine = packed[number]
        # Adam divides gradients by their own size, so that rounding grows: 1.4e-3 with AVX512, less with AVX2.
        torch.testing.assert_close(mine.state_dict(), net.state_dict(), rtol=5e-3, atol=1e-4)
        assert torch.equal(mine.net.whitening.filters, filters[number])
        assert all(bool((m.weight == 1).all()) for m in mine.modules() if isinstance(m, nn.BatchNorm2d))


def test_fine_pruning_finds_the_filters_that_feed_the_head():
    from benchbd.plugins.trained import last_filters

    net = network().eval()
    names = last_filters(net)
    assert names == ["net.groups.2.conv2.weight", "net.groups.2.norm2.weight", "net.groups.2.norm2.bias"]
    with torch.no_grad():
        for name in names:
            net.state_dict()[name][3] = 0
        features = net.features(torch.rand(5, 3, 32, 32))
    assert bool((features[:, 3] == 0).all())
    assert bool((features != 0).any(0)[[0, 1, 2, 4]].all())


@pytest.mark.learning
def test_it_learns_in_a_few_steps():
    images, labels = pictures(300), torch.arange(300) % 3
    images[torch.arange(300), labels, :10, :10] = 255
    net = network()
    net.initialise_from(images)
    result = fit(
        net,
        images,
        labels,
        dataclasses.replace(RECIPE, epochs=6, lr=0.1),
        device=CPU,
        precision=Precision("cpu-fp32"),
        seed=1,
    )
    assert result.epoch_losses[-1] < 0.7 * result.epoch_losses[0]
