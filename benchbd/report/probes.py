"""Results of evaluator-side probes in the records: losses of clean and poisoned samples by epoch, t-SNE points.

A record's ``notes.probe`` holds four lists of equal length: ``epochs``, ``clean_mean``, ``poison_mean`` and
``poison_over_clean_mean`` (the number of poisoned samples with a loss above the clean samples' mean). ``notes.tsne``
holds ``xy``, ``poison`` and ``label`` of the plotted samples, and the ``epoch`` after which their features were taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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


def probe_of(record: Mapping[str, Any]) -> dict[str, list[float]] | None:
    """The record's probe; None if it is missing or malformed."""
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
    found["poison_over_clean_mean"] = found["poison_over_clean_mean"] or [math.nan] * lengths.pop()
    return found  # type: ignore[return-value]


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
    picked: dict[str, list[list[float]]] = {
        "clean_mean": [],
        "poison_mean": [],
        "poison_over_clean_mean": [],
        "share": [],
    }
    for record, probe in probed:
        index_of = {epoch: i for i, epoch in enumerate(probe["epochs"])}
        for key in ("clean_mean", "poison_mean", "poison_over_clean_mean"):
            picked[key].append([probe[key][index_of[e]] for e in shared])
        count = (record.get("poison") or {}).get("count") or math.nan
        picked["share"].append([v / count for v in picked["poison_over_clean_mean"][-1]])
    clean, poison, over, share = (_mean(rows) for rows in picked.values())
    versions = frozenset((scale.model, version) for record, _ in probed if (version := data_version(record)))
    return Curve(scale, attack, [int(e) for e in shared], clean, poison, share, over, len(probed), versions)


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
