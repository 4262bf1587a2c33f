"""A matrix of the toy plugins, and what becomes of a text."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from benchbd.errors import UsageError
from benchbd.plan import matrix

ONE_CELL = "{dataset: toy-images, model: toy-net, attacks: toy-attack, defenses: toy-defense}"
"""A matrix of one cell."""
BASE = """
dataset: toy-images
model: toy-net
attacks: [none, toy-attack]
defenses: [none, toy-defense]
"""


def plan(text: str = BASE, **options: Any) -> matrix.Plan:
    return matrix.resolve(matrix.parse(textwrap.dedent(text), "m"), "m", **options)


def refused(text: str, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        plan(text, **options)
    return str(caught.value)
