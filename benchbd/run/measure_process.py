"""The process that counts and times networks for a plan: ``python -m benchbd.run.measure_process``.

Planning imports no torch, so a process of its own does. It reads one JSON object from standard input (plugin files,
device and requests) and writes one JSON line for each request, as soon as it has the answer.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchbd.core.recipe import Recipe
from benchbd.errors import BenchbdError, one_line
from benchbd.plugins import registry

if TYPE_CHECKING:
    from benchbd.engine import TrainingLoop


def answer(request: Mapping[str, Any], kind: str) -> Any:
    """The answer to one request.

    Args:
        request: has ``what``. ``class``: the name of the precision class of ``precision`` and ``threads``. The others
            are about ``model`` (name and params) for ``classes`` and ``size``. ``operations``: [step, forward].
            ``packing``: why it cannot be packed, '' if it can. ``rate``: seconds of training per image with ``recipe``,
            measured for ``seconds``; in the training loop of the defense ``loop`` (name and params), if there is one.
        kind: ``cpu`` or ``cuda``.
    """
    import torch

    from benchbd.core.images import Normalisation
    from benchbd.engine import choose_precision
    from benchbd.engine.network import build
    from benchbd.engine.operations import count_operations
    from benchbd.engine.packed import packing_fault
    from benchbd.engine.threads import cpu_threads
    from benchbd.engine.training_rate import seconds_per_image

    device = torch.device(kind)
    if request["what"] == "class":
        return choose_precision(device, request["precision"], request["threads"]).name
    name, params = request["model"]["name"], request["model"]["params"]
    model = registry.make("models", name, **params)
    size = request["size"]
    with registry.blame("models", name):
        given = (model, request["classes"], size, Normalisation((0.5,) * 3, (0.5,) * 3))
        net = build(*given, 0)
        if request["what"] == "packing":
            return packing_fault([net, build(*given, 1)]) or ""
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


def _timed_loop(spec: Mapping[str, Any], recipe: Recipe) -> tuple[TrainingLoop, Recipe]:
    """The training loop of a defense and the recipe that it trains with."""
    with registry.blame("defenses", spec["name"]):
        found = registry.make("defenses", spec["name"], **spec["params"]).timed_loop()
        if found is None:
            raise ValueError("training_work() names its loop, but timed_loop() returns none")
        loop, changes = found
        return loop, recipe.but(**changes)


def main() -> int:
    """Answer all requests."""
    # Only answers go to the run; what a plugin prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    given = json.load(sys.stdin)
    for file in given["plugins"]:
        registry.add_plugin_file(file)
    for request in given["requests"]:
        try:
            line = {"value": answer(request, given["device"])}
        except (BenchbdError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, MemoryError) as error:
            line = {"error": one_line(error) or type(error).__name__}
        answers.write(json.dumps(line) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
