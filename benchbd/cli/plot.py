"""``benchbd plot``: draw figures of the leaderboard, the paper's figures, or an overview of a matrix, from records."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import add_filters, add_numerics, add_output, add_plugins, add_results, write
from benchbd.errors import UsageError, shown

if TYPE_CHECKING:
    from benchbd.report.figures.files import Drawn
    from benchbd.storage.record_schema import Record

CHARTS = ("scatter", "heatmap", "ranking", "curves")
"""Figures of the leaderboard."""
PANELS = ("fig1", "fig2", "fig4a", "fig4b", "fig4c", "fig5", "fig6", "fig7", "overview")
"""The paper's figures, and the overview of a matrix."""
FIGURES = (*CHARTS, *PANELS)
WIDTHS = (2.0, 40.0)
"""Narrowest and widest figure in inches."""

EPILOG = """\
scatter   CA against ASR of each defense, its cost as area, and the Pareto line
heatmap   ASR (or --metric ca) of each defense under each attack, coloured by severity
ranking   wins, ties and losses of each pair of defenses; a line joins those that cannot be told apart (--metric der
          or asr)
curves    loss of clean and of poisoned samples by epoch (--metric loss), training loss by epoch (train-loss), CA and
          ASR by epoch (ca, asr; needs probe: {rates: true} in the matrix) and of the models that a defense traces; all
          that the records hold without --metric

These four show the numbers of benchbd leaderboard, one figure for each data set, model and recipe. They are 3.4 inches
wide, as a paper's column; --width 7 fills both columns. fig1, fig2, fig4a, fig4b, fig4c, fig5, fig6 and fig7 are the
paper's (for fig1, run its cells first: benchbd run fig1). A MATRIX in their place gives the overview of its cells.

  benchbd plot heatmap leaderboard/results.jsonl --write heatmap.pdf
  benchbd plot scatter cifar10-narrow --results leaderboard/results.jsonl --write scatter.svg --width 7
  benchbd plot ranking --filter 'dataset=cifar10*' --write ranking.png   of the records in benchbd-out
  benchbd plot curves --metric loss --results leaderboard/figures.jsonl
  benchbd plot curves my-matrix --metric asr --write asr.pdf
  benchbd plot fig4b
  benchbd plot cifar10-small --out figures
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    from benchbd.cli.leaderboard import add_definitions

    parser = verbs.add_parser(
        "plot", help="draw figures from records", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figure", metavar="FIGURE|MATRIX", help="name of a figure, or a matrix")
    text = "only the cells of this matrix, or every record of this results folder or results.jsonl"
    parser.add_argument("of", metavar="MATRIX|FOLDER", nargs="?", help=text)
    add_output(parser)
    add_results(parser)
    parser.add_argument(
        "--write",
        metavar="FILE",
        help="write this file: .png, .svg, .pdf, or .csv for the numbers; of several figures, each name says which",
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        default="figures",
        help="folder for PNG, SVG and CSV without --write (default: figures)",
    )
    group = parser.add_argument_group(", ".join(CHARTS))
    group.add_argument("--metric", metavar="NAME", help="what the figure shows, as below")
    group.add_argument("--width", metavar="INCHES", type=float, help="width of the figure (default: 3.4)")
    text = "leave out the lines below the figure, and print them for a caption"
    group.add_argument("--bare", action="store_true", help=text)
    add_definitions(group)
    cells = parser.add_argument_group("cells")
    add_filters(cells)
    cells.add_argument("--seeds", metavar="LIST", help="as for benchbd run; needs a MATRIX, as do the next ones")
    cells.add_argument("--set", metavar="K=V", action="append", default=[], help="as for benchbd run")
    cells.add_argument("--data", metavar="DIR", help="as for benchbd run; not needed to read results")
    add_numerics(cells)
    add_plugins(parser)
    parser.set_defaults(run=run, smoke=False, paper=False)


def _narrowed(args: argparse.Namespace) -> bool:
    given = (args.filter, args.exclude, args.set, args.seeds, args.precision, args.threads)
    return any(value not in (None, []) for value in given)


def _where(args: argparse.Namespace) -> None:
    """Find out which argument is the figure and which the matrix or folder, and put them into their places."""
    if args.figure not in FIGURES and args.of is not None:
        from benchbd.errors import did_you_mean

        raise UsageError(f"figure {shown(args.figure, 100)} is unknown{did_you_mean(args.figure, FIGURES)}")
    # A figure of the paper has a matrix of the same name, whose cells may have been run with other settings (--set):
    # records are selected by their content, unless an option asks for cells of the matrix.
    of_matrix = args.figure in PANELS and args.figure != "overview" and _narrowed(args)
    args.matrix = args.of if args.of is not None else args.figure if of_matrix else None
    if args.figure not in FIGURES:
        args.figure, args.matrix = "overview", args.figure


def run(args: argparse.Namespace) -> int:
    """Draw the figures and print the paths of their files."""
    from benchbd.core.paths import user_path
    from benchbd.report.figures import files

    _where(args)
    chart = args.figure in CHARTS
    if not chart and (args.metric is not None or args.width is not None or args.bare):
        flag = "--metric" if args.metric is not None else "--width" if args.width is not None else "--bare"
        raise UsageError(f"{flag} is for {', '.join(CHARTS)}; leave it out of plot {args.figure}")
    if args.width is not None and not WIDTHS[0] <= args.width <= WIDTHS[1]:
        raise UsageError(f"--width is in inches, from {WIDTHS[0]:g} to {WIDTHS[1]:g}, not {args.width:g}")
    folder = user_path(args.out, "--out")
    target = None if args.write is None else user_path(args.write, "--write")
    if target is not None:
        files.checked_kind(target)
    found = _charts(args) if chart else _panels(args)
    written = files.save(found, folder) if target is None else files.write_named(found, target)
    for path in written:
        write(str(path))
    return 0


def _records(args: argparse.Namespace) -> tuple[list[Record], float | None, str]:
    """The selected records, the gate and the title."""
    from benchbd.cli.leaderboard import read, read_folder

    read_folder(args, others=FIGURES if args.figure == "overview" else ())
    return read(args)


def _panels(args: argparse.Namespace) -> list[Drawn]:
    from benchbd.report.figures import panels, plots

    records, _, _ = _records(args)
    return [plots.drawn(figure) for figure in panels.figures(args.figure, panels.source(records))]


def _charts(args: argparse.Namespace) -> list[Drawn]:
    from benchbd.cli.leaderboard import board_of
    from benchbd.report.figures import charts

    found = charts.charts(args.figure, board_of(args, _records(args)), args.metric)
    if args.bare:
        import sys

        for chart in found:
            sys.stderr.write(f"{chart.name}: {chart.note}\n")

    def drawn(chart: charts.Chart) -> Drawn:
        from benchbd.report.figures import chart_plots
        from benchbd.report.figures.files import Drawn

        width = chart_plots.COLUMN if args.width is None else args.width
        return Drawn(
            chart.name,
            chart.scale,
            lambda: chart_plots.chart_canvas(chart, width, not args.bare),
            charts.numbers(chart),
        )

    return [drawn(chart) for chart in found]
