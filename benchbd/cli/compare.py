"""``benchbd compare A B``: show what changed between two sets of results."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import DamagedRecords, columns, write, write_json

if TYPE_CHECKING:
    from benchbd.report.stats import Mean

NAMED = 8
"""Number of configurations that a line names; the rest are counted."""
EPILOG = """\
Configurations are matched by names, parameters, recipe, precision and threads, so results of two versions of a plugin
can be compared. A line names the configurations whose results were measured in different precision classes, and one
those that were measured on different data or initial weights.
Changes are means over the seeds that both sides have. From five seeds on, ± is half the width of the 95 % t-interval;
under five, the smallest and the largest change follow in parentheses.
The lift is the ASR minus the share of the same images that reach the target without the trigger. DER is
relative to no defense in the same set, row and seed.
Exit code 1: a --fail limit is exceeded, or (with --fail) B lacks a result that A has, or the data differ.

  benchbd compare before after --fail asr:+2 --fail ca:-1 --fail time:+20
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "compare",
        help="compare two sets of results",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", metavar="A", help="a results folder or a results.jsonl file")
    parser.add_argument("b", metavar="B", help="another one, to compare with A")
    parser.add_argument(
        "--fail",
        metavar="METRIC:±N",
        action="append",
        default=[],
        help="largest change allowed, in points (time: percent), such as asr:+2; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def _text(change: Mean | None, unit: str = "") -> str:
    if change is None:
        return "-"
    text = f"{change.mean:+.2f}{unit}"
    if change.half is not None:
        return f"{text} ± {change.half:.2f}"
    return text if change.n == 1 else f"{text} ({change.low:+.2f} to {change.high:+.2f})"


def run(args: argparse.Namespace) -> int:
    """Compare, print the changes and check the limits."""
    from benchbd.core.paths import user_path
    from benchbd.plan.cell import identity
    from benchbd.report.compare import compare, failures, parse_limit
    from benchbd.report.precision_classes import classes_text
    from benchbd.report.wording import listed
    from benchbd.storage import results_file

    limits = [parse_limit(text) for text in args.fail]
    # A limit must not hold because a record is left out.
    with DamagedRecords() as damaged:
        skip = None if limits else damaged
        a, b = (results_file.load(user_path(place, "compare"), identity, skip) for place in (args.a, args.b))
    found = compare(a, b)
    broken = failures(found, limits) if limits else []
    if args.json:
        lines = [
            {
                "label": line.label,
                "lost": line.lost,
                "data": line.data or None,
                "classes": line.classes and dict(zip("ab", map(dict, line.classes), strict=True)),
                **{metric: change and change._asdict() for metric, change in line.changes.items()},
            }
            for line in found.lines
        ]
        classes_json = dict(zip("ab", map(dict, found.classes), strict=True))
        write_json(
            {"cells": lines, "only_a": found.only_a, "only_b": found.only_b, "broken": broken, "classes": classes_json}
        )
        return 1 if broken else 0
    more = [name for name in ("lift", "der") if any(line.changes[name] for line in found.lines)]
    more_headings = [name.upper() if name == "der" else name for name in more]
    rows: list[tuple[str, ...]] = [("", "CA", "ASR", "RA", "time", "seeds", *more_headings)]
    for line in found.lines:
        changes = line.changes
        seeds = str(changes["ca"].n if changes["ca"] else 0) + (f" (lost {len(line.lost)})" if line.lost else "")
        rows.append(
            (
                line.label,
                _text(changes["ca"]),
                _text(changes["asr"]),
                _text(changes["ra"]),
                _text(changes["time"], " %"),
                seeds,
                *(_text(changes[name]) for name in more),
            )
        )
    write(columns(rows) if found.lines else "nothing in common")
    for name, labels in (("A", found.only_a), ("B", found.only_b)):
        if labels:
            write(f"only in {name}: {listed(labels, NAMED)}")
    if mixed := [line.label for line in found.lines if line.classes]:
        a_classes, b_classes = map(classes_text, found.mixed)
        classes = f"A {a_classes}; B {b_classes}"
        write(f"changes between precision classes, which round differently: {classes}: {listed(mixed, NAMED)}")
    if other := [f"{line.label} (another {line.data})" for line in found.lines if line.data]:
        write(f"changes between different data, which are not comparable: {listed(other, NAMED)}")
    for text in broken:
        write(f"FAIL {text}")
    return 1 if broken else 0
