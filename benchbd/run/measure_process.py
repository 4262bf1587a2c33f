"""The process that counts and times networks for a plan: ``python -m benchbd.run.measure_process``.

Planning imports no torch, so a process of its own does. It reads one JSON object from standard input (plugin files,
device and requests) and writes one JSON line for each request, as soon as it has the answer: ``{"value": ...}``, or
``{"error": "..."}``. ``"unbuilt": true`` says that the network cannot be built; a second request about it has no error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from benchbd.core.hashing import canonical
from benchbd.core.recipe import Recipe
from benchbd.errors import BenchbdError, one_line
from benchbd.plugins import registry

if TYPE_CHECKING:
    from benchbd.engine import Classifier, TrainingLoop

FAULTS = (BenchbdError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, MemoryError)
"""Errors that end one request; any other ends the process."""


class Unbuilt(BenchbdError):
    """A network that cannot be built."""


def answer(request: Mapping[str, Any], kind: str) -> Any:
    """The answer to one request.

    Args:
        request: has ``what``. ``class``: the name of the precision class of ``precision`` and ``threads``. The others
            are about ``model`` (name and params) for ``classes`` and ``size``. ``operations``: [step, forward].
            ``packing``: why it cannot be packed, '' if it can. ``rate``: seconds of training per image with ``recipe``,
            measured for ``seconds``; in the training loop of the defense ``loop`` (name and params), if there is one.
        kind: ``cpu`` or ``cuda``.

    Raises:
        Unbuilt: the network cannot be built.
    """
    import torch

    from benchbd.engine import choose_precision
    from benchbd.engine.operations import count_operations
    from benchbd.engine.packed import packing_fault
    from benchbd.engine.threads import cpu_threads
    from benchbd.engine.training_rate import seconds_per_image

    device = torch.device(kind)
    if request["what"] == "class":
        return choose_precision(device, request["precision"], request["threads"]).name
    name, size, net = request["model"]["name"], request["size"], _build(request, 0)
    with registry.blame("models", name):
        if request["what"] == "packing":
            return packing_fault([net, _build(request, 1)]) or ""
        if request["what"] == "operations":
            return list(count_operations(net, size))
    recipe = Recipe.parse(request["recipe"])
    precision = choose_precision(device, request["precision"], request["threads"])
    loop, blamed = None, registry.blame("models", name)
    if "loop" in request:
        loop, recipe = _timed_loop(request["loop"], recipe)
        blamed = registry.blame("defenses", request["loop"]["name"])
    with blamed, cpu_threads(request["threads"], device):
        return seconds_per_image(net, size, recipe, device, precision, seconds=request["seconds"], loop=loop)


def _build(request: Mapping[str, Any], seed: int) -> Classifier:
    """The network of a request. Raises Unbuilt."""
    from benchbd.core.images import Normalisation
    from benchbd.engine.network import build

    name = request["model"]["name"]
    try:
        model = registry.make("models", name, **request["model"]["params"])
        with registry.blame("models", name):
            return build(model, request["classes"], request["size"], Normalisation((0.5,) * 3, (0.5,) * 3), seed)
    except FAULTS as error:
        raise Unbuilt(_text(error)) from error


def _text(error: BaseException) -> str:
    return one_line(error) or type(error).__name__


def _timed_loop(spec: Mapping[str, Any], recipe: Recipe) -> tuple[TrainingLoop, Recipe]:
    """The training loop of a defense and the recipe that it trains with."""
    with registry.blame("defenses", spec["name"]):
        found = registry.make("defenses", spec["name"], **spec["params"]).timed_loop()
        if found is None:
            raise ValueError("training_work() names its loop, but timed_loop() returns none")
        loop, changes = found
        return loop, recipe.but(**changes)


def answers(requests: Iterable[Mapping[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    """What the process writes about each request. A network that cannot be built is tried once."""
    unbuilt: set[str] = set()
    for request in requests:
        network = canonical([request.get(fact) for fact in ("model", "classes", "size")])
        if network in unbuilt:
            yield {"unbuilt": True}
            continue
        try:
            yield {"value": answer(request, kind)}
        except Unbuilt as error:
            unbuilt.add(network)
            yield {"error": str(error), "unbuilt": True}
        except FAULTS as error:
            yield {"error": _text(error)}


def main() -> int:
    """Answer all requests."""
    # Only answers go to the run; what a plugin prints goes to standard error.
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    given = json.load(sys.stdin)
    for file in given["plugins"]:
        registry.add_plugin_file(file)
    for line in answers(given["requests"], given["device"]):
        lines.write(json.dumps(line) + "\n")
        lines.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
