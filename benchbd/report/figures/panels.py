"""The paper's figures as data: panels of named series, made from records. ``plots`` beside this file draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from benchbd.errors import UsageError, did_you_mean
from benchbd.report import published, stats
from benchbd.report.averages import average
from benchbd.report.groups import Group, Scale, group
from benchbd.report.labels import Defaults, Labels, Variant, recipe_text, registered, value_text
from benchbd.report.paper.sweeps import MODES, TEACHERS, Sweep, sweep
from benchbd.report.probes import SCORED_EPOCH, SMALLER, Curve, Points, curves, points
from benchbd.report.published import scale_text
from benchbd.report.wording import counted
from benchbd.storage.record_schema import Record

Kind = Literal["line", "bar", "dot", "scatter"]


class Series(NamedTuple):
    """Named values: ``x`` numbers, or words for categories; ``half`` the 95 % half widths, NaN where there are none."""

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
    """One picture: panels in a grid of ``columns`` columns, with a note on what was measured."""

    name: str
    title: str
    panels: list[Panel]
    columns: int
    note: str
    scale: str
    shared: bool = False
    """All panels have one range of y."""


class Source(NamedTuple):
    """Grouped records and their labels."""

    groups: list[Group]
    labels: Labels


def source(records: Iterable[Record], defaults: Defaults = registered) -> Source:
    """Group records for drawing."""
    grouping = group(records, published.order(1), published.order(2), published.order(0))
    return Source(grouping.groups, Labels(grouping.variants(), defaults))


def _by_training(found: Sequence[Curve | Points]) -> dict[tuple[Variant, str], list[Any]]:
    """Curves or pictures of one data set and recipe, which differ in network and attack."""
    out: dict[tuple[Variant, str], list[Any]] = {}
    for item in found:
        out.setdefault((item.scale.dataset, item.scale.recipe), []).append(item)
    return out


def _data_text(scale: Scale, labels: Labels) -> str:
    """Data set and recipe: what the panels of a figure have in common, whatever their networks."""
    return " · ".join(filter(None, (labels(scale.dataset), recipe_text(scale.recipe))))


def _loss_panel(curve: Curve, labels: Labels) -> Panel:
    lines = [
        Series("clean", list(curve.epochs), curve.clean),
        Series("poisoned", list(curve.epochs), curve.poison, strong=True),
    ]
    return Panel(f"{labels(curve.scale.model)}, {labels(curve.attack)}", "epoch", "mean loss", "line", lines)


def _loss_figures(name: str, title: str, larges: tuple[str, ...], data: Source) -> list[Figure]:
    """Networks and their small relatives in two rows, attacks (and families) in columns."""
    wanted = {*larges, *(SMALLER[large] for large in larges)}
    made = []
    for found in _by_training([c for c in curves(data.groups) if c.scale.model.name in wanted]).values():
        top = [c for large in larges for c in found if c.scale.model.name == large]
        low = [c for large in larges for c in found if c.scale.model.name == SMALLER[large]]
        if len(top) != len(low) and top and low:
            pairs = {(SMALLER[c.scale.model.name], c.attack) for c in top} & {
                (c.scale.model.name, c.attack) for c in low
            }
            top = [c for c in top if (SMALLER[c.scale.model.name], c.attack) in pairs]
            low = [c for c in low if (c.scale.model.name, c.attack) in pairs]
        panels = [_loss_panel(c, data.labels) for c in (*top, *low)]
        if panels:
            scale = _data_text(found[0].scale, data.labels)
            seeds = counted(max(c.seeds for c in found), "seed")
            note = f"{scale}; undefended training, mean of {seeds}, eval mode, no augmentation"
            made.append(Figure(name, title, panels, max(len(top), len(low)), note, scale, shared=True))
    return made


def fig1(data: Source) -> list[Figure]:
    """Mean loss of clean and poisoned samples by epoch, ResNet-18 above ResNet-S."""
    return _loss_figures("fig1", "Loss of clean and poisoned samples", ("resnet18",), data)


def fig6(data: Source) -> list[Figure]:
    """As Figure 1 for VGG, LeNet and MobileNetV2 and their small relatives."""
    return _loss_figures(
        "fig6", "Loss of clean and poisoned samples by architecture", ("vgg11", "lenet", "mobilenetv2"), data
    )


def fig2(data: Source) -> list[Figure]:
    """How many poisoned samples have a loss above the clean mean at the fifth epoch."""
    made = []
    for found in _by_training(
        [c for c in curves(data.groups) if c.scale.model.name in ("resnet18", "resnet-s")]
    ).values():
        series = []
        for model in dict.fromkeys(
            c.scale.model for c in sorted(found, key=lambda c: c.scale.model.name == "resnet-s")
        ):
            mine = [(c, place) for c in found if c.scale.model == model and (place := c.at(SCORED_EPOCH)) is not None]
            series.append(
                Series(data.labels(model), [data.labels(c.attack) for c, _ in mine], [c.over_count[i] for c, i in mine])
            )
        if any(s.x for s in series):
            scale = _data_text(found[0].scale, data.labels)
            panel = Panel("", "attack", "poisoned samples", "bar", [s for s in series if s.x])
            title = f"Poisoned samples above the clean mean loss at epoch {SCORED_EPOCH}"
            note = f"{scale}; undefended training, mean of {counted(max(c.seeds for c in found), 'seed')}"
            made.append(Figure("fig2", title, [panel], 1, note, scale))
    return made


def _sweep_panel(found: Sweep, labels: Labels, metric: str, what: str) -> Panel:
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
    return Panel(metric.upper(), what, f"{metric.upper()} in %", "line", series)


def _sweeps(name: str, title: str, parameter: str, order: tuple[str, ...], what: str, data: Source) -> list[Figure]:
    made = []
    for here in data.groups:
        found = sweep(here, "lfd", parameter, order)
        if found is None:
            continue
        scale = scale_text(here.scale, data.labels)
        seeds = max(len(here.entry(r, c).values("ca")) for r in found.rows for c in found.columns)
        note = f"{scale}; mean of {counted(seeds, 'seed')}" + (", bars: 95 % t-interval" if seeds > 1 else "")
        panels = [_sweep_panel(found, data.labels, metric, what) for metric in ("ca", "asr")]
        made.append(Figure(name, title, panels, 2, note, scale))
    return made


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
    made = []
    for here in data.groups:
        found = sweep(here, "lfd", "mode", MODES)
        if found is None:
            continue
        panels = []
        for metric in ("ca", "asr"):
            series = []
            for value, column in zip(found.values, found.columns, strict=True):
                means = [stats.mean_of(here.entry(r, column).values(metric).values()) for r in found.rows]
                y = [100 * m.mean if m else math.nan for m in means]
                half = [100 * m.half if m and m.half is not None else math.nan for m in means]
                series.append(Series(MODE_NAMES.get(value, str(value)), [data.labels(r) for r in found.rows], y, half))
            panels.append(Panel(metric.upper(), "attack", f"{metric.upper()} in %", "bar", series))
        scale = scale_text(here.scale, data.labels)
        seeds = max(len(here.entry(r, c).values("ca")) for r in found.rows for c in found.columns)
        note = f"{scale}; mean of {counted(seeds, 'seed')}" + (", bars: 95 % t-interval" if seeds > 1 else "")
        made.append(Figure("fig5", "LfD without ascent, with plain and with weighted ascent", panels, 2, note, scale))
    return made


def fig7(data: Source) -> list[Figure]:
    """t-SNE of the features at the epoch the probe took them, ResNet-18 beside ResNet-S."""
    made = []
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
        note = f"{scale}; undefended training, seed {found[0].seed}{after}"
        made.append(Figure("fig7", "t-SNE of penultimate features", panels, min(2, len(panels)), note, scale))
    return made


def overview(data: Source) -> list[Figure]:
    """CA and ASR of every defense on every attack: for any matrix."""
    made = []
    for here in data.groups:
        panels = []
        for metric, rows in (("ca", here.rows), ("asr", here.attacks())):
            series = []
            for column in here.columns:
                means = [(r, m) for r in rows if (m := stats.mean_of(here.entry(r, column).values(metric).values()))]
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
            scale = scale_text(here.scale, data.labels)
            made.append(
                Figure("overview", "Defenses by attack", panels, 1, f"{scale}; bars: 95 % t-interval over seeds", scale)
            )
    return made


_MAKERS = (fig1, fig2, fig4a, fig4b, fig4c, fig5, fig6, fig7, overview)
FIGURES: dict[str, Callable[[Source], list[Figure]]] = {maker.__name__: maker for maker in _MAKERS}

NEEDED = {
    "fig1": "undefended records of resnet18 or resnet-s with notes.probe",
    "fig2": "undefended records of resnet18 or resnet-s with notes.probe",
    "fig4a": "finished lfd records with at least two teachers",
    "fig4b": "finished lfd records with at least two values of alpha",
    "fig4c": "finished lfd records with at least two values of beta",
    "fig5": "finished lfd records with at least two modes",
    "fig6": "undefended records of vgg11, lenet or mobilenetv2 (or their small relatives) with notes.probe",
    "fig7": "undefended records of resnet18 or resnet-s with notes.tsne (in a results folder; a results file has none)",
    "overview": "finished records",
}


def figures(name: str, data: Source) -> list[Figure]:
    """The figures of a name, one for each scale that was measured.

    Raises:
        UsageError: an unknown name, or no record from which it could be drawn.
    """
    if name not in FIGURES:
        raise UsageError(f"figure {name!r} is unknown{did_you_mean(name, FIGURES)}")
    made = FIGURES[name](data)
    if not made:
        run = f"; run it first: benchbd run {name}" if name != "overview" else ""
        raise UsageError(f"{name} needs {NEEDED[name]}, and there are none{run}")
    return made
