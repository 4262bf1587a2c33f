"""my-plugin keeps its promises, and stamps the square where it should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchbd import StampContext, registry, testing


@pytest.fixture(autouse=True)
def _known() -> None:
    registry.add_plugin_file(str(Path(__file__).with_name("my_plugin.py")))


def test_it_keeps_what_every_attack_promises() -> None:
    assert testing.check("attacks", "my-plugin") == []


def test_it_changes_the_corner_and_nothing_else() -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    plugin = registry.make("attacks", "my-plugin", side=2)
    out = plugin.stamp(images, StampContext("test", np.arange(2), {}, 0))
    assert (out[:, :, :2, :2] == 255).all()
    assert int((out != images).sum()) == 2 * 3 * 2 * 2
