"""``benchbd show CELL``: one record."""

from __future__ import annotations

import argparse
from typing import Any

from benchbd.cli.common import add_output, columns, find_record, output_folder, write, write_json


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("show", help="one cell's record")
    parser.add_argument("cell", metavar="CELL", help="its id, the start of it, or its label")
    parser.add_argument("--json", action="store_true")
    add_output(parser)
    parser.set_defaults(run=run)


def _number(value: Any, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)


def run(args: argparse.Namespace) -> int:
    """Show it."""
    record = find_record(output_folder(args), args.cell)
    if args.json:
        write_json(record)
        return 0
    rows = [
        ("cell", f"{record['label']} ({record['id']})"),
        ("status", record["status"] + (f": {record['error']}" if record["error"] else "")),
        ("CA / ASR / RA", " / ".join(_number(record[k]) for k in ("ca", "asr", "ra"))),
    ]
    if record["detection"]:
        d = record["detection"]
        rows.append(("detection", f"AUROC {_number(d['auroc'])}, precision {_number(d['precision'])}, recall {_number(d['recall'])}"))
    if record["poison"]:
        p = record["poison"]
        rows.append(("poison", f"{p['count']} images, {p['share_of_set']:.2%} of the set, {p['share_of_target_class']:.2%} of the target class"))
    time = record["time"]
    rows.append(("time", f"{_number(time['total'], '.1f')} s as if alone, {_number(time['own'], '.1f')} s spent by this run"))
    rows += [(f"  {name}", f"{seconds:.1f} s") for name, seconds in time["stages"].items()]
    rows.append(("peak memory", f"{record['peak_memory_bytes'] / 2**20:.0f} MiB" if record["peak_memory_bytes"] else "-"))
    rows += [(k, ", ".join(f"{a}={b}" for a, b in v.items()) or "-") for k, v in record["params"].items()]
    rows.append(("recipe", ", ".join(f"{a}={b}" for a, b in record["recipe"].items())))
    rows += [(f"env {k}", str(v)) for k, v in record["env"].items()]
    rows += [(f"note {k}", str(v)[:100]) for k, v in record["notes"].items()]
    write(columns(rows))
    return 0
