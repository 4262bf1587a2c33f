"""Simulates the run time of a matrix on a number of GPUs, with the scheduler's own rules and expected costs.

The longest cells start first, and a cell does not start while another one computes a training that it needs
(:mod:`benchbd.run.order`). A cell pays for its own work and for the trainings that are not stored yet. If every waiting
cell needs a training that is being computed, one cell starts anyway and waits, as in a real run; waiting counts as
idle.

:mod:`benchbd.run.estimate` says what the cells cost.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchbd.plan.shared_work import Key, SharedWork
from benchbd.run.order import Sharing, arrange


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
        gpus: number of GPUs or cores, each with one cell at a time.
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


class Wish(NamedTuple):
    """What ``--simulate`` asks for: numbers of ``gpus`` or of ``cores``."""

    what: str
    numbers: list[int]


def parse_simulate(text: str) -> Wish:
    """Parse ``gpus=1,8,64`` or ``cores=1,2``.

    Raises:
        UsageError: the text has another form.
    """
    from benchbd.errors import UsageError, shown

    word, _, given = text.partition("=")
    try:
        numbers = [int(number) for number in given.split(",")]
    except ValueError:
        numbers = []
    if word not in ("gpus", "cores") or not numbers or not all(1 <= number <= 10_000 for number in numbers):
        raise UsageError(
            f"--simulate {shown(text)}: must be like gpus=1,8,64 or cores=1,8, with whole numbers from 1 to 10000"
        )
    return Wish(word, list(dict.fromkeys(numbers)))
