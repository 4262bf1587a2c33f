"""Measures how fast a device trains a network, with the training loop itself."""

from __future__ import annotations

import contextlib
import functools
import itertools
import statistics
import time
from collections.abc import Callable

import torch

from benchbd.core.recipe import Recipe
from benchbd.engine.fit import fit
from benchbd.engine.network import Classifier
from benchbd.engine.precision import Precision
from benchbd.engine.training_loop import TrainingLoop, fit_with_loop

EPOCH = 0.3
"""Seconds that one timed epoch should take at least."""
MOST_STEPS = 64
"""Steps of a timed epoch at most."""
FIRST = 4
"""Images of the first steps, which find out how slow the network is."""


class _EnoughError(Exception):
    """Ends a training once it has run long enough."""


def seconds_per_image(
    net: Classifier,
    size: int,
    recipe: Recipe,
    device: torch.device,
    precision: Precision,
    *,
    seconds: float,
    loop: TrainingLoop | None = None,
) -> float:
    """Seconds of training per image: the median of several short epochs, data side and optimizer included.

    On one CPU thread this is processor time, which other programs on the machine change little.

    Args:
        net: the network, which is trained on noise at a learning rate of 0.
        size: image height and width in pixels.
        recipe: optimizer, batch size and augmentation.
        device: where to train.
        precision: from :func:`benchbd.engine.choose_precision`.
        seconds: time to spend. A network of which one step takes longer is measured with a smaller batch.
        loop: a plugin's own training loop; None for the usual training.
    """
    device = torch.device(device)
    recipe = recipe.but(lr=0.0, muon_lr=0.0, epochs=100_000, horizon=None)
    train = fit if loop is None else functools.partial(fit_with_loop, loop)

    def measure(batch: int, steps: int, limit: float) -> float:
        trial = recipe.but(batch_size=batch)
        return _median_epoch(train, net, batch * steps, size, trial, device, precision, limit) / (batch * steps)

    few = min(FIRST, recipe.batch_size)
    slow = measure(few, 1, 0.0)
    batch = max(few, min(recipe.batch_size, int(seconds / 2 / slow)))
    return measure(batch, max(1, min(MOST_STEPS, int(EPOCH / (slow * batch)))), seconds)


def _median_epoch(
    train: Callable[..., object],
    net: Classifier,
    count: int,
    size: int,
    recipe: Recipe,
    device: torch.device,
    precision: Precision,
    limit: float,
) -> float:
    """Seconds of an epoch of ``count`` images: the median of those after the first, which warms up."""
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    labels = torch.arange(count) % net.head.out_features
    times: list[float] = []
    began = time.perf_counter()

    def note(epoch: int, _: Classifier) -> None:
        times.append(clock())
        if len(times) > 1 and time.perf_counter() - began >= limit:
            raise _EnoughError

    with contextlib.suppress(_EnoughError):
        train(net, images, labels, recipe, device=device, precision=precision, seed=0, on_epoch=note)
    return statistics.median(after - before for before, after in itertools.pairwise(times))
