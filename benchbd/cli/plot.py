"""``benchbd plot``: the paper's figures, and an overview of any matrix, from records."""

from __future__ import annotations

import argparse
from typing import Any

from benchbd.cli.common import add_output, add_plugins, write

FIGURES = ("fig1", "fig2", "fig4a", "fig4b", "fig4c", "fig5", "fig6", "fig7", "overview")

EPILOG = """\
FIGURE is one of fig1, fig2, fig4a, fig4b, fig4c, fig5, fig6, fig7 (from every record of the results folder; run them
first: benchbd run fig1) or overview. A MATRIX gives the overview of its cells. Each figure is written as PNG, SVG and
CSV, once for each scale (data set, network, recipe) that was measured.

  benchbd plot fig4b
  benchbd plot cifar10-small --out figures
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "plot", help="draw figures from records", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figure", metavar="FIGURE|MATRIX", help="a figure's name, or a matrix")
    add_output(parser)
    parser.add_argument("--results", metavar="FILE", help="a results.jsonl instead of the results folder")
    parser.add_argument("--out", metavar="FOLDER", default="figures", help="where the files go (default: figures)")
    cells = parser.add_argument_group("cells of MATRIX")
    cells.add_argument("--filter", metavar="K=GLOB", action="append", default=[], help="only cells that match")
    cells.add_argument("--exclude", metavar="K=GLOB", action="append", default=[], help="without cells that match")
    cells.add_argument("--set", metavar="K=V", action="append", default=[], help="as given to run")
    cells.add_argument("--seeds", metavar="LIST", help="as given to run")
    add_plugins(parser)
    parser.set_defaults(run=run, smoke=False)


def run(args: argparse.Namespace) -> int:
    """Draw."""
    from benchbd.cli.leaderboard import read
    from benchbd.report.figures import panels

    # A figure's own matrix may have been run with other settings (--set): its records are found by what is in them.
    by_name = args.figure in FIGURES and not (args.filter or args.exclude or args.set or args.seeds)
    args.matrix = None if by_name else args.figure
    records, _, _ = read(args)
    made = panels.figures(args.figure if args.figure in FIGURES else "overview", panels.source(records))

    from benchbd.report.figures import plots

    for path in plots.save(made, args.out):
        write(str(path))
    return 0
