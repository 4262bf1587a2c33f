"""``benchbd plot``: draw the paper's figures, or an overview of any matrix, from records."""

from __future__ import annotations

import argparse
from typing import Any

from benchbd.cli.common import add_numerics, add_output, add_plugins, write

FIGURES = ("fig1", "fig2", "fig4a", "fig4b", "fig4c", "fig5", "fig6", "fig7", "overview")

EPILOG = """\
FIGURE is fig1, fig2, fig4a, fig4b, fig4c, fig5, fig6, fig7 or overview. It is drawn from every record in the results
folder (for fig1, run its cells first: benchbd run fig1). A MATRIX gives the overview of its cells. Each figure is
written as PNG, SVG and CSV, once for each scale (data set, network, recipe) in the records.

  benchbd plot fig4b
  benchbd plot cifar10-small --out figures
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "plot", help="draw figures from records", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figure", metavar="FIGURE|MATRIX", help="name of a figure, or a matrix")
    add_output(parser)
    parser.add_argument("--results", metavar="FILE", help="a results.jsonl file instead of the results folder")
    parser.add_argument("--out", metavar="FOLDER", default="figures", help="folder for the files (default: figures)")
    cells = parser.add_argument_group("cells of MATRIX")
    cells.add_argument("--filter", metavar="K=GLOB", action="append", default=[], help="only cells that match")
    cells.add_argument("--exclude", metavar="K=GLOB", action="append", default=[], help="leave out cells that match")
    cells.add_argument("--set", metavar="K=V", action="append", default=[], help="as for benchbd run")
    cells.add_argument("--data", metavar="DIR", help="as for benchbd run; not needed to read results")
    cells.add_argument("--seeds", metavar="LIST", help="as for benchbd run")
    add_numerics(cells)
    add_plugins(parser)
    parser.set_defaults(run=run, smoke=False)


def _narrowed(args: argparse.Namespace) -> bool:
    given = (args.filter, args.exclude, args.set, args.seeds, args.precision, args.threads)
    return any(value not in (None, []) for value in given)


def run(args: argparse.Namespace) -> int:
    """Draw the figures and print the paths of their files."""
    from benchbd.cli.leaderboard import read
    from benchbd.report.figures import panels

    # A figure's matrix may have been run with other settings (--set), so records are selected by their content.
    by_name = args.figure in FIGURES and not _narrowed(args)
    args.matrix = None if by_name else args.figure
    records, _, _ = read(args)
    drawn = panels.figures(args.figure if args.figure in FIGURES else "overview", panels.source(records))

    from benchbd.report.figures import plots

    for path in plots.save(drawn, args.out):
        write(str(path))
    return 0
