"""Runs one cell on another machine, in a Slurm or Ray task.

The cell arrives as data and runs in its own worker process under a small local run, so that crashes, time limits and
logs are handled exactly as in a local run.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchbd.core.files_folder import files_folder
from benchbd.core.paths import FILES_VARIABLE
from benchbd.core.variables import variables
from benchbd.errors import BenchbdError, one_line
from benchbd.run.cluster.sent_files import File, OwnFiles, unpack
from benchbd.run.executor import Job
from benchbd.run.settings import RunSettings

BYTES = {"encoding": "utf-8", "errors": "surrogateescape"}
"""How the bytes of a source cross as text: any bytes do, and are the same on the other side."""

Order = dict[str, Any]


def order_of(
    job: Job, settings: RunSettings, *, share: int = 1, ship_plugins: bool = False, own: OwnFiles | None = None
) -> Order:
    """Everything that another machine needs to run a job, as plain data.

    Args:
        job: the job.
        settings: settings of the run that submits it.
        share: number of jobs on one GPU.
        ship_plugins: whether to send the texts of plugin files, and of the helpers beside them, instead of their paths.
        own: the user's files that are sent beside the order.
    """
    plugins: Sequence[Any] = settings.plugins
    if ship_plugins:
        plugins = [_texts(Path(path)) for path in plugins]
    return {
        "cell": job.cell,
        "attempt": job.attempt,
        "output": str(settings.output),
        "data": settings.data_root,
        "plugins": list(plugins),
        "device": settings.device,
        "threads": settings.threads,
        "timeout": settings.timeout,
        "execute": settings.execute,
        "share": 1 if job.alone else share,
        "files": None if ship_plugins else str(files_folder()),
        "files_digest": None if own is None else own.digest,
    }


def run_order(order: Order, files: list[File] | None = None) -> dict[str, Any]:
    """Run the cell of an order on this machine.

    Args:
        order: the order.
        files: the files whose digest the order names; None if it names none.

    Returns:
        A dict of ``status``, ``reason``, ``record`` (or None) and ``log``.
    """
    with tempfile.TemporaryDirectory(prefix="benchbd-plugins-") as folder:
        place = order.get("files")
        if files is not None:
            place = str(Path(folder) / "files")
            try:
                unpack(files, order["files_digest"], Path(place))
            except (BenchbdError, OSError) as error:
                return {"status": "failed", "reason": one_line(error), "record": None, "log": ""}
        with variables({} if place is None else {FILES_VARIABLE: place}):
            return _run(order, [_plugin(given, Path(folder) / str(i)) for i, given in enumerate(order["plugins"])])


def _texts(plugin: Path) -> dict[str, Any]:
    """A plugin file and its helpers, as plain data."""
    from benchbd.plugins.source_digest import helper_files

    # A file may say that it has another encoding than UTF-8; its bytes cross as they are.
    helpers = {name: source.decode(**BYTES) for name, source in helper_files(plugin).items()}
    return {"name": plugin.name, "text": plugin.read_text(**BYTES), "helpers": helpers}


def _plugin(given: str | dict[str, Any], folder: Path) -> str:
    """The path of a plugin file; one that was sent is written into the folder, which is the plugin's own, first."""
    if isinstance(given, str):
        return given
    name = Path(given["name"]).name
    folder.mkdir()
    for file, text in {**given["helpers"], name: given["text"]}.items():
        (folder / Path(file).name).write_text(text, **BYTES)
    return str(folder / name)


def _run(order: Order, plugins: list[str]) -> dict[str, Any]:
    from benchbd.plan.cell import Cell
    from benchbd.plugins import registry
    from benchbd.run.display.plain import PlainDisplay
    from benchbd.run.scheduler import Scheduler
    from benchbd.run.workers.local import LocalExecutor
    from benchbd.run.workers.slots import make_slots
    from benchbd.storage import records

    for path in plugins:
        registry.add_plugin_file(path, load=False)
    cell = Cell.from_json(order["cell"])
    settings = RunSettings(
        output=Path(order["output"]),
        data_root=order["data"],
        plugins=tuple(plugins),
        device=order["device"],
        jobs=1,
        threads=order["threads"],
        timeout=order["timeout"],
        execute=order["execute"],
        gpu_share=order["share"],
        # The submitting run has already decided that the cell has to run.
        rerun="all",
    )
    scheduler = Scheduler([cell], settings, PlainDisplay())
    outcome = scheduler.run(lambda given, notify: LocalExecutor(make_slots(given), given, notify))
    log = settings.log_path(cell.id)
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    record = records.last_attempt(settings.output, cell.id)
    status = outcome.statuses[cell.id]
    if record is not None and record["status"] != status:
        record = None  # an earlier record, which a run without a result does not replace
    return {"status": status, "reason": outcome.reasons.get(cell.id, ""), "record": record, "log": text}


def run_file(path: str) -> int:
    """Run the order in a JSON file, for queues that start commands. The result is the record in the output folder."""
    import json

    result = run_order(json.loads(Path(path).read_text(encoding="utf-8")))
    sys.stdout.write(f"{result['status']} {result['reason']}\n")
    return 0 if result["status"] == "done" else 1
