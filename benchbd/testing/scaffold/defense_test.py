"""my-plugin keeps its promises, and judges every sample."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchbd import UsageError, registry, testing


@pytest.fixture(autouse=True)
def _known() -> None:
    registry.add_plugin_file(str(Path(__file__).with_name("my_plugin.py")))


def test_it_keeps_what_every_defense_promises() -> None:
    assert testing.check("defenses", "my-plugin") == []


def test_it_judges_every_sample() -> None:
    record = testing.PluginUnderTest("defenses", "my-plugin", fraction=0.2).run("one")
    assert record["status"] == "done"
    assert 0 <= record["detection"]["auroc"] <= 1


def test_it_refuses_to_drop_everything() -> None:
    with pytest.raises(UsageError, match="fraction"):
        registry.make("defenses", "my-plugin", fraction=1.0)
