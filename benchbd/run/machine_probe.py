"""The process that looks at a machine for ``benchbd env --check``: ``python -m benchbd.run.machine_probe SECONDS``.

It writes one JSON line for each fact as soon as it knows it, so that a caller who stops it has those it found.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from benchbd.core.recipe import Recipe
from benchbd.errors import UsageError, one_line
from benchbd.plugins import registry

if TYPE_CHECKING:
    import torch

PRODUCT = {"cpu": 512, "cuda": 8192}
"""Side of the square matrices that are multiplied."""
PRODUCT_SECONDS = 0.4
STUDENT = {"cpu": ("airbench(width=8)", "fast"), "cuda": ("resnet18", "paper")}
"""Model and recipe whose training step is timed."""
SIZE = 32
"""Pixels on a side of its images."""
WISHES = ("fp32", "bf16")


class Fact(NamedTuple):
    """A fact: what it is about, of which device, and its value."""

    what: str
    device: str
    value: Any


def facts(seconds: float) -> Iterator[Fact]:
    """Everything about this machine's devices, cheap facts first.

    Args:
        seconds: of one measurement of a training step.
    """
    import torch

    from benchbd.engine import choose_precision

    build = torch.version.cuda or torch.version.hip
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    yield Fact("torch", "", {"version": torch.__version__, "cuda": build, "gpus": count})
    devices = [torch.device("cuda", index) for index in range(count)] + [torch.device("cpu")]
    for device in devices:
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            name = torch.cuda.get_device_name(device)
            yield Fact("gpu", str(device), {"name": name, "free_bytes": free, "total_bytes": total})
        yield Fact("class", str(device), {wish: choose_precision(device, wish).name for wish in ("auto", "fp32")})
    first = devices[0]  # several GPUs of a machine are alike as a rule
    if first.type == "cuda":
        yield Fact("graph", str(first), graph_fault(first))
    usual = choose_precision(first).name
    wishes = sorted(WISHES, key=lambda wish: wish not in usual)  # what trainings use comes first: time may run out
    for wish in wishes:
        value = _attempt(lambda wish=wish: product_rate(first, wish))  # type: ignore[misc]
        yield Fact("product", str(first), {"precision": wish, **value})
    for wish in wishes:
        value = _attempt(lambda wish=wish: step_rate(first, wish, seconds))  # type: ignore[misc]
        yield Fact("step", str(first), {"precision": wish, **value})


def _attempt(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return measure()
    except (UsageError, RuntimeError, MemoryError) as error:
        return {"error": one_line(error) or type(error).__name__}


def product_rate(device: torch.device, wish: str) -> dict[str, Any]:
    """Operations per second of products of square matrices: the median of several."""
    import torch

    size, dtype = PRODUCT[device.type], torch.bfloat16 if wish == "bf16" else torch.float32
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def once() -> float:
        began = time.perf_counter()
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    once()
    times, end = [once()], time.perf_counter() + PRODUCT_SECONDS
    while time.perf_counter() < end:
        times.append(once())
    return {"side": size, "operations_per_second": 2 * size**3 / statistics.median(times)}


def step_rate(device: torch.device, wish: str, seconds: float) -> dict[str, Any]:
    """Images per second of a training step of a usual model, with its data and optimiser."""
    from benchbd.core.images import Normalisation
    from benchbd.engine import choose_precision
    from benchbd.engine.network import build
    from benchbd.engine.operations import count_operations
    from benchbd.engine.training_rate import seconds_per_image

    spec, preset = STUDENT[device.type]
    net = build(registry.make("models", spec), 10, SIZE, Normalisation((0.5,) * 3, (0.25,) * 3), 0)
    operations = count_operations(net, SIZE).step
    precision, recipe = choose_precision(device, wish), Recipe.parse({"preset": preset})
    each = seconds_per_image(net, SIZE, recipe, device, precision, seconds=seconds)
    found = {"model": spec, "class": precision.name, "images_per_second": 1 / each}
    return {**found, "operations_per_second": operations / each}


def graph_fault(device: torch.device) -> str | None:
    """Capture and replay a training step as a CUDA graph; says in one line what fails, None if it works."""
    import torch

    from benchbd.engine.graph import CudaRecorder

    weight = torch.zeros(64, 64, device=device, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)

    def step() -> None:
        (weight - 1).square().sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    try:
        recorder = CudaRecorder(device)
        recorder.warm_up(step)
        replay = recorder.record(step)
        before = weight.detach().clone()
        replay()
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        return one_line(error)
    return None if not torch.equal(before, weight) else "a captured step changes nothing when it is replayed"


def main() -> int:
    """Write the facts."""
    # Only facts go to the caller; what a library prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for fact in facts(float(sys.argv[1])):
        answers.write(json.dumps(fact._asdict()) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
