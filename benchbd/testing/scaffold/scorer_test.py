"""my-plugin keeps its promises, and judges every sample."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchbd import registry, testing


@pytest.fixture(autouse=True)
def _known() -> None:
    registry.add_plugin_file(str(Path(__file__).with_name("my_plugin.py")))


def test_it_keeps_what_every_defense_promises() -> None:
    assert testing.check("defenses", "my-plugin") == []


def test_it_drops_the_share_that_it_is_told_to() -> None:
    record = testing.PluginUnderTest("defenses", "my-plugin", drop=0.2).run("one")
    assert record["status"] == "done"
    assert record["detection"]["flagged"] == 0.2 * 240
    assert 0 <= record["detection"]["auroc"] <= 1
