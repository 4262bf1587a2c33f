"""Contradictions between the numbers of one record that its schema allows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from benchbd.core.images import DatasetInfo
from benchbd.core.numerics import precision_class
from benchbd.errors import counted, shown
from benchbd.plan.probe import wanted_epochs
from benchbd.report.binomial import images_of
from benchbd.storage.record_schema import (
    CLEAN_TARGET_COUNT,
    METRICS,
    RATES_BY_EPOCH,
    measured_courses,
    probed_losses,
)

ROUNDING = 1e-6
"""Images by which a share times the number of images may miss a whole number: shares are float64 quotients."""
MOST_SEEDS = 2**31
"""Seeds are smaller than this."""
_CLASS = re.compile(r"[a-z]+-(?:fp32|bf16)(?:-[a-z0-9]+)*")
"""A precision class, such as ``cuda-bf16-strict``."""


def contradictions(record: Mapping[str, Any]) -> Iterator[str]:
    """What a record's numbers contradict, each as the end of a sentence about the record.

    Args:
        record: a record that keeps the schema.
    """
    if not 0 <= record["seed"] < MOST_SEEDS:
        yield f"seed {record['seed']} is out of range (0 to 2147483647)"
    done = record["status"] == "done"
    if done and record["error"] is not None:
        yield f"is done but has the error {shown(record['error'])}"
    if not done:
        if not record["error"]:
            yield f"is {record['status']} but gives no reason in error"
        return
    yield from _shares(record)
    yield from _triggered(record)
    yield from _by_epoch(record)
    yield from _losses(record)
    yield from _classes(record)
    yield from _detection(record)
    yield from _times(record)
    yield from _numerics(record)


def beyond_the_data(record: Mapping[str, Any], info: DatasetInfo, brings_images: bool) -> Iterator[str]:
    """The numbers of images in a finished record that its data set does not have.

    Args:
        record: a record that keeps the schema.
        info: facts about its data set.
        brings_images: whether the attack has triggered test images of its own, in any number.
    """
    name, notes = record["dataset"], _notes(record)
    if _whole(tested := notes.get("test_images")) and tested != info.test:
        yield f"notes.test_images is {shown(tested)}, but {name} has {counted(info.test, 'test image')}"
    triggered = images_of(record, "asr")
    if triggered is not None and triggered > info.test and not brings_images:
        yield f"has {counted(triggered, 'triggered test image')}, but {name} has {counted(info.test, 'test image')}"
    of_target: Any = probed_losses(record).get(CLEAN_TARGET_COUNT)
    poisoned = (record.get("poison") or {}).get("count")
    if _whole(of_target) and poisoned is not None and of_target + poisoned > info.train:
        yield (
            f"has {counted(of_target, 'clean sample')} with the target's label in notes.probe and {poisoned} poisoned "
            f"ones, but {name} has {counted(info.train, 'training image')}"
        )
    confusion = (record.get("detection") or {}).get("confusion")
    if confusion is not None and (samples := sum(confusion.values())) != info.train:
        has = f"{name} has {counted(info.train, 'training image')}"
        yield f"detection.confusion counts {counted(samples, 'sample')}, but {has}"


def _notes(record: Mapping[str, Any]) -> Mapping[str, Any]:
    notes: Mapping[str, Any] = record.get("notes") or {}
    return notes


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _hits(record: Mapping[str, Any], name: str, images: int) -> int | None:
    """How many of a number of images a share stands for; None if it is missing or not a whole number of them."""
    return _hits_of(record.get(name), images)


def _hits_of(share: float | None, images: int) -> int | None:
    if share is None:
        return None
    hits = share * images
    return round(hits) if abs(hits - round(hits)) <= ROUNDING * max(1.0, images * 1e-6) else None


def _shares(record: Mapping[str, Any]) -> Iterator[str]:
    """Every share of test images must be a whole number of them."""
    counts = record.get("triggered") or {}
    others, of_target = counts.get("images"), counts.get("target_images")
    triggered = images_of(record, "asr")
    sizes = {name: images_of(record, name) for name in METRICS}
    sizes |= dict.fromkeys(("clean_asr", "ca_non_target"), triggered)
    sizes["asr_all"] = others + of_target if others and of_target is not None else None
    for name, images in sizes.items():
        value = record.get(name)
        if value is None:
            continue
        if images is None and name in METRICS:
            field = "notes.test_images" if name == "ca" else "notes.triggered_test_images"
            yield f"has no usable {field}, the number of images behind its {name}"
        elif images is not None and _hits(record, name, images) is None:
            kind = "" if name == "ca" else "triggered "
            yield f"{name} {value!r} is not a whole number of its {counted(images, f'{kind}test image')}"


def _triggered(record: Mapping[str, Any]) -> Iterator[str]:
    """ASR and RA count the same images, and no image counts in both: its true class is never the target."""
    asr, ra, notes = record["asr"], record["ra"], _notes(record)
    counts = record.get("triggered") or {}
    if (asr is None) != (ra is None):
        yield f"has {'ra' if asr is None else 'asr'} but no {'asr' if asr is None else 'ra'}"
    noted = notes.get("triggered_test_images")
    if counts.get("images") is not None and noted is not None and counts["images"] != noted:
        yield f"names {counted(counts['images'], 'triggered test image')} in triggered, but {shown(noted)} in notes"
    if asr is None:
        if _whole(noted) and noted and notes.get("no_asr") is None:
            yield f"has {counted(noted, 'triggered test image')} but neither an asr nor a reason in notes.no_asr"
        return
    if ra is not None and asr + ra > 1 + ROUNDING:
        yield f"asr {asr!r} and ra {ra!r} add up to more than 1, but no image counts in both"
    images = images_of(record, "asr")
    for name, count in (("asr", counts.get("gained")), ("clean_asr", counts.get("lost"))):
        hits = _hits(record, name, images) if images else None
        if hits is not None and count is not None and count > hits:
            yield f"counts {counted(count, 'triggered image')} more than the {hits} behind its {name}"


def _by_epoch(record: Mapping[str, Any]) -> Iterator[str]:
    """Rates by epoch are those of the epochs that the probe asks for, and end with the rates of the record's model.

    They count the images that the record's rates count.
    """
    for name, course in measured_courses(record).items():
        where = f"notes.{RATES_BY_EPOCH}.{name}"
        last, every = _last_epoch(record, name) or course["epochs"][-1], record["spec"]["probe"]["rates"]
        if isinstance(every, int) and every > 0 and not _is_every(course["epochs"], every, last):
            yield f"{where} has other epochs than a probe keeps of a training of {counted(last, 'epoch')}"
        for metric in METRICS:
            images, end = images_of(record, metric), course[metric][-1]
            odd = [v for v in course[metric] if v is not None and images and _hits_of(v, images) is None]
            if odd:
                yield f"{where}: {metric} {odd[0]!r} is not a whole number of its {counted(images or 0, 'test image')}"
            if {v is None for v in course[metric]} != {record[metric] is None}:
                yield f"{where} has {metric} where the record has none, or the reverse"
            elif name == "model" and not course.get("pruned") and end != record[metric]:
                yield f"{where} ends with {metric} {end!r}, but the record has {record[metric]!r}"
        for epoch, asr, ra in zip(course["epochs"], course["asr"], course["ra"], strict=True):
            if asr is not None and ra is not None and asr + ra > 1 + ROUNDING:
                yield f"{where}: asr {asr!r} and ra {ra!r} of epoch {epoch} add up to more than 1"
                break


def _is_every(epochs: list[int], every: int, last: int) -> bool:
    """Whether these are the epochs that a probe keeps; the lengths first, since a record may claim any number."""
    return len(epochs) == -(-last // every) and epochs == wanted_epochs(every, last)


def _last_epoch(record: Mapping[str, Any], training: str) -> int | None:
    """Number of epochs of one of the trainings that rates by epoch are of; None if the record does not say it."""
    losses = _notes(record).get("train_loss")
    own = losses.get("model") if isinstance(losses, dict) and isinstance(losses.get("model"), list) else None
    found = record["spec"]["recipe"].get("epochs") if training == "undefended" else len(own or ())
    return found if isinstance(found, int) and found > 0 else None


def _losses(record: Mapping[str, Any]) -> Iterator[str]:
    """Of a probe's losses, a mean is exceeded by no more poisoned samples than there are, and a lower one by no fewer.

    The clean samples with the target's label have losses of their own only if the poison has a single target.
    """
    found, poison = probed_losses(record), record.get("poison") or {}
    counts = {name: found.get(f"poison_over_{name}") for name in ("clean_mean", "clean_target_mean")}
    for name, values in counts.items():
        known = [v for v in values if _whole(v)] if isinstance(values, list) else []
        if known and poison.get("count") is not None and max(known) > poison["count"]:
            over = f"notes.probe.poison_over_{name} counts {counted(max(known), 'poisoned sample')}"
            yield f"{over}, but poison.count is {shown(poison['count'])}"
    if CLEAN_TARGET_COUNT in found and poison.get("target") is None:
        yield "notes.probe has losses of clean samples with the target's label, but poison.target names no target"
    lists = [found.get(name) for name in ("epochs", "clean_mean", "clean_target_mean")] + [*counts.values()]
    if not all(isinstance(values, list) for values in lists):
        return
    for epoch, every, of_target, above, above_target in zip(*lists, strict=False):
        if not all(isinstance(value, (int, float)) for value in (every, of_target, above, above_target)):
            continue
        if (every - of_target) * (above_target - above) < 0:
            yield (
                f"notes.probe counts {counted(above, 'poisoned sample')} above {every:g} and {above_target} above "
                f"{of_target:g} at epoch {epoch}"
            )


def _classes(record: Mapping[str, Any]) -> Iterator[str]:
    """CA is a mean over the classes, weighted by their images, so it lies between the smallest and the largest."""
    given = _notes(record).get("ca_per_class")
    if given is None:
        return
    known = [v for v in given if v is not None] if isinstance(given, list) else []
    if not known or not all(isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v <= 1 for v in known):
        yield "notes.ca_per_class must be a list of shares in [0, 1]"
    elif not min(known) - ROUNDING <= record["ca"] <= max(known) + ROUNDING:
        yield f"ca {record['ca']!r} is outside the accuracies of its classes ({min(known):g} to {max(known):g})"


def _detection(record: Mapping[str, Any]) -> Iterator[str]:
    """The counts of flagged and poisoned samples, each written in several places."""
    found, poison = record.get("detection") or {}, record.get("poison") or {}
    confusion, poisoned = found.get("confusion"), poison.get("count")
    if confusion is not None:
        flagged, positives = confusion["tp"] + confusion["fp"], confusion["tp"] + confusion["fn"]
        if found.get("flagged") is not None and found["flagged"] != flagged:
            yield f"detection.flagged is {shown(found['flagged'])}, but its counts give {flagged}"
        if poisoned is not None and poisoned != positives:
            found_there = counted(positives, "poisoned sample")
            yield f"poison.count is {shown(poisoned)}, but detection.confusion counts {found_there}"
        share, samples = poison.get("share_of_set"), sum(confusion.values())
        if share is not None and poisoned is not None and abs(share * samples - poisoned) > ROUNDING * max(1, samples):
            of_all = f"{poisoned} of the {counted(samples, 'sample')}"
            yield f"poison.share_of_set {share!r} is not {of_all} in detection.confusion"
    for name, total, what in (
        ("flagged_per_class", found.get("flagged"), "detection.flagged"),
        ("poison_per_class", poisoned, "poison.count"),
    ):
        given = found.get(name)
        if given is None or total is None:
            continue
        if not isinstance(given, list) or not all(map(_whole, given)):
            yield f"detection.{name} must be a list of counts"
        elif sum(given) != total:
            yield f"detection.{name} adds up to {sum(given)}, but {what} is {shown(total)}"


def _times(record: Mapping[str, Any]) -> Iterator[str]:
    """A finished cell took time, and its total is the sum of its stages."""
    time = record["time"]
    total, stages = time.get("total"), time.get("stages") or {}
    for name in ("total", "own"):
        if not time.get(name) or time[name] <= 0:
            yield f"time.{name} is {shown(time.get(name))}, but a finished cell takes time"
    if any(seconds < 0 for seconds in stages.values()):
        yield "time.stages has a negative time"
    elif total and stages and not math.isclose(math.fsum(stages.values()), total, rel_tol=1e-6, abs_tol=1e-6):
        yield f"time.total is {total:g} s, but its stages add up to {math.fsum(stages.values()):g} s"
    if record["epochs_trained"] is None:
        yield "is done but has no epochs_trained"


def _numerics(record: Mapping[str, Any]) -> Iterator[str]:
    """The precision class that was measured is the one that the cell asks for."""
    measured = precision_class(record)
    if measured is None:
        yield "names no precision class in env.precision"
        return
    if not _CLASS.fullmatch(measured):
        yield f"env.precision {shown(measured)} is not a precision class such as cpu-fp32"
    asked = str(record["spec"].get("precision") or "auto").split("-")
    formats = [word for word in asked if word in ("fp32", "bf16")]
    if formats and formats[0] not in measured.split("-"):
        yield f"asks for precision {formats[0]}, but was measured in {shown(measured)}"
