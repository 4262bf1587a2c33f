"""Runs cells as Ray tasks, on several machines without a batch queue or a shared file system.

``ray start --head`` on one machine, ``ray start --address ...`` on the others, then ``--executor ray --executor-config
'{address: auto}'``. Records and logs come back as return values; stored stages stay on the machine that computed
them, under the same path as here unless ``output`` sets another.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from pathlib import Path
from typing import Any

from benchbd.core.files import open_own
from benchbd.core.user_variables import only_user_variables
from benchbd.errors import BenchbdError, UsageError, did_you_mean, one_line
from benchbd.plan.cell import Cell
from benchbd.run.cluster.remote import order_of, run_order
from benchbd.run.cluster.sent_files import OwnFiles, own_files
from benchbd.run.executor import Job, JobResult, Notify
from benchbd.run.settings import RunSettings

KEYS = ("address", "num_cpus", "num_gpus", "resources", "output", "data", "runtime_env", "cluster")
"""``cluster`` holds arguments of ``ray.init`` (for example, the declared resources of a local Ray)."""


class RayExecutor:
    """Runs as many cells at once as the cluster has resources for."""

    name = "ray"
    remote = True
    detaches = False

    def __init__(self, settings: RunSettings, notify: Notify) -> None:
        try:
            import ray
        except ImportError:
            raise UsageError("--executor ray needs Ray: pip install 'benchbd[ray]'") from None
        config = dict(settings.executor_config)
        for key in config:
            if key not in KEYS:
                raise UsageError(f"--executor-config: unknown key {key!r}{did_you_mean(key, KEYS)}")
        self._ray, self._notify = ray, notify
        self._output = settings.output
        self._settings = dataclasses.replace(
            settings,
            output=Path(config.get("output") or settings.output),
            data_root=config.get("data") or settings.data_root,
        )
        self._ours = not ray.is_initialized()
        self._connect(config)
        total = ray.cluster_resources()  # type: ignore[no-untyped-call,unused-ignore]
        gpus = 0.0 if settings.device == "cpu" or not total.get("GPU") else 1.0 / settings.jobs_per_gpu
        self._cpus, self._gpus = float(config.get("num_cpus", 1)), float(config.get("num_gpus", gpus))
        self._resources = config.get("resources")
        capacities = [total.get("CPU", 0.0) / self._cpus] if self._cpus else []
        capacities += [total.get("GPU", 0.0) / self._gpus] if self._gpus else []
        self.places = int(min(capacities, default=1.0) + 1e-9)
        if self.places < 1:
            available = f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs"
            needed = f"{self._cpus:g} CPUs and {self._gpus:g} GPUs"
            raise UsageError(f"--executor ray: a cell needs {needed}; the cluster has {available}")
        if settings.jobs:
            self.places = min(self.places, settings.jobs)
        self._running: dict[Any, tuple[Job, float]] = {}
        self._cancelled: set[str] = set()
        self._files: dict[str, Any] = {}
        """Ray's references to the files of defenses, by their digest."""
        self._early: list[JobResult] = []

    def _connect(self, config: dict[str, Any]) -> None:
        if not self._ours:
            return
        given = dict(config.get("cluster") or {})
        if config.get("address"):
            given["address"] = config["address"]
        if config.get("runtime_env"):
            given["runtime_env"] = config["runtime_env"]
        try:
            with only_user_variables():
                self._ray.init(log_to_driver=False, logging_level=logging.ERROR, **given)
        except Exception as error:  # Ray raises plain exceptions if a node does not start in time
            hint = "start one with ray start --head, or name it: {address: ...}"
            if config.get("address"):  # Ray requests a token on its own only if it finds the cluster on its own
                hint = "is it running? a cluster started with a token needs RAY_AUTH_MODE=token in the environment"
            raise UsageError(f"--executor ray: no Ray cluster: {one_line(error)} ({hint})") from error

    def free(self) -> int:
        """Number of cells that the cluster has resources for now."""
        return self.places - len(self._running)

    def start(self, job: Job) -> None:
        """Submit a job. Ray itself does not retry, so that a crash counts for its cell alone."""
        share = max(1, round(1 / self._gpus)) if 0 < self._gpus < 1 else 1
        gpus = 1.0 if job.alone and self._gpus else self._gpus
        demands = {"num_cpus": self._cpus, "num_gpus": gpus, "resources": self._resources}
        try:
            own = own_files(Cell.from_json(job.cell))
            files = self._sent(own)
        except BenchbdError as error:
            self._early.append(JobResult(job.id, "failed", one_line(error)))
            return
        order = order_of(job, self._settings, share=share, ship_plugins=True, own=own)
        # One call per process: the plugins and modules that a task loads must not affect the next task.
        task = self._ray.remote(max_calls=1, max_retries=0)(run_order).options(**demands, name=f"benchbd {job.label}")
        self._running[task.remote(order, files)] = (job, time.monotonic())
        self._notify(job.id, {"event": "started", "where": "ray"})

    def _sent(self, own: OwnFiles | None) -> Any:
        """Ray's reference to the files of a defense, which it gets once for all cells; None without files."""
        if own is not None and own.digest not in self._files:
            self._files[own.digest] = self._ray.put(own.read())
        return None if own is None else self._files[own.digest]

    def poll(self, seconds: float) -> list[JobResult]:
        """Collect the results of finished tasks."""
        if self._early:
            early, self._early = self._early, []
            return early
        if not self._running:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds, fetch_local=True)
        return [self._collect(reference) for reference in ready]

    def _collect(self, reference: Any) -> JobResult:
        job, began = self._running.pop(reference)
        wall = time.monotonic() - began
        shared = 0 < self._gpus < 1 and not job.alone
        try:
            result = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            status, reason = self._cause(job, error)
            return JobResult(job.id, status, reason, False, shared, wall)
        self._keep_log(job, result["log"])
        return JobResult(job.id, result["status"], result["reason"], False, shared, wall, result["record"])

    def _cause(self, job: Job, error: Exception) -> tuple[str, str]:
        """Status and reason of a task without a result."""
        kinds = self._ray.exceptions
        if job.id in self._cancelled:
            return "cancelled", "stopped while running"
        if isinstance(error, kinds.OutOfMemoryError):
            return "oom", "Ray killed the task: its machine ran out of memory"
        if isinstance(error, (kinds.NodeDiedError, kinds.ObjectLostError, kinds.OwnerDiedError)):
            return "lost", f"the machine it ran on is gone ({type(error).__name__})"
        if isinstance(error, kinds.WorkerCrashedError):
            return "killed", "the Ray worker died; it may have been killed"
        if isinstance(error, kinds.TaskCancelledError):
            return "cancelled", "the Ray task was cancelled"
        text = one_line(error).rpartition("Error: ")[2] if isinstance(error, kinds.RayTaskError) else one_line(error)
        return "failed", f"the Ray task failed: {text[-300:]}"

    def _keep_log(self, job: Job, text: str) -> None:
        """Write the log to the output folder, unless a shared file system already has it there."""
        path = self._output / "logs" / f"{job.id}.log"
        if path.is_file() and not path.is_symlink() and path.stat().st_size >= len(text.encode()):
            return
        with os.fdopen(open_own(path, os.O_WRONLY), "w", encoding="utf-8") as log:
            log.truncate(0)
            log.write(text)

    def drain(self) -> None:
        """Do nothing: no job waits, as only as many are submitted as there are resources for."""

    def cancel(self, job_id: str) -> None:
        """Kill a task."""
        for reference, (job, _) in self._running.items():
            if job.id == job_id:
                self._cancelled.add(job_id)
                self._ray.cancel(reference, force=True)

    def close(self) -> None:
        """Kill the running tasks. Shut Ray down only if this run started it."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running = {}
        if self._ours:
            self._ray.shutdown()
