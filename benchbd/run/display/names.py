"""Short names of defenses and attacks for narrow tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from rich.cells import cell_len

from benchbd.core.short_text import shortened

DEFENSE, ATTACK = 16, 12
"""Longest short names, in columns of a terminal, whatever its width, so that an item has one name everywhere."""
ELLIPSIS = ".."


class Name(NamedTuple):
    """A defense or an attack: the plugin's name, and the text with its parameters."""

    name: str
    text: str


def short_names(items: Iterable[Name], width: int) -> dict[Name, str]:
    """A distinct name of at most ``width`` columns of a terminal for each item.

    It is the text with parameters if that fits, else the plugin's name if no other item has it, cut if it is too long,
    else the name with a number: ``bn-g#2`` is the second variant of bn-g. The legend gives the full texts.

    Args:
        items: the items, without duplicates.
        width: columns of the terminal, at least 6.
    """
    items = list(items)
    same = Counter(item.name for item in items)
    numbers: Counter[str] = Counter()
    found: dict[Name, str] = {}
    taken = {item.text for item in items if cell_len(item.text) <= width}
    for item in items:
        numbers[item.name] += 1
        if item.text in taken:
            found[item] = item.text
            continue
        bare = item.name if cell_len(item.name) <= width else shortened(item.name, width, ELLIPSIS)
        if same[item.name] > 1 or bare in taken:
            bare = _numbered(item.name, numbers[item.name], width, taken)
        found[item] = bare
        taken.add(bare)
    return found


def _numbered(name: str, number: int, width: int, taken: set[str]) -> str:
    while True:
        text = shortened(name, width, f"#{number}")
        if text not in taken:
            return text
        number += 1


def legend(names: dict[Name, str]) -> list[str]:
    """``lfd is lfd(beta=0)`` for every name that is not the full text."""
    return [f"{short} is {item.text}" for item, short in names.items() if short != item.text]
