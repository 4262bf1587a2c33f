"""Writes the tables of results in README.md and docs/results.md from the committed records.

A table keeps its rows and columns in their order. New defenses and attacks are added at the end. Attacks that are not
implanted (ASR of no defense under 50 %) are left out. The text around the tables does not change.

python tools/result_tables.py
python tools/result_tables.py --check
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from benchbd import load_results
from benchbd.errors import BenchbdError, one_line
from benchbd.plugins import registry

ROOT = Path(__file__).parent.parent
MATRICES = {
    "all of CIFAR-10": "cifar10-narrow",
    "CIFAR-10 at half width": "cifar10-fast",
    "all of GTSRB": "gtsrb-narrow",
    "all of Imagenette": "imagenette-narrow",
}
OTHERS = {"CIFAR-10": "rates", "GTSRB": "gtsrb-narrow", "Imagenette": "imagenette-narrow"}
OPTIONS = {"abl": ("finetune_epochs", 60), "ac": ("preset", "per-class"), "spectral": ("scored", "uncentred")}
OPTIONS["lfd"] = ("teachers", 1)
"""The option by which two columns of one defense differ."""
NEEDS = {"clean": "clean images", "truth": "ground truth"}
DASH, TIMES = "\N{EN DASH}", "time \N{MULTIPLICATION SIGN} none"
IMPLANTED = 0.5
Table = list[list[str]]


def records() -> pd.DataFrame:
    """The finished records, with ``column`` and ``row``: the defense and the attack as the tables name them."""
    found = load_results(ROOT / "leaderboard" / "results.jsonl")
    found = found[found.status == "done"].copy()
    found["column"] = found.apply(_column, axis=1)
    found["row"] = found.attack.replace("none", "no attack")
    return found


def _column(record: pd.Series) -> str:
    name, (option, other) = record.defense, OPTIONS.get(record.defense, ("", None))
    return f"{name}({option}={other})" if option and record[f"defense.{option}"] == other else name


def implanted(found: pd.DataFrame) -> pd.DataFrame:
    """The records without those of attacks that are not implanted."""
    undefended = found[found.column == "none"].groupby("row").asr.mean()
    failed = undefended[undefended < IMPLANTED].index
    return found[~found.row.isin(failed)]


def percent(value: Any) -> str:
    """A share in percent, halves up; a dash if it is missing."""
    return DASH if pd.isna(value) else f"{100 * value + 1e-9:.1f}"


def both(seeds: pd.DataFrame, join: str = " / ") -> str:
    """CA and ASR of a cell's seeds, each in order; CA alone without an attack; a dash without records."""
    rates = [", ".join(map(percent, seeds.sort_values("seed")[name].dropna())) for name in ("ca", "asr")]
    return join.join(filter(None, rates)) or DASH


def ordered(known: list[str], measured: pd.Series) -> list[str]:
    """The known names that were measured, then the new ones."""
    there = dict.fromkeys(measured)
    return [*(name for name in known if name in there), *(name for name in there if name not in known)]


def means(table: Table, found: pd.DataFrame) -> Table:
    """A line for each defense: means over the attacks that it was measured on."""
    header = table[0]
    attacked, clean = found[found.row != "no attack"], found[found.row == "no attack"]
    cells = attacked.groupby(["column", "row"])[["ca", "asr", "der"]].mean().reset_index()
    every = set(cells.row)
    out = [header]
    for name in ordered([row[0].strip("`") for row in table[2:]], cells.column):
        mine = cells[cells.column == name]
        if "attacks" not in header and set(mine.row) != every:
            continue
        worst = mine.loc[mine.asr.idxmax()]
        needs = registry.make("defenses", name.partition("(")[0]).needs
        line = {
            "needs": ", ".join(NEEDS[need] for need in needs) or DASH,
            "CA, no attack": percent(clean[clean.column == name].ca.mean()),
            "CA ↑": percent(mine.ca.mean()),
            "ASR ↓": percent(mine.asr.mean()),
            "worst ASR ↓": f"{percent(worst.asr)} ({worst.row})",
            "DER ↑": DASH if name == "none" else percent(mine.der.mean()),
            "attacks": str(len(mine)),
            TIMES: times(found, name),
        }
        out.append([f"`{name}`", *(line[title] for title in header[1:])])
    return out


def times(found: pd.DataFrame, name: str) -> str:
    """Time over that of no defense, over the cells that both have on the device with the most records."""
    kind = [found["env.device"], found["env.precision"]]
    sizes = found.groupby(kind).size()
    device, precision = max(sizes.index, key=lambda key: (sizes[key], key))
    same = found[(found["env.device"] == device) & (found["env.precision"] == precision)]
    totals = same.pivot_table(index=["row", "seed"], columns="column", values="time.total")
    if name not in totals or "none" not in totals:
        return DASH
    pairs = totals[[name]].assign(none=totals["none"]).dropna()
    return f"{pairs[name].sum() / pairs['none'].sum():.1f}" if len(pairs) else DASH


def grid(table: Table, found: pd.DataFrame, cell: Callable[[pd.DataFrame], str]) -> Table:
    """A line for each defense and a column for each attack."""
    header, *lines = table
    columns = ordered(header[1:], found.row)
    names = ordered([row[0].strip("`") for row in lines[1:]], found.column)
    out = [[header[0], *columns]]
    for name in names:
        mine = found[found.column == name]
        out.append([f"`{name}`", *(cell(mine[mine.row == row]) for row in columns)])
    return out


def elsewhere(table: Table, found: pd.DataFrame) -> Table:
    """README's lines of other data and rates."""
    shown = found[found.matrix.isin(OTHERS.values()) & found.column.isin([name.strip("`") for name in table[0][1:]])]
    places = {matrix: place for place, matrix in OTHERS.items()}

    def line(record: pd.Series) -> str:
        share = f" at {100 * record['attack.rate']:g} %" if record.matrix == "rates" else ""
        return f"{places[record.matrix]}, {record.row}{share}"

    return _rows(table, shown, shown.apply(line, axis=1))


def rates(table: Table, found: pd.DataFrame) -> Table:
    """The lines of lower poisoning rates in docs/results.md."""
    shown = found[found.matrix == "rates"]
    return _rows(table, shown, shown.apply(lambda each: f"{each.row}, {100 * each['attack.rate']:g} %", axis=1))


def _rows(table: Table, shown: pd.DataFrame, lines: pd.Series) -> Table:
    header = table[0]
    out = [header]
    for name in ordered([row[0] for row in table[2:]], lines.sort_values()):
        mine = shown[lines == name]
        out.append([name, *(both(mine[mine.column == title.strip("`")]) for title in header[1:])])
    return out


def filled(table: Table, found: pd.DataFrame) -> Table | None:
    """The table with the numbers of the records; None if it is none of results."""
    header = table[0]
    title, _, measure = header[0].partition(",")
    if header[0] == "elsewhere, CA / ASR":
        return elsewhere(table, found)
    if header[0] == "poison, CA / ASR":
        return rates(table, found)
    if title not in MATRICES:
        return None
    mine = implanted(found[found.matrix == MATRICES[title]])
    if "worst ASR ↓" in header:
        return means(table, mine)
    if measure.endswith("by seed"):
        sizes = mine.groupby(["column", "row"]).seed.transform("size")
        return grid(table, mine[sizes > 1], both)
    if measure.strip() == "ASR ↓":
        attacked = mine[mine.row != "no attack"]
        return grid(table, attacked, lambda seeds: percent(seeds.asr.mean()))
    return grid(table, mine, lambda seeds: percent(seeds.ca.mean()))


def page(text: str, found: pd.DataFrame) -> str:
    """A page with all its tables of results filled."""
    out: list[str] = []
    lines = [*text.splitlines(), ""]
    table: Table = []
    for line in lines:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
            out.append(line)
            continue
        new = filled(table, found) if table else None
        if new is not None:
            header, *rest = new
            del out[-len(table) :]
            out += ["| " + " | ".join(row) + " |" for row in [header]]
            out += ["|" + "---|" * len(header), *("| " + " | ".join(row) + " |" for row in rest)]
        table = []
        out.append(line)
    return "\n".join(out[:-1]) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Write the pages, or say with exit code 1 that one is out of date; 2 if records or a page cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a page would change")
    args = parser.parse_args(argv)
    try:
        return write(args.check)
    except (BenchbdError, OSError) as error:
        sys.stderr.write(f"result_tables: {one_line(error)}\n")
        return 2


def write(check: bool) -> int:
    """Write the pages that differ; with ``check``, only name them. 1 if one was named so."""
    found, old = records(), 0
    for name in ("README.md", "docs/results.md"):
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = page(before, found)
        old += before != after
        if before != after and not check:
            path.write_text(after, encoding="utf-8")
        if before != after:
            sys.stdout.write(f"{name} {'is out of date' if check else 'written'}\n")
    return 1 if old and check else 0


if __name__ == "__main__":
    sys.exit(main())
