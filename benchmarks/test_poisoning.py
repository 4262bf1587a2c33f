"""Poisoning 50,000 CIFAR-10-sized images with an attack that trains nothing takes less than 2 seconds on one core."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchbd.plugins import registry
from benchbd.plugins.contract import StampContext

COUNT = 50_000
LIMIT = 2.0
"""Seconds of processor time, which unlike wall-clock does not depend on what else the machine does."""
UNTRAINED = [
    "bn-g",
    "bn-w",
    "blend",
    "blend(mode='per_image')",
    "blend(mode='per_image', channels=3)",
    "tj-sq(mode='random')",
    "tj-sq(mode='random', apply='replace')",
    "tj-wm(mode='random')",
    "sig",
    "sig(variant='abl_uint8')",
    "l2(mode='noise')",
]


@pytest.mark.parametrize("text", UNTRAINED)
def test_poisoning_50000_images(benchmark, text):
    pytest.importorskip("pytest_benchmark")
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (COUNT, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    attack = registry.make("attacks", text)
    indices = np.arange(COUNT)

    seconds = []

    def poison() -> None:
        began = time.process_time()
        trigger = attack.prepare(SimpleNamespace(size=32, seed=3))
        attack.stamp(images, StampContext("train", indices, trigger, 3))
        seconds.append(time.process_time() - began)

    benchmark.pedantic(poison, rounds=2, iterations=1)
    assert min(seconds) < LIMIT
