"""What this machine will do, for ``benchbd env --check``: devices, rates, memory, and how long usual runs take."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbd.core import environment
from benchbd.core.paths import data_folder, user_cache
from benchbd.core.user_variables import user_variables
from benchbd.plan import matrix
from benchbd.run.forecast import forecast_here, time_left
from benchbd.run.measurements import Ask, Measurements, Request, ask_process, this_machine
from benchbd.run.settings import RunSettings
from benchbd.run.workers.slots import make_slots

if TYPE_CHECKING:
    from benchbd.plan.cell import Cell

SECONDS = 25.0
"""Seconds after which nothing more is measured."""
PROBE_SECONDS = 10.0
"""Seconds that looking at the devices may take."""
STEP_SECONDS, RATE_SECONDS = 1.0, 1.0
"""Seconds for which one training step is timed: for the table of rates, and for each model of the usual runs."""
ROW = ("cifar10", "bn-g", 0)
"""Data set, attack and seed of the row of table2."""
USUAL = {"quickstart": "quickstart", "row of table2": "table2", "cifar10-fast": "cifar10-fast"}
"""The usual runs: shipped matrices by the name in the report."""


def usual_cells() -> dict[str, Sequence[Cell]]:
    """The cells of the usual runs."""
    found: dict[str, Sequence[Cell]] = {}
    for name, shipped in USUAL.items():
        if shipped == "table2":
            dataset, attack, seed = ROW
            filters = [f"dataset={dataset}", f"attack={attack}"]
            found[name] = matrix.narrow(matrix.load(shipped, seeds=[seed]), filters, []).cells
        else:
            found[name] = matrix.load(shipped).cells
    return found


def check_machine(
    output: Path,
    probe: Callable[[float], Iterable[Mapping[str, Any]]] | None = None,
    ask: Callable[..., list[Any]] = ask_process,
    say: Callable[[str], None] = lambda line: None,
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """Look at the machine and measure it.

    Args:
        output: the results folder; its finished cells hold rates, and its disk is looked at.
        probe: yields facts of :mod:`benchbd.run.machine_probe` within the given seconds; tests substitute their own.
        ask: as in :class:`benchbd.run.measurements.Measurements`, with a limit in seconds as third argument.
        say: gets a line before something is measured.
        seconds: after these, nothing more is measured.

    Returns:
        JSON types: ``devices``, ``rates``, ``graph``, ``memory``, ``disk``, ``runs``, ``seconds``.
    """
    began = time.monotonic()

    def left() -> float:
        return seconds - (time.monotonic() - began)

    say("looking at the devices")
    facts = list((probe or _probe)(min(PROBE_SECONDS, left())))
    settings = RunSettings(output=output)
    slots = make_slots(settings)
    machine = this_machine(tuple(slot.gpu for slot in slots if slot.gpu is not None))
    answers = _within(ask, left, _classes(facts))
    measurements = Measurements(machine, answers, lambda line: say(line) if left() > 1 else None, seconds=RATE_SECONDS)
    plans = usual_cells()
    # All networks in one measuring process; the estimates below read its answers.
    forecast_here([cell for cells in plans.values() for cell in cells], output, measurements)
    runs = {name: _time_of(cells, output, measurements, len(slots)) for name, cells in plans.items()}
    return {
        **_devices(facts),
        "memory": {"total_bytes": _memory("MemTotal"), "free_bytes": _memory("MemAvailable")},
        "disk": _disks(output),
        "jobs": len(slots),
        "runs": runs,
        "seconds": round(time.monotonic() - began, 1),
    }


def _question(kind: str, request: Request) -> str:
    return json.dumps([kind, request], sort_keys=True)


def _classes(facts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The questions about precision classes that the probe has answered; another process would only import torch."""
    found: dict[str, Any] = {}
    for fact in facts:
        if fact["what"] == "class":
            for wish, name in fact["value"].items():
                request = {"what": "class", "precision": wish, "threads": 1}
                found.setdefault(_question(fact["device"].partition(":")[0], request), name)
    return found


def _within(ask: Callable[..., list[Any]], left: Callable[[], float], known: dict[str, Any]) -> Ask:
    """Ask only as long as there is time, and each question once.

    Args:
        ask: answers requests within a number of seconds.
        left: seconds that are left.
        known: answers by :func:`_question`; grows.
    """

    def answer(kind: str, requests: Sequence[Request]) -> list[Any]:
        names = [_question(kind, request) for request in requests]
        new = [number for number, name in enumerate(names) if name not in known]
        if new and left() > 1:
            found = ask(kind, [requests[number] for number in new], left())
            known.update(zip((names[number] for number in new), found, strict=True))
        return [known.get(name) for name in names]

    return answer


def _probe(seconds: float) -> Iterable[Mapping[str, Any]]:
    """The facts that the probing process finds in time."""
    command = [sys.executable, "-m", "benchbd.run.machine_probe", str(STEP_SECONDS)]
    variables = {**user_variables(), "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False, env=variables)
        output = done.stdout
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
    except OSError:
        output = b""
    # A process that is stopped may leave half a line.
    return [json.loads(line) for line in output.decode(errors="replace").splitlines() if line.endswith("}")]


def _devices(facts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The probe's facts by device, with the CPU's name."""
    devices: dict[str, dict[str, Any]] = {}
    rates: list[dict[str, Any]] = []
    found: dict[str, Any] = {"torch": None, "devices": devices, "rates": rates, "graph": None}
    for fact in facts:
        what, device, value = fact["what"], fact["device"], fact["value"]
        if what == "torch":
            found["torch"] = value
        elif what in ("gpu", "class"):
            devices.setdefault(device, {}).update(value if what == "gpu" else {"class": value["auto"]})
        elif what == "graph":
            found["graph"] = {"device": device, "works": value is None, "problem": value}
        else:
            rates.append({"what": what, "device": device, **value})
    if "cpu" in devices:
        devices["cpu"] |= {"name": environment.cpu_name(), "cores": environment.cores()}
    return found


def _memory(name: str) -> int | None:
    """A line of Linux's /proc/meminfo in bytes; None elsewhere."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _disks(output: Path) -> dict[str, dict[str, Any]]:
    """Free space where results, cached measurements and data go."""
    data = data_folder(None)
    places = {"results": output, "cache": user_cache(), "data": Path(data) if data else None}
    found = {}
    for name, place in places.items():
        if place is not None:
            there = next((one for one in (place, *place.absolute().parents) if one.exists()), None)
            if there is not None:
                found[name] = {"folder": str(place), "free_bytes": shutil.disk_usage(there).free}
    return found


def _time_of(cells: Sequence[Cell], output: Path, measurements: Measurements, jobs: int) -> dict[str, Any]:
    """How long a run from an empty store takes; ``seconds`` is None where nothing is known of it."""
    forecast = forecast_here(cells, output, measurements)
    left = time_left(forecast, jobs)
    estimate = left.forecast.estimate
    total = sum(share.cost for share in estimate.shares)
    within = sum(share.cost * share.within for share in estimate.shares) / total if total else None
    return {
        "cells": len(cells),
        "device": forecast.device,
        "jobs": jobs,
        "seconds": left.run.makespan if estimate.groups else None,
        "core_seconds": left.run.work if estimate.groups else None,
        "within": within,
        "sources": [share._asdict() for share in estimate.shares],
        "unknown": estimate.unknown,
    }
