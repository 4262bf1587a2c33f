"""``benchbd prepare MATRIX``: data, triggers and poisoned sets, before any training slot is taken."""

from __future__ import annotations

import argparse
from typing import Any

from benchbd.cli.common import add_matrix_arguments, load_plan, output_folder, write


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("prepare", help="read data and make poisoned sets before any GPU is taken")
    add_matrix_arguments(parser)
    parser.add_argument("--device", default="auto", help="where surrogates and generators are trained (default: auto)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prepare every row once."""
    from benchbd.datafolder import data_folder
    from benchbd.execute import _device
    from benchbd.poison import Poisoner
    from benchbd.store import Store

    plan = load_plan(args)
    store = Store(output_folder(args) / "store", write)
    rows = {}
    for cell in plan.cells:
        rows.setdefault(cell.row_key, cell)
    for cell in rows.values():
        poisoner = Poisoner(cell, cell.made(), store, _device(args.device), lambda event: None, data_folder(args.data))
        clean, info = poisoner.train_set()
        poison = poisoner.poison(clean, info)
        told = f"{poison.facts['count']} of {len(clean)} images poisoned" if poison.facts else f"{len(clean)} clean images"
        write(f"{cell.dataset.text}/{cell.attack.text}/s{cell.seed}: {told}")
    return 0
