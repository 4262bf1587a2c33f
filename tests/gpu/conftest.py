"""The device of these tests: a GPU if there is one. Without one they rehearse on a CPU what `make gpu` does there.

On a CPU, a stand-in takes the place of CUDA's graph recorder, so that the code around a captured step runs there too.
"""

from __future__ import annotations

import os
import sys

import pytest
import torch
from eager_recorder import EagerRecorder
from toy_training import SIMPLE, make_net, toy_set  # noqa: F401  (fixtures)

from benchbd.engine import Precision, choose_precision, fit
from benchbd.engine.graph import GraphedStep


@pytest.fixture
def device() -> torch.device:
    """The first GPU, or the CPU. BENCHBD_TEST_DEVICE=cuda makes a missing GPU a failure."""
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    assert os.environ.get("BENCHBD_TEST_DEVICE") != "cuda", "torch sees no GPU"
    return torch.device("cpu")


@pytest.fixture
def precision(device, monkeypatch):
    """A function from a wish to a precision class. On a CPU, classes with a graph replay the stand-in's."""

    def choose(wish: str) -> Precision:
        if device.type == "cuda":
            return choose_precision(device, wish)
        graph = "eager" not in wish
        return Precision(f"cpu-{wish}", torch.bfloat16 if "fp32" not in wish else None, graph=graph)

    def fast_step(step, rows):
        captured = step.precision.graph and step.perturb is None and len(rows) == step.recipe.batch_size
        return GraphedStep(step, rows, EagerRecorder()) if captured else step

    if device.type == "cpu":
        monkeypatch.setattr(sys.modules["benchbd.engine.fit"], "fast_step", fast_step)
    return choose


@pytest.fixture
def train(device, precision, toy_set):  # noqa: F811
    """A function that trains a network on the toy set, on the device."""

    def run(net, wish, recipe=SIMPLE, **more):
        return fit(net, *toy_set, recipe, device=device, precision=precision(wish), seed=2, **more)

    return run
