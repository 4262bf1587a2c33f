"""The expected cost of a plan's cells, from operations and rates, and how sure it is.

A piece of work costs its operations divided by the rate at which the device trains its network. A cell whose data set,
defense, model and recipe the device has finished before costs what those records say. Forward passes count at the rate
of training steps. Reading data, poisoning (except for an attack's declared trainings), an attack's or a defense's own
passes over a set, start-up, and the slowdown between cells on one machine are not counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from benchbd.core.operations import Operations
from benchbd.plan.shared_work import Key, shared_work_of
from benchbd.plan.work import CellWork, Network, Pace, Piece, work_of
from benchbd.run.costs import Costs, facts_of
from benchbd.run.rates import WITHIN, Rate, operations_of, spread
from benchbd.run.simulate import SimulatedJob

if TYPE_CHECKING:
    from benchbd.plan.cell import Cell

CELLS = "cells"
"""Source of costs that come from finished cells of the same data set, defense, model and recipe."""
LESS_SURE = ("records", "measured")
"""Sources of a network's own rate, which is another network's where a piece has further operations."""
UNIT = Rate(1.0, "given", 0, 1.0)
"""The rate at which an operation takes one unit."""


class Share(NamedTuple):
    """The part of an estimate that comes from one source.

    Attributes:
        source: CELLS, or the source of a rate.
        cost: in the estimate's unit.
        samples: finished cells or trainings, or measured networks.
        within: factor within which it is right, a mean weighted by cost.
    """

    source: str
    cost: float
    samples: int
    within: float


class Group(NamedTuple):
    """The trainings of one kind, network and data set: their number and cost in the estimate's unit."""

    label: str
    number: int
    cost: float


class Estimate(NamedTuple):
    """The costs of a plan's cells.

    Attributes:
        jobs: one per cell, in plan order.
        unit: ``seconds`` or ``operations``.
        known: number of cells whose cost comes from records of the same data set, defense, model and recipe.
        shares: by source, the largest first.
        groups: the most expensive first. Shared work counts once.
        unknown: number of trainings whose cost is unknown, by label. They are not in the costs.
    """

    jobs: list[SimulatedJob]
    unit: str
    known: int
    shares: list[Share]
    groups: list[Group]
    unknown: dict[str, int]


class FinishedCells:
    """Costs of finished cells of one device."""

    def __init__(self, records: Iterable[Mapping[str, Any]] = ()) -> None:
        self._costs = Costs()
        self._totals: dict[Key, list[float]] = defaultdict(list)
        for record in records:
            self._costs.learn(record)
            total = (record.get("time") or {}).get("total")
            if isinstance(total, (int, float)) and total > 0:
                self._totals[Costs.kinds(record)[1]].append(float(total))

    def seconds(self, cell: Cell) -> float | None:
        """Mean seconds of cells of this data set, defense, model and recipe; None if there are none."""
        return self._costs.expected(Costs.kinds(facts_of(cell))[:2])

    def count_and_spread(self, cells: Iterable[Cell]) -> tuple[int, float]:
        """Number of finished cells like these, and the factor within which nine of ten are of their kind's mean."""
        kinds = {Costs.kinds(facts_of(cell))[1] for cell in cells}
        totals = [self._totals[kind] for kind in kinds if kind in self._totals]
        ratios = [total / (sum(of) / len(of)) for of in totals for total in of if len(of) > 1]
        return sum(map(len, totals)), spread(ratios) if len(ratios) > 1 else 1.5


def estimate(
    cells: Sequence[Cell],
    operations: Mapping[Network, Operations],
    rates: Mapping[Pace, Rate] | None,
    finished: FinishedCells | None = None,
    stored: Collection[Key] = (),
) -> Estimate:
    """The expected cost of each cell, and which parts of it are shared.

    Args:
        cells: the cells to compute.
        operations: by network; work of other networks is unknown.
        rates: by network and numerics; work of others is unknown. None: costs are operations.
        finished: cells that the device has finished.
        stored: keys of the trainings that cost nothing any more.
    """
    shared_work, account = shared_work_of(cells), _Account(operations, rates, stored)
    jobs, known = [], []
    for cell, work in work_of(cells):
        total = None if finished is None or rates is None else finished.seconds(cell)
        if total is not None:
            known.append(cell)
        prices, own = account.cell(cell, work, total)
        shared = {key: price for key, price in prices.items() if key in shared_work[cell.id].heavy}
        own += sum(price for key, price in prices.items() if key not in shared)
        jobs.append(SimulatedJob(cell.id, own, shared, shared_work[cell.id]))
    cells_behind = finished.count_and_spread(known) if finished is not None and known else (0, 1.0)
    unit = "operations" if rates is None else "seconds"
    return Estimate(jobs, unit, len(known), account.shares(cells_behind), account.groups(), dict(account.unknown))


class _Account:
    """Prices pieces of work and adds up each distinct one."""

    def __init__(
        self, operations: Mapping[Network, Operations], rates: Mapping[Pace, Rate] | None, stored: Collection[Key]
    ) -> None:
        self._operations, self._rates, self._stored = operations, rates, stored
        self._seen: set[tuple[Key, int]] = set()
        self._groups: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
        self._sources: dict[str, float] = defaultdict(float)
        self._weighted: dict[str, float] = defaultdict(float)
        self._used: dict[str, dict[Pace, int]] = defaultdict(dict)
        self.unknown: Counter[str] = Counter()

    def cell(self, cell: Cell, work: CellWork, total: float | None) -> tuple[dict[Key, float], float]:
        """The price of each training of a cell by key, and the price of the rest.

        Args:
            cell: the cell.
            work: its pieces.
            total: seconds of the defense's work according to finished cells; None if there are none.
        """
        prices: dict[Key, float] = defaultdict(float)
        explained = 0.0
        for number, piece in enumerate((*work.attack, *work.defense)):
            price = self._price(piece)
            of_defense = number >= len(work.attack)
            if price is None:
                # A finished cell's total covers its defense's trainings.
                if total is None or not of_defense:
                    self._note_unknown(piece, number)
                continue
            explained += price if of_defense else 0.0
            if piece.key not in self._stored:
                prices[piece.key] += price
                self._note(piece, number, price, CELLS if total is not None and of_defense else "")
        rest = 0.0
        if total is not None and (rest := max(0.0, total - explained)):
            self._add(f"own work of {cell.defense.text}", rest, CELLS)
        evaluation = self._price(work.evaluation)
        if evaluation is not None:
            self._note(work.evaluation, 0, evaluation, "")
        return dict(prices), rest + (evaluation or 0.0)

    def _price(self, piece: Piece) -> float | None:
        amount = operations_of(piece, self._operations)
        rate = self._rate(piece.pace)
        return None if amount is None or rate is None else amount / rate.per_second

    def _rate(self, pace: Pace) -> Rate | None:
        return UNIT if self._rates is None else self._rates.get(pace)

    def _note(self, piece: Piece, number: int, price: float, source: str) -> None:
        if self._first(piece, number):
            rate = self._rate(piece.pace)
            assert rate is not None
            if piece.work is not None and piece.work.operations and rate.source in LESS_SURE:
                rate = rate._replace(source="scaled", within=max(rate.within, WITHIN["scaled"]))
            self._add(piece.label, price, source or rate.source)
            if not source:
                self._weighted[rate.source] += price * rate.within
                self._used[rate.source][piece.pace] = rate.samples

    def _note_unknown(self, piece: Piece, number: int) -> None:
        if piece.key not in self._stored and self._first(piece, number):
            self.unknown[piece.label] += 1

    def _first(self, piece: Piece, number: int) -> bool:
        """Whether this is the first time that a cell needs the piece. The loops of a trigger have one key."""
        mark = (piece.key, number if piece.kind == "loop" else 0)
        new = mark not in self._seen
        self._seen.add(mark)
        return new

    def _add(self, label: str, price: float, source: str) -> None:
        group = self._groups[label]
        group[0] += 1
        group[1] += price
        self._sources[source] += price

    def groups(self) -> list[Group]:
        found = [Group(label, int(count), cost) for label, (count, cost) in self._groups.items()]
        return sorted(found, key=lambda group: -group.cost)

    def shares(self, cells: tuple[int, float]) -> list[Share]:
        found = []
        for source, cost in self._sources.items():
            used = self._used[source]
            count, within = cells if source == CELLS else (sum(used.values()), 1.0)
            if source != CELLS and cost:
                within = self._weighted[source] / cost
            found.append(Share(source, cost, count, within))
        return sorted(found, key=lambda share: -share.cost)
