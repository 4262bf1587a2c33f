"""Which cells are meant: ``--filter``, ``--exclude``, and the ``exclude`` rules of a matrix."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from benchbd.errors import UsageError, did_you_mean, shown
from benchbd.plan.cell import Cell
from benchbd.plan.matrix_file import as_list, known_keys
from benchbd.plugins.part import Part

AXES = ("dataset", "model", "attack", "defense", "seed")
KEYS = (*AXES, "label", "id")


def matcher(key: str, glob: str) -> Callable[[Cell], bool]:
    """Whether a cell's component (by name, or by name with parameters), seed, label or id fits a glob."""
    try:
        fits = re.compile(fnmatch.translate(glob)).match
    except re.error as error:
        raise UsageError(f"{shown(glob)} is no glob ({error})") from error

    def matches(cell: Cell) -> bool:
        fact = getattr(cell, key)
        if isinstance(fact, Part):
            return fits(fact.name) is not None or fits(fact.text) is not None or fact.text == glob
        return fits(str(fact)) is not None

    return matches


class _Term(NamedTuple):
    key: str
    equal: bool
    glob: str
    matches: Callable[[Cell], bool]


class _Expression(NamedTuple):
    """One ``--filter`` or ``--exclude``: all its terms must hold."""

    flag: str
    text: str
    terms: tuple[_Term, ...]

    def holds(self, cell: Cell) -> bool:
        return all(term.matches(cell) == term.equal for term in self.terms)


def _split(text: str) -> list[str]:
    """At commas, but not at those inside brackets, which belong to parameters: ``lfd(alpha=0.1,beta=0.2)``."""
    pieces, depth = [""], 0
    for c in text:
        depth += (c in "([") - (c in ")]")
        if c == "," and depth <= 0:
            pieces.append("")
        else:
            pieces[-1] += c
    return pieces


def _expression(flag: str, text: str) -> _Expression:
    terms = []
    for piece in _split(text):
        match = re.fullmatch(r"\s*(\w+)\s*(!?=)\s*(\S.*?)\s*", piece, re.DOTALL)
        if match is None:
            how = "write key=glob or key!=glob, such as defense=lfd*,attack!=none"
            raise UsageError(f"{flag} {shown(text)}: {how}")
        if match[1] not in KEYS:
            raise UsageError(f"{flag} {shown(text)}: unknown key {shown(match[1])}{did_you_mean(match[1], KEYS)}")
        terms.append(_Term(match[1], match[2] == "=", match[3], matcher(match[1], match[3])))
    return _Expression(flag, text, tuple(terms))


def _names(cells: Iterable[Cell], key: str) -> list[str]:
    if key not in AXES:
        return []
    facts = {getattr(cell, key) if key == "seed" else getattr(cell, key).name for cell in cells}
    return [str(fact) for fact in sorted(facts)][:20]


class Filters:
    """All ``--filter`` and ``--exclude`` of one command.

    Raises:
        UsageError: an expression cannot be read.
    """

    def __init__(self, filters: list[str], excludes: list[str] | None = None) -> None:
        self.wanted = [_expression("--filter", text) for text in filters]
        self.unwanted = [_expression("--exclude", text) for text in excludes or []]

    def keep(self, cell: Cell) -> bool:
        """Whether a cell passes every filter and no exclude."""
        return all(e.holds(cell) for e in self.wanted) and not any(e.holds(cell) for e in self.unwanted)

    def check(self, cells: tuple[Cell, ...]) -> None:
        """Raise UsageError for a glob that fits no cell: a typo must not pass for a choice."""
        for expression in (*self.wanted, *self.unwanted):
            for term in expression.terms:
                if cells and not any(term.matches(cell) for cell in cells):
                    known = _names(cells, term.key)
                    hint = did_you_mean(term.glob, known) if known else ""
                    where = f"{expression.flag} {shown(expression.text)}"
                    none = "no cell is left, none" if expression in self.wanted and term.equal else "no cell here"
                    raise UsageError(f"{where}: {none} has {term.key} {shown(term.glob)}{hint}")

    def none_left(self, count: int) -> UsageError:
        """The error for expressions that leave no cell of ``count``."""
        texts = "; ".join(f"{e.flag} {e.text}" for e in (*self.wanted, *self.unwanted))
        return UsageError(f"no cell is left after {shown(texts, 200)} ({count} in the matrix)")


def select(cells: tuple[Cell, ...], filters: list[str], excludes: list[str] | None = None) -> tuple[Cell, ...]:
    """Cells that pass every ``k=glob,k!=glob`` of ``--filter`` and no ``--exclude``.

    Raises:
        UsageError: an expression cannot be read, fits no cell, or nothing is left.
    """
    if not filters and not excludes:
        return cells
    chosen = Filters(filters, excludes)
    chosen.check(cells)
    kept = tuple(cell for cell in cells if chosen.keep(cell))
    if cells and not kept:
        raise chosen.none_left(len(cells))
    return kept


@dataclasses.dataclass
class Rule:
    """One ``exclude`` entry; remembers whether it fitted any cell, so that a typo is an error and not a silence."""

    terms: list[list[Callable[[Cell], bool]]]
    reason: str
    text: str
    used: bool = False

    def fits(self, cell: Cell) -> bool:
        """Whether it excludes a cell."""
        fits = all(any(matches(cell) for matches in globs) for globs in self.terms)
        self.used = self.used or fits
        return fits


def rules_of(given: Any, here: str) -> list[Rule]:
    """The ``exclude`` entries of a matrix or block. Raises UsageError; each needs a reason."""
    rules = []
    for rule in as_list(given):
        if not isinstance(rule, dict):
            raise UsageError(f"{here}: an exclude rule is a mapping such as {{attack: cl, defense: ac, reason: why}}")
        known_keys(rule, (*AXES, "reason"), f"{here}: exclude")
        reason = rule.get("reason")
        if not isinstance(reason, str) or not reason.strip():
            raise UsageError(f"{here}: exclude {shown(rule)} needs a reason")
        globs = {key: as_list(value) for key, value in rule.items() if key != "reason"}
        for key, values in globs.items():
            if not values or not all(isinstance(v, (str, int)) and not isinstance(v, bool) for v in values):
                raise UsageError(f"{here}: exclude: {key} must be a name, a glob or a list of these")
        if not globs:
            raise UsageError(f"{here}: exclude {shown(rule)} names nothing ({', '.join(AXES)})")
        terms = [[matcher(key, str(glob)) for glob in values] for key, values in globs.items()]
        rules.append(Rule(terms, " ".join(reason.split()), shown({k: v for k, v in rule.items() if k != "reason"})))
    return rules
