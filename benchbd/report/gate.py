"""The gate: whether the undefended model of a row is backdoored, and if not, why.

A row is evidence about defenses only if the attack works without them, and only if the trigger is what makes it work. A
model that takes every image for the target has an ASR of 100 %, and so does a trigger that changes no pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchbd.errors import counted
from benchbd.report import stats, wording
from benchbd.report.binomial import MANY
from benchbd.report.groups import Group
from benchbd.report.labels import Variant
from benchbd.storage.record_schema import Record

SHARE = 0.5
"""Smallest lift as a share of the ASR. From one half on, a success is more likely the trigger's doing than not:
triggered images reach the target at least twice as often as the same images without the trigger. A share of the ASR
suits every gate and every number of classes, a fixed number of points does not."""
ERROR = 1 - stats.LEVEL
"""Error probability of the one-sided tests, as for the intervals of the board. The tests matter for few test images."""
NORMAL = 1.6448536269514722
"""Quantile of the standard normal distribution at 1 - ERROR."""
EXACT = 1000
"""Number of discordant images up to which the sign test is exact. Beyond, the normal approximation is as good."""


class Implant(NamedTuple):
    """The verdict on a row.

    Attributes:
        holds: whether the attack is implanted. None if the row has no undefended ASR.
        why: the reason why not, in a few words; empty if ``holds`` is not False.
        lift: mean over seeds of ASR minus clean ASR; None if no record has a clean ASR.
        below: whether the reason is an ASR below the gate.
    """

    holds: bool | None
    why: str = ""
    lift: stats.Mean | None = None
    below: bool = False


def lift_of(record: Mapping[str, Any]) -> float | None:
    """ASR minus clean ASR, a fraction in [-1, 1]; None if the record lacks either."""
    asr, clean = record.get("asr"), record.get("clean_asr")
    return None if asr is None or clean is None else float(asr) - float(clean)


def implant(group: Group, row: Variant, gate: float) -> Implant:
    """Judge a row by its undefended records (see :func:`judge`)."""
    plain = group.undefended()
    return judge(group.entry(row, plain).done() if plain else (), gate)


def implanted(group: Group, row: Variant, gate: float) -> bool | None:
    """Whether the attack of a row is implanted. Return None if its undefended ASR was not measured."""
    return implant(group, row, gate).holds


def judge(records: Sequence[Record], gate: float) -> Implant:
    """Judge an attack by the finished undefended records of its seeds.

    The attack is implanted if all of these hold:

    - the trigger changes a pixel of a test image;
    - no seed's model is at chance on clean images;
    - the mean ASR reaches the gate;
    - the mean lift is at least ``SHARE`` of the mean ASR, and a sign test on the pairs of triggered and clean images
      (McNemar's test) excludes chance.

    Seeds share their test images, so the sign test takes the mean counts of the seeds, not their sums. Records without
    a clean ASR come from a version that did not measure it: for them the ASR only has to exceed guessing.

    Args:
        records: the undefended records of one row, in seed order.
        gate: smallest ASR, a fraction.
    """
    found = [r for r in records if r.get("asr") is not None]
    asr = stats.mean_of(r["asr"] for r in found)
    if asr is None:
        return Implant(None)
    paired = [r for r in found if lift_of(r) is not None]
    lift = stats.mean_of(v for r in paired if (v := lift_of(r)) is not None)
    why = _without_trigger(paired) or at_chance(found)
    if not why and asr.mean < gate:
        why = f"ASR {wording.percent(asr.mean)} is below {wording.percent(gate, 0)} %"
        return Implant(False, why, lift, below=True)
    if not why:
        why = _small_lift(paired) or _untested_lift(paired) if lift else _guessing(found)
    return Implant(not why, why, lift)


def _counts(records: Iterable[Record], name: str) -> list[int]:
    """One of the counts of triggered images, of the records that have it."""
    return [int(v) for r in records if (v := (r.get("triggered") or {}).get(name)) is not None]


def _without_trigger(records: Sequence[Record]) -> str:
    """A reason if no triggered image of some seed differs from its original."""
    for record in records:
        counts = record.get("triggered") or {}
        if counts.get("images") and counts.get("unchanged") == counts["images"]:
            return "the trigger changes no pixel"
    return ""


def at_chance(records: Iterable[Record]) -> str:
    """A reason if some seed's model is no better than guessing on clean images.

    The mean over classes of the accuracy is 1 / classes for every model that does not look at its image, whatever
    classes it prefers and however many images each class has. On very few images, nothing is separable from chance;
    the threshold then lies halfway between chance and perfection.
    """
    for record in records:
        accuracies = _class_accuracies(record)
        if len(accuracies) < 2:
            continue
        chance, found = 1 / len(accuracies), math.fsum(accuracies) / len(accuracies)
        images = (record.get("notes") or {}).get("test_images")
        if found <= min(_above_chance(chance, images), (1 + chance) / 2):
            return f"the model of seed {record['seed']} is at chance (CA {wording.percent(record['ca'])})"
    return ""


def _class_accuracies(record: Mapping[str, Any]) -> list[float]:
    """Clean accuracy of each class that the test set has. Empty if the record does not say it."""
    given = (record.get("notes") or {}).get("ca_per_class")
    if not isinstance(given, list):
        return []
    return [float(v) for v in given if isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v <= 1]


def _above_chance(chance: float, images: Any) -> float:
    """The share that guessing exceeds with probability ``ERROR`` on a number of images; ``chance`` if it is unknown."""
    if not isinstance(images, int) or not 0 < images < MANY:
        return chance
    return chance + NORMAL * math.sqrt(chance * (1 - chance) / images)


def _small_lift(paired: Sequence[Record]) -> str:
    """A reason if the trigger accounts for too little of the ASR."""
    asr = math.fsum(r["asr"] for r in paired) / len(paired)
    clean = math.fsum(r["clean_asr"] for r in paired) / len(paired)
    if asr - clean >= SHARE * asr:
        return ""
    return f"ASR {wording.percent(asr)}, but {wording.percent(clean)} without the trigger"


def _untested_lift(paired: Sequence[Record]) -> str:
    """A reason if the lift may be chance on so few images."""
    gained, lost = _counts(paired, "gained"), _counts(paired, "lost")
    if not gained or len(gained) != len(lost):
        return ""
    # Rounded against the attack.
    more, less = sum(gained) // len(gained), -(-sum(lost) // len(lost))
    if sign_test(more, less) <= ERROR:
        return ""
    images = max(_counts(paired, "images"), default=more + less)
    return f"the lift may be chance on {counted(images, 'test image')}"


def sign_test(more: int, less: int) -> float:
    """Probability of at least ``more`` heads in ``more + less`` throws of a fair coin (one-sided McNemar test)."""
    n = more + less
    if n <= EXACT:
        return sum(math.comb(n, k) for k in range(more, n + 1)) / float(2**n)
    return math.erfc((more - less - 1) / math.sqrt(2 * n)) / 2


def _guessing(records: Iterable[Record]) -> str:
    """A reason if guessing may reach the ASR, for records without a clean ASR."""
    for record in records:
        classes = len(_class_accuracies(record))
        images = (record.get("notes") or {}).get("triggered_test_images")
        if classes > 1 and record["asr"] <= _above_chance(1 / classes, images):
            return f"ASR {wording.percent(record['asr'])} may be chance with {classes} classes"
    return ""


def rule(gate: float) -> str:
    """The rule in words, for boards with records that have a clean ASR."""
    return (
        f"An attack counts as implanted if its undefended ASR is at least {wording.percent(gate, 0)} % and at least "
        "twice the clean ASR, beyond chance, and the undefended model is better than chance on clean images. The clean "
        "ASR is the share of the same images that the model assigns to the target without the trigger; the lift is ASR "
        "minus clean ASR, in points."
    )


def lines(groups: Iterable[Group], label: Callable[[Variant], str], gate: float) -> list[str]:
    """One line for each attack row that is not implanted, with the reason."""
    return [
        f"{label(row)} on {group.scale.dataset.name} is not implanted: {found.why}"
        for group in groups
        for row in group.attacks()
        if (found := implant(group, row, gate)).holds is False
    ]
