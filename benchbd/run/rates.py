"""How fast a device trains networks, in operations per second, and how far such a rate can be trusted."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from benchbd.core.numerics import Numerics, precision_class
from benchbd.core.operations import Operations
from benchbd.errors import BenchbdError, UsageError, shown
from benchbd.plan.cell import Cell
from benchbd.plan.work import Network, Pace, Piece, work_of
from benchbd.run.costs import STAGE
from benchbd.run.measurements import Machine

SHORTEST = 0.2
"""Seconds of a stage below which starting it weighs too much."""
FEW = 4
"""Number of trainings below which their spread says little."""
WITHIN = {"records": 1.5, "measured": 2.0, "scaled": 3.0, "given": 1.0}
"""Factor within which a rate is right, by source; for records, where there are only FEW. Measured on small CPU cells:
docs/scaling.md has the figures."""
SIMILAR = 10.0
"""Largest ratio of operations per image at which one network's rate is taken for another's. Between ResNet-S and
ResNet-18, which are 4,000 apart, rates on a CPU differ 30 times."""

Source = Literal["records", "measured", "scaled", "given"]


class Rate(NamedTuple):
    """How fast a device trains a network.

    Attributes:
        per_second: operations per second.
        source: ``records`` (finished trainings), ``measured`` (here), ``scaled`` (of a similar network) or ``given``.
        samples: trainings that it comes from; 1 if it was measured, 0 if given.
        within: factor within which it is right.
    """

    per_second: float
    source: Source
    samples: int
    within: float


def parse_rate(text: str) -> float:
    """Read ``--rate 40`` (TFLOPS) as operations per second. Raises UsageError."""
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 1e-6 <= rate <= 1e6:
        raise UsageError(f"--rate {shown(text)}: must be a number of TFLOPS such as 40, the speed of a training step")
    return rate * 1e12


def given_rates(paces: Iterable[Pace], per_second: float) -> dict[Pace, Rate]:
    """One rate for all networks. It is that of a usual training step and says nothing of a defense's own loop."""
    return dict.fromkeys((pace for pace in paces if not pace.loop), Rate(per_second, "given", 0, WITHIN["given"]))


def of_machine(
    records: Iterable[Mapping[str, Any]], machine: Machine, classes: Mapping[Numerics, str]
) -> Iterator[Mapping[str, Any]]:
    """The finished records of a machine's device in the precision classes that it computes in today."""
    known = set(classes.values())
    for record in records:
        if record.get("status") == "done" and device_of(record) == machine.name and precision_class(record) in known:
            yield record


def of_gpu(records: Sequence[Mapping[str, Any]]) -> tuple[str, list[Mapping[str, Any]]]:
    """The GPU with the most finished records, and these records; '' and none if there are no such records."""
    done = [r for r in records if r.get("status") == "done" and (precision_class(r) or "").startswith("cuda")]
    names = Counter(device_of(record) for record in done)
    if not names:
        return "", []
    name = names.most_common(1)[0][0]
    return name, [record for record in done if device_of(record) == name]


def device_of(record: Mapping[str, Any]) -> str:
    """The device of a record; '' if it names none. GPUs that cells shared count as another device."""
    env = record.get("env")
    if not isinstance(env, Mapping):
        return ""
    shared = env.get("gpu_share") not in (None, "", "1")
    return f"{env.get('device')}{' (shared)' if shared else ''}"


def rates_of_records(
    records: Iterable[Mapping[str, Any]], paces: Iterable[Pace], operations: Mapping[Network, Operations]
) -> dict[Pace, Rate]:
    """The rates of a plan's networks in finished records of one device: the median over distinct trainings."""
    wanted = set(paces)
    found: dict[Pace, dict[Any, float]] = defaultdict(dict)
    for record in records:
        for piece, seconds in _timed(record):
            if piece.pace in wanted and (amount := operations_of(piece, operations)):
                found[piece.pace][piece.key] = amount / seconds
    return {pace: _rate(list(samples.values())) for pace, samples in found.items()}


def _timed(record: Mapping[str, Any]) -> Iterator[tuple[Piece, float]]:
    """The trainings of a record whose time it holds, with seconds."""
    time, trainings = record.get("time"), record.get("trainings")
    stages = time.get("stages") if isinstance(time, Mapping) else None
    if not isinstance(stages, Mapping) or not isinstance(trainings, Mapping):
        return
    with suppress(BenchbdError):  # a plugin that is not here, or one that raises
        cell = Cell.from_json({"spec": record.get("spec")})
        pieces = [piece for _, work in work_of([cell]) for piece in work.defense]
        for kind, stage in STAGE.items():
            here, seconds = [piece for piece in pieces if piece.kind == kind], stages.get(stage)
            # A repeated training has all its tries in one stage.
            if len(here) == 1 and trainings.get(kind) == 1 and isinstance(seconds, (int, float)) and seconds > SHORTEST:
                yield here[0], float(seconds)


def _rate(samples: Sequence[float]) -> Rate:
    middle = statistics.median(samples)
    if len(samples) < FEW:
        return Rate(middle, "records", len(samples), WITHIN["records"])
    return Rate(middle, "records", len(samples), spread([sample / middle for sample in samples]))


def spread(ratios: Sequence[float]) -> float:
    """The factor, at least 1.1, within which nine of ten ratios are."""
    factors = sorted(math.exp(abs(math.log(ratio))) for ratio in ratios if ratio > 0)
    return max(1.1, factors[math.ceil(0.9 * len(factors)) - 1]) if factors else 1.1


def measured_rates(
    paces: Mapping[Pace, str],
    operations: Mapping[Network, Operations],
    measure: Callable[[Mapping[Pace, str]], Mapping[Pace, float]],
) -> dict[Pace, Rate]:
    """The rates of networks that this machine measures now.

    Args:
        paces: each with the recipe that it trains with (canonical JSON).
        operations: by network; a network without is left out.
        measure: returns seconds per image.
    """
    known = {pace: recipe for pace, recipe in paces.items() if pace.network in operations}
    return {
        pace: Rate(operations[pace.network].step / seconds, "measured", 1, WITHIN["measured"])
        for pace, seconds in measure(known).items()
    }


def with_similar(
    rates: Mapping[Pace, Rate], paces: Iterable[Pace], operations: Mapping[Network, Operations]
) -> dict[Pace, Rate]:
    """The rates, and for each network without one that of the network with the most similar number of operations.

    None is taken whose operations differ by more than SIMILAR, or that computes with other numerics or in another loop.
    """
    found = dict(rates)
    for pace in paces:
        mine = operations.get(pace.network)
        if pace in rates or mine is None:
            continue
        near = [
            (abs(math.log(operations[other.network].step / mine.step)), rate)
            for other, rate in rates.items()
            if (other.numerics, other.loop) == (pace.numerics, pace.loop) and other.network in operations
        ]
        distance, rate = min(near, key=lambda one: one[0], default=(math.inf, None))
        if rate is not None and distance <= math.log(SIMILAR):
            found[pace] = rate._replace(source="scaled", within=WITHIN["scaled"])
    return found


def operations_of(piece: Piece, operations: Mapping[Network, Operations]) -> float | None:
    """The operations of a piece of work; None if its work or its network's operations are unknown."""
    each = operations.get(piece.pace.network)
    if piece.work is None or each is None:
        return None
    return piece.work.images * each.step + piece.work.forward * each.forward + piece.work.operations
