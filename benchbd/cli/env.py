"""``benchbd env``: print the facts that a bug report needs."""

from __future__ import annotations

import argparse
import os
from typing import Any

from benchbd.cli.common import columns, write, write_json

EPILOG = """\
  benchbd env
  benchbd env --json > environment.json
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "env",
        help="show versions, device, precision and data folder, for a bug report",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the facts."""
    import torch

    from benchbd import engine
    from benchbd.core import environment
    from benchbd.core.devices import compute_device

    device = compute_device("auto")
    facts = environment.describe(device, engine.choose_precision(device).name)
    facts["gpus"] = torch.cuda.device_count()
    facts["BENCHBD_DATA"] = os.environ.get("BENCHBD_DATA")
    if args.json:
        write_json(facts)
    else:
        write(columns([(key, _text(value)) for key, value in facts.items()]))
    return 0


def _text(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
