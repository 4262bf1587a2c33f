"""Short names of defenses and attacks for narrow tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from benchbd.run.display.grid import Name


def short_names(items: Iterable[Name], width: int) -> dict[Name, str]:
    """A distinct name of at most ``width`` characters for each item.

    It is the text with parameters if that fits, else the plugin's name if no other item has it, else the name with a
    number: ``bn-g#2`` is the second variant of bn-g. The legend gives the full texts.

    Args:
        items: the items, without duplicates.
        width: characters, at least 6.
    """
    items = list(items)
    same = Counter(item.name for item in items)
    numbers: Counter[str] = Counter()
    found: dict[Name, str] = {}
    taken = {item.text for item in items if len(item.text) <= width}
    for item in items:
        numbers[item.name] += 1
        if item.text in taken:
            found[item] = item.text
        elif same[item.name] == 1 and len(item.name) <= width and item.name not in taken:
            found[item] = item.name
        else:
            found[item] = _numbered(item.name, numbers[item.name], width, taken)
            taken.add(found[item])
    return found


def _numbered(name: str, number: int, width: int, taken: set[str]) -> str:
    while True:
        tail = f"#{number}"
        text = name[: max(1, width - len(tail))] + tail
        if text not in taken:
            return text
        number += 1


def legend(names: dict[Name, str]) -> list[str]:
    """``lfd is lfd(beta=0)`` for every name that is not the full text."""
    return [f"{short} is {item.text}" for item, short in names.items() if short != item.text]
