"""A training step of the model and recipe of the fast track, as a share of the core's own rate of matrix products."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch

from benchbd.core.allocator import kept_if_little
from benchbd.core.images import Normalisation
from benchbd.core.recipe import Recipe
from benchbd.engine import build, choose_precision
from benchbd.engine.augment import batch_of, draw_epoch, unit_range
from benchbd.engine.precision import arithmetic
from benchbd.engine.state import make_optimizer
from benchbd.engine.step import Step, training_mode
from benchbd.plugins import registry

CPU = torch.device("cpu")
NORMALISATION = Normalisation((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("one_thread")]


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


@pytest.mark.parametrize(("spec", "bar"), [("airbench", 0.65), ("airbench(width=16)", 0.55)])
def test_share_of_the_cores_matrix_products(request, benchmark, spec, bar):
    """Bars: a share of the rate of a product of 2048 x 2048 in the same precision, and 5 % of a step for the data."""
    from torch.utils.flop_counter import FlopCounterMode

    full = bool(request.config.getoption("benchmark_only", False))
    rounds, batch = (7, None) if full else (1, {"batch_size": 16})
    recipe = Recipe.parse({"preset": "fast", **(batch or {})})
    precision = choose_precision(CPU)
    count = 2 * recipe.batch_size
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    net = build(registry.make("models", spec), 10, 32, NORMALISATION, 0)
    net.initialise_from(images)
    net.to(memory_format=torch.channels_last)
    training_mode(net, recipe.bn)
    labels = torch.arange(count) % 10
    step = Step(net, make_optimizer(net, recipe, CPU), images, labels, torch.ones(count), recipe, precision)
    rows = draw_epoch(0, 0, count, recipe.augment)[: recipe.batch_size]
    side = 2048 if full else 64
    square = torch.randn(side, side, dtype=precision.dtype or torch.float32)

    def data() -> None:
        net.normalise(unit_range(batch_of(images, rows, recipe.augment), precision.channels_last))

    with FlopCounterMode(display=False) as counter:
        step(rows)
    works = {"step": lambda: step(rows), "product": lambda: square @ square, "data": data}
    times: dict[str, list[float]] = {name: [] for name in works}
    with arithmetic(CPU, strict=False, search=False), kept_if_little():
        for _ in range(rounds):
            for name, work in works.items():
                times[name].append(_seconds(work))
        benchmark.pedantic(works["step"], rounds=1)
    medians = {name: statistics.median(found) for name, found in times.items()}
    rate, possible = counter.get_total_flops() / medians["step"], 2 * side**3 / medians["product"]
    each, share = medians["step"] / recipe.batch_size, medians["data"] / medians["step"]
    line = (
        f"{spec}, {precision.name}, batch {recipe.batch_size}: {each * 1e3:.2f} ms an image, "
        f"{rate / 1e9:.0f} GFLOP/s, {rate / possible:.0%} of a matrix product's; data {share:.1%} of a step"
    )
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if full:
        reporter.write_line(f"\n{line}")
        assert rate / possible >= bar, line
        assert share <= 0.05, line
