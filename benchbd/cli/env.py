"""``benchbd env``: print the facts that a bug report needs; with ``--check``, what this machine will do."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from benchbd.cli.common import columns, output_folder, write, write_json
from benchbd.errors import counted

EPILOG = """\
--check measures this machine for less than half a minute: matrix products and a training step in fp32 and bf16, whether
a training step can be captured as a CUDA graph, free memory and disk, and how long usual runs take from an empty store.
Times come from counted operations and measured rates, as in `benchbd plan --time`. What was not measured has no time.

  benchbd env
  benchbd env --check
  benchbd env --check --json > machine.json
"""
SOURCES = {"cells": "finished cells", "records": "finished trainings", "measured": "rates measured here"}
"""Where a time comes from, for people."""


RATES = {"product": "matrix product", "step": "training step"}
"""What is measured, for people."""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "env",
        help="show versions, device, precision and data folder; measure what this machine will do",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="measure this machine, in less than 30 s")
    text = "for --check: results folder whose finished cells tell rates (default: benchbd-out)"
    parser.add_argument("-o", "--output", metavar="DIR", default="benchbd-out", help=text)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the facts."""
    if args.check:
        from benchbd.run.machine_check import check_machine

        found = check_machine(output_folder(args), say=_say)
        if args.json:
            write_json(found)
        else:
            write("\n".join(check_lines(found)))
        return 0
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


def _say(line: str) -> None:
    sys.stderr.write(f"benchbd: {line}\n")


def _text(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def check_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What ``benchbd.run.machine_check`` found, for people."""
    yield "devices"
    yield columns(list(_device_rows(found)), indent="  ")
    yield "CUDA graphs"
    yield f"  {_graph(found)}"
    yield "rates"
    rows = [(_rate_name(rate), rate["precision"], _rate(rate)) for rate in found["rates"]]
    measured = {(rate["what"], rate["precision"]) for rate in found["rates"]}
    late = [(what, wish) for what in RATES for wish in ("fp32", "bf16") if (what, wish) not in measured]
    yield columns([*rows, *((RATES[what], wish, "not measured in time") for what, wish in late)], indent="  ")
    yield "free"
    free = found["memory"]["free_bytes"]
    memory = [("memory", _size(free), "")] if free is not None else []
    disks = [(f"disk of the {name}", _size(disk["free_bytes"]), disk["folder"]) for name, disk in found["disk"].items()]
    yield columns([*memory, *disks], indent="  ")
    yield f"how long runs take here ({_jobs(found['jobs'])})"
    yield columns([(name, *_time(run)) for name, run in found["runs"].items()], indent="  ")
    yield "  not counted: reading data, poisoning, start-up, and cells that slow each other down"


def _device_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for device, facts in found["devices"].items():
        name = str(facts.get("name") or "unknown")
        if "free_bytes" in facts:
            name += f", {_size(facts['free_bytes'])} of {_size(facts['total_bytes'])} free"
        elif "cores" in facts:
            name += f", {counted(facts['cores'], 'core')}"
        yield device, name, f"precision class {facts.get('class', 'unknown')}"
    torch = found["torch"]
    if torch is None:
        yield "?", "the process that looks at the devices did not answer in time", ""
    elif not torch["gpus"]:
        why = "is a build for CPUs" if torch["cuda"] is None else f"is built for CUDA {torch['cuda']} and sees none"
        yield "cuda", f"no GPU: torch {torch['version']} {why}", ""


def _graph(found: Mapping[str, Any]) -> str:
    graph = found["graph"]
    if graph is None:
        return "not used without a GPU" if found["torch"] and not found["torch"]["gpus"] else "not tried in time"
    if graph["works"]:
        return f"capture works on {graph['device']}"
    return f"capture fails on {graph['device']}, trainings will run without: {graph['problem']}"


def _rate_name(rate: Mapping[str, Any]) -> str:
    if rate["what"] == "product":
        return f"{RATES['product']} on {rate['device']}"
    return f"{RATES['step']} of {rate.get('model', 'a usual model')} on {rate['device']}"


def _rate(rate: Mapping[str, Any]) -> str:
    if "error" in rate:
        return f"none: {rate['error']}"
    speed = f"{rate['operations_per_second'] / 1e9:,.3g} GFLOP/s"
    return f"{rate['images_per_second']:,.0f} images/s, {speed}" if "images_per_second" in rate else speed


def _time(run: Mapping[str, Any]) -> tuple[str, str]:
    """A run's time, and how sure it is."""
    from benchbd.run.forecast import within_text
    from benchbd.run.settings import duration_text

    missing = sum(run["unknown"].values())
    if run["seconds"] is None:
        return (
            "unknown",
            "no rate of its models was measured in time; run this again (what was measured is kept), or plan --time",
        )
    total = sum(share["cost"] for share in run["sources"])
    parts = [
        f"{share['cost'] / total:.0%} from {SOURCES.get(share['source'], 'the rate of a similar model')}"
        for share in run["sources"]
        if share["cost"] >= total / 200
    ]
    sure = f"{within_text(run['within'])} ({', '.join(parts)})"
    if missing:
        sure += f"; without {counted(missing, 'training')} of unknown cost"
    return f"{'more than' if missing else 'about'} {duration_text(run['seconds'])}", sure


def _jobs(jobs: int) -> str:
    return "1 job" if jobs == 1 else f"{jobs} jobs at once"


def _size(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB"
