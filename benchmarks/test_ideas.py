"""Ideas that were tried on the step of the fast track, against the step as it is; docs/speed.md holds the figures.

Two more need nothing but their environment: set ``MALLOC_MMAP_THRESHOLD_`` or ``THP_MEM_ALLOC_ENABLE`` before pytest.
"""

from __future__ import annotations

import dataclasses
import resource
import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchbd.core.allocator import kept_if_little
from benchbd.core.images import Normalisation
from benchbd.core.recipe import Recipe
from benchbd.engine import build, choose_precision
from benchbd.engine.augment import draw_epoch
from benchbd.engine.state import make_optimizer
from benchbd.engine.step import Step, training_mode
from benchbd.plugins import registry

CPU = torch.device("cpu")
NORMALISATION = Normalisation((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
GELU = F.gelu
pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("one_thread")]


class Biased(nn.Module):
    """The whitening with a bias, whose gradient needs that of the largest maps."""

    def __init__(self, whitening: nn.Module) -> None:
        super().__init__()
        self.register_buffer("filters", whitening.filters)
        self.bias = nn.Parameter(torch.zeros(len(self.filters)))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filters, self.bias)


def make_step(spec: str, recipe: Recipe, planes: bool = False, biased: bool = False) -> Callable[[], None]:
    """A step of the fast track on random images."""
    precision = choose_precision(CPU)._replace(channels_last=not planes)
    count = recipe.batch_size
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    net = build(registry.make("models", spec), 10, 32, NORMALISATION, 0)
    net.initialise_from(images)
    if biased:
        net.net.whitening = Biased(net.net.whitening)
    net.to(memory_format=torch.contiguous_format if planes else torch.channels_last)
    training_mode(net, recipe.bn)
    labels = torch.arange(count) % 10
    step = Step(net, make_optimizer(net, recipe, CPU), images, labels, torch.ones(count), recipe, precision)
    rows = draw_epoch(0, 0, count, recipe.augment)
    return lambda: step(rows)


def test_ideas(benchmark, report, full, monkeypatch):
    """Seconds and page faults of a step, in turns. Without bars: what loses here may win on another CPU."""
    spec, rounds = ("airbench", 3) if full else ("airbench(width=4)", 1)
    fast = Recipe.parse({"preset": "fast", **({} if full else {"batch_size": 16})})
    muon = dataclasses.replace(fast, optimizer="muon")
    double = Recipe.parse({**fast.spec(), "batch_size": 2 * fast.batch_size})
    plain = make_step(spec, fast)

    def with_gelu(other: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def work() -> None:
            with monkeypatch.context() as patch:
                patch.setattr(F, "gelu", other)
                plain()

        return work

    ideas = {
        "as it is": (plain, fast.batch_size),
        "planes": (make_step(spec, fast, planes=True), fast.batch_size),
        "GELU by tanh": (with_gelu(lambda x: GELU(x, approximate="tanh")), fast.batch_size),
        "ReLU": (with_gelu(F.relu), fast.batch_size),
        "whitening with a bias": (make_step(spec, fast, biased=True), fast.batch_size),
        "Muon": (make_step(spec, muon), fast.batch_size),
        "twice the batch": (make_step(spec, double), double.batch_size),
    }
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in ideas}

    def turn() -> None:
        for name, (work, images) in ideas.items():
            faults, began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
            work()
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
            found[name].append(((time.process_time() - began) / images * 1e3, faults))

    plain()
    with kept_if_little():
        benchmark.pedantic(turn, rounds=rounds, iterations=1)
    for name, measured in found.items():
        each, faults = (statistics.median(values) for values in zip(*measured, strict=True))
        report.append(f"{spec}, {name}: {each:.2f} ms an image, {faults:.0f} page faults a step")
        assert each > 0
