"""Runs the cells of a plan through an executor. Done cells are skipped; a failed cell is recorded and does not stop
the others.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from benchbd.core import environment
from benchbd.core.disk_space import disk_is_full
from benchbd.core.events import Event
from benchbd.core.files import RESULTS_DISK_FULL, is_disk_full
from benchbd.errors import BenchbdError, agrees, counted
from benchbd.plan.shared_work import Key, SharedWork, shared_work_of
from benchbd.run.costs import Costs, earlier_records, facts_of
from benchbd.run.display.base import Display
from benchbd.run.display.grid import Result
from benchbd.run.executor import Executor, Job, JobResult, Notify
from benchbd.run.interrupts import Signals
from benchbd.run.order import Sharing, arrange, in_shard, waves
from benchbd.run.outcome import UNREADABLE, Outcome
from benchbd.run.rerun_policy import RETRIABLE, attempts_of, needs_run, run_works_on
from benchbd.run.settings import RunSettings, duration_text
from benchbd.storage import records
from benchbd.storage.cell_locks import CellLocks
from benchbd.storage.cleanup import remove_stale_files

if TYPE_CHECKING:
    from benchbd.plan.cell import Cell

POLL = 0.2
"""Seconds between checks of clocks and signals."""
FOREIGN = 2.0
"""Seconds between checks of a cell that another run is working on."""


class Scheduler:
    """The state and the loop of one run. Displays read their facts from it."""

    def __init__(self, cells: Sequence[Cell], settings: RunSettings, display: Display) -> None:
        self.settings, self.display = settings, display
        self.cells = {cell.id: cell for cell in cells if in_shard(cell.id, settings.shard)}
        self.statuses = dict.fromkeys(self.cells, "pending")
        self.reasons: dict[str, str] = {}
        self.ran: list[str] = []
        self.kept: dict[str, Result] = {}
        self.costs = Costs(earlier_records(settings.output))
        self.attempts = dict.fromkeys(self.cells, 0)
        self.waiting: list[Cell] = []
        self.running: dict[str, Job] = {}
        self.foreign: dict[str, float] = {}
        self.alone: set[str] = set()
        self.draining = False
        self.detached = False
        self.interrupted: str | None = None
        self.stop_reason: str | None = None
        self.began = time.monotonic()
        self._kinds: dict[str, list[tuple[Any, ...]]] = {}
        self._started_at: dict[str, float] = {}
        self._before: dict[str, int] = {}
        self._choose()

    def _choose(self) -> None:
        """Sort the cells into those to run and those to keep."""
        settings, todo = self.settings, []
        for cell in self.cells.values():
            record, problem = records.look_up(settings.output, cell.id)
            if problem is not None and problem.unreadable:
                self._settle(cell.id, UNREADABLE, f"its record {problem.reason}; check its permissions and the disk")
                self.kept[cell.id] = Result(UNREADABLE)
            elif run_works_on(cell.id, record, settings):
                todo.append(cell)
                self._before[cell.id] = self._changed(cell.id)
                self.attempts[cell.id] = 0 if settings.rerun else attempts_of(record)
            elif record is not None:
                self._keep(cell.id, record)
        shared = shared_work_of(list(self.cells.values())) if todo else {}
        self.shared_work: Callable[[Cell], SharedWork] = lambda cell: shared.get(cell.id, SharedWork())
        self.sharing = Sharing(self.shared_work)
        for cell in self.cells.values() if todo else ():
            if self.statuses[cell.id] == "done":
                self.sharing.stored(cell)
        self.waiting = arrange(todo, self.expected)
        levels = enumerate(waves(self.waiting, self.shared_work))
        self.wave_of = {cell.id: level for level, wave in levels for cell in wave}
        self.total = len(self.waiting)

    def _keep(self, cell_id: str, record: dict[str, Any]) -> None:
        """Take a cell's result from its record instead of running it."""
        self._settle(cell_id, record["status"], record.get("error"))
        self.kept[cell_id] = Result.of(record)

    def _settle(self, cell_id: str, status: str, reason: str | None) -> None:
        self.statuses[cell_id] = status
        self.reasons.pop(cell_id, None)
        if status != "done" and reason:
            self.reasons[cell_id] = " ".join(str(reason).split())

    # For displays.

    @property
    def left(self) -> int:
        """Number of cells that have not ended."""
        return len(self.waiting) + len(self.running)

    @property
    def counts(self) -> dict[str, int]:
        """Number of cells by status so far."""
        return Outcome(self.statuses, {}, [], 0.0).counts

    def expected(self, cell: Cell, ready: Collection[Key] = ()) -> float | None:
        """Expected seconds of a cell, without its shared trainings that are stored or ``ready``; None if unknown."""
        if cell.id not in self._kinds:
            self._kinds[cell.id] = Costs.kinds(facts_of(cell))
        there = [key for key in self.shared_work(cell).heavy if key in ready or self.sharing.has(key)]
        return self.costs.expected(self._kinds[cell.id], [key[2].kind for key in there if key[0] == "training"])

    def eta(self) -> float | None:
        """Expected seconds until the end of the run, with all places busy; None if unknown."""
        known = [s for cell in self.cells.values() if (s := self.expected(cell)) is not None]
        if not known or not self.left:
            return None
        typical, now = sum(known) / len(known), time.monotonic()

        def seconds(cell: Cell, ready: Collection[Key] = ()) -> float:
            expected = self.expected(cell, ready)
            return typical if expected is None else expected

        going = [max(0.0, seconds(self.cells[i]) - (now - self._started_at[i])) for i in self.running]
        rest, ready = 0.0, {key for i in self.running for key in self.shared_work(self.cells[i]).heavy}
        for cell in self.waiting:  # what cells share is computed once
            rest += seconds(cell, ready)
            ready |= self.shared_work(cell).heavy
        return max((rest + sum(going)) / max(1, min(self.executor.places, self.left)), *going, 0.0)

    # The loop.

    def run(self, make: Callable[[RunSettings, Notify], Executor]) -> Outcome:
        """Run cells until none is left or the run is stopped."""
        self.locks = CellLocks(self.settings.output)
        error: BenchbdError | None = None
        if self.waiting:
            remove_stale_files(self.settings.output)
            self.executor = make(self.settings, self._on_event)
            self.signals = Signals(interrupt=self.executor.name == "inline")
            self.display.begin(self, self._opening())
            try:
                with self.signals:
                    while self.waiting or self.running:
                        self._check_stop()
                        self._fill()
                        if self.detached or (not self.running and (self.draining or not self.waiting)):
                            break
                        for result in self.executor.poll(POLL):
                            self._ended(result)
                        self.display.tick()
            except BenchbdError as problem:
                error = problem
            finally:
                self.executor.close()
                self.locks.close()
        missing = self._count_missing()
        outcome = Outcome(self.statuses, self.reasons, self.ran, time.monotonic() - self.began, self._why_interrupted())
        if missing:
            self.display.note(
                f"{counted(missing, 'record')} {agrees(missing, 'is', 'are')} missing from {self.settings.output}: "
                "something removed what the run had written"
            )
        if self.total:
            self.display.end(outcome)
        if error:
            raise error
        return outcome

    def _count_missing(self) -> int:
        """Mark the cells whose records somebody has removed during the run as lost. Returns their number."""
        missing = 0
        for cell_id, status in self.statuses.items() if self.total else ():
            if status in ("done", "skipped") and not records.record_path(self.settings.output, cell_id).exists():
                self._settle(cell_id, "lost", "the record was removed from the output folder during the run")
                missing += 1
        return missing

    def _why_interrupted(self) -> str | None:
        unfinished = any(status in ("pending", "cancelled") for status in self.statuses.values())
        return self.interrupted if unfinished else None

    def _opening(self) -> str:
        kept = len(self.cells) - self.total
        shard = f" of shard {self.settings.shard.number}/{self.settings.shard.of}" if self.settings.shard else ""
        at_once = f"{self.executor.places} at once ({self.executor.name})"
        text = f"{counted(self.total, 'cell')} to run{shard}, {kept} kept; {at_once}"
        inline = "; all cells share this process, so what a plugin changes in it reaches later cells"
        return text + (inline if self.executor.name == "inline" else "")

    def _check_stop(self) -> None:
        """Act on signals and on the budget."""
        elapsed, budget = time.monotonic() - self.began, self.settings.budget
        if budget is not None and elapsed > budget and not self.interrupted:
            self.interrupted = f"the budget of {duration_text(budget)} is used up"
            self._stop(self.interrupted)
        if self.signals.leave and self.executor.detaches:
            self.interrupted, self.detached = (
                "detached: jobs continue in the queue; the same command finds them again",
                True,
            )
        elif self.signals.count >= 2 and self.stop_reason is None:
            self.interrupted = "interrupted"
            self._stop("interrupted")
        elif self.signals.count == 1 and not self.draining:
            self.interrupted, self.draining = "interrupted", True
            self.display.note(
                f"finishing {counted(len(self.running), 'running cell')}, starting no more; Ctrl-C again stops at once"
            )
            self.executor.drain()

    def _stop(self, reason: str) -> None:
        """Stop the running cells and start no more."""
        self.draining, self.stop_reason = True, reason
        self.display.note(f"stopping: {reason}")
        for job_id in list(self.running):
            self.executor.cancel(job_id)

    def _fits(self, cell: Cell) -> bool:
        """Whether a cell is expected to end within the budget."""
        budget = self.settings.budget
        if budget is None:
            return True
        expected = self.expected(cell)
        return expected is None or time.monotonic() - self.began + expected <= budget

    def _fill(self) -> None:
        """Start cells while there is room."""
        tried: set[str] = set()
        while self.waiting and not self.draining and self.executor.free() > 0:
            now = time.monotonic()
            candidates = [c for c in self.waiting if self.foreign.get(c.id, 0.0) <= now and c.id not in tried]
            fitting = [c for c in candidates if self._fits(c)]
            # A cell longer than any budget must still get its turn: its stored stages and checkpoints are kept.
            cell = self.sharing.pick(fitting or (candidates if not self.running and not self.ran else []))
            if cell is None:
                if candidates and not self.running:
                    self.interrupted, self.draining = "no cell left is expected to fit into the budget", True
                    self.display.note(self.interrupted)
                return
            tried.add(cell.id)
            if self._start(cell):
                self.waiting.remove(cell)

    def _start(self, cell: Cell) -> bool:
        """Start a cell, unless another run has finished it. Returns False if another run holds it: try again later."""
        if not self.executor.remote and not self.locks.take(cell.id):
            if cell.id not in self.foreign:
                self.display.note(f"{cell.label} is running in another process; will check again later")
            self.foreign[cell.id] = time.monotonic() + FOREIGN
            return False
        self.foreign.pop(cell.id, None)
        if self._changed(cell.id) != self._before[cell.id]:
            record = records.read_record(self.settings.output, cell.id)
            if record is not None and not needs_run(record, retries=self.settings.retries):
                self.locks.give_up(cell.id)
                self._keep(cell.id, record)
                if record["status"] == "done":
                    self.sharing.stored(cell)
                return True
        self.attempts[cell.id] += 1
        job = Job(
            cell.id, cell.label, cell.to_json(), self.attempts[cell.id], cell.id in self.alone, self.wave_of[cell.id]
        )
        self.running[cell.id] = job
        self._started_at[cell.id] = time.monotonic()
        self._before[cell.id] = self._changed(cell.id)
        self.sharing.started(cell)
        self.executor.start(job)
        return True

    def _changed(self, cell_id: str) -> int:
        """When a cell's record or that of a failed rerun was last written, in nanoseconds; 0 if there is none."""
        return records.last_change(self.settings.output, cell_id)

    def _on_event(self, cell_id: str, event: Event) -> None:
        if event.get("event") == "started":
            self._started_at[cell_id] = time.monotonic()
        with contextlib.suppress(Exception):  # what a plugin reports may not be shown; that must not end the run
            self.display.event(cell_id, self.cells[cell_id].label, event)

    def _ended(self, result: JobResult) -> None:
        """Handle the end of a job: record it or try again."""
        cell, job = self.cells[result.id], self.running.pop(result.id)
        if result.status == "pending":
            self.sharing.ended(cell, False)
            self.locks.give_up(cell.id)
            return
        # A worker may die between writing the record and reporting it; the record is the truth.
        fresh = result.recorded or self._changed(result.id) != self._before[result.id]
        record = result.record or (records.last_attempt(self.settings.output, result.id) if fresh else None)
        if result.recorded and result.status != "done" and record is not None and record["status"] == "done":
            record = None  # the result of an earlier run
        status = str(record["status"]) if record else result.status
        reason = str(record.get("error") or "") if record else result.reason
        if status == "done" and record is None:
            status, reason = "lost", "the cell ended but left no readable record"
        self.sharing.ended(cell, status == "done")
        # A cell may fill another disk, such as its own folder for temporary files: that is a failure of its own.
        no_space = status == "failed" and is_disk_full(reason)
        full = no_space and disk_is_full(self.settings.output)
        if full or (no_space and RESULTS_DISK_FULL in reason):
            # The cell is not at fault. The next run repeats it without a flag once there is space.
            status, record = "cancelled", None
        if status == "oom" and result.shared and result.id not in self.alone:
            self.alone.add(result.id)
            self.attempts[result.id] -= 1
            self._again(cell, "out of memory on a shared GPU; trying once more, alone")
        elif status in RETRIABLE and job.attempt <= self.settings.retries and not self.draining:
            self._again(cell, f"{status} ({reason}); attempt {job.attempt + 1} of {self.settings.retries + 1}")
        else:
            self._finish(cell, job, status, reason, record, result)
        if full:
            self._stop("the disk is full; free some space and run the same command again")

    def _again(self, cell: Cell, why: str) -> None:
        self._before[cell.id] = self._changed(cell.id)
        self.locks.give_up(cell.id)
        self.waiting.append(cell)
        self.display.note(f"{cell.label}: {why}")

    def _finish(
        self, cell: Cell, job: Job, status: str, reason: str, record: dict[str, Any] | None, result: JobResult
    ) -> None:
        if status == "cancelled" and self.stop_reason:
            reason = self.stop_reason
        self._settle(cell.id, status, reason)
        self.ran.append(cell.id)
        try:
            if not self._write(cell, job, status, reason, record, result):
                reason = f"{reason}; the earlier result stays"
                self._settle(cell.id, status, reason)
        except OSError as error:
            if not is_disk_full(error):
                raise BenchbdError(f"records cannot be written: {error}") from error
            if self.stop_reason is None:
                self._stop("the disk is full; free some space and run the same command again")
        self.locks.give_up(cell.id)
        if record and status == "done":
            self.costs.learn(record)
        self.display.ended(cell.id, cell.label, status, reason, result.wall, record)
        if self.settings.fail_fast and status not in ("done", "skipped") and self.stop_reason is None:
            self._stop("--fail-fast")

    def _write(
        self, cell: Cell, job: Job, status: str, reason: str, record: dict[str, Any] | None, result: JobResult
    ) -> bool:
        """Write the record if the cell's process did not. Returns False if an earlier result stays in its place."""
        output = self.settings.output
        if status == "done":
            return not result.record or records.write_record(output, result.record)
        if record is None:
            record = records.blank(cell, status, reason)
            record["time"]["own"] = result.wall
            record["env"] = environment.basics()
        return records.write_record(output, {**record, "attempts": job.attempt})
