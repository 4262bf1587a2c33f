"""docs/plugins.md names every public attribute and call of the lab, the workshop and a training loop."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from benchbd.core.recipe import Recipe
from benchbd.engine import Classifier, LoopContext, choose_precision
from benchbd.plugins.handles import Lab, Workbench, Workshop

OLD = {"number", "beside"}
"""Names of an earlier release, which the page lists under Old names."""
PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()


def public(*classes: type) -> set[str]:
    names = {name for cls in classes for name in (*vars(cls), *vars(cls).get("__annotations__", {}))}
    return {name for name in names if not name.startswith("_")}


def documented(handle: str) -> set[str]:
    return set(re.findall(rf"`{handle}\.(\w+)", PAGE))


def test_every_public_name_of_the_lab() -> None:
    assert public(Workbench, Lab) <= documented("lab")


def test_every_public_name_of_the_workshop() -> None:
    section = PAGE.split("### The workshop", 1)[1].split("\n## ", 1)[0]
    assert public(Workshop) == documented("workshop")
    assert public(Workbench) <= set(re.findall(r"`(\w+)`", section))


def test_every_public_name_of_a_training_loop() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(3, 2)

    net: Classifier = Net()  # type: ignore[assignment]
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.long)
    loop = LoopContext(net, None, images, labels, Recipe(epochs=1), choose_precision(torch.device("cpu"), "fp32"), 0)
    names = public(LoopContext) | {name for name in vars(loop) if not name.startswith("_")}
    assert names - OLD <= documented("loop")


@pytest.mark.parametrize("handle", ["lab", "workshop"])
def test_no_name_is_documented_that_is_not_there(handle: str) -> None:
    there = {"lab": public(Workbench, Lab), "workshop": public(Workbench, Workshop)}
    assert documented(handle) <= there[handle]
