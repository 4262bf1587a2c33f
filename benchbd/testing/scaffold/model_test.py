"""my-plugin keeps its promises, and its width sets the size of the head."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchbd import registry, testing


@pytest.fixture(autouse=True)
def _known() -> None:
    registry.add_plugin_file(str(Path(__file__).with_name("my_plugin.py")))


def test_it_keeps_what_every_model_promises() -> None:
    assert testing.check("models", "my-plugin") == []


def test_its_width_sets_the_size_of_the_head() -> None:
    net = registry.make("models", "my-plugin", width=8).build(10, 32)
    assert (net.head.in_features, net.head.out_features) == (32, 10)
