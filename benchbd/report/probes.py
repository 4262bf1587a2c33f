"""Results of evaluator-side probes in the records: losses of clean and poisoned samples by epoch, t-SNE points.

A record's ``notes.probe`` holds four lists of equal length: ``epochs``, ``clean_mean``, ``poison_mean`` and
``poison_over_clean_mean`` (the number of poisoned samples with a loss above the clean samples' mean). It also holds two
lists that compare poisoned samples only with the clean ones that carry the target's label, ``clean_target_mean`` and
``poison_over_clean_target_mean``, and the number of these, ``clean_target_count``; or ``no_clean_target``, why there
are none. Older records have neither. ``notes.tsne`` holds ``xy``, ``poison`` and ``label`` of the plotted samples, and
the ``epoch`` after which their features were taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchbd.report.groups import UNDEFENDED, Group, Scale
from benchbd.report.labels import Variant
from benchbd.report.mixed_data import Measured
from benchbd.storage.data_version import data_version

SCORED_EPOCH = 5
"""The epoch at which the paper counts poisoned samples (LfD Figure 2)."""


class Curve(NamedTuple):
    """Losses by epoch of one network on one attack, averaged over seeds."""

    scale: Scale
    attack: Variant
    epochs: list[int]
    clean: list[float]
    poison: list[float]
    over: list[float]
    """Share of poisoned samples above the clean mean; NaN if the number of poisoned samples is unknown."""
    over_count: list[float]
    seeds: int
    measured: Measured = frozenset()
    """What the records were measured on."""
    clean_target: Sequence[float] = ()
    """Loss of the clean samples with the target's label; empty unless all seeds have it."""
    over_target_count: Sequence[float] = ()
    """Number of poisoned samples above that loss; empty unless all seeds have it."""
    no_clean_target: str = ""
    """Why ``clean_target`` is empty; also empty if the records are older than it."""

    def at(self, epoch: int) -> int | None:
        """Index of an epoch, or of the last epoch before it; None if all are later."""
        before = [i for i, e in enumerate(self.epochs) if e <= epoch]
        return before[-1] if before else None


def _numbers(value: Any) -> list[float] | None:
    if isinstance(value, list) and all(
        v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in value
    ):
        return [math.nan if v is None else float(v) for v in value]
    return None


TARGET_LISTS = ("clean_target_mean", "poison_over_clean_target_mean")
"""The lists of ``notes.probe`` about clean samples with the target's label."""


def probe_of(record: Mapping[str, Any]) -> dict[str, list[float]] | None:
    """The lists of the record's probe, without ``TARGET_LISTS`` if it lacks one; None if missing or malformed."""
    probe = (record.get("notes") or {}).get("probe")
    if not isinstance(probe, Mapping):
        return None
    found = {key: _numbers(probe.get(key)) for key in ("epochs", "clean_mean", "poison_mean", "poison_over_clean_mean")}
    lengths = {len(v) for v in found.values() if v is not None}
    if (
        found["epochs"] is None
        or not all(map(math.isfinite, found["epochs"]))
        or found["clean_mean"] is None
        or found["poison_mean"] is None
        or len(lengths) != 1
        or 0 in lengths
    ):
        return None
    length = lengths.pop()
    found["poison_over_clean_mean"] = found["poison_over_clean_mean"] or [math.nan] * length
    of_target = {key: _numbers(probe.get(key)) for key in TARGET_LISTS}
    if all(values is not None and len(values) == length for values in of_target.values()):
        found |= of_target
    return found  # type: ignore[return-value]


def no_clean_target(record: Mapping[str, Any]) -> str:
    """Why a record's probe has no clean samples with the target's label; empty if it has, or does not say."""
    probe = (record.get("notes") or {}).get("probe")
    reason = probe.get("no_clean_target") if isinstance(probe, Mapping) else None
    return reason if isinstance(reason, str) else ""


def _mean(rows: list[list[float]]) -> list[float]:
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def curves(groups: Iterable[Group]) -> list[Curve]:
    """The curve of every probed undefended training, averaged over seeds on the epochs that all seeds have."""
    found = []
    for group in groups:
        for row in group.attacks():
            for column in group.columns:
                if column.name != UNDEFENDED:
                    continue
                probed = [(r, p) for r in group.entry(row, column).done() if (p := probe_of(r))]
                if probed:
                    found.append(_curve(group.scale, row, probed))
    return found


def _curve(scale: Scale, attack: Variant, probed: list[tuple[dict[str, Any], dict[str, list[float]]]]) -> Curve:
    shared = sorted(set.intersection(*(set(p["epochs"]) for _, p in probed)))
    with_target = sum(TARGET_LISTS[0] in probe for _, probe in probed)
    keys = ["clean_mean", "poison_mean", "poison_over_clean_mean"]
    keys += TARGET_LISTS if with_target == len(probed) else ()
    picked: dict[str, list[list[float]]] = {key: [] for key in (*keys, "share")}
    for record, probe in probed:
        index_of = {epoch: i for i, epoch in enumerate(probe["epochs"])}
        for key in keys:
            picked[key].append([probe[key][index_of[e]] for e in shared])
        count = (record.get("poison") or {}).get("count") or math.nan
        picked["share"].append([v / count for v in picked["poison_over_clean_mean"][-1]])
    means = {key: _mean(rows) for key, rows in picked.items()}
    reasons = [reason for record, _ in probed if (reason := no_clean_target(record))]
    if 0 < with_target < len(probed):
        reasons.append(f"measured on {with_target} of {len(probed)} seeds only")
    return Curve(
        scale,
        attack,
        [int(e) for e in shared],
        means["clean_mean"],
        means["poison_mean"],
        means["share"],
        means["poison_over_clean_mean"],
        len(probed),
        frozenset((scale.model, version) for record, _ in probed if (version := data_version(record))),
        clean_target=means.get(TARGET_LISTS[0], ()),
        over_target_count=means.get(TARGET_LISTS[1], ()),
        no_clean_target=reasons[0] if reasons and with_target < len(probed) else "",
    )


def without_clean_target(found: Iterable[Curve], label: Callable[[Variant], str]) -> str:
    """Which attacks have no loss of clean samples with the target's label, and why.

    Args:
        found: the curves.
        label: how an attack is called.

    Returns:
        A text without a full stop; empty if all curves have this loss, or their records are older than it.
    """
    attacks: dict[str, list[str]] = {}
    for curve in found:
        if curve.no_clean_target:
            attacks.setdefault(curve.no_clean_target, []).append(label(curve.attack))
    texts = [f"{', '.join(dict.fromkeys(names))} ({reason})" for reason, names in attacks.items()]
    return f"no loss of clean samples with the target's label for {'; '.join(texts)}" if texts else ""


class Points(NamedTuple):
    """A t-SNE picture: positions (n, 2), poison flags (n), labels (n)."""

    scale: Scale
    attack: Variant
    xy: list[list[float]]
    poison: list[bool]
    label: list[int]
    seed: int
    epoch: int | None
    measured: Measured = frozenset()
    """What the record was measured on."""


def points(groups: Iterable[Group]) -> list[Points]:
    """The t-SNE picture of each network and attack, from the first seed that has one."""
    found = []
    for group in groups:
        for row in group.attacks():
            for column in group.columns:
                for record in group.entry(row, column).done() if column.name == UNDEFENDED else ():
                    note = (record.get("notes") or {}).get("tsne")
                    if isinstance(note, Mapping) and _fits(note):
                        poison = [bool(v) for v in note["poison"]]
                        epoch = note.get("epoch") if isinstance(note.get("epoch"), int) else None
                        version = data_version(record)
                        versions = frozenset([(group.scale.model, version)] if version else [])
                        xy, label, seed = note["xy"], note["label"], record["seed"]
                        found.append(Points(group.scale, row, xy, poison, label, seed, epoch, versions))
                        break
    return found


def _fits(note: Mapping[str, Any]) -> bool:
    xy, poison, label = note.get("xy"), note.get("poison"), note.get("label")
    if not (isinstance(xy, list) and isinstance(poison, list) and isinstance(label, list) and xy):
        return False
    return len(xy) == len(poison) == len(label) and all(
        isinstance(p, list) and len(p) == 2 and None not in p and _numbers(p) for p in xy
    )


def purity(picture: Points, neighbours: int = 10) -> tuple[float, float]:
    """Measure how clustered a picture is: the share of like samples among the nearest neighbours.

    Returns:
        For clean samples, the share of neighbours that are clean and have the same label; for poisoned samples, the
        share that are poisoned. NaN if the picture has no such samples.
    """
    import numpy as np

    xy = np.asarray(picture.xy, dtype=np.float64)
    kind = np.where(np.asarray(picture.poison), -1, np.asarray(picture.label))
    k = min(neighbours, len(xy) - 1)
    if k < 1:
        return math.nan, math.nan
    like_share = np.empty(len(xy))
    for start in range(0, len(xy), 512):
        part = xy[start : start + 512]
        distance = ((part[:, None, :] - xy[None, :, :]) ** 2).sum(-1)
        distance[np.arange(len(part)), np.arange(start, start + len(part))] = np.inf
        near = np.argpartition(distance, k - 1, axis=1)[:, :k]
        like_share[start : start + len(part)] = (kind[near] == kind[start : start + len(part), None]).mean(1)
    clean, poison = like_share[kind >= 0], like_share[kind < 0]
    return float(clean.mean()) if len(clean) else math.nan, float(poison.mean()) if len(poison) else math.nan


SMALLER = {"resnet18": "resnet-s", "vgg11": "vgg-s", "lenet": "lenet-s", "mobilenetv2": "mobilenetv2-s"}
"""Each network's low-capacity counterpart (LfD section 5.3)."""
