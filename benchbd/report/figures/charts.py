"""Figures of the leaderboard as data, from the same overviews as its tables. ``chart_plots`` draws them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from benchbd.core.severity import BAD, FAIR
from benchbd.errors import UsageError, counted, shown
from benchbd.report import points, wording
from benchbd.report.board import Board
from benchbd.report.course import Course, epoch_course, loss_course, rate_course
from benchbd.report.figures.panels import Panel, Series, loss_lines
from benchbd.report.footnotes import notes_on
from benchbd.report.groups import Group
from benchbd.report.overview import HeatMap, Overview
from benchbd.report.probes import curves as probed_curves
from benchbd.report.probes import without_clean_target
from benchbd.report.ranking import Ranking
from benchbd.report.stats import Spread

METRICS: dict[str, tuple[str, ...]] = {
    "scatter": (),
    "heatmap": ("asr", "ca"),
    "ranking": ("der", "asr"),
    "curves": ("loss", "train-loss", "ca", "asr"),
}
"""What each figure may show. Without a choice, curves shows all that the records hold, a ranking the first that there
is, and a heat map ASR."""

NEEDED = {
    "loss": "undefended records with notes.probe (probe: {losses: true} in a matrix)",
    "train-loss": "records with notes.train_loss",
    "ca": "records with notes.rates_by_epoch (probe: {rates: true} in a matrix) or of defenses that trace models",
    "asr": "records under attack with notes.rates_by_epoch (probe: {rates: true}) or of defenses that trace models",
}
"""Which records a curve is drawn from."""


class Heat(NamedTuple):
    """A heat map and the short names of its rows."""

    map: HeatMap
    names: tuple[str, ...]
    controls: tuple[bool, ...]


class Duels(NamedTuple):
    """A ranking and the short names of the ranked defenses, best first."""

    ranking: Ranking
    names: tuple[str, ...]


class Curves(NamedTuple):
    """Panels that share a legend. ``shared`` is whether they share their range of y."""

    panels: tuple[Panel, ...]
    shared: bool


Body = tuple[points.Point, ...] | Heat | Duels | Curves


class Chart(NamedTuple):
    """One figure of one data set, model and recipe.

    Attributes:
        name: the figure, with what it shows: ``heatmap-asr``.
        scale: the data set, model and recipe in words.
        body: what is drawn.
        note: the rules of the figure and the notes on its signs, for the line below it or for a caption.
    """

    name: str
    scale: str
    body: Body
    note: str


def _note(found: Overview, rules: Iterable[str], names: Iterable[str]) -> str:
    """The scale, the rules, and the notes on the signs in the names."""
    notes = [f"{note.rstrip('.')}.".replace(" ", "\N{NO-BREAK SPACE}", 1) for note in notes_on(names, found.notes)]
    return " ".join([f"{found.title}.", *(rule for rule in rules if rule), *notes])


def _attacks(found: Overview) -> str:
    """What means are over."""
    count = len(found.attacks)
    judged = f" that {'is' if count == 1 else 'are'} implanted" if found.judged else ""
    return f"Means over {counted(count, 'attack')}{judged}."


def _scatter(found: Overview, metric: str | None, group: Group) -> Chart | str:
    body = points.points(found)
    if not body:
        return "no defense has both a CA and an ASR" if found.attacks else "no attack counts as implanted"
    rules = (
        _attacks(found),
        points.BEST,
        "Lines are 95 % t-intervals over seeds from five on, ranges under five." * any(p.ca_spread for p in body),
        "Area is the cost, a multiple of the wall-clock time of no defense." * any(p.cost for p in body),
        points.RULE,
        "Hollow points do not compete." * any(not p.comparable and not p.control for p in body),
    )
    return Chart("scatter", found.title, body, _note(found, rules, [p.name for p in body]))


def _heatmap(found: Overview, metric: str | None, group: Group) -> Chart | str:
    heat = found.ca if metric == "ca" else found.asr
    if not any(cell.value is not None for cells in heat.cells for cell in cells):
        return f"no record has {heat.heading}"
    lines = {line.defense: line for line in found.lines}
    body = Heat(heat, tuple(lines[d].name for d in heat.defenses), tuple(lines[d].control for d in heat.defenses))
    severity = f"Colours change at {100 * FAIR:.0f} and {100 * BAD:.0f} %." if heat.metric == "asr" else ""
    seeds = counted(found.usual_seeds, "seed")
    gaps = any(cell.value is None and failed(cell.display) for cells in heat.cells for cell in cells)
    rules = (
        f"{heat.heading} in percent, mean over {seeds}{' in most cells' * found.seeds_differ(heat)}.",
        severity,
        "Bold: the best of an attack, by the rules of the leaderboard."
        * any(c.best for row in heat.cells for c in row),
        "A cross marks cells without a result, an empty cell one that was not run." * gaps,
    )
    return Chart(f"heatmap-{heat.metric}", found.title, body, _note(found, rules, [*heat.names, *body.names]))


def failed(display: str) -> bool:
    """Whether the text of a cell without a number says that it failed or was skipped."""
    return display not in ("", wording.NOT_RUN, wording.UNDEFINED)


def _ranking(found: Overview, metric: str | None, group: Group) -> Chart | str:
    ranking = found.rankings[metric] if metric else found.ranking
    if not ranking.order:
        return ranking.refusal or "no defense is ranked"
    body = Duels(ranking, tuple(found.short(defense) for defense in ranking.order))
    rules = (
        f"Attacks where the row's defense is better/equal/worse than the column's by {ranking.measure.upper()}.",
        "Defenses that a line joins do not differ significantly (* does): Wilcoxon's signed-rank test on one averaged "
        "difference an attack, at 5 % after Holm's correction.",
    )
    return Chart(f"ranking-{ranking.measure}", found.title, body, _note(found, rules, body.names))


def _loss_panels(found: Overview, group: Group) -> tuple[list[Panel], int]:
    curves = probed_curves([group])
    names = ("clean samples", "clean samples, target's label", "poisoned samples")
    panels = [
        Panel(found.short(curve.attack), "epoch", "mean loss", "line", loss_lines(curve, names, curves))
        for curve in curves
    ]
    return panels, max((c.seeds for c in curves), default=0)


def _series(name: str, found: Course | None, scale: float) -> Series:
    return Series(name, found.x, [scale * v for v in found.y]) if found else Series(name, [], [])


def _train_panels(found: Overview, group: Group) -> tuple[list[Panel], int]:
    panels, most = [], 0
    columns = [line.defense for line in found.lines]
    given = {(row, c): loss_course(group.entry(row, c)) for row in group.rows for c in columns}
    kept = [c for c in columns if any(given[row, c] for row in group.rows)]
    for row in group.rows:
        series = [_series(found.short(c), given[row, c], 1.0) for c in kept]
        if any(s.x for s in series):
            panels.append(Panel(found.short(row), "epoch", "training loss", "line", series))
            most = max(most, *(one.seeds for c in kept if (one := given[row, c])))
    return panels, most


def _rate_panels(metric: str) -> Callable[[Overview, Group], tuple[list[Panel], int]]:
    def made(found: Overview, group: Group) -> tuple[list[Panel], int]:
        panels, most = [], 0
        for line in found.lines:
            name = found.short(line.defense)
            names: list[str] = []
            for course in (epoch_course, rate_course):
                given = {row: course(group.entry(row, line.defense), metric) for row in group.rows}
                units = {one.unit for one in given.values() if one}
                if not units:
                    continue
                names.append(name if not names else f"{name}, traced")
                series = [_series(found.short(row), one, 100.0) for row, one in given.items()]
                unit = units.pop() if len(units) == 1 else ""
                panels.append(Panel(names[-1], unit, f"{metric.upper()} in %", "line", series))
                most = max(most, *(one.seeds for one in given.values() if one))
        return panels, most

    return made


_PANELS = {"loss": _loss_panels, "train-loss": _train_panels, "ca": _rate_panels("ca"), "asr": _rate_panels("asr")}
_ABOUT = {
    "loss": "Loss of the undefended training, in eval mode, without augmentation",
    "train-loss": "Mean loss of each epoch, as trained",
    "ca": "CA by epoch of the training that made a cell's model, or of the models that a defense traces",
    "asr": "ASR by epoch of the training that made a cell's model, or of the models that a defense traces",
}


def _curves(found: Overview, metric: str | None, group: Group) -> Chart | str:
    panels, most = _PANELS[str(metric)](found, group)
    if not panels:
        return f"needs {NEEDED[str(metric)]}, but found none"
    names = [panel.title for panel in panels] + [series.name for panel in panels for series in panel.series]
    rules = [f"{_ABOUT[str(metric)]}; mean of {'up to ' * (most > 1)}{counted(most, 'seed')}."]
    if metric == "loss" and (lacking := without_clean_target(probed_curves([group]), found.short)):
        rules.append(f"{lacking[0].upper()}{lacking[1:]}.")
    body = Curves(tuple(panels), metric == "loss")
    return Chart(f"curves-{metric}", found.title, body, _note(found, rules, names))


_MAKERS = {"scatter": _scatter, "heatmap": _heatmap, "ranking": _ranking, "curves": _curves}


def charts(name: str, board: Board, metric: str | None = None) -> list[Chart]:
    """A figure of each data set, model and recipe of a board that has the numbers for it.

    Args:
        name: scatter, heatmap, ranking or curves.
        board: the leaderboard.
        metric: what to show (see :data:`METRICS`).

    Raises:
        UsageError: the figure has no such metric, or no data set has the numbers for it; the first reason is named.
    """
    allowed = METRICS[name]
    if metric is not None and metric not in allowed:
        choice = f"shows {', '.join(allowed[:-1])} or {allowed[-1]}" if allowed else "has no --metric"
        raise UsageError(f"--metric {shown(metric)}: {name} {choice}")
    wanted = allowed if name == "curves" and metric is None else (metric,)
    found: list[Chart] = []
    reasons: list[str] = []
    for tables, overview in zip(board.groups, board.overviews(), strict=True):
        for each in wanted:
            made = _MAKERS[name](overview, each, tables.group)
            if isinstance(made, Chart):
                found.append(made)
            else:
                reasons.append(f"{overview.title}: {made}")
    if not found:
        raise UsageError(f"{name}: {reasons[0] if reasons else 'there are no records'}")
    return found


def numbers(chart: Chart) -> str:
    """Everything that a figure shows as CSV."""
    heading, rows = _table(chart.body)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["figure", "scale", *heading])
    writer.writerows([chart.name, chart.scale, *row] for row in rows)
    return out.getvalue()


def _text(value: float | bool | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def _bounds(spread: Spread | None) -> list[str]:
    return [_text(spread.low), _text(spread.high)] if spread else ["", ""]


def _table(body: Body) -> tuple[Sequence[str], Iterator[list[str]]]:
    if isinstance(body, Heat):
        return ("defense", "attack", "value", "n", "best", "text"), _heat_rows(body)
    if isinstance(body, Duels):
        return ("defense", "group", "other", "wins", "ties", "losses", "better", "p"), _duel_rows(body)
    if isinstance(body, Curves):
        return ("panel", "series", "x", "y"), _curve_rows(body)
    heading = ("defense", "ca", "ca_low", "ca_high", "asr", "asr_low", "asr_high", "cost", "control", "front")
    return heading, (
        [p.name, _text(p.ca), *_bounds(p.ca_spread), _text(p.asr), *_bounds(p.asr_spread), _text(p.cost),
         _text(p.control), _text(p.front)]
        for p in body
    )  # fmt: skip


def _heat_rows(body: Heat) -> Iterator[list[str]]:
    for name, cells in zip(body.names, body.map.cells, strict=True):
        for attack, cell in zip(body.map.names, cells, strict=True):
            yield [name, attack, _text(cell.value), str(cell.n or ""), _text(cell.best), cell.display]


def _duel_rows(body: Duels) -> Iterator[list[str]]:
    ranking, names = body.ranking, dict(zip(body.ranking.order, body.names, strict=True))
    for (one, other), duel in ranking.duels.items():
        if one in names and other in names:
            counts = [str(count) for count in (duel.wins, duel.ties, duel.losses)]
            better = "" if duel.better is None else str(duel.better)
            yield [names[one], ranking.groups[one], names[other], *counts, better, _text(duel.adjusted)]


def _curve_rows(body: Curves) -> Iterator[list[str]]:
    for panel in body.panels:
        for series in panel.series:
            for x, y in zip(series.x, series.y, strict=True):
                yield [panel.title, series.name, x if isinstance(x, str) else _text(x), _text(y)]
