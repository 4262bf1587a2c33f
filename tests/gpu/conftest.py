"""The device of these tests: a GPU if there is one. Without one they rehearse on a CPU what `make gpu` does there.

Trainings then run on a pretended GPU (tests/helpers/pretended_gpu.py), so that CUDA's own paths are rehearsed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from pretended_gpu import pretended_gpu
from toy_training import SIMPLE, make_net, toy_set  # noqa: F401  (fixtures)

from benchbd.engine import Precision, choose_precision, fit

REAL = torch.cuda.is_available()


@pytest.fixture
def machine() -> torch.device:
    """The first GPU, or the CPU. BENCHBD_TEST_DEVICE=cuda makes a missing GPU a failure."""
    assert REAL or os.environ.get("BENCHBD_TEST_DEVICE") != "cuda", "torch sees no GPU"
    return torch.device("cuda", 0) if REAL else torch.device("cpu")


@pytest.fixture
def device(machine, monkeypatch) -> Iterator[torch.device]:
    """The first GPU, or a pretended one."""
    if REAL:
        yield machine
        return
    with pretended_gpu(monkeypatch):
        yield torch.device("cuda", 0)


@pytest.fixture
def precision(device):
    """A function from a wish to a precision class."""

    def choose(wish: str) -> Precision:
        return choose_precision(device, wish)

    return choose


@pytest.fixture
def train(device, precision, toy_set):  # noqa: F811
    """A function that trains a network on the toy set, on the device."""

    def run(net, wish, recipe=SIMPLE, **more):
        return fit(net, *toy_set, recipe, device=device, precision=precision(wish), seed=2, **more)

    return run
