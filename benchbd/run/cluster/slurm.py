"""Runs cells as Slurm job arrays, through submitit.

The state of a job comes from records and from the queue, never from futures: without accounting, submitit does not
notice a killed task. Jobs outlive the run that submitted them. The same command, given again, finds them through the
file ``<output>/slurm/jobs.json`` and continues to watch them.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchbd.core.files import atomic_write, open_plain, read_plain
from benchbd.core.user_variables import only_user_variables
from benchbd.errors import BenchbdError, UsageError, counted, did_you_mean, one_line
from benchbd.run.cluster.remote import order_of, run_file
from benchbd.run.executor import Job, JobResult, Notify
from benchbd.run.rerun_policy import INTERRUPTIONS
from benchbd.run.settings import RunSettings
from benchbd.storage import records

CHUNK = 500
"""Maximum number of tasks in an array; Slurm's usual MaxArraySize is 1001."""
DEFAULT_MINUTES = 24 * 60
GRACE_MINUTES = 3
"""Added to --timeout for Slurm's own limit, so that the task itself ends the cell in time and records it."""
GONE = 2
"""Number of consecutive queue checks without a task after which it counts as gone."""
OWN = ("poll", "max_jobs")
"""Settings of benchbd itself; all others belong to submitit."""
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "RESIZING"}
ALIVE = {*WAITING, "RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT"}
"""States of a task that has not ended, or will start again."""


class _Task:
    """A cell in the queue."""

    def __init__(self, job: Job, task_id: str, before: int) -> None:
        self.job, self.task_id, self.before = job, task_id, before
        self.began = time.monotonic()
        self.missed = 0
        self.running = self.withdrawn = False
        self.shown = ""


class _End(NamedTuple):
    """The end of a task that is no longer in the queue, according to Slurm."""

    status: str
    reason: str


def how_it_ended(facts: dict[str, str], task_id: str) -> _End:
    """Status and reason from the output of ``scontrol show job``, which Slurm deletes after some minutes.

    Args:
        facts: ``JobState``, ``ExitCode`` and so on; empty if Slurm no longer knows the task.
        task_id: ID of the task, for the message.
    """
    state = facts.get("JobState", "").split("+")[0]
    code, _, number = facts.get("ExitCode", "0:0").partition(":")
    killed = int(number or 0) or (int(code or 0) - 128 if int(code or 0) > 128 else 0)
    if state.startswith("CANCELLED"):
        return _End("cancelled", f"Slurm task {task_id} was cancelled")
    if state in ("TIMEOUT", "DEADLINE"):
        return _End("timeout", f"Slurm task {task_id} ran into the queue's time limit ({facts.get('TimeLimit', '?')})")
    if state == "OUT_OF_MEMORY":
        return _End("oom", f"Slurm task {task_id} used more memory than requested (mem_gb)")
    if state in ("NODE_FAIL", "BOOT_FAIL"):
        return _End("lost", f"Slurm task {task_id}: {state} on {facts.get('NodeList', '?')}")
    if killed:
        return _End("killed", f"Slurm task {task_id} was killed by signal {killed}")
    if state in ("PREEMPTED", "REVOKED"):
        return _End("killed", f"Slurm task {task_id} was preempted and not requeued")
    if state == "FAILED":
        return _End("failed", f"Slurm task {task_id} ended with exit code {code} and left no record")
    return _End("lost", f"Slurm task {task_id} is no longer in the queue and left no record")


def _output_of(*words: str) -> str | None:
    """Standard output of a Slurm command; None if it fails (a busy controller, an unknown job)."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


class SlurmExecutor:
    """Submits all jobs at once and leaves their order to the queue. ``--executor-config`` is passed on to submitit."""

    name = "slurm"
    remote = True
    detaches = True

    def __init__(self, settings: RunSettings, notify: Notify) -> None:
        self._settings, self._notify = settings, notify
        config = dict(settings.executor_config)
        self._poll = float(config.pop("poll", 10.0))
        self._most = int(config.pop("max_jobs", 10_000))
        self._folder = settings.output / "slurm"
        self._submitit = self._open(config)
        self._fresh: list[Job] = []
        self._tasks: dict[str, _Task] = {}
        self._early: list[JobResult] = []
        self._last_look = 0.0
        self._known: dict[str, str] = self._read_jobs()
        self._queue = self._look() or {}

    def _open(self, config: dict[str, Any]) -> Any:
        """Create the submitit executor. The UsageError says what to install or correct."""
        try:
            import submitit
        except ImportError:
            raise UsageError("--executor slurm needs submitit: pip install 'benchbd[slurm]'") from None
        if _output_of("sinfo", "--version") is None:
            raise UsageError("--executor slurm: no Slurm on this machine (sinfo was not found); run it on a login node")
        valid = submitit.SlurmExecutor._valid_parameters()
        names = {"timeout_min", "mem_gb", "stderr_to_stdout", *valid} - {"map_count", "job_name", "time", "use_srun"}
        for key in config:
            if key not in names:
                raise UsageError(f"--executor-config: unknown key {key!r}{did_you_mean(key, {*names, *OWN})}")
        settings = self._settings
        minutes = config.pop("timeout_min", None)
        if minutes is None:
            minutes = math.ceil(settings.timeout / 60) + GRACE_MINUTES if settings.timeout else DEFAULT_MINUTES
        if "mem_gb" in config:
            config["mem"] = f"{math.ceil(1024 * float(config.pop('mem_gb')))}M"
        if settings.device != "cpu" and not {"gpus_per_node", "gpus_per_task", "gres"} & config.keys():
            config["gpus_per_node"] = 1
        more = {"requeue": True, **(config.pop("additional_parameters", None) or {})}
        self._parameters = {"time": int(minutes), "job_name": "benchbd", **config, "additional_parameters": more}
        try:
            # Nested runs must not be mistaken for jobs of the run that submitted them.
            executor = submitit.SlurmExecutor(folder=self._folder / "%A")
            executor.update_parameters(**self._parameters)
        except (RuntimeError, TypeError, ValueError) as error:
            raise UsageError(f"--executor slurm: {one_line(error)}") from error
        return executor

    # The file of submitted jobs.

    def _read_jobs(self) -> dict[str, str]:
        try:
            found = json.loads(read_plain(self._folder / "jobs.json"))
        except (OSError, ValueError):
            return {}
        return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}

    def _write_jobs(self) -> None:
        atomic_write(self._folder / "jobs.json", json.dumps(self._known, indent=1, sort_keys=True).encode())

    # The Executor protocol.

    @property
    def places(self) -> int:
        """Number of tasks that run now, at least 1."""
        return max(1, sum(task.running for task in self._tasks.values()))

    def free(self) -> int:
        """Room in the queue, which takes up to max_jobs jobs."""
        return self._most - len(self._tasks) - len(self._fresh)

    def start(self, job: Job) -> None:
        """Accept a job. The next :meth:`poll` submits it, unless an earlier run has left it in the queue."""
        known = self._known.get(job.id)
        if known and known in self._queue:
            self._tasks[job.id] = _Task(job, known, self._changed(job.id))
            self._notify(job.id, {"event": "note", "text": f"found in the queue as Slurm task {known}"})
        else:
            self._fresh.append(job)

    def _changed(self, cell_id: str) -> int:
        return records.last_change(self._settings.output, cell_id)

    def poll(self, seconds: float) -> list[JobResult]:
        """Submit new jobs, then check the records and the queue."""
        if self._fresh:
            self._submit()
        ended, self._early = self._early, []
        if not ended:
            time.sleep(seconds)
        if time.monotonic() - self._last_look < self._poll:
            return ended
        queue = self._look()
        for task in list(self._tasks.values()):
            found = self._check(task, queue)
            if found is not None:
                del self._tasks[task.job.id]
                self._known.pop(task.job.id, None)
                ended.append(found)
        if queue is not None:
            self._queue = queue
        return ended

    def _submit(self) -> None:
        """Submit one array per wave (in chunks). A wave waits for the end of the previous one, successful or not."""
        before: list[str] = []
        for wave in sorted({job.wave for job in self._fresh}):
            jobs = [job for job in self._fresh if job.wave == wave]
            arrays = [self._submit_array(jobs[i : i + CHUNK], before) for i in range(0, len(jobs), CHUNK)]
            before = arrays
        self._fresh = []
        self._queue = self._look() or self._queue

    def _submit_array(self, jobs: list[Job], after: list[str]) -> str:
        folder = self._folder / "orders"
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for job in jobs:
            path = folder / f"{job.id}.json"
            atomic_write(path, json.dumps(order_of(job, self._settings)).encode())
            paths.append(str(path))
        more = dict(self._parameters["additional_parameters"])
        if after:
            more["dependency"] = "afterany:" + ":".join(after)
        self._submitit.update_parameters(additional_parameters=more)
        befores = [self._changed(job.id) for job in jobs]
        try:
            with only_user_variables():
                submitted = self._submitit.map_array(run_file, paths)
        except Exception as error:  # submitit has one error class but lets others through
            raise BenchbdError(f"sbatch refused the jobs: {one_line(error)}") from error
        for job, handle, changed in zip(jobs, submitted, befores, strict=True):
            self._known[job.id] = str(handle.job_id)
            self._tasks[job.id] = _Task(job, str(handle.job_id), changed)
        self._write_jobs()
        array = str(submitted[0].job_id).partition("_")[0]
        self._notify(
            jobs[0].id, {"event": "note", "text": f"{counted(len(jobs), 'cell')} submitted as Slurm job {array}"}
        )
        return array

    def _look(self) -> dict[str, str] | None:
        """State by task ID of all our jobs in the queue; None if the controller does not answer."""
        self._last_look = time.monotonic()
        text = _output_of("squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%i|%T")
        if text is None:
            return None
        rows = (line.strip().split("|") for line in text.splitlines())
        return {row[0]: row[1] for row in rows if len(row) == 2}

    def _check(self, task: _Task, queue: dict[str, str] | None) -> JobResult | None:
        """The result of a task that has ended, according to its record or else its absence from the queue; or None."""
        job = task.job
        changed = self._changed(job.id) != task.before
        record = records.last_attempt(self._settings.output, job.id) if changed else None
        status = str(record["status"]) if record else ""
        recorded = JobResult(
            job.id, status, str((record or {}).get("error") or ""), True, False, time.monotonic() - task.began
        )
        # An interrupted task may have been preempted: it may start again as long as Slurm knows it.
        if record is not None and status not in INTERRUPTIONS:
            return recorded
        if queue is None:
            return None
        state = queue.get(task.task_id)
        if state is not None and state not in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"):
            task.missed = 0
            self._show(task, state)
            return None
        task.missed += 1
        if task.missed < GONE:
            return None
        if task.withdrawn and not task.running:
            return JobResult(job.id, "pending")
        text = _output_of("scontrol", "show", "job", "-o", task.task_id) or ""
        facts = dict(word.partition("=")[::2] for word in text.split() if "=" in word)
        if facts.get("JobState", "").partition("+")[0] in ALIVE:
            task.missed = 0
            return None
        end = how_it_ended(facts, task.task_id)
        if record is None:
            return JobResult(job.id, end.status, end.reason, False, False, time.monotonic() - task.began)
        if end.status == "cancelled":
            # Signals reach every process of a task, so its record may mention only a killed worker.
            return recorded._replace(
                status=end.status, reason=end.reason, record={**record, "status": end.status, "error": end.reason}
            )
        return recorded

    def _show(self, task: _Task, state: str) -> None:
        """Show a task's state, and the last line of its log while it runs."""
        if state not in WAITING and not task.running:
            task.running, task.began = True, time.monotonic()
            self._notify(task.job.id, {"event": "started", "where": f"slurm {task.task_id}"})
        if task.running:
            line = last_line(self._settings.log_path(task.job.id))
            if line and line != task.shown:
                task.shown = line
                self._notify(task.job.id, {"event": "stage", "stage": line[9:60]})

    def drain(self) -> None:
        """Withdraw the tasks that have not started; running tasks continue."""
        waiting = [task for task in self._tasks.values() if not task.running]
        for task in waiting:
            task.withdrawn = True
        self._scancel([task.task_id for task in waiting], "--state=PENDING")

    def cancel(self, job_id: str) -> None:
        """Remove a task from the queue, or stop it."""
        for job in [j for j in self._fresh if j.id == job_id]:
            self._fresh.remove(job)
            self._early.append(JobResult(job_id, "pending"))
        if job_id in self._tasks:
            self._scancel([self._tasks[job_id].task_id])
            task = self._tasks.pop(job_id)
            self._known.pop(job_id, None)
            reason = f"Slurm task {task.task_id} was cancelled"
            self._early.append(JobResult(job_id, "cancelled", reason) if task.running else JobResult(job_id, "pending"))

    @staticmethod
    def _scancel(task_ids: list[str], *flags: str) -> None:
        for i in range(0, len(task_ids), 200):
            _output_of("scancel", *flags, *task_ids[i : i + 200])

    def close(self) -> None:
        """Save the jobs that are still in the queue. They continue without this run."""
        if self._folder.is_dir():
            self._write_jobs()


def last_line(path: Path) -> str:
    """The last line of a log, read from the end as logs may be long; '' if there is none."""
    try:
        with open(open_plain(path), "rb") as file:  # noqa: PTH123 - a descriptor
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
