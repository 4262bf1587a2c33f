"""Draw the leaderboard's figures for papers: as wide as asked, text of 5 points or more, readable in grey."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from benchbd.core.severity import BAD, FAIR
from benchbd.report import wording
from benchbd.report.figures.charts import Chart, Curves, Duels, Heat, failed
from benchbd.report.figures.files import any_script
from benchbd.report.figures.panels import Panel
from benchbd.report.figures.plots import draw_panel
from benchbd.report.figures.scatter import GREY, SMALL, TEXT, draw_points, name_points, point_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from matplotlib.legend import Legend

COLUMN = 3.4
"""Width of a paper's column in inches."""
TINY = 5.0
"""Smallest text, of numbers in narrow cells, in points."""
NARROWEST = 8.5
"""Narrowest cell with a number, in points."""
SEVERITY = (
    (0.0, "#ffffff"),
    (FAIR, "#dfe9f3"),
    (FAIR, "#fdd49e"),
    (BAD, "#f9a35f"),
    (BAD, "#cb3a26"),
    (1.0, "#6d0012"),
)
"""Colours of an ASR. They grow darker throughout, so that grey and every kind of colour vision keep their order, and
jump where severity does."""
ACCURACY = ("#ffffff", "#08519c")
BETTER, WORSE = "#08519c", "#fdd49e"


def chart_canvas(chart: Chart, width: float = COLUMN, note: bool = True) -> Canvas:
    """Draw a chart ``width`` inches wide; its height follows. ``note`` adds its rules below it."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    lines = textwrap.wrap(chart.note.replace(",", ", ").replace(",  ", ", "), int(width * 21)) if note else []
    style: Any = {"font.size": TEXT, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6}
    style |= {"xtick.major.width": 0.6, "ytick.major.width": 0.6, "text.parse_math": False, "hatch.linewidth": 0.4}
    with any_script(), matplotlib.rc_context(style):
        drawing = Canvas(figsize=(width, 1.0), layout="constrained")
        FigureCanvasAgg(drawing)
        legend = _legend(chart, drawing)
        # From the lower edge upwards: the note, the legend, and everything else.
        edge = 3 / 72
        noted = len(lines) * SMALL * 1.22 / 72 + edge if lines else 0.0
        keyed = legend.get_window_extent().height / drawing.dpi if legend else 0.0
        height = _height(chart, width) + keyed + noted
        drawing.set_size_inches(width, height)
        if legend:
            legend.set_bbox_to_anchor((0.5, noted / height))
        side, low = edge / width, (noted + keyed) / height
        area = (side, low, 1.0 - 2 * side, 1.0 - low - edge / height)
        drawing.get_layout_engine().set(rect=area, w_pad=0.02, h_pad=0.02)  # type: ignore[union-attr, call-arg]
        _draw(chart, drawing)
        if lines:
            made = drawing.text(
                edge / width, edge / height, "\n".join(lines), fontsize=SMALL, va="bottom", color="#333333"
            )
            made.set_in_layout(False)
        for _ in range(2):  # The second time, the layout knows the final sizes of labels.
            drawing.draw_without_rendering()
        drawing.set_layout_engine("none")
        if isinstance(chart.body, tuple) and not isinstance(chart.body, (Heat, Duels, Curves)):
            name_points(chart.body, drawing.axes[0])
    return drawing


def _legend(chart: Chart, drawing: Canvas) -> Legend | None:
    """What marks, colours and lines stand for, at the lower edge."""
    body = chart.body
    if isinstance(body, Duels) or (isinstance(body, Heat) and body.map.metric != "asr"):
        return None
    if isinstance(body, Heat):
        handles, names = _severity_key()
        across = 3
    elif isinstance(body, Curves):
        handles, names = _line_key(body)
        across = max(1, min(len(names), int(drawing.get_figwidth() / (0.4 + max(map(len, names)) * SMALL * 0.6 / 72))))
    else:
        handles, names = point_key(body)
        across = 4 if drawing.get_figwidth() < 5 else 8
    # Marks larger than the text, such as those of high costs, need room of their own.
    over = max(0.0, max((handle.get_markersize() / SMALL for handle in handles if hasattr(handle, "get_markersize")),
                        default=0.0) - 1.0)  # fmt: skip
    made = drawing.legend(
        handles, names, loc="lower center", frameon=False, fontsize=SMALL, ncols=across, handletextpad=0.5,
        columnspacing=1.0, borderpad=0.2 + over / 2, borderaxespad=0.0, labelspacing=max(0.5, over),
        handlelength=max(2.0, 1.0 + over),
    )  # fmt: skip
    made.set_in_layout(False)
    return made


def _across(body: Curves, width: float) -> int:
    return max(1, min(len(body.panels), round(width / 1.7)))


def _height(chart: Chart, width: float) -> float:
    """Height in inches without the note and the legend."""
    body = chart.body
    if isinstance(body, Heat):
        return 0.19 * len(body.names) + 0.15 + _slanted(body.map.names)
    if isinstance(body, Duels):
        return 0.2 * len(body.names) + 0.15 + _slanted(body.names)
    if isinstance(body, Curves):
        return 1.4 * -(-len(body.panels) // _across(body, width)) + 0.1
    return 0.3 + min(0.75 * width, 3.2)


def _slanted(names: tuple[str, ...]) -> float:
    """Height of upright names, in inches."""
    return max(map(len, names), default=0) * SMALL * 0.62 / 72 + 0.05


def _draw(chart: Chart, drawing: Canvas) -> None:
    body = chart.body
    if isinstance(body, Curves):
        _draw_curves(body, drawing)
        return
    ax = drawing.add_subplot()
    if isinstance(body, Heat):
        _draw_heat(body, ax)
    elif isinstance(body, Duels):
        _draw_duels(body, ax)
    else:
        draw_points(body, ax)


# Heat map


def _colours(metric: str, values: list[float]) -> tuple[Any, Any]:
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    if metric == "asr":
        return LinearSegmentedColormap.from_list("severity", list(SEVERITY), N=1000), Normalize(0.0, 1.0)
    low, high = min(values), max(values)
    return LinearSegmentedColormap.from_list("accuracy", ACCURACY), Normalize(low - 0.05, max(high, low + 0.05) + 0.1)


def _ink(colour: Any) -> str:
    """Black or white, whichever is readable on a colour."""
    # WCAG's relative luminance; at 0.179, both have the same contrast.
    red, green, blue = (v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in colour[:3])
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"


def _draw_heat(body: Heat, ax: Axes) -> None:
    cells = body.map.cells
    values = [cell.value for row in cells for cell in row if cell.value is not None]
    colours, norm = _colours(body.map.metric, values)
    room = _room(ax, body.names, len(body.map.names))
    digits, size = (1, SMALL) if room >= 19 else (1, TINY) if room >= 15.5 else (0, TINY)
    for y, row in enumerate(cells):
        for x, cell in enumerate(row):
            colour = colours(norm(cell.value)) if cell.value is not None else "white"
            ax.add_patch(_square(x, y, colour))
            if cell.value is not None and room >= NARROWEST:
                text = wording.percent(cell.value, digits)
                weight = "bold" if cell.best else "normal"
                _write(ax, x, y, text, size, _ink(colour), weight)
            elif cell.value is None and failed(cell.display):
                _write(ax, x, y, wording.TIMES, SMALL, GREY)
    _frame(ax, body.names, body.map.names)
    for y in range(1, len(body.controls)):
        if body.controls[y] and not body.controls[y - 1]:
            ax.axhline(y - 0.5, color="black", linewidth=1.0)


def _room(ax: Axes, names: tuple[str, ...], columns: float) -> float:
    """Width of a cell in points, beside the names of the rows."""
    return (72 * (ax.figure.get_figwidth() - 0.1) - max(map(len, names)) * SMALL * 0.6) / columns  # type: ignore[union-attr]


def _square(x: float, y: float, colour: Any) -> Any:
    from matplotlib.patches import Rectangle

    made = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="#bbbbbb", linewidth=0.4)
    made.set_in_layout(False)  # Thousands of cells do not change where axes lie.
    return made


def _write(ax: Axes, x: float, y: float, text: str, size: float, colour: Any, weight: str = "normal") -> None:
    """A text in the middle of a cell."""
    made = ax.text(x, y, text, ha="center", va="center", fontsize=size, color=colour, fontweight=weight)
    made.set_in_layout(False)


def _frame(ax: Axes, rows: tuple[str, ...], columns: tuple[str, ...]) -> None:
    """Names of rows at the left and of columns above, without axes."""
    ax.set_xlim(-0.5, len(columns) - 0.5)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.xaxis.tick_top()
    ax.set_xticks(range(len(columns)), columns, rotation=90, fontsize=SMALL, parse_math=False)
    ax.set_yticks(range(len(rows)), rows, fontsize=SMALL, parse_math=False)
    ax.tick_params(length=0, pad=2)
    for side in ax.spines.values():
        side.set_visible(False)


def _severity_key() -> tuple[list[Any], list[str]]:
    colours, norm = _colours("asr", [])
    low, high = 100 * FAIR, 100 * BAD
    names = [f"under {low:.0f} %", f"{low:.0f} to {high:.0f} %", f"{high:.0f} % and more"]
    middles = (FAIR / 2, (FAIR + BAD) / 2, (BAD + 1) / 2)
    return [_square(0, 0, colours(norm(middle))) for middle in middles], names


# Ranking


def _draw_duels(body: Duels, ax: Axes) -> None:
    order, ranking = body.ranking.order, body.ranking
    groups = sorted(
        {letter for name in ranking.groups.values() for letter in _letters(name)}, key=lambda g: (len(g), g)
    )
    room = _room(ax, body.names, len(order) + 0.2 + 0.3 * len(groups))
    size = next((size for size in (SMALL, TINY) if room >= 4.0 * size), 0.0)
    for y, one in enumerate(order):
        for x, other in enumerate(order):
            duel = ranking.duels.get((one, other))
            colour = {1: BETTER, -1: WORSE}.get(duel.better or 0, "white") if duel else "#eeeeee"
            ax.add_patch(_square(x, y, colour))
            if duel:
                text = f"{duel.wins}/{duel.ties}/{duel.losses}" if size else ""
                ink = "white" if duel.better == 1 else "black"
                _write(ax, x, y, text + "*" * bool(duel.better), size or TINY, ink)
    _frame(ax, body.names, body.names)
    for place, group in enumerate(groups):
        members = [y for y, one in enumerate(order) if group in _letters(ranking.groups[one])]
        right = len(order) - 0.25 + 0.3 * place
        ax.plot(
            [right, right], [members[0] - 0.3, members[-1] + 0.3], color="black", linewidth=1.6, solid_capstyle="butt"
        )
        ax.plot([right] * len(members), members, "o", color="black", markersize=2.5)
        ax.text(right, members[0] - 0.45, group, ha="center", va="bottom", fontsize=SMALL)
    ax.set_xlim(-0.5, len(order) - 0.5 + 0.2 + 0.3 * len(groups))


def _letters(text: str) -> list[str]:
    """``ab2`` as ``a`` and ``b2``."""
    found: list[str] = []
    for sign in text:
        if sign.isdigit() and found:
            found[-1] += sign
        else:
            found.append(sign)
    return found


# Curves


def _line_key(body: Curves) -> tuple[list[Any], list[str]]:
    """A line of each name, as panels draw it; all panels have the same names."""
    from matplotlib.figure import Figure as Canvas

    ax = Canvas().subplots()
    draw_panel(ax, body.panels[0])
    handles, _ = ax.get_legend_handles_labels()
    return handles, [series.name for series in body.panels[0].series]


def _shrink(ax: Axes, panel: Panel, width: float) -> None:
    """Fit a panel to a few inches: thin lines, few marks, and names of stages that do not overlap."""
    ax.set_title(panel.title, fontsize=TEXT, pad=2)
    ax.tick_params(labelsize=SMALL, pad=1.5, length=2)
    ax.xaxis.labelpad = ax.yaxis.labelpad = 1
    for line in ax.get_lines():
        count = len(line.get_xdata())  # type: ignore[arg-type]
        line.set_linewidth(0.65 * line.get_linewidth())
        line.set_markersize(2.4)
        line.set_markevery(max(1, count // 5))
    names = [x for series in panel.series for x in series.x if isinstance(x, str)]
    if names and len("".join(dict.fromkeys(names))) * SMALL * 0.6 / 72 > 0.7 * width:
        for label in ax.get_xticklabels():
            label.set(rotation=30, horizontalalignment="right", rotation_mode="anchor")


def _draw_curves(body: Curves, drawing: Canvas) -> None:
    across = _across(body, drawing.get_figwidth())
    axes = drawing.subplots(-(-len(body.panels) // across), across, squeeze=False, sharey=body.shared).flatten()
    one_x = len({panel.x for panel in body.panels}) == 1
    for place, (ax, panel) in enumerate(zip(axes, body.panels, strict=False)):
        draw_panel(ax, panel)
        _shrink(ax, panel, drawing.get_figwidth() / across)
        if one_x and place + across < len(body.panels):
            ax.set_xlabel("")
        if place % across:
            ax.set_ylabel("")
    for ax in axes[len(body.panels) :]:
        ax.set_visible(False)
