"""Draw the paper's figures with matplotlib, and their numbers as CSV."""

from __future__ import annotations

import csv
import io
import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbd.report.figures import files
from benchbd.report.figures.files import Drawn
from benchbd.report.figures.panels import Figure, Panel, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Okabe and Ito's colours, which the colour-blind can distinguish, without yellow (too faint on white). Marks and dashes
# differ as well, so that no distinction depends on colour alone.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#666666")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")
PANEL = (3.6, 2.7)
SMALLEST_FONT = 8
LETTER, LINE = 0.062, 0.17
"""Width of a letter and height of a line of the smallest font, in inches."""
CATEGORY = 24
"""Letters of a category's name on one line, if it can be broken."""


def _style(index: int) -> tuple[str, str, Any, str]:
    # Marks and dashes shift by one each time the colours repeat, so that no two of the first 49 styles are equal.
    turn = index // len(COLOURS)
    return COLOURS[index % 7], MARKS[(index + turn) % 7], DASHES[(index + turn) % 7], HATCHES[(index + turn) % 7]


def _categories(panel: Panel) -> list[str] | None:
    """The category names on the x axis, in order of first use; None if x holds numbers."""
    words = list(dict.fromkeys(x for s in panel.series for x in s.x))
    return words if words and all(isinstance(w, str) for w in words) else None


def _broken(name: str) -> str:
    """A category's name in lines, broken after commas and before the first parameter."""
    lines = [""]
    for piece in re.findall(r"[^,(]*[,(]?", name):
        if lines[-1] and len(lines[-1]) + len(piece) > CATEGORY:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def _turn(words: Sequence[str]) -> int:
    """Degrees by which the names of categories are turned: upright if one needs several lines."""
    if max(map(len, words)) * len(words) <= 40:
        return 0
    return 90 if any("\n" in _broken(word) for word in words) else 30


def _tick_room(panel: Panel) -> float:
    """Height in inches that upright names of categories need below a panel."""
    words = _categories(panel)
    if words is None or _turn(words) != 90:
        return 0.0
    return LETTER * max(len(line) for word in words for line in _broken(word).split("\n"))


def _bars(half: Sequence[float], y: Sequence[float]) -> list[float] | None:
    widths = [h if math.isfinite(h) else 0.0 for h in half]
    return widths if len(widths) == len(y) and any(widths) else None


def draw_panel(ax: Axes, panel: Panel) -> None:
    """Draw a panel on a set of axes."""
    words = _categories(panel)
    count = len(panel.series)
    for index, series in enumerate(panel.series):
        colour, mark, dash, hatch = _style(index)
        x = [words.index(v) for v in series.x] if words else [float(v) for v in series.x]
        errors = _bars(series.half, series.y)
        if panel.kind == "scatter":
            colour = "black" if series.strong else colour
            hollow = index >= len(COLOURS) and not series.strong  # the colours repeat
            ax.scatter(
                x,
                series.y,
                s=9,
                facecolors="white" if hollow else colour,
                edgecolors=None if series.strong else colour,
                marker=mark if not series.strong else "x",
                linewidths=0.7,
                alpha=0.8,
                label=series.name,
            )
        elif panel.kind == "bar":
            width = 0.8 / count
            middle = [v - 0.4 + width * (index + 0.5) for v in x]
            bars = ax.bar(
                middle,
                series.y,
                width,
                yerr=errors,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                label=series.name,
                capsize=2,
            )
            values = [f"{y:.3g}" if math.isfinite(y) else "" for y in series.y]  # makes a bar of zero height visible
            ax.bar_label(bars, values, fontsize=6, padding=2)
        elif panel.kind == "dot":
            shift = 0.6 * (index - (count - 1) / 2) / max(count, 1)
            ax.errorbar(
                [v + shift for v in x],
                series.y,
                yerr=errors,
                fmt=mark,
                color=colour,
                markersize=4.5,
                capsize=2,
                label=series.name,
            )
        else:
            if series.strong and count > 2:
                colour = "black"
            small = len(x) > 20
            if words:  # Shifted, so that equal values and their error bars do not overlap.
                x = [v + 0.06 * (index - (count - 1) / 2) for v in x]
            ax.errorbar(
                x, series.y, yerr=errors, color=colour, linestyle=dash, marker=None if small else mark, markersize=4,
                linewidth=2.2 if series.strong else 1.4, capsize=2, label=series.name,
            )  # fmt: skip
    if words:
        turn = _turn(words)
        ax.set_xticks(range(len(words)), [_broken(word) if turn else word for word in words])
        if turn:
            ax.tick_params(axis="x", rotation=turn)
            for label in ax.get_xticklabels():
                label.set_horizontalalignment("center" if turn == 90 else "right")
    elif panel.x == "epoch":
        ax.locator_params(axis="x", integer=True)
    if panel.y.endswith("in %"):  # An interval may exceed the range of a share; the axis does not.
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, -2.0), min(high, 112.0 if panel.kind == "bar" else 102.0))
    ax.set_title(panel.title, fontsize=9)
    ax.set_xlabel(panel.x)
    ax.set_ylabel(panel.y)
    if panel.kind == "scatter":
        ax.set_xticks([])
        ax.set_yticks([])
    else:
        ax.grid(axis="y", color="#dddddd", linewidth=0.6)
        ax.set_axisbelow(True)


def canvas(figure: Figure) -> Canvas:
    """Draw a figure, with legend and note below the panels."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    columns = max(1, min(figure.columns, len(figure.panels)))
    rows = -(-len(figure.panels) // columns)
    wide = max((len(_categories(p) or ()) for p in figure.panels), default=0) > 6
    width, height = (
        (2 * PANEL[0] if wide else PANEL[0]),
        (1.3 * PANEL[1] if figure.panels[0].kind == "scatter" else PANEL[1]),
    )
    inches = max(5.2, columns * width)
    names = {series.name for panel in figure.panels for series in panel.series}
    across = max(1, int(inches / (0.5 + 0.075 * max(map(len, names), default=1))))
    height += max(map(_tick_room, figure.panels))
    below = 1.1 + LINE * max(0, -(-len(names) // across) - 3)
    with matplotlib.rc_context({"font.size": SMALLEST_FONT, "axes.spines.top": False, "axes.spines.right": False}):
        drawing = Canvas(figsize=(inches, rows * height + below), layout="constrained")
        FigureCanvasAgg(drawing)
        axes = drawing.subplots(rows, columns, squeeze=False, sharey=figure.shared).flatten()
        for ax, panel in zip(axes, figure.panels, strict=False):
            draw_panel(ax, panel)
        for ax in axes[len(figure.panels) :]:
            ax.set_visible(False)
        handles: dict[str, Any] = {}
        for ax in axes[: len(figure.panels)]:
            for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
                handles.setdefault(name, handle)
        drawing.suptitle(figure.title, fontsize=10)
        note = textwrap.fill(figure.note, int(drawing.get_figwidth() * 19))
        if len(handles) > 1:
            drawing.legend(
                handles.values(), handles.keys(), loc="outside lower center", frameon=False,
                ncols=min(len(handles), across),
                markerscale=2.0 if figure.panels[0].kind == "scatter" else 1.0,
                title=note, title_fontproperties={"size": 7},
            )  # fmt: skip
        else:
            drawing.supxlabel(note, fontsize=7)
    return drawing


def numbers(figure: Figure) -> str:
    """All drawn values as CSV: one line per point, with a half width if it has an interval."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["figure", "scale", "panel", "series", "x", "y", "half"])
    for panel in figure.panels:
        for series in panel.series:
            writer.writerows(_points(figure, panel, series))
    return out.getvalue()


def _points(figure: Figure, panel: Panel, series: Series) -> list[list[Any]]:
    halves = series.half or [math.nan] * len(series.y)
    rows = []
    for x, y, half in zip(series.x, series.y, halves, strict=True):
        shown = [f"{v:.6g}" if math.isfinite(v) else "" for v in (y, half)]
        rows.append(
            [figure.name, figure.scale, panel.title, series.name, x if isinstance(x, str) else f"{x:.6g}", *shown]
        )
    return rows


def drawn(figure: Figure) -> Drawn:
    """A figure of the paper, to write into a file."""
    return Drawn(figure.name, figure.scale, lambda: canvas(figure), numbers(figure))


def save(found: Sequence[Figure], folder: str | Path) -> list[Path]:
    """Write each figure into a folder (see :func:`benchbd.report.figures.files.save`)."""
    return files.save([drawn(figure) for figure in found], Path(folder))
