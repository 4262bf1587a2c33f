"""``plan --time`` and ``plan --simulate``: which rates there are for the asked devices, and the result for people."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchbd.core.operations import Operations
from benchbd.errors import counted
from benchbd.plan.shared_work import Key
from benchbd.plan.work import Network, Pace, work_of
from benchbd.run import rates as rating
from benchbd.run.costs import earlier_records
from benchbd.run.estimate import CELLS, Estimate, FinishedCells, Share, estimate
from benchbd.run.measurements import SECONDS, Measurements
from benchbd.run.settings import duration_text
from benchbd.run.simulate import Simulated, Wish, simulate

if TYPE_CHECKING:
    from benchbd.plan.cell import Cell

GROUPS = 6
"""Kinds of work that are listed; the rest are summed up."""
LEFT_OUT = "reading data, poisoning, a plugin's own passes over a set, start-up, and cells that slow each other down"


class Forecast(NamedTuple):
    """Estimated costs of cells on one kind of device.

    Attributes:
        device: what the estimate is for, for people.
        estimate: the costs.
        missing: why there is no time, and what to do; '' if there is one.
        left_out: number of cells that are not in the costs, since their work depends on files that are missing.
    """

    device: str
    estimate: Estimate
    missing: str = ""
    left_out: int = 0


def forecast_here(
    cells: Sequence[Cell],
    output: Path,
    measurements: Measurements,
    *,
    stored: Collection[Key] = (),
    from_records: bool = True,
) -> Forecast:
    """The costs of cells on this machine: its rates in finished records, and measured ones where these lack any.

    Args:
        cells: cells to compute.
        output: the results folder.
        measurements: of this machine.
        stored: keys of trainings that cost nothing any more.
        from_records: whether records count.
    """
    paces, operations = _networks(cells, measurements)
    classes = measurements.classes(pace.numerics for pace in paces)
    machine = measurements.machine
    records = list(rating.of_machine(earlier_records(output), machine, classes)) if from_records else []
    rates = rating.rates_of_records(records, paces, operations)
    lacking = {pace: recipe for pace, recipe in paces.items() if pace not in rates}
    rates |= rating.measured_rates(lacking, operations, measurements.seconds_per_image)
    rates = rating.with_similar(rates, paces, operations)
    device = ", ".join([machine.name or machine.kind, *sorted(set(classes.values()))])
    return Forecast(device, estimate(cells, operations, rates, FinishedCells(records), stored))


def forecast_gpus(
    cells: Sequence[Cell], output: Path, cpu: Measurements, gpu: Measurements | None, given: float | None
) -> Forecast:
    """The costs of cells on GPUs: at the given rate, that of finished records, or that of this machine's GPU.

    Without any of them, the costs are operations and ``missing`` says so.

    Args:
        cells: cells to compute.
        output: the results folder.
        cpu: counts operations.
        gpu: of this machine's GPU; None if it has none.
        given: ``--rate`` in operations per second.
    """
    paces, operations = _networks(cells, cpu)
    if given is not None:
        rates = rating.given_rates(paces, given)
        return Forecast(f"GPUs of {given / 1e12:g} TFLOPS", estimate(cells, operations, rates))
    if gpu is not None:
        return forecast_here(cells, output, gpu)
    everything = list(earlier_records(output))
    name, records = rating.of_gpu(everything)
    rates = rating.with_similar(rating.rates_of_records(records, paces, operations), paces, operations)
    if rates:
        return Forecast(name, estimate(cells, operations, rates, FinishedCells(records)))
    cpus = ", only of CPUs" if everything else ""
    missing = (
        f"no minutes: there is no GPU here, and {output} has no finished cells of these models on a GPU{cpus}; give "
        "the speed of a training step with --rate TFLOPS, or simulate this machine's cores with cores=N"
    )
    return Forecast("GPUs", estimate(cells, operations, None), missing)


def _networks(cells: Sequence[Cell], measurements: Measurements) -> tuple[dict[Pace, str], dict[Network, Operations]]:
    """The networks of a plan, each with the recipe of its largest training, and their operations."""
    largest: dict[Pace, tuple[float, str]] = {}
    for _, work in work_of(cells):
        for piece in (*work.attack, *work.defense):
            if piece.work is not None:
                found = (piece.work.images, piece.recipe)
                largest[piece.pace] = max(largest.get(piece.pace, found), found)
    paces = {pace: recipe for pace, (_, recipe) in largest.items()}
    return paces, measurements.operations(pace.network for pace in paces)


class TimeLeft(NamedTuple):
    """How long what is left takes: the forecast, the cells at once, and the simulated run."""

    forecast: Forecast
    slots: int
    run: Simulated


def time_left(forecast: Forecast, slots: int) -> TimeLeft:
    """Simulate a run on ``slots`` places."""
    return TimeLeft(forecast, slots, simulate(forecast.estimate.jobs, slots))


def time_as_json(left: TimeLeft) -> dict[str, Any]:
    """The time that is left as JSON types, for ``plan --json``."""
    found = left.forecast.estimate
    return {
        "device": left.forecast.device,
        "jobs": left.slots,
        "seconds": left.run.makespan,
        "core_seconds": left.run.work,
        "cells_left_out": left.forecast.left_out,
        **_details(found),
    }


def simulation_as_json(forecast: Forecast, runs: Sequence[Simulated]) -> dict[str, Any]:
    """The simulation as JSON types, for ``plan --json``."""
    found = forecast.estimate
    return {
        "device": forecast.device,
        "unit": found.unit,
        "missing": forecast.missing or None,
        "cells_known_from_records": found.known,
        "cells_left_out": forecast.left_out,
        "runs": [{**run._asdict(), "idle": run.idle} for run in runs],
        **_details(found),
    }


def _details(found: Estimate) -> dict[str, Any]:
    return {
        "work": [group._asdict() for group in found.groups],
        "sources": [share._asdict() for share in found.shares] if found.unit == "seconds" else [],
        "unknown": found.unknown,
    }


def time_as_lines(left: TimeLeft) -> list[str]:
    """The time that is left as lines of text."""
    found, jobs = left.forecast.estimate, "1 job" if left.slots == 1 else f"{left.slots} jobs at once"
    head = f"time left on this machine ({left.forecast.device}; {jobs})"
    if not found.groups:
        some = found.unknown or left.forecast.left_out
        return [f"{head}: {'unknown' if some else 'nothing is left'}", *_unknown(left.forecast)]
    lines = [f"{head}: {_duration(left.run.makespan)}, {_hours(left.run.work)}"]
    rows = [(_duration(group.cost), f"{group.number} x {group.label}") for group in found.groups[:GROUPS]]
    if rest := found.groups[GROUPS:]:
        rows.append((_duration(sum(group.cost for group in rest)), f"{sum(g.number for g in rest)} x other work"))
    width = max(len(cost) for cost, _ in rows)
    lines += [f"  {cost:>{width}}  {label}" for cost, label in rows]
    return [*lines, *_sureness(found), *_unknown(left.forecast)]


def simulation_as_lines(forecast: Forecast, what: Wish, runs: Sequence[Simulated]) -> list[str]:
    """The simulation as lines of text."""
    found = forecast.estimate

    def amount(cost: float) -> str:
        return _duration(cost) if found.unit == "seconds" else f"{cost:.2g} operations"

    if forecast.left_out and not found.jobs:
        return [f"simulated from an empty store ({forecast.device}): unknown", *_unknown(forecast)]
    lines = [f"simulated from an empty store ({forecast.device}):"]
    word = {"gpus": "GPU", "cores": "core"}[what.what]
    for run in runs:
        below = "" if run.bound < 1 else f", no schedule below {amount(run.bound)}"
        lines.append(
            f"  {counted(run.gpus, word)}: {amount(run.makespan)}, {run.idle:.0%} idle (work {amount(run.work)}{below})"
        )
    sure = [f"  {forecast.missing}"] if forecast.missing else _sureness(found)
    return [*lines, *sure, *_unknown(forecast)]


def _duration(seconds: float) -> str:
    return "under a second" if 0 < seconds < 1 else duration_text(seconds)


def _hours(seconds: float) -> str:
    if seconds >= 360:
        return f"{seconds / 3600:.1f} core hours"
    return "under a core second" if 0 < seconds < 1 else f"{seconds:.0f} core seconds"


def within_text(factor: float) -> str:
    """A factor for people: ``within 15 %`` or ``within a factor of 1.5``."""
    return f"within {round(100 * (factor - 1))} %" if factor < 1.35 else f"within a factor of {factor:.1f}"


def _sureness(found: Estimate) -> list[str]:
    total = sum(share.cost for share in found.shares)
    lines = [f"{share.cost / total:.0%} from {_source(share)}" for share in found.shares if share.cost >= total / 200]
    return [f"  {'how sure: ' if number == 0 else '          '}{line}" for number, line in enumerate(lines)]


def _source(share: Share) -> str:
    trainings = counted(share.samples, "finished training")
    texts: Mapping[str, str] = {
        CELLS: f"{counted(share.samples, 'finished cell')} of this device, model and recipe",
        "records": f"operations and the rate of {trainings} of this device and model",
        "measured": f"operations and each model's rate, measured here in {SECONDS:.0f} s",
        "scaled": "operations and the rate of another model of similar size",
        "given": "operations and the given rate for every model; a small model is slower, often several times",
    }
    sure = "" if share.source == "given" else f": {within_text(share.within)}"
    return f"{texts[share.source]}{sure}"


def _unknown(forecast: Forecast) -> list[str]:
    found, lines = forecast.estimate, []
    if forecast.left_out:
        lines.append(
            f"  not included: {counted(forecast.left_out, 'cell')}, whose work depends on files that are missing"
        )
    if found.unknown:
        number = sum(found.unknown.values())
        listed = ", ".join(f"{count} x {label}" for label, count in sorted(found.unknown.items()))
        lines.append(f"  not included: {counted(number, 'training')} of unknown cost ({listed})")
    return [*lines, f"  not counted: {LEFT_OUT}"] if found.groups else lines
