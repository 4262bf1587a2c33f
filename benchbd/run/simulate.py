"""How long a matrix would take on so many GPUs: the scheduler's own rules, played through with expected costs.

Cells start longest first, and none beside one that is computing a training it needs (:mod:`benchbd.run.order`). A cell
pays for the trainings that are not stored yet and for what is its own. Where every waiting cell needs a training that
is being computed, one starts all the same and waits, as the runner's does; waiting counts as idle.

Costs come from records of the same data set, model and recipe where there are any. Elsewhere a full training costs what
it does on average in the records at hand, or 1 without any, and other trainings the shares of :data:`SHARES`. Reading
data, poisoning (but for an attack's declared trainings), evaluation and start-up are not counted; nor is what workers
cost each other.
"""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from benchbd.plan.shared_work import Key, SharedWork, shared_work_of
from benchbd.plan.trainings import planned_trainings
from benchbd.run.costs import Costs, facts_of
from benchbd.run.order import Sharing, arrange

if TYPE_CHECKING:
    from benchbd.plan.cell import Cell

SHARES = {"full": 1.0, "feature-model": 1.0, "teacher": 0.1, "fine-tune": 0.1}
"""Assumed cost of a training for which there is no record, in full trainings."""
STAGE = {"full": "train", "feature-model": "feature model", "teacher": "teacher"}
"""How records call the stage of a training."""


class SimulatedJob(NamedTuple):
    """What a cell costs.

    Attributes:
        id: the cell's.
        own: seconds that only this cell needs.
        shared: seconds of each training that other cells need too.
        stages: what the scheduler knows of it.
    """

    id: str
    own: float
    shared: Mapping[Key, float]
    stages: SharedWork

    @property
    def alone(self) -> float:
        """Seconds with nothing in the store."""
        return self.own + sum(self.shared.values())


class Simulated(NamedTuple):
    """What became of a simulated run.

    Attributes:
        gpus: places, one cell at a time on each.
        makespan: seconds from the first start to the last end.
        work: seconds of work in all, shared trainings once.
        bound: seconds that no schedule can go below (:func:`lower_bound`).
    """

    gpus: int
    makespan: float
    work: float
    bound: float

    @property
    def idle(self) -> float:
        """Share of the GPUs' time in which nothing is computed, in [0, 1]."""
        return max(0.0, 1 - self.work / (self.gpus * self.makespan)) if self.makespan else 0.0


class Estimate(NamedTuple):
    """The costs of a plan's cells.

    Attributes:
        jobs: one a cell, in plan order.
        known: cells whose cost comes from records of the same data set, defense, model and recipe.
        measured: whether costs are seconds; otherwise they count full trainings.
    """

    jobs: list[SimulatedJob]
    known: int
    measured: bool


def estimate(cells: Sequence[Cell], records: Iterable[Mapping[str, Any]]) -> Estimate:
    """What each cell is expected to cost, and which parts of it are shared."""

    costs, trained = Costs(), _Trainings()
    for record in records:
        costs.learn(record)
        trained.learn(record)
    stages, jobs, known = shared_work_of(cells), [], 0
    for cell, planned in planned_trainings(cells):
        kinds = Costs.kinds(facts_of(cell))
        wanted = dict.fromkeys((*planned.attack, *planned.defense))
        prices = {("training", *key): trained.expected(kinds[-1], key[1].kind) for key in wanted}
        shared = {key: price for key, price in prices.items() if key in stages[cell.id].heavy}
        total = costs.expected(kinds)
        known += costs.expected(kinds[:2]) is not None
        if total is None:
            own = sum(prices.values()) - sum(shared.values())
        else:
            # A record's total leaves out what the attack trains.
            defense = {("training", *key) for key in planned.defense}
            own = total - sum(price for key, price in shared.items() if key in defense)
            own += sum(prices[key] for key in prices.keys() - defense - shared.keys())
        jobs.append(SimulatedJob(cell.id, max(0.0, own), shared, stages[cell.id]))
    return Estimate(jobs, known, trained.seen)


class _Trainings:
    """Seconds of a training by what it is, learnt from the stages in records."""

    def __init__(self) -> None:
        self._found: dict[tuple[Key, str], list[float]] = defaultdict(list)
        self._full: list[float] = []

    @property
    def seen(self) -> bool:
        return bool(self._full)

    def learn(self, record: Mapping[str, Any]) -> None:
        time = record.get("time")
        stages = time.get("stages") if isinstance(time, Mapping) else None
        if record.get("status") != "done" or not isinstance(stages, Mapping):
            return
        for what, name in STAGE.items():
            seconds = stages.get(name)
            if isinstance(seconds, (int, float)) and 0 <= seconds < 1e9:
                self._found[Costs.kinds(record)[-1], what].append(float(seconds))
                if what == "full":
                    self._full.append(float(seconds))

    def expected(self, kind: Key, what: str) -> float:
        if found := self._found.get((kind, what)):
            return sum(found) / len(found)
        full = self._found.get((kind, "full")) or self._full or [1.0]
        return SHARES[what] * sum(full) / len(full)


def lower_bound(jobs: Sequence[SimulatedJob], gpus: int) -> float:
    """Seconds below which no schedule can go: all work shared out evenly, or the longest chain.

    A cell's trainings may be computed by several others at once, so that its chain is its own part after the longest
    of them.
    """
    chain = max((job.own + max(job.shared.values(), default=0.0) for job in jobs), default=0.0)
    return max(work(jobs) / gpus, chain)


def work(jobs: Sequence[SimulatedJob]) -> float:
    """Seconds of work in all, each shared training once."""
    shared = {key: price for job in jobs for key, price in job.shared.items()}
    return sum(job.own for job in jobs) + sum(shared.values())


def simulate(jobs: Sequence[SimulatedJob], gpus: int) -> Simulated:
    """Play a run of all cells through, from an empty store."""
    sharing: Sharing = Sharing(lambda job: job.stages)
    waiting = arrange(jobs, lambda job: job.alone)
    ready: dict[Key, float] = {}
    """When a training is, or will be, in the store."""
    running: list[tuple[float, int, SimulatedJob]] = []
    now = 0.0
    while waiting or running:
        while waiting and len(running) < gpus:
            job = sharing.pick(waiting)
            assert job is not None
            waiting.remove(job)
            sharing.started(job)
            # What others are computing is waited for; the rest, and what is its own, is computed here.
            end = max([now, *(ready[key] for key in job.shared if key in ready)])
            for key, price in job.shared.items():
                if key not in ready:
                    ready[key] = end = end + price
            heapq.heappush(running, (end + job.own, len(waiting), job))
        now, _, ended = heapq.heappop(running)
        sharing.ended(ended, True)
    return Simulated(gpus, now, work(jobs), lower_bound(jobs, gpus))


def parse_gpus(text: str) -> list[int]:
    """``gpus=1,8,64`` to numbers.

    Raises:
        UsageError: it says something else.
    """
    from benchbd.errors import UsageError, shown

    word, _, numbers = text.partition("=")
    try:
        gpus = [int(number) for number in numbers.split(",")]
    except ValueError:
        gpus = []
    if word != "gpus" or not gpus or not all(1 <= number <= 10_000 for number in gpus):
        raise UsageError(f"--simulate {shown(text)}: say gpus=1,8,64, with whole numbers from 1 to 10000")
    return gpus


def as_json(found: Estimate, runs: Sequence[Simulated]) -> dict[str, Any]:
    """For ``plan --json``."""
    return {
        "unit": "seconds" if found.measured else "full trainings",
        "cells_known_from_records": found.known,
        "runs": [json.loads(json.dumps({**run._asdict(), "idle": run.idle})) for run in runs],
    }


def as_lines(found: Estimate, runs: Sequence[Simulated]) -> list[str]:
    """For people."""
    from benchbd.run.settings import duration_text

    def told(seconds: float) -> str:
        return duration_text(seconds) if found.measured else f"{seconds:.1f} trainings"

    source = (
        f"costs of {found.known} of {len(found.jobs)} cells from records of their defense, others from any or assumed"
        if found.measured
        else "no records: a full training is 1, others are assumed shares of it"
    )
    lines = [f"simulated from an empty store ({source}):"]
    for run in runs:
        lines.append(
            f"  {run.gpus} GPU{'s' if run.gpus > 1 else ''}: {told(run.makespan)}, {run.idle:.0%} idle "
            f"(work {told(run.work)}, no schedule below {told(run.bound)})"
        )
    return lines
