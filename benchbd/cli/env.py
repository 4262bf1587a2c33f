"""``benchbd env``: what to paste into a bug report."""

from __future__ import annotations

import argparse
from typing import Any

from benchbd.cli.common import columns, write, write_json


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("env", help="versions, device, precision, data folders")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Tell it."""
    import os

    import torch

    from benchbd import engine, environment
    from benchbd.execute import _device

    device = _device("auto")
    facts = environment.describe(device, engine.choose_precision(device).name)
    facts["gpus"] = torch.cuda.device_count()
    facts["BENCHBD_DATA"] = os.environ.get("BENCHBD_DATA")
    if args.json:
        write_json(facts)
    else:
        write(columns([(k, ", ".join(f"{a} {b}" for a, b in v.items()) if isinstance(v, dict) else str(v)) for k, v in facts.items()]))
    return 0
