"""The summary table, one row per defense: accuracy, attack success, detection, and cost relative to no defense."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from benchbd.errors import counted
from benchbd.report import stats, wording
from benchbd.report.averages import average
from benchbd.report.definitions import Definitions
from benchbd.report.groups import TRANSFORMED, Group
from benchbd.report.isolation import rates_of
from benchbd.report.labels import Labels, Variant
from benchbd.report.mixed_data import OTHER_DATA, mixed_data
from benchbd.report.precision_classes import mixture
from benchbd.report.published import scale_text
from benchbd.report.table import Column, Row, Table, TableCell
from benchbd.report.timing import Clock, trainings
from benchbd.report.titles import titles

COLUMNS = (
    Column("CA, mean", "", "up", "fraction"),
    Column("ASR, mean", "", "down", "fraction"),
    Column("ASR, worst", "", "down", "fraction"),
    Column("RA, mean", "", "up", "fraction"),
    Column("DER, mean", "", "up", "fraction"),
    Column("Attacks"),
    Column("Detection AUROC", "", "up", "fraction"),
    Column("TPR", "", "up", "fraction"),
    Column("FPR", "", "down", "fraction"),
    Column("F1", "", "up", "fraction"),
    Column("Trainings"),
    Column(f"Full trainings {wording.TIMES}", "", "down", "ratio"),
    Column(f"Time {wording.TIMES}", "", "down", "ratio"),
    Column("Needs"),
)


def _mean(group: Group, column: Variant, metric: str) -> TableCell:
    found = average(group, column, group.attacks(), metric)
    if found is None:
        return TableCell(wording.UNDEFINED)
    return TableCell(found.text(), found.mean, found.half(), found.rows, spread=found.spread())


def _worst(group: Group, column: Variant, labels: Labels) -> TableCell:
    found = [(m, row) for row in group.attacks() if (m := group.entry(row, column).mean("asr"))]
    if not found:
        return TableCell(wording.UNDEFINED)
    worst, row = max(found, key=lambda item: item[0].mean)
    spread = stats.spread_of(worst)
    return TableCell(f"{wording.percent(worst.mean)} ({labels(row)})", worst.mean, worst.half, worst.n, spread=spread)


def _coverage(group: Group, column: Variant) -> TableCell:
    done = sum(bool(group.entry(row, column).values("ca")) for row in group.attacks())
    return TableCell(f"{done}/{len(group.attacks())}", done)


def _detection(found_by_attack: Iterable[Iterable[float | None]], without: str) -> TableCell:
    """Mean over attacks of the mean over seeds of a value; ``without`` says why a defense has none."""
    means = []
    for given in found_by_attack:
        values = [v for v in given if v is not None]
        if values:
            means.append(sum(values) / len(values))
    found = stats.mean_of(means)
    if found is None:
        return TableCell(wording.UNDEFINED, note=without)
    return TableCell(f"{found.mean:.3f}", found.mean, n=found.n, note=f"mean over {counted(found.n, 'attack')}")


def _found_poison(group: Group, column: Variant) -> list[TableCell]:
    """AUROC of the scores, then TPR, FPR and F1 of the flagged samples."""
    records = [group.entry(row, column).done() for row in group.attacks()]
    rates = [[rates_of(r) for r in done] for done in records]
    scores = [[(r.get("detection") or {}).get("auroc") for r in done] for done in records]
    return [
        _detection(scores, "the defense suspects no samples"),
        *(
            _detection([[r[name] for r in one] for one in rates], "the defense flags no samples")
            for name in ("recall", "fpr", "f1")
        ),
    ]


def _whole_recipe(counts: dict[str, float]) -> float:
    """Number of trainings that run the whole recipe on a full-size network: feature models count, teachers do not."""
    return counts.get("full", 0.0) + counts.get("feature-model", 0.0)


def _trainings(group: Group, column: Variant) -> tuple[TableCell, TableCell]:
    counts = trainings(group, column)
    undefended = group.undefended()
    base = _whole_recipe(trainings(group, undefended)) if undefended else 0.0
    if not counts:
        return TableCell(wording.UNDEFINED), TableCell(wording.UNDEFINED)
    order = sorted(counts, key=lambda kind: (kind != "full", kind))
    text = " + ".join(f"{counts[kind]:.3g} {kind}" for kind in order)
    ratio = _whole_recipe(counts) / base if base else None
    return TableCell(text), TableCell(f"{ratio:.2f}", ratio) if ratio is not None else TableCell(wording.UNDEFINED)


def summary_table(group: Group, labels: Labels, clock: Clock) -> Table:
    """The summary of one data set's table, with averages over its attacks and their coverage."""
    rows: list[Row] = []
    mixed = mixed_data(group)
    for column in group.columns:
        control = column in group.controls
        relative = clock.relative(column)
        needs, cost = group.needs.get(column, ()), _trainings(group, column)
        cells = [
            _mean(group, column, "ca"),
            _mean(group, column, "asr"),
            _worst(group, column, labels),
            _mean(group, column, "ra"),
            _mean(group, column, "der"),
            _coverage(group, column),
            *_found_poison(group, column),
            *cost,
            TableCell(f"{relative[0]:.2f}", relative[0], n=relative[1]) if relative else TableCell(wording.UNDEFINED),
            TableCell(wording.needs_text(needs, control, group.returns.get(column))),
        ]
        first = control and bool(rows) and group.columns[len(rows) - 1] not in group.controls
        sign = OTHER_DATA * mixed.deviates(group.attacks(), column) + TRANSFORMED * (column in group.transforms)
        rows.append(Row(labels.heading(column, group.columns), cells, mark=sign, rule=first, tag=column.name))
    _bold(group, rows)
    notes = [
        "Averages over different attacks (see Attacks) are not comparable. Controls stand below the line.",
        f"DER is (max(0, ASR drop) {wording.MINUS} max(0, CA drop) + 1) / 2 in percent, relative to no defense in the "
        "same row and seed: 50 is no effect, 100 is perfect. TPR (the recall of the poison), FPR and F1 are those of "
        "the flagged samples.",
        "Full trainings include feature models, which also run the whole recipe, but not teachers or fine-tuning.",
    ]
    if any(OTHER_DATA in row.mark for row in rows):
        notes.append(f"{OTHER_DATA} some attacks were measured on different data; the note above says which.")
    if group.transforms:
        notes.append(f"{TRANSFORMED} the model changes test images or outputs; the note above says how.")
    if clock.device:
        notes.append(
            f"Time is relative to no defense, over cell pairs (same attack and seed) that finished on {clock.device}."
        )
    if classes := mixture(group):
        notes.append(f"{classes} Means over cells mix them.")
    tag = group.scale.dataset.name
    columns = [_defined(column, group.definitions) for column in COLUMNS]
    title = f"Summary by defense: {scale_text(group.scale, labels)}"
    return Table("", title, "Defense", columns, rows, notes=notes, level=3, tag=tag)


def _defined(column: Column, definitions: Definitions) -> Column:
    """The column, its label with what CA or ASR is over."""
    metric, comma, rest = column.label.partition(",")
    if metric not in ("CA", "ASR"):
        return column
    return dataclasses.replace(column, label=definitions.heading(metric.lower()) + comma + rest)


def _bold(group: Group, rows: list[Row]) -> None:
    """Mark the best means over all attacks."""
    for place, metric in ((0, "ca"), (1, "asr"), (3, "ra"), (4, "der")):
        for winner in titles(group, group.attacks(), metric):
            rows[group.columns.index(winner)].cells[place].best = True
