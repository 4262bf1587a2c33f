"""A matrix of the toy plugins."""

from __future__ import annotations

from pathlib import Path

TOYS = str(Path(__file__).parents[1] / "zoo" / "toys.py")
MATRIX = """
description: Toys.
dataset: toy-images
model: toy-net
attacks: [none, toy-attack, toy-clean(rate=0.2)]
defenses: [none, toy-defense]
plugins: [TOYS]
""".replace("TOYS", TOYS)
