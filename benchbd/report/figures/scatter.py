"""Draw defenses as points of CA against ASR, with names beside them that cover as little as possible."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from benchbd.report import wording
from benchbd.report.points import Point, front_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEXT, SMALL = 7.0, 6.0
"""Sizes of text in points: of axes, and of names and notes."""
BLUE, GREY = "#0072B2", "#666666"
AREA = 26.0
"""Area of a point of cost 1, in square points."""


def draw_points(body: tuple[Point, ...], ax: Axes) -> None:
    """Draw the points, their bounds and the Pareto line."""
    corners = front_line(body)
    ax.plot(
        [100 * asr for asr, _ in corners], [100 * ca for _, ca in corners], color=GREY, linestyle="--", linewidth=0.8,
        zorder=1,
    )  # fmt: skip
    for point in body:
        x, y = 100 * point.asr, 100 * point.ca
        if point.asr_spread:
            ax.hlines(y, 100 * point.asr_spread.low, 100 * point.asr_spread.high, "#999999", linewidth=0.6, zorder=2)
        if point.ca_spread:
            ax.vlines(x, 100 * point.ca_spread.low, 100 * point.ca_spread.high, "#999999", linewidth=0.6, zorder=2)
        ax.scatter([x], [y], zorder=3, linewidths=0.9, **_mark(point))
    _limits(body, ax)
    ax.set_xlabel("ASR in %, lower is better")
    ax.set_ylabel("CA in %, higher is better")
    ax.grid(color="#e5e5e5", linewidth=0.5)
    ax.set_axisbelow(True)


def _mark(point: Point) -> dict[str, Any]:
    size = AREA * min(max(point.cost if point.cost is not None else 1.0, 0.25), 12.0)
    if point.undefended:
        return {"s": size, "marker": "s", "facecolors": "black", "edgecolors": "black"}
    if point.control:
        return {"s": size, "marker": "D", "facecolors": "#bbbbbb", "edgecolors": GREY}
    return {"s": size, "marker": "o", "facecolors": BLUE if point.comparable else "white", "edgecolors": BLUE}


def _limits(body: tuple[Point, ...], ax: Axes) -> None:
    """Room around the points for their names, within what a share can be."""
    for values, setter in (([100 * p.asr for p in body], ax.set_xlim), ([100 * p.ca for p in body], ax.set_ylim)):
        low, high = min(values), max(values)
        room = max(0.12 * (high - low), 2.0)
        setter(max(low - room, -6.0), min(high + room, 106.0))


def point_key(body: tuple[Point, ...]) -> tuple[list[Any], list[str]]:
    """What the marks are, and the area of costs."""
    from matplotlib.lines import Line2D

    def mark(shape: str, face: str, edge: str, size: float = AREA) -> Line2D:
        return Line2D([], [], linestyle="none", marker=shape, markerfacecolor=face, markeredgecolor=edge,
                      markersize=math.sqrt(size))  # fmt: skip

    plain = [p for p in body if not p.undefended and not p.control]
    key: dict[str, Any] = {}
    if front_line(body):
        key["Pareto line"] = Line2D([], [], color=GREY, linestyle="--", linewidth=0.8)
    if any(p.undefended for p in body):
        key["no defense"] = mark("s", "black", "black")
    if any(p.control for p in body):
        key["control"] = mark("D", "#bbbbbb", GREY)
    if any(not p.comparable for p in plain):
        key["does not compete"] = mark("o", "white", BLUE)
    most = max((p.cost for p in body if p.cost is not None), default=0.0)
    for cost in (1, 2, 4, 8):
        if most and (cost == 1 or cost <= most):
            key[f"cost {cost}{wording.TIMES}"] = mark("o", BLUE, BLUE, AREA * cost)
    return list(key.values()), list(key)


Box = tuple[float, float, float, float]
"""Left, lower, right and upper edge, in pixels."""


def name_points(body: tuple[Point, ...], ax: Axes) -> None:
    """Write each name beside its point, where it covers the fewest other things."""
    taken = [_box_of(point, ax) for point in body]
    lines = _line_boxes(body, ax)
    pixels = ax.figure.dpi / 72
    for place, point in sorted(enumerate(body), key=lambda item: (-item[1].ca, item[0])):
        note = ax.annotate(
            point.name, (100 * point.asr, 100 * point.ca), (0, 0), textcoords="offset points", ha="center", va="center",
            fontsize=SMALL, zorder=4, annotation_clip=False,
        )  # fmt: skip
        note.set_in_layout(False)
        extent = note.get_window_extent()
        x, y = ax.transData.transform((100 * point.asr, 100 * point.ca))
        # Nearer to another point than to its own, a name would be read as the other's.
        others = [_padded(box, 3 * pixels) for box in taken[: len(body)]] + taken[len(body) :]
        del others[place]
        best: tuple[float, int, tuple[float, float], Box] | None = None
        for number, (dx, dy) in enumerate(_offsets(point, extent.width / pixels, extent.height / pixels)):
            box = _around(x + dx * pixels, y + dy * pixels, extent.width / 2 + 1, extent.height / 2)
            covered = _covered(box, others) + 0.5 * _covered(box, lines) + _outside(box, ax)
            if best is None or (covered, number) < best[:2]:
                best = covered, number, (dx, dy), box
            if not covered:
                break
        assert best is not None
        note.xyann = best[2]
        taken.append(best[3])
        if best[1] >= AROUND:  # Too far from its point to be understood without a line to its edge.
            left, low, right, high = _around(*best[2], extent.width / 2 / pixels + 1, extent.height / 2 / pixels)
            edge = min(max(left, 0.0), right), min(max(low, 0.0), high)
            ax.annotate("", (100 * point.asr, 100 * point.ca), edge, textcoords="offset points", zorder=2,
                        arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": GREY, "shrinkA": 4, "shrinkB": 0},
                        annotation_clip=False).set_in_layout(False)  # fmt: skip


AROUND = 8
"""Number of places directly beside a point."""


def _offsets(point: Point, width: float, height: float) -> list[tuple[float, float]]:
    """Places of the middle of a name around its point, in points; the preferred first."""
    near = math.sqrt(_mark(point)["s"]) / 2 + 2
    found = []
    for step in (near, near + 8, near + 16, near + 26, near + 38):
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)):
            length = 0.72 * step if dx and dy else step
            found.append((dx * (length + width / 2), dy * (length + height / 2)))
    return found


def _around(x: float, y: float, across: float, along: float) -> Box:
    return (x - across, y - along, x + across, y + along)


def _padded(box: Box, by: float) -> Box:
    return (box[0] - by, box[1] - by, box[2] + by, box[3] + by)


def _box_of(point: Point, ax: Axes) -> Box:
    x, y = ax.transData.transform((100 * point.asr, 100 * point.ca))
    half = math.sqrt(_mark(point)["s"]) / 2 * ax.figure.dpi / 72
    return _around(x, y, half, half)


def _line_boxes(body: tuple[Point, ...], ax: Axes) -> list[Box]:
    """Small boxes along the Pareto line and the bounds of points."""
    ends = list(itertools.pairwise(front_line(body)))
    ends += [((p.asr, p.ca_spread.low), (p.asr, p.ca_spread.high)) for p in body if p.ca_spread]
    ends += [((p.asr_spread.low, p.ca), (p.asr_spread.high, p.ca)) for p in body if p.asr_spread]
    boxes = []
    for start, end in ends:
        (x0, y0), (x1, y1) = ax.transData.transform([[100 * v for v in start], [100 * v for v in end]])
        steps = max(1, int(math.hypot(x1 - x0, y1 - y0) / 2))
        for step in range(steps + 1):
            boxes.append(_around(x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps, 1, 1))
    return boxes


def _shared(a: Box, b: Box) -> float:
    across, along = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return across * along if across > 0 and along > 0 else 0.0


def _covered(box: Box, others: list[Box]) -> float:
    """Area that a box shares with others, in square pixels."""
    return math.fsum(_shared(box, other) for other in others)


def _outside(box: Box, ax: Axes) -> float:
    """Twice the area of a box that lies outside the axes; a name there may be cut."""
    found = (box[2] - box[0]) * (box[3] - box[1]) - _shared(box, ax.bbox.extents)
    return 2 * found if found > 0.5 else 0.0
