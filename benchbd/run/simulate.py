"""Simulates the run time of a matrix on a number of GPUs, with the scheduler's own rules and expected costs.

The longest cells start first, and a cell does not start while another one computes a training that it needs
(:mod:`benchbd.run.order`). A cell pays for its own work and for the trainings that are not stored yet. If every waiting
cell needs a training that is being computed, one cell starts anyway and waits, as in a real run; waiting counts as
idle.

Costs come from records of the same data set, model and recipe if there are any. Otherwise a full training costs its
average over the available records, or 1 without any, and other trainings cost the shares in :data:`SHARES`. Reading
data, poisoning (except for an attack's declared trainings), evaluation and start-up are not counted, and neither is the
slowdown between workers on one machine.
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
"""Assumed cost of a training without a record, in units of a full training."""
STAGE = {"full": "train", "feature-model": "feature model", "teacher": "teacher"}
"""Name of a training's stage in records, by kind of training."""


class SimulatedJob(NamedTuple):
    """The cost of a cell.

    Attributes:
        id: the cell's ID.
        own: seconds of work that only this cell needs.
        shared: seconds of each training that other cells need too.
        shared_work: the cell's shared stages, for the scheduler.
    """

    id: str
    own: float
    shared: Mapping[Key, float]
    shared_work: SharedWork

    @property
    def alone(self) -> float:
        """Seconds of the cell with an empty store."""
        return self.own + sum(self.shared.values())


class Simulated(NamedTuple):
    """The result of a simulated run.

    Attributes:
        gpus: number of GPUs, each with one cell at a time.
        makespan: seconds from the first start to the last end.
        work: total seconds of work, with each shared training counted once.
        bound: lower bound in seconds of any schedule (:func:`lower_bound`).
    """

    gpus: int
    makespan: float
    work: float
    bound: float

    @property
    def idle(self) -> float:
        """Fraction of the GPUs' time without work, in [0, 1]."""
        return max(0.0, 1 - self.work / (self.gpus * self.makespan)) if self.makespan else 0.0


class Estimate(NamedTuple):
    """The costs of a plan's cells.

    Attributes:
        jobs: one per cell, in plan order.
        known: number of cells whose cost comes from records of the same data set, defense, model and recipe.
        measured: whether costs are in seconds; otherwise they are in full trainings.
    """

    jobs: list[SimulatedJob]
    known: int
    measured: bool


def estimate(cells: Sequence[Cell], records: Iterable[Mapping[str, Any]]) -> Estimate:
    """The expected cost of each cell, and which parts of it are shared."""
    costs, trained = Costs(), _Trainings()
    for record in records:
        costs.learn(record)
        trained.learn(record)
    shared_work, jobs, known = shared_work_of(cells), [], 0
    for cell, planned in planned_trainings(cells):
        kinds = Costs.kinds(facts_of(cell))
        wanted = dict.fromkeys((*planned.attack, *planned.defense))
        prices = {("training", *key): trained.expected(kinds[-1], key[1].kind) for key in wanted}
        shared = {key: price for key, price in prices.items() if key in shared_work[cell.id].heavy}
        total = costs.expected(kinds)
        known += costs.expected(kinds[:2]) is not None
        if total is None:
            own = sum(prices.values()) - sum(shared.values())
        else:
            # A record's total excludes the attack's trainings.
            defense = {("training", *key) for key in planned.defense}
            own = total - sum(price for key, price in shared.items() if key in defense)
            own += sum(prices[key] for key in prices.keys() - defense - shared.keys())
        jobs.append(SimulatedJob(cell.id, max(0.0, own), shared, shared_work[cell.id]))
    return Estimate(jobs, known, trained.seen)


class _Trainings:
    """Expected seconds of a training by its kind, estimated from the stages in records."""

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
        for training, name in STAGE.items():
            seconds = stages.get(name)
            if isinstance(seconds, (int, float)) and 0 <= seconds < 1e9:
                self._found[Costs.kinds(record)[-1], training].append(float(seconds))
                if training == "full":
                    self._full.append(float(seconds))

    def expected(self, kind: Key, training: str) -> float:
        if found := self._found.get((kind, training)):
            return sum(found) / len(found)
        full = self._found.get((kind, "full")) or self._full or [1.0]
        return SHARES[training] * sum(full) / len(full)


def lower_bound(jobs: Sequence[SimulatedJob], gpus: int) -> float:
    """Lower bound in seconds of any schedule: all work spread evenly, or the longest chain.

    Several other cells may compute a cell's trainings at once. Its chain is therefore its own work after the longest of
    them.
    """
    chain = max((job.own + max(job.shared.values(), default=0.0) for job in jobs), default=0.0)
    return max(work(jobs) / gpus, chain)


def work(jobs: Sequence[SimulatedJob]) -> float:
    """Total seconds of work, with each shared training counted once."""
    shared = {key: price for job in jobs for key, price in job.shared.items()}
    return sum(job.own for job in jobs) + sum(shared.values())


def simulate(jobs: Sequence[SimulatedJob], gpus: int) -> Simulated:
    """Simulate a run of all cells from an empty store."""
    sharing: Sharing = Sharing(lambda job: job.shared_work)
    waiting = arrange(jobs, lambda job: job.alone)
    ready: dict[Key, float] = {}
    """Time at which a training is in the store, by training."""
    running: list[tuple[float, int, SimulatedJob]] = []
    now = 0.0
    while waiting or running:
        while waiting and len(running) < gpus:
            job = sharing.pick(waiting)
            assert job is not None
            waiting.remove(job)
            sharing.started(job)
            # The job waits for trainings of other jobs, then computes the rest and its own work.
            end = max([now, *(ready[key] for key in job.shared if key in ready)])
            for key, price in job.shared.items():
                if key not in ready:
                    ready[key] = end = end + price
            heapq.heappush(running, (end + job.own, len(waiting), job))
        now, _, ended = heapq.heappop(running)
        sharing.ended(ended, True)
    return Simulated(gpus, now, work(jobs), lower_bound(jobs, gpus))


def parse_gpus(text: str) -> list[int]:
    """Parse ``gpus=1,8,64`` into numbers.

    Raises:
        UsageError: the text has another form.
    """
    from benchbd.errors import UsageError, shown

    word, _, numbers = text.partition("=")
    try:
        gpus = [int(number) for number in numbers.split(",")]
    except ValueError:
        gpus = []
    if word != "gpus" or not gpus or not all(1 <= number <= 10_000 for number in gpus):
        raise UsageError(f"--simulate {shown(text)}: must be like gpus=1,8,64, with whole numbers from 1 to 10000")
    return gpus


def as_json(found: Estimate, runs: Sequence[Simulated]) -> dict[str, Any]:
    """The simulation as JSON types, for ``plan --json``."""
    return {
        "unit": "seconds" if found.measured else "full trainings",
        "cells_known_from_records": found.known,
        "runs": [json.loads(json.dumps({**run._asdict(), "idle": run.idle})) for run in runs],
    }


def as_lines(found: Estimate, runs: Sequence[Simulated]) -> list[str]:
    """The simulation as lines of text."""
    from benchbd.run.settings import duration_text

    def amount(seconds: float) -> str:
        return duration_text(seconds) if found.measured else f"{seconds:.1f} trainings"

    source = (
        f"costs of {found.known} of {len(found.jobs)} cells from records of their defense, others from any or assumed"
        if found.measured
        else "no records: a full training is 1, others are assumed shares of it"
    )
    lines = [f"simulated from an empty store ({source}):"]
    for run in runs:
        lines.append(
            f"  {run.gpus} GPU{'s' if run.gpus > 1 else ''}: {amount(run.makespan)}, {run.idle:.0%} idle "
            f"(work {amount(run.work)}, no schedule below {amount(run.bound)})"
        )
    return lines
