"""Select cells: ``--filter``, ``--exclude``, and the ``exclude`` rules of a matrix."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from benchbd.core.kinds import KINDS
from benchbd.core.numerics import NUMERICS
from benchbd.errors import UsageError, did_you_mean, shown
from benchbd.plan.cell import Cell
from benchbd.plan.matrix_file import as_list, known_keys
from benchbd.plugins import registry
from benchbd.plugins.part import Part

AXES = ("dataset", "model", "attack", "defense", "seed")
KEYS = (*AXES, *NUMERICS, "label", "id")


def matcher(key: str, glob: str) -> Callable[[Cell], bool]:
    """A predicate: whether a cell's ``key`` matches a glob.

    Args:
        key: one of ``KEYS``. A component matches by its name or by its name with parameters.
        glob: the pattern; a component's alias stands for its name.

    Raises:
        UsageError: the glob is invalid, or is an alias of several components.
    """
    if key in KINDS:
        glob = registry.canonical_name(f"{key}s", glob)
    try:
        match = re.compile(fnmatch.translate(glob)).match
    except re.error as error:
        raise UsageError(f"{shown(glob)} is not a valid glob ({error})") from error

    def matches(cell: Cell) -> bool:
        value = getattr(cell, key)
        if isinstance(value, Part):
            return match(value.name) is not None or match(value.text) is not None or value.text == glob
        return match(str(value)) is not None

    return matches


class _Term(NamedTuple):
    """A key and its alternatives: it holds when one of these matches, or with ``!=`` when none does.

    Attributes:
        key: one of ``KEYS``.
        equal: True for ``=``, False for ``!=``.
        globs: each alternative, with the predicate that says whether a cell matches it.
    """

    key: str
    equal: bool
    globs: dict[str, Callable[[Cell], bool]]

    def holds(self, cell: Cell) -> bool:
        return any(matches(cell) for matches in self.globs.values()) == self.equal


class _Expression(NamedTuple):
    """One ``--filter`` or ``--exclude``; it holds when all its terms hold."""

    flag: str
    text: str
    terms: tuple[_Term, ...]

    def holds(self, cell: Cell) -> bool:
        return all(term.holds(cell) for term in self.terms)


_SET = re.compile(r"\[!?\]?[^\]]*\]")
"""A set of characters as Python's fnmatch reads it: a ``]`` that comes first is one of them."""
_KEY = re.compile(rf"\s*({'|'.join(KEYS)})\s*!?=")
"""The start of a term."""
_PARENTHESIS = re.compile(r"\[[()]\]|[()]")
"""A parenthesis, or a set of one, which neither opens nor closes parameters."""


def _parentheses(text: str) -> tuple[dict[int, int], list[int]]:
    """Where parentheses open: those that are closed, each with the place after its end, and those that are not."""
    closed: dict[int, int] = {}
    opened: list[int] = []
    for found in _PARENTHESIS.finditer(text):
        if found[0] == "(":
            opened.append(found.start())
        elif found[0] == ")" and opened:
            closed[opened.pop()] = found.end()
    return closed, opened


def _split(text: str, sign: str) -> list[str]:
    """Split at a sign, except inside parameters ``(...)`` and sets ``[...]``.

    A parenthesis or bracket that is never closed is a plain character, as in fnmatch: ``lfd(*|none`` are two globs.
    """
    pieces: list[str] = []
    start, at, last = 0, 0, text.rfind("]")
    closed, _ = _parentheses(text)
    while at < len(text):
        if text[at] == sign:
            pieces.append(text[start:at])
            start = at + 1
        found = _SET.match(text, at) if at < last else None
        at = found.end() if found else closed.get(at, at + 1)
    return [*pieces, text[start:]]


def _terms(text: str) -> list[str]:
    """Split at commas. After a parenthesis that is never closed, only a comma before a key separates.

    ``defense=lfd(beta=0,*,seed=0`` has the terms ``defense=lfd(beta=0,*`` and ``seed=0``.
    """
    terms: list[list[str]] = []
    unclosed = False
    for piece in _split(text, ","):
        if unclosed and not _KEY.match(piece):
            terms[-1].append(piece)
        else:
            terms.append([piece])
            unclosed = bool(_parentheses(piece)[1])
    return [",".join(pieces) for pieces in terms]


def _alternatives(globs: str) -> list[str]:
    """Split at ``|`` as :func:`_split` does, without the spaces around each."""
    return [glob.strip() for glob in _split(globs, "|")]


def _expression(flag: str, text: str) -> _Expression:
    terms: list[_Term] = []
    for piece in _terms(text):
        match = re.fullmatch(r"\s*(\w+)\s*(!?=)\s*(\S.*?)\s*", piece, re.DOTALL)
        if match is None:
            raise UsageError(f"{flag} {shown(text)}: {_advice(terms, piece.strip())}")
        if match[1] not in KEYS:
            raise UsageError(f"{flag} {shown(text)}: unknown key {shown(match[1])}{did_you_mean(match[1], KEYS)}")
        globs = _alternatives(match[3])
        if not all(globs):
            advice = "an alternative is empty; write them as in defense=none|lfd*, or [|] for the sign itself"
            raise UsageError(f"{flag} {shown(text)}: {advice}")
        terms.append(_Term(match[1], match[2] == "=", {glob: matcher(match[1], glob) for glob in globs}))
    return _Expression(flag, text, tuple(terms))


def _advice(before: list[_Term], piece: str) -> str:
    """How to write a piece that is no key with a glob, given the terms before it."""
    usual = "write key=glob or key!=glob, such as defense=lfd*,attack!=none"
    if not before or "=" in piece or not all(_alternatives(piece)):
        return usual
    last = before[-1]
    instead = f"{last.key}{'=' if last.equal else '!='}{'|'.join((*last.globs, piece))}"
    return f"{usual}, or alternatives: {shown(instead)}"


def _names(cells: Iterable[Cell], key: str) -> list[str]:
    if key not in AXES + NUMERICS:
        return []
    found = (getattr(cell, key) for cell in cells)
    values = {value.name if isinstance(value, Part) else value for value in found}
    return [str(value) for value in sorted(values)][:20]


class Filters:
    """All ``--filter`` and ``--exclude`` options of one command.

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
        """Raise UsageError for a glob that matches no cell, which is probably a typo."""
        for expression in (*self.wanted, *self.unwanted):
            for key, glob, matches in ((t.key, *one) for t in expression.terms for one in t.globs.items()):
                if cells and not any(matches(cell) for cell in cells):
                    known = _names(cells, key)
                    hint = did_you_mean(glob, known) if known else ""
                    where = f"{expression.flag} {shown(expression.text)}"
                    raise UsageError(f"{where}: no cell has {key} {shown(glob)}{hint}")

    def none_left(self, count: int) -> UsageError:
        """The error for expressions that reject all ``count`` cells."""
        texts = "; ".join(f"{e.flag} {e.text}" for e in (*self.wanted, *self.unwanted))
        return UsageError(f"no cell is left after {shown(texts, 200)} ({count} in the matrix)")


def select(cells: tuple[Cell, ...], filters: list[str], excludes: list[str] | None = None) -> tuple[Cell, ...]:
    """The cells that hold for every ``--filter`` and for no ``--exclude``.

    Args:
        cells: all cells of a plan.
        filters: expressions such as ``defense=none|lfd*,attack!=none``: a comma means and, a bar means or.
        excludes: expressions of the same form.

    Raises:
        UsageError: an expression cannot be read, matches no cell, or no cell is left.
    """
    if not filters and not excludes:
        return cells
    selection = Filters(filters, excludes)
    selection.check(cells)
    kept = tuple(cell for cell in cells if selection.keep(cell))
    if cells and not kept:
        raise selection.none_left(len(cells))
    return kept


@dataclasses.dataclass
class Rule:
    """One ``exclude`` entry.

    It remembers whether it matched any cell, so that a typo is an error and not silently ignored.
    """

    terms: list[list[Callable[[Cell], bool]]]
    reason: str
    text: str
    used: bool = False

    def matches(self, cell: Cell) -> bool:
        """Whether the rule excludes a cell. Records in ``used`` that it did."""
        matched = all(any(predicate(cell) for predicate in predicates) for predicates in self.terms)
        self.used = self.used or matched
        return matched


def rules_of(given: Any, here: str) -> list[Rule]:
    """Parse the ``exclude`` entries of a matrix or block. Raises UsageError if one is malformed or has no reason."""
    rules = []
    for entry in as_list(given):
        if not isinstance(entry, dict):
            example = "{attack: cl, defense: ac, reason: why}"
            raise UsageError(f"{here}: an exclude rule must be a mapping such as {example}")
        known_keys(entry, (*AXES, "reason"), f"{here}: exclude")
        reason = entry.get("reason")
        if not isinstance(reason, str) or not reason.strip():
            raise UsageError(f"{here}: exclude {shown(entry)} needs a reason")
        globs = {key: as_list(value) for key, value in entry.items() if key != "reason"}
        for key, values in globs.items():
            if not values or not all(isinstance(v, (str, int)) and not isinstance(v, bool) for v in values):
                raise UsageError(f"{here}: exclude: {key} must be a name, a glob or a list of these")
        if not globs:
            raise UsageError(f"{here}: exclude {shown(entry)} needs at least one of {', '.join(AXES)}")
        terms = [[matcher(key, str(glob)) for glob in values] for key, values in globs.items()]
        rules.append(Rule(terms, " ".join(reason.split()), shown({k: v for k, v in entry.items() if k != "reason"})))
    return rules
