"""Sets that stay on the host, against the same on the device: bit for bit."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from benchbd.core.recipe import Recipe
from benchbd.engine import PerEpochWeights, fit
from benchbd.engine.batch_buffer import SHARE, BatchBuffer, too_large

CPU = torch.device("cpu")
"""The device of these tests; what matters is which tensor a batch is taken from."""


@pytest.fixture
def on_host(monkeypatch):
    """No device holds any set."""
    monkeypatch.setattr(sys.modules["benchbd.engine.fit"], "too_large", lambda images, device: True)


def train(net, images, labels, recipe, precision, **more):
    result = fit(net, images, labels, recipe, device=CPU, precision=precision, seed=3, **more)
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}, result.epoch_losses


def same(one, other) -> bool:
    return one[1] == other[1] and all(torch.equal(one[0][name], other[0][name]) for name in one[0])


@pytest.mark.parametrize("augment", [(), ("hflip",), ("crop4", "hflip")])
@pytest.mark.parametrize("batch_size", [32, 37])
def test_trains_to_the_same_bits(make_net, toy_set, plain, monkeypatch, augment, batch_size):
    """The last batch is smaller than the others, or larger by the one image that would be left."""
    recipe = Recipe(epochs=2, batch_size=batch_size, augment=augment)
    images, labels = toy_set.images[:149], toy_set.labels[:149]
    resident = train(make_net(), images, labels, recipe, plain)
    monkeypatch.setattr(sys.modules["benchbd.engine.fit"], "too_large", lambda images, device: True)
    assert same(resident, train(make_net(), images, labels, recipe, plain))


def test_a_memory_mapped_set_is_never_copied_whole(make_net, toy_set, plain, on_host, tmp_path, monkeypatch):
    data = toy_set
    np.save(tmp_path / "images.npy", data.images.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="c"))
    loaded: list[int] = []
    load = BatchBuffer.load
    monkeypatch.setattr(BatchBuffer, "load", lambda self, picks: (loaded.append(len(picks)), load(self, picks))[1])
    recipe = Recipe(epochs=1, batch_size=32)
    assert same(
        train(make_net(), mapped, data.labels, recipe, plain),
        train(make_net(), data.images, data.labels, recipe, plain),
    )
    assert loaded == [32, 32, 32, 32, 22] * 2


def test_weights_made_anew_each_epoch(make_net, toy_set, plain, monkeypatch):
    data, recipe = toy_set, Recipe(epochs=2, batch_size=32, augment=("crop4", "hflip"))
    epoch_weights = PerEpochWeights(make_net(), lambda losses: 1 / (1 + losses))
    resident = train(make_net(), data.images, data.labels, recipe, plain, epoch_weights=epoch_weights)
    monkeypatch.setattr(sys.modules["benchbd.engine.fit"], "too_large", lambda images, device: True)
    assert same(resident, train(make_net(), data.images, data.labels, recipe, plain, epoch_weights=epoch_weights))


def test_what_a_gpu_can_hold_goes_there(monkeypatch):
    images = torch.zeros(10, 3, 8, 8, dtype=torch.uint8)
    free = 0
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1 << 40))
    free = int(images.numel() / SHARE) + 1
    assert not too_large(images, torch.device("cuda"))
    free -= 2
    assert too_large(images, torch.device("cuda"))
    assert not too_large(images, CPU)
