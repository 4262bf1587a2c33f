"""Cells that run again on this machine: which ones, how far their results may differ, and whether they do."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from benchbd.core.numerics import precision_class
from benchbd.errors import shown
from benchbd.report.binomial import images_of
from benchbd.report.verification.finding import Finding, named, of_record
from benchbd.report.wording import percent
from benchbd.storage.data_version import data_version
from benchbd.storage.record_schema import METRICS, Record

SAME_BITS = ("torch", "torchvision", "numpy", "scikit-learn", "benchbd")
"""Packages whose versions must agree for equal results on a processor of one name."""
OPTIONAL = ("timm",)
"""Packages whose versions must agree, too, where both machines have them."""
ELSEWHERE = {"ca": 0.07, "asr": 0.42, "ra": 0.16}
"""Largest difference between processors, versions or precision classes, before the error of the test set.

Another rounding grows in training until a cell differs as another seed of it does. Two seeds of a cell in
leaderboard/*.jsonl (85 pairs of CA, 75 of ASR and RA) differ by at most this much in 95 (CA) or 90 (ASR, RA) of 100
pairs: 6.8, 41.4 and 15.2 points, rounded up.
"""
SIGMAS = 3.0
"""Standard errors of the difference of two shares of a test set that are added to ``ELSEWHERE``."""
OUTSIDE = ("oom", "timeout", "killed", "lost", "cancelled")
"""Ends of a cell that say something about this machine and not about the record."""
EQUAL = ("clean_asr", "triggered", "trainings", "epochs_trained")
"""Fields that are equal wherever CA, ASR and RA must be."""
EXACT = 1e-9
"""Difference below which two shares are equal."""


class Repetition(NamedTuple):
    """A cell that was to run again.

    Attributes:
        id: the cell.
        label: its readable name.
        status: how it ended here.
        classes: precision class of the record and of this machine; None if unknown.
        shares: by metric: of the record, measured here, and the largest difference allowed.
        findings: what differs by more than it may.
        note: why there is nothing to compare, if this machine is the reason; else empty.
    """

    id: str
    label: str
    status: str
    classes: tuple[str | None, str | None]
    shares: dict[str, tuple[float | None, float | None, float]]
    findings: tuple[Finding, ...]
    note: str = ""

    @property
    def repeats(self) -> bool:
        """Whether the cell has run and nothing differs by more than it may."""
        return not self.findings and not self.note

    @property
    def line(self) -> str:
        """The cell and its shares in percent, in one line."""
        if self.status != "done":
            return f"{self.id} {self.label}: {self.status}"
        shares = ", ".join(
            f"{name.upper()} {_percent(there)} here {_percent(here)} (±{percent(most)})"
            for name, (there, here, most) in self.shares.items()
            if there is not None or here is not None
        )
        classes = "" if self.classes[0] == self.classes[1] else f" ({self.classes[0]}; here {self.classes[1]})"
        return f"{self.id} {self.label}: {shares}{classes}"

    def as_json(self) -> dict[str, Any]:
        """The same as JSON data."""
        shares = {
            name: {"record": there, "here": here, "tolerance": most}
            for name, (there, here, most) in self.shares.items()
        }
        classes = {"record": self.classes[0], "here": self.classes[1]}
        more = {"classes": classes, "shares": shares, "repeats": self.repeats}
        return {"id": self.id, "label": self.label, "status": self.status, **more}


def drawn(ids: Iterable[str], number: int, seed: int) -> list[str]:
    """Draw cells without replacement. The result depends on the set of IDs, the number and the seed only."""
    among = sorted(set(ids))
    return sorted(random.Random(seed).sample(among, min(number, len(among))))


def tolerance(record: Record, here: Record, metric: str, given: float | None = None) -> float:
    """The largest difference between a record's share and that of its cell here, as a fraction.

    It is 0 if the CPU class, the processor's name, the system and the versions agree, because a cell gives the same
    bits again on one CPU. Otherwise it is ``ELSEWHERE`` and the error of the test set.

    Args:
        record: from elsewhere.
        here: of the same cell, measured on this machine.
        metric: ``ca``, ``asr`` or ``ra``.
        given: instead of both.
    """
    if given is not None:
        return given
    if same_arithmetic(record, here):
        return 0.0
    images = images_of(record, metric) or 1
    # The Agresti-Coull centre, so that shares of 0 and 1 have an error, too.
    share = ((record.get(metric) or 0.0) * images + 2) / (images + 4)
    return float(min(1.0, ELSEWHERE[metric] + SIGMAS * math.sqrt(2 * share * (1 - share) / images)))


def same_arithmetic(one: Record, other: Record) -> bool:
    """Whether two records name the same CPU class, processor, system and versions."""
    classes = precision_class(one), precision_class(other)
    if classes[0] is None or classes[0] != classes[1] or not classes[0].startswith("cpu"):
        return False
    here, there = _versions(one), _versions(other)
    differ = any(here[name] != there[name] for name in OPTIONAL if name in here and name in there)
    return _machine(one) == _machine(other) and not differ


def _versions(record: Record) -> Mapping[str, Any]:
    versions = record["env"].get("versions")
    return versions if isinstance(versions, Mapping) else {}


def _machine(record: Record) -> list[Any]:
    known = _versions(record)
    return [record["env"].get("device"), record["env"].get("system"), *(known.get(name) for name in SAME_BITS)]


def repetition(record: Record, here: Record | None, why: str, given: float | None = None) -> Repetition:
    """Compare a record with that of the same cell on this machine.

    Args:
        record: from elsewhere.
        here: of this machine; None if the cell did not run.
        why: the reason if it has no result here.
        given: the tolerance of all metrics, as a fraction; None for the stated ones.
    """
    status = here["status"] if here is not None else "not run"
    if here is None or status != "done":
        reason = f"has no result on this machine ({status}: {why or (here or {}).get('error')})"
        found = of_record("repeat", record, reason)
        result = Repetition(record["id"], named(record), status, (precision_class(record), None), {}, (found,))
        return result._replace(findings=(), note=found.text) if status in OUTSIDE else result
    shares = {m: (record[m], here[m], tolerance(record, here, m, given)) for m in METRICS}
    same = same_arithmetic(record, here)
    findings = [of_record("repeat", record, text) for text in _differences(shares, same)]
    if same and given is None:
        findings += [of_record("repeat", record, text) for text in _unequal(record, here)]
    there, ours = data_version(record), data_version(here)
    if there is not None and ours is not None and (other := there.difference(ours)):
        findings.append(of_record("data", record, f"was measured on another {other} than is here"))
    if (record.get("poison") or {}).get("count") != (here.get("poison") or {}).get("count"):
        counts = [(each.get("poison") or {}).get("count") for each in (record, here)]
        findings.append(of_record("repeat", record, f"has {counts[0]} poisoned samples, but {counts[1]} here"))
    classes = precision_class(record), precision_class(here)
    return Repetition(record["id"], named(record), status, classes, shares, tuple(findings))


def _differences(shares: Mapping[str, tuple[float | None, float | None, float]], same: bool) -> Iterable[str]:
    for name, (there, here, most) in shares.items():
        if (there is None) != (here is None):
            yield f"{name} is {_percent(there)} in the record, but {_percent(here)} here"
        elif there is not None and here is not None and abs(there - here) > most + EXACT:
            hint = ", since processor, versions and precision class are named alike" if same and not most else ""
            yield (
                f"{name} is {_percent(there)} in the record, but {_percent(here)} here; "
                f"the tolerance is {percent(most)} points{hint}"
            )


def _unequal(record: Record, here: Record) -> Iterable[str]:
    """What a record claims beside CA, ASR and RA that differs here. What it leaves out, it does not claim."""
    detection, measured = record.get("detection") or {}, here.get("detection") or {}
    fields = [(name, record.get(name), here.get(name)) for name in EQUAL]
    fields += [(f"detection.{name}", detection.get(name), measured.get(name)) for name in ("confusion", "auroc")]
    for name, there, ours in fields:
        if there is not None and there != ours:
            yield f"{name} is {shown(there, 120)} in the record, but {shown(ours, 120)} here"


def _percent(share: float | None) -> str:
    return "null" if share is None else percent(share)
