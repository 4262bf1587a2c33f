"""The paper's figures as data: panels of named series computed from records. ``plots`` draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from benchbd.errors import UsageError, counted, did_you_mean
from benchbd.report import published, stats
from benchbd.report.averages import average
from benchbd.report.groups import Group, Scale
from benchbd.report.labels import Defaults, Labels, Variant, recipe_text, registered, value_text
from benchbd.report.mixed_data import Measured, measured, other_data_text
from benchbd.report.paper.sweeps import MODES, TEACHERS, Sweep, sweep
from benchbd.report.probes import SCORED_EPOCH, SMALLER, Curve, Points, curves, points, without_clean_target
from benchbd.report.published import scale_text
from benchbd.report.wording import joined
from benchbd.storage.record_schema import Record

Kind = Literal["line", "bar", "dot", "scatter"]


class Series(NamedTuple):
    """Named values. ``x`` holds numbers or category names; ``half`` holds 95 % half widths, NaN without an interval."""

    name: str
    x: list[Any]
    y: list[float]
    half: Sequence[float] = ()
    strong: bool = False


class Panel(NamedTuple):
    """One set of axes."""

    title: str
    x: str
    y: str
    kind: Kind
    series: list[Series]


class Figure(NamedTuple):
    """One figure: panels in a grid of ``columns`` columns, with a note on the measurements."""

    name: str
    title: str
    panels: list[Panel]
    columns: int
    note: str
    scale: str
    shared: bool = False
    """Whether all panels share one range of y."""


class Source(NamedTuple):
    """Grouped records and their labels."""

    groups: list[Group]
    labels: Labels


def source(records: Iterable[Record], defaults: Defaults = registered) -> Source:
    """Group records for drawing."""
    grouping = published.grouped(records)
    return Source(grouping.groups, Labels(grouping.variants(), defaults))


def _by_training(found: Sequence[Curve | Points]) -> dict[tuple[Variant, str, str], list[Any]]:
    """Group curves or pictures by data set, recipe and numerics; members differ in network and attack."""
    out: dict[tuple[Variant, str, str], list[Any]] = {}
    for item in found:
        out.setdefault((item.scale.dataset, item.scale.recipe, item.scale.numerics), []).append(item)
    return out


def _noted(note: str, found: Measured) -> str:
    """A figure's note, which says so if the figure mixes different data."""
    return joined(note, other_data_text(found))


def _measured(found: Iterable[Curve | Points]) -> Measured:
    return frozenset[Any]().union(*(item.measured for item in found))


def _data_text(scale: Scale, labels: Labels) -> str:
    """The data set, recipe and numerics, which all panels of a figure share."""
    return " · ".join(filter(None, (labels(scale.dataset), recipe_text(scale.recipe), scale.numerics)))


def loss_lines(curve: Curve, names: tuple[str, str, str], found: Sequence[Curve]) -> list[Series]:
    """The lines of a curve: clean samples, those with the target's label, poisoned samples.

    The second is empty if the curve lacks it, so that lines look the same in all panels, and left out if all of
    ``found`` lack it.
    """
    clean, of_target, poison = names
    lines = [Series(clean, list(curve.epochs), curve.clean)]
    if any(each.clean_target for each in found):
        y = list(curve.clean_target)
        lines.append(Series(of_target, curve.epochs[: len(y)], y))
    return [*lines, Series(poison, list(curve.epochs), curve.poison, strong=True)]


def _loss_panel(curve: Curve, labels: Labels, found: Sequence[Curve]) -> Panel:
    lines = loss_lines(curve, ("clean", "clean, target's label", "poisoned"), found)
    return Panel(f"{labels(curve.scale.model)}, {labels(curve.attack)}", "epoch", "mean loss", "line", lines)


def _loss_figures(name: str, title: str, larges: tuple[str, ...], data: Source) -> list[Figure]:
    """Networks and their small counterparts in two rows, with a column per attack and architecture."""
    wanted = {*larges, *(SMALLER[large] for large in larges)}
    result = []
    for found in _by_training([c for c in curves(data.groups) if c.scale.model.name in wanted]).values():
        upper = [c for large in larges for c in found if c.scale.model.name == large]
        lower = [c for large in larges for c in found if c.scale.model.name == SMALLER[large]]
        if len(upper) != len(lower) and upper and lower:
            pairs = {(SMALLER[c.scale.model.name], c.attack) for c in upper} & {
                (c.scale.model.name, c.attack) for c in lower
            }
            upper = [c for c in upper if (SMALLER[c.scale.model.name], c.attack) in pairs]
            lower = [c for c in lower if (c.scale.model.name, c.attack) in pairs]
        drawn = (*upper, *lower)
        panels = [_loss_panel(c, data.labels, drawn) for c in drawn]
        if panels:
            scale = _data_text(found[0].scale, data.labels)
            seeds = counted(max(c.seeds for c in found), "seed")
            note = f"{scale}; undefended training, mean of {seeds}, eval mode, no augmentation"
            note = joined(note, without_clean_target(drawn, data.labels))
            note = _noted(note, _measured(drawn))
            result.append(Figure(name, title, panels, max(len(upper), len(lower)), note, scale, shared=True))
    return result


def fig1(data: Source) -> list[Figure]:
    """Mean loss of clean and poisoned samples by epoch, ResNet-18 above ResNet-S."""
    return _loss_figures("fig1", "Loss of clean and poisoned samples", ("resnet18",), data)


def fig6(data: Source) -> list[Figure]:
    """Figure 1 for VGG, LeNet, MobileNetV2 and their small counterparts."""
    return _loss_figures(
        "fig6", "Loss of clean and poisoned samples by architecture", ("vgg11", "lenet", "mobilenetv2"), data
    )


def _count_panel(title: str, found: list[Curve], counts: Callable[[Curve], Sequence[float]], labels: Labels) -> Panel:
    """Bars of the poisoned samples counted at the scored epoch, a series for each network that has this epoch."""
    series = []
    for model in dict.fromkeys(c.scale.model for c in sorted(found, key=lambda c: c.scale.model.name == "resnet-s")):
        scored = [(c, place) for c in found if c.scale.model == model and (place := c.at(SCORED_EPOCH)) is not None]
        known = [(labels(c.attack), counts(c)[place]) for c, place in scored if counts(c)]
        if scored:  # even if no count is known, so that a network looks the same in all panels
            series.append(Series(labels(model), [attack for attack, _ in known], [count for _, count in known]))
    return Panel(title, "attack", "poisoned samples", "bar", series)


def fig2(data: Source) -> list[Figure]:
    """Number of poisoned samples with a loss above the clean mean at the fifth epoch.

    A second panel counts those above the mean of the clean samples with the target's label.
    """
    result = []
    for found in _by_training(
        [c for c in curves(data.groups) if c.scale.model.name in ("resnet18", "resnet-s")]
    ).values():
        of_target = _count_panel(
            "mean of clean samples with the target's label", found, lambda c: c.over_target_count, data.labels
        )
        title = "mean of all clean samples" if any(s.x for s in of_target.series) else ""
        drawn = [_count_panel(title, found, lambda c: c.over_count, data.labels), of_target]
        panels = [panel for panel in drawn if any(s.x for s in panel.series)]
        if panels:
            scale = _data_text(found[0].scale, data.labels)
            title = f"Poisoned samples above the clean mean loss at epoch {SCORED_EPOCH}"
            note = f"{scale}; undefended training, mean of {counted(max(c.seeds for c in found), 'seed')}"
            note = joined(note, without_clean_target(found, data.labels))
            note = _noted(note, _measured(found))
            result.append(Figure("fig2", title, panels, len(panels), note, scale, shared=len(panels) > 1))
    return result


def _sweep_panel(found: Sweep, labels: Labels, metric: str, x_label: str) -> Panel:
    x = [value_text(v) for v in found.values]
    series = []
    for row in found.rows:
        means = [stats.mean_of(found.group.entry(row, c).values(metric).values()) for c in found.columns]
        y = [100 * m.mean if m else math.nan for m in means]
        half = [100 * m.half if m and m.half is not None else math.nan for m in means]
        series.append(Series(labels(row), list(x), y, half))
    if len(found.rows) > 1:
        averages = [average(found.group, c, found.rows, metric) for c in found.columns]
        series.append(
            Series("mean of attacks", list(x), [100 * a.mean if a else math.nan for a in averages], strong=True)
        )
    return Panel(metric.upper(), x_label, f"{metric.upper()} in %", "line", series)


def _sweeps(name: str, title: str, parameter: str, order: tuple[str, ...], x_label: str, data: Source) -> list[Figure]:
    result = []
    for group in data.groups:
        found = sweep(group, "lfd", parameter, order)
        if found is None:
            continue
        scale = scale_text(group.scale, data.labels)
        seeds = max(len(group.entry(r, c).values("ca")) for r in found.rows for c in found.columns)
        note = f"{scale}; mean of {counted(seeds, 'seed')}" + (
            ", bars: 95 % t-interval" if seeds >= stats.FEWEST else ""
        )
        note = _noted(note, measured(group, found.rows, found.columns))
        panels = [_sweep_panel(found, data.labels, metric, x_label) for metric in ("ca", "asr")]
        result.append(Figure(name, title, panels, 2, note, scale))
    return result


def fig4a(data: Source) -> list[Figure]:
    """Student's CA and ASR by the teacher's capacity."""
    return _sweeps("fig4a", "LfD by capacity of the teacher", "teacher", TEACHERS, "teacher, small to large", data)


def fig4b(data: Source) -> list[Figure]:
    """Student's CA and ASR by alpha."""
    return _sweeps("fig4b", "LfD by alpha", "alpha", (), "alpha, share of samples suspected", data)


def fig4c(data: Source) -> list[Figure]:
    """Student's CA and ASR by beta."""
    return _sweeps("fig4c", "LfD by beta", "beta", (), "beta, strength of ascent", data)


MODE_NAMES = {
    "none": "(a) no ascent",
    "unweighted": "(b) ascent",
    "weighted": "(c) weighted ascent",
    "drop": "candidates left out",
}


def fig5(data: Source) -> list[Figure]:
    """CA and ASR without ascent, with plain and with weighted ascent, by attack."""
    result = []
    for group in data.groups:
        found = sweep(group, "lfd", "mode", MODES)
        if found is None:
            continue
        panels = []
        for metric in ("ca", "asr"):
            series = []
            for value, column in zip(found.values, found.columns, strict=True):
                means = [stats.mean_of(group.entry(r, column).values(metric).values()) for r in found.rows]
                y = [100 * m.mean if m else math.nan for m in means]
                half = [100 * m.half if m and m.half is not None else math.nan for m in means]
                series.append(Series(MODE_NAMES.get(value, str(value)), [data.labels(r) for r in found.rows], y, half))
            panels.append(Panel(metric.upper(), "attack", f"{metric.upper()} in %", "bar", series))
        scale = scale_text(group.scale, data.labels)
        seeds = max(len(group.entry(r, c).values("ca")) for r in found.rows for c in found.columns)
        note = f"{scale}; mean of {counted(seeds, 'seed')}" + (
            ", bars: 95 % t-interval" if seeds >= stats.FEWEST else ""
        )
        note = _noted(note, measured(group, found.rows, found.columns))
        result.append(Figure("fig5", "LfD without ascent, with plain and with weighted ascent", panels, 2, note, scale))
    return result


def fig7(data: Source) -> list[Figure]:
    """t-SNE of the probed features, ResNet-18 and ResNet-S side by side."""
    result = []
    wanted = ("resnet18", "resnet-s")
    for found in _by_training([p for p in points(data.groups) if p.scale.model.name in wanted]).values():
        attacks = list(dict.fromkeys(p.attack for p in found))
        found.sort(key=lambda p: (attacks.index(p.attack), wanted.index(p.scale.model.name), p.scale.model))
        panels = []
        for picture in found:
            kinds: dict[str, tuple[list[float], list[float]]] = {}
            for (x, y), poisoned, label in zip(picture.xy, picture.poison, picture.label, strict=True):
                xs, ys = kinds.setdefault("poisoned" if poisoned else f"class {label}", ([], []))
                xs.append(x)
                ys.append(y)
            ordered = sorted(kinds.items(), key=lambda item: (item[0] == "poisoned", len(item[0]), item[0]))
            series = [Series(name, xs, ys, strong=name == "poisoned") for name, (xs, ys) in ordered]
            title = f"{data.labels(picture.scale.model)}, {data.labels(picture.attack)}"
            panels.append(Panel(title, "", "", "scatter", series))
        scale = _data_text(found[0].scale, data.labels)
        epochs = sorted({p.epoch for p in found if p.epoch is not None})
        after = f", after epoch {' and '.join(map(str, epochs))}" if epochs else ""
        note = _noted(f"{scale}; undefended training, seed {found[0].seed}{after}", _measured(found))
        result.append(Figure("fig7", "t-SNE of penultimate features", panels, min(2, len(panels)), note, scale))
    return result


def overview(data: Source) -> list[Figure]:
    """CA and ASR of every defense on every attack, for any matrix."""
    result = []
    for group in data.groups:
        panels = []
        for metric, rows in (("ca", group.rows), ("asr", group.attacks())):
            series = []
            for column in group.columns:
                means = [(r, m) for r in rows if (m := stats.mean_of(group.entry(r, column).values(metric).values()))]
                half = [100 * m.half if m.half is not None else math.nan for _, m in means]
                if means:
                    series.append(
                        Series(
                            data.labels(column),
                            [data.labels(r) for r, _ in means],
                            [100 * m.mean for _, m in means],
                            half,
                        )
                    )
            if series:
                panels.append(Panel(metric.upper(), "attack", f"{metric.upper()} in %", "dot", series))
        if panels:
            scale = scale_text(group.scale, data.labels)
            note = _noted(
                f"{scale}; bars: 95 % t-interval from five seeds on", measured(group, group.rows, group.columns)
            )
            result.append(Figure("overview", "Defenses by attack", panels, 1, note, scale))
    return result


_MAKERS = (fig1, fig2, fig4a, fig4b, fig4c, fig5, fig6, fig7, overview)
FIGURES: dict[str, Callable[[Source], list[Figure]]] = {maker.__name__: maker for maker in _MAKERS}

NEEDED = {
    "fig1": "undefended records of resnet18 or resnet-s with notes.probe",
    "fig2": "undefended records of resnet18 or resnet-s with notes.probe",
    "fig4a": "finished lfd records with at least two teachers",
    "fig4b": "finished lfd records with at least two values of alpha",
    "fig4c": "finished lfd records with at least two values of beta",
    "fig5": "finished lfd records with at least two modes",
    "fig6": "undefended records of vgg11, lenet or mobilenetv2 (or their small counterparts) with notes.probe",
    "fig7": "undefended records of resnet18 or resnet-s with notes.tsne (only a results folder has it)",
    "overview": "finished records",
}


def figures(name: str, data: Source) -> list[Figure]:
    """Build the figures of a name, one for each measured scale.

    Raises:
        UsageError: the name is unknown, or no record has the data that the figure needs.
    """
    if name not in FIGURES:
        raise UsageError(f"figure {name!r} is unknown{did_you_mean(name, FIGURES)}")
    result = FIGURES[name](data)
    if not result:
        run = f"; run it first: benchbd run {name}" if name != "overview" else ""
        raise UsageError(f"{name} needs {NEEDED[name]}, but found none{run}")
    return result
