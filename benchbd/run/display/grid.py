"""A matrix as grids, one for each data set, model and recipe: defenses as rows, attacks as columns.

Pure data: cells and results go in, and any view reads the grids. An update costs the same however many cells there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from benchbd.run.display.names import ATTACK, DEFENSE, Name, short_names

if TYPE_CHECKING:
    from benchbd.plan.cell import Cell

State = Literal["waiting", "running", "done", "failed", "skipped"]
UNDEFENDED = "none"


class Result(NamedTuple):
    """What a grid shows of a record."""

    status: str
    ca: float | None = None
    """Fraction in [0, 1]."""
    asr: float | None = None
    """Fraction in [0, 1]; None without an attack."""
    seconds: float | None = None
    """Seconds that the cell would have taken alone."""
    control: bool = False

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Result:
        """The result in a record."""
        seconds = (record.get("time") or {}).get("total")
        return cls(record["status"], record.get("ca"), record.get("asr"), seconds, bool(record.get("control")))


def state_of(status: str) -> State:
    """The state that a grid shows for a cell's status."""
    states: dict[str, State] = {"pending": "waiting", "missing": "waiting", "running": "running"}
    states |= {"done": "done", "skipped": "skipped"}
    return states.get(status, "failed")


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


@dataclasses.dataclass(slots=True)
class Entry:
    """The cells of one defense and one attack, one for each seed.

    A display may read it in another thread than the one that changes it.
    """

    states: dict[str, State] = dataclasses.field(default_factory=dict)
    """State by cell ID."""
    results: dict[str, Result] = dataclasses.field(default_factory=dict)
    """Results of the cells that are done, by cell ID."""

    @property
    def ca(self) -> float | None:
        """Mean CA over the seeds that are done."""
        return mean([result.ca for result in list(self.results.values())])

    @property
    def asr(self) -> float | None:
        """Mean ASR over the seeds that are done."""
        return mean([result.asr for result in list(self.results.values())])

    @property
    def open(self) -> State | None:
        """The state of seeds that are not done: running before failed, waiting and skipped. None if all are done."""
        order: tuple[State, ...] = ("running", "failed", "waiting", "skipped")
        return next((state for state in order if state in self.states.values()), None)


@dataclasses.dataclass(slots=True)
class Grid:
    """The cells of one data set, model and recipe. Rows and columns are in the matrix's order."""

    dataset: Name
    model: Name
    more: str = ""
    """What distinguishes the grid from others of the same data set and model: ``epochs=8``, ``precision=bf16``."""
    defenses: list[Name] = dataclasses.field(default_factory=list)
    attacks: list[Name] = dataclasses.field(default_factory=list)
    entries: dict[tuple[Name, Name], Entry] = dataclasses.field(default_factory=dict)
    """By defense and attack."""
    short_defenses: dict[Name, str] = dataclasses.field(default_factory=dict)
    """Short names of the defenses, the same in every view."""
    short_attacks: dict[Name, str] = dataclasses.field(default_factory=dict)
    running: set[str] = dataclasses.field(default_factory=set)
    """IDs of running cells."""
    ended: set[str] = dataclasses.field(default_factory=set)
    """IDs of cells that are done, failed or skipped."""
    size: int = 0
    """Number of cells."""
    version: int = 0
    """Grows with every change."""

    @property
    def title(self) -> str:
        """``cifar10(train=10000) / resnet18``, and what else distinguishes the grid."""
        return " / ".join(filter(None, (self.dataset.text, self.model.text, self.more)))

    def undefended_ca(self, attack: Name) -> float | None:
        """Mean CA without a defense under an attack; None if it is not known."""
        entry = next((e for d in self.defenses if d.name == UNDEFENDED and (e := self.entries.get((d, attack)))), None)
        return entry.ca if entry else None

    def summary(self) -> list[SummaryRow]:
        """A row for each defense with a result, in the grid's order, the controls last."""
        attacked = [a for a in self.attacks if any(e.asr is not None for (_, b), e in self.entries.items() if a == b)]
        rows = [_summarise(self, defense, attacked) for defense in self.defenses]
        return sorted((row for row in rows if row.ca is not None), key=lambda row: row.control)


class SummaryRow(NamedTuple):
    """A defense over the attacks of a grid. Seeds are averaged first, then attacks."""

    defense: Name
    ca: float | None
    """Mean CA over the attacks; over the clean cells if there is no attack."""
    asr: float | None
    worst_asr: float | None
    worst: Name | None
    """The attack with the largest mean ASR."""
    attacks: int
    """Number of attacks with a result."""
    of: int
    """Number of attacks for which any defense has a result."""
    seconds: float | None
    """Mean seconds of a cell."""
    control: bool


def _summarise(grid: Grid, defense: Name, attacked: list[Name]) -> SummaryRow:
    entries = {a: e for a in grid.attacks if (e := grid.entries.get((defense, a))) and e.results}
    counted = {a: entries[a] for a in attacked if a in entries} if attacked else entries
    rates = {attack: rate for attack, entry in counted.items() if (rate := entry.asr) is not None}
    worst = max(rates, key=lambda attack: rates[attack], default=None)
    results = [result for entry in entries.values() for result in entry.results.values()]
    return SummaryRow(
        defense,
        mean(entry.ca for entry in counted.values()),
        mean(rates.values()),
        rates[worst] if worst else None,
        worst,
        len(counted),
        len(attacked),
        mean(result.seconds for result in results),
        any(result.control for result in results),
    )


class Grids:
    """All grids of a matrix.

    Args:
        cells: the cells, in the matrix's order; all of them wait at first.
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        self.grids: list[Grid] = []
        self._places: dict[str, tuple[Grid, Name, Name, int]] = {}
        found: dict[tuple[str, ...], Grid] = {}
        first: dict[tuple[str, ...], Cell] = {}
        axes: dict[tuple[str, ...], tuple[dict[Name, None], dict[Name, None]]] = {}
        for cell in cells:
            key: tuple[str, ...] = (cell.dataset.json, cell.model.json, cell.numerics.text, repr(cell.recipe))
            if key not in found:
                dataset, model = (Name(part.name, part.text) for part in (cell.dataset, cell.model))
                found[key], first[key], axes[key] = Grid(dataset, model), cell, ({}, {})
            grid = found[key]
            defense, attack = (Name(part.name, part.text) for part in (cell.defense, cell.attack))
            axes[key][0][defense] = axes[key][1][attack] = None
            grid.entries.setdefault((defense, attack), Entry()).states[cell.id] = "waiting"
            grid.size += 1
            self._places[cell.id] = (grid, defense, attack, cell.seed)
        for key, grid in found.items():
            grid.defenses, grid.attacks = list(axes[key][0]), list(axes[key][1])
            grid.short_defenses = short_names(grid.defenses, DEFENSE)
            grid.short_attacks = short_names(grid.attacks, ATTACK)
            alike = [first[other].recipe for other in found if other[:2] == key[:2]]
            grid.more = ", ".join(filter(None, (key[2], _differences(first[key].recipe, alike))))
        self.grids = list(found.values())
        self.seeds = max((len(entry.states) for grid in self.grids for entry in grid.entries.values()), default=0)
        """The largest number of seeds of an entry."""

    def __contains__(self, cell_id: str) -> bool:
        return cell_id in self._places

    def mark(self, cell_id: str, state: State, result: Result | None = None) -> None:
        """Change a cell's state. A cell that is done needs its result; any other state removes an earlier one."""
        if cell_id not in self._places:
            return
        grid, defense, attack, _ = self._places[cell_id]
        entry = grid.entries[defense, attack]
        entry.states[cell_id] = state
        entry.results.pop(cell_id, None)
        if state == "done" and result is not None:
            entry.results[cell_id] = result
        (grid.running.add if state == "running" else grid.running.discard)(cell_id)
        (grid.ended.discard if state in ("running", "waiting") else grid.ended.add)(cell_id)
        grid.version += 1

    def settle(self, cell_id: str, result: Result) -> None:
        """Mark a cell that has ended."""
        self.mark(cell_id, state_of(result.status), result)

    def states(self) -> set[State]:
        """The states that the grids show. Defenses and attacks that no cell combines count as skipped."""
        found = {state for grid in self.grids for entry in grid.entries.values() for state in entry.states.values()}
        gaps = any(len(grid.entries) < len(grid.defenses) * len(grid.attacks) for grid in self.grids)
        return found | ({"skipped"} if gaps else set())

    def running(self) -> list[str]:
        """IDs of the cells marked as running."""
        return [cell_id for grid in self.grids for cell_id in grid.running]

    def seed(self, cell_id: str) -> int:
        """A cell's seed."""
        return self._places[cell_id][3]

    def in_order(self) -> list[Grid]:
        """The grids with running cells first, then unfinished ones, then the others."""
        return sorted(self.grids, key=lambda grid: (not grid.running, len(grid.ended) == grid.size))


def _differences(recipe: Mapping[str, Any], others: list[dict[str, Any]]) -> str:
    """The entries of a recipe that are not the same in all others: ``epochs=8, lr=0.1``."""
    keys = [key for key in recipe if any(other.get(key) != recipe[key] for other in others)]
    return ", ".join(f"{key}={recipe[key]}" for key in keys)
