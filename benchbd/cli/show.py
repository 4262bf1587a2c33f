"""``benchbd show CELL``: print the record of one cell; without CELL, list the cells that have records."""

from __future__ import annotations

import argparse
import math
import shlex
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import (
    add_output,
    add_results,
    columns,
    find_record,
    only_match,
    results_place,
    usable_records,
    write,
    write_json,
)
from benchbd.errors import UsageError, agrees, counted, one_line, shown, suggestion

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchbd.report.pools import PoolCount

SHORT = 16
"""Digits of a fingerprint that the command prints; --json has all of them."""
EPILOG = """\
  benchbd show                                          the cells that have records: ID, status and label
  benchbd show 3f9a
  benchbd show cifar10/resnet18/bn-g/lfd/s0 --json
  benchbd show leaderboard/results.jsonl                the cells of a results file
  benchbd show 'cifar10/airbench(width=16)/wanet/lfd/s0' --results leaderboard/results.jsonl
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "show",
        help="print one cell's record, or list the cells",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = "the cell's ID, the start of its ID, or its label (default: list all cells that have records)"
    parser.add_argument("cell", metavar="CELL", nargs="?", help=text)
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_output(parser)
    add_results(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the record, or the cells."""
    from benchbd.storage.records import failed_rerun

    if args.cell is not None and not args.results and args.cell.endswith(".jsonl"):
        args.cell, args.results = None, args.cell
    place = results_place(args)
    if args.cell is None:
        _list(place, args.json)
        return 0
    record = find_record_in_file(place, args.cell) if args.results else find_record(place, args.cell)
    if args.json:
        write_json(record)
    else:
        rows = _rows(record)
        if not args.results and record["status"] == "done" and (last := failed_rerun(place, record["id"])):
            rows.insert(2, ("last rerun", f"{last['status']}: {last['error']}; the earlier result stays"))
        # A record may come from an untrusted source: print its values as plain text, without control characters.
        write(columns([(one_line(name), one_line(value)) for name, value in rows]))
    return 0


def cells_with_records(place: Path, *, early: bool = False) -> dict[str, dict[str, Any]]:
    """The cells of a results folder or file, by ID, each with the record that the leaderboard shows.

    Args:
        place: the folder or file.
        early: allow a results folder that has no record yet.

    Raises:
        UsageError: as for :func:`usable_records`.
    """
    from benchbd.report.groups import precedence

    records: dict[str, dict[str, Any]] = {}
    for record in usable_records(place, early=early):
        ident = record["id"]
        records[ident] = max(records.get(ident, record), record, key=precedence)
    return records


def find_record_in_file(file: Path, wanted: str) -> dict[str, Any]:
    """Find the record of a cell in a results file, by the rules of :func:`benchbd.cli.common.find_record`.

    If the file has several records of the cell, the result is the one that the leaderboard shows.

    Raises:
        UsageError: no record or several cells match.
    """
    records = cells_with_records(file)
    found = only_match(wanted, sorted(records), lambda ident: str(records[ident]["label"]))
    if found is None:
        near = suggestion(wanted, (record["label"] for record in records.values()))
        more = near or f"; benchbd show --results {shlex.quote(str(file))} lists them"
        raise UsageError(f"no cell {shown(wanted)} among the {counted(len(records), 'record')} in {file}{more}")
    return records[found]


def _list(place: Path, as_json: bool) -> None:
    """Print ID, status and label of each cell of a results folder or file, in the order of tables."""
    from benchbd.storage.results_file import ordered

    names = ("id", "status", "label")
    cells = [
        {name: record[name] for name in names} for record in ordered(cells_with_records(place, early=True).values())
    ]
    if as_json:
        write_json(cells)
    else:
        write(columns([tuple(one_line(cell[name]) for name in names) for cell in cells]) or "No records yet.")


def _number(value: Any, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)


def _pairs(facts: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in facts.items()) or "-"


def _rows(record: dict[str, Any]) -> list[tuple[str, str]]:
    from benchbd.core.numerics import numerics_text
    from benchbd.core.plain import with_floats
    from benchbd.report.isolation import rates_of
    from benchbd.report.pools import pools_of
    from benchbd.report.probes import probe_of
    from benchbd.storage.record_schema import METRICS, RATES_BY_EPOCH, courses

    rows = [
        ("cell", f"{record['label']} ({record['id']})"),
        ("status", record["status"] + (f": {record['error']}" if record["error"] else "")),
        ("CA / ASR / RA", " / ".join(_number(record[k]) for k in METRICS)),
    ]
    rows += _trigger_rows(record) + _definition_rows(record)
    detection = record["detection"]
    if detection:
        found = {**detection, **rates_of(record)}
        values = (f"{name} {_number(found.get(key))}" for name, key in _DETECTION)
        rows.append(("detection", ", ".join(values)))
    poison = record["poison"]
    if poison:
        of_set, of_class = (_number(poison.get(f"share_of_{k}"), ".2%") for k in ("set", "target_class"))
        count = _number(poison.get("count"), ",.0f")
        same = f", {poison['unchanged']} unchanged" if poison.get("unchanged") else ""
        images = agrees(poison.get("count"), "image", "images")
        rows.append(("poison", f"{count} {images}, {of_set} of the set, {of_class} of the target class{same}"))
        if measured := poison.get("measured"):
            rows.append(("poison measured", ", ".join(f"{k} {_number(v, '.4g')}" for k, v in measured.items())))
    time = record["time"]
    total, own = (_number(time.get(k), ".1f") for k in ("total", "own"))
    rows.append(("time", f"{total} s as if run alone, {own} s spent by this run"))
    rows += [(f"stage {name}", f"{seconds:.1f} s") for name, seconds in time["stages"].items()]
    peak = record["peak_memory_bytes"]
    rows.append(("peak memory", f"{peak / 2**20:.0f} MiB" if peak else "-"))
    rows += [(kind, _pairs(given)) for kind, given in record["params"].items()]
    rows.append(("recipe", _pairs(record["recipe"])))
    if asked := numerics_text(record["spec"]):
        rows.append(("numerics", asked))
    rows += [(f"data {k}", str(v)[:SHORT]) for k, v in (record.get("data") or {}).items() if v is not None]
    rows += [(f"env {k}", _pairs(v) if isinstance(v, dict) else str(v)) for k, v in record["env"].items()]
    pools, notes = pools_of(record), dict(record["notes"])
    rows += [*_epoch_rows(record), *_loss_rows(record)]
    # Of a pool that changes from epoch to epoch, the first and the last.
    rows += [
        (f"pool {name}", "; ".join(map(_pool_text, found[:: max(1, len(found) - 1)]))) for name, found in pools.items()
    ]
    if isinstance(notes.get("warnings"), list):
        rows += [("warning", str(line)) for line in notes.pop("warnings")]
    shown = {"pools"} if pools else set()
    shown |= {RATES_BY_EPOCH} if courses(record) else set()
    shown |= {"probe"} if probe_of(record) else set()
    # ``--json`` has all digits.
    short = with_floats(notes, lambda number: float(f"{number:.4g}"))
    rows += [(f"note {k}", str(v)[:100]) for k, v in short.items() if k not in shown]
    return rows


def _seven(epochs: Sequence[Any]) -> list[int]:
    """Indices of up to seven epochs, the first and the last among them."""
    return sorted({round((len(epochs) - 1) * part / 6) for part in range(7)})


def _loss_rows(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Losses of clean and poisoned samples at the epoch that LfD scores and at up to seven others."""
    from benchbd.report.probes import SCORED_EPOCH, no_clean_target, probe_of

    if not (found := probe_of(record)):
        return []

    def value(name: str, place: int, form: str) -> str:
        number = found[name][place]
        return _number(None if math.isnan(number) else number, form)

    epochs = found["epochs"]
    scored = {epochs.index(SCORED_EPOCH)} if SCORED_EPOCH in epochs else set()
    rows: list[tuple[str, str]] = []
    for place in sorted({*_seven(epochs), *scored}):
        losses, above = [f"clean {value('clean_mean', place, '.3g')}"], value("poison_over_clean_mean", place, ".0f")
        if "clean_target_mean" in found:
            losses.append(f"of the target's label {value('clean_target_mean', place, '.3g')}")
            above += f" and {value('poison_over_clean_target_mean', place, '.0f')}"
        losses.append(f"poisoned {value('poison_mean', place, '.3g')} ({above} above)")
        rows.append((f"losses, epoch {epochs[place]:.0f}", ", ".join(losses)))
    if reason := no_clean_target(record):
        rows.append(("losses, target", f"no clean samples with the target's label: {reason}"))
    return rows


def _epoch_rows(record: dict[str, Any]) -> list[tuple[str, str]]:
    """CA, ASR and RA of up to seven epochs of each training that was watched, or why there are none."""
    from benchbd.storage.record_schema import METRICS, TRAININGS, by_epoch, courses

    rows: list[tuple[str, str]] = []
    shown: list[dict[str, list[Any]]] = []
    for training in TRAININGS:
        given, found = courses(record).get(training) or {}, by_epoch(record, training)
        if "no_rates" in given:
            rows.append((f"{training}, by epoch", str(given["no_rates"])))
        if not found or found in shown:
            continue
        shown.append(found)
        for place in _seven(found["epochs"]):
            rates = " / ".join(_number(found[metric][place]) for metric in METRICS)
            rows.append((f"{training}, epoch {found['epochs'][place]}", rates))
        if given.get("pruned"):
            rows.append((f"{training}, then", "channels were pruned"))
    return rows


def _trigger_rows(record: dict[str, Any]) -> list[tuple[str, str]]:
    """How often the images reach the target without the trigger, if the record says it."""
    from benchbd.report.gate import lift_of

    lift = lift_of(record)
    if lift is None:
        return []
    counts = record.get("triggered") or {}
    images, same = counts.get("images"), counts.get("unchanged")
    text = f"{_number(record['clean_asr'])} without the trigger, lift {lift:+.4f}"
    text += f" on {counted(images, 'image', ',')}" if images is not None else ""
    return [("clean ASR", f"{text}, {same:,} of them unchanged by the trigger" if same else text)]


def _definition_rows(record: dict[str, Any]) -> list[tuple[str, str]]:
    """The rates of other definitions, if the record has them."""
    asr, ca = record.get("asr_all"), record.get("ca_non_target")
    if asr is None and ca is None:
        return []
    return [("other definitions", f"ASR over all test images {_number(asr)}, CA without the target {_number(ca)}")]


def _pool_text(pool: PoolCount) -> str:
    when = "" if pool.epoch is None else f"epoch {pool.epoch}: "
    purity = "" if pool.purity is None else f", purity {pool.purity:.2%}"
    return f"{when}{counted(pool.size, 'sample', ',')}, {pool.poisoned:,} poisoned{purity}"


_DETECTION = (("AUROC", "auroc"), ("precision", "precision"), ("TPR (recall)", "recall"), ("FPR", "fpr"), ("F1", "f1"))
