"""The steps of poisoning, for the tests, and what the watched attacks did in them."""

from __future__ import annotations

from pathlib import Path

from benchbd import testing
from benchbd.pipeline.poison import Poisoner
from benchbd.pipeline.run_cell import execute
from benchbd.plugins import registry

PLUGINS = Path(__file__).parents[1] / "zoo" / "watched.py"


def calls() -> list[str]:
    """What the watched attacks did."""
    return registry.load("attacks", "watch-drawn").prepare.__globals__["CALLS"]


def make(poisoner: Poisoner):
    clean, info = poisoner.train_set()
    return clean, info, poisoner.poison(clean, info)


def run(tmp_path, attack: str, defense: str = "none", on_event=None, **given) -> dict:
    this = testing.cell(dataset="tiny(train=80,test=20,size=16)", attack=attack, defense=defense, epochs=1, **given)
    record = execute(this.to_json(), output=tmp_path / "out", device="cpu", on_event=on_event)
    assert record["status"] == "done", record["error"]
    return record
