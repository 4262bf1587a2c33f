"""Rows of Table 2 on real images, one attack after the other, until somebody stops it: ``rows.py --help``.

The cells are those of the shipped matrix ``table2``, so their records can be merged with any others.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from tree import end_with_parent

ATTACKS = ("bn-g", "blend", "sig")
DEFENSES = ("none", "fine-pruning", "abl", "lfd", "ac")
RECIPE = {
    "epochs": 80,
    "batch_size": 128,
    "optimizer": "adam",
    "lr": 0.001,
    "schedule": "cosine",
    "augment": ["crop4", "hflip"],
}
SMALL = {"model": "resnet18(width=2)", "attacks": ATTACKS[:1], "defenses": ("none", "ac")}
"""What a rehearsal runs, shrunk by ``--smoke`` on top."""


def matrix(dataset: str, smoke: bool) -> dict[str, Any]:
    """The matrix as a mapping."""
    model = SMALL["model"] if smoke else "resnet18"
    attacks, defenses = (SMALL["attacks"], SMALL["defenses"]) if smoke else (ATTACKS, DEFENSES)
    block = {"dataset": dataset, "model": model, "attacks": list(attacks), "defenses": list(defenses)}
    return {"name": "gpu", "seeds": [0], "recipe": RECIPE, "blocks": [block]}


def told(record: dict[str, Any]) -> dict[str, Any]:
    """A fact about a finished cell, for the report."""
    time_, env = record.get("time") or {}, record.get("env") or {}
    name = f"{record['dataset']}, {record['attack']}, {record['defense']}"
    facts = {key: record.get(key) for key in ("id", "status", "ca", "asr", "ra", "peak_memory_bytes", "epochs_trained")}
    facts |= {"seconds": time_.get("total"), "stages": time_.get("stages"), "device": env.get("device")}
    facts["precision"] = env.get("precision")
    if record["status"] != "done":
        return {**facts, "failed": True, "text": f"{name}: {record['status']} ({record.get('error')})"}
    asr = "" if record.get("asr") is None else f", ASR {record['asr']:.4f}"
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in (time_.get("stages") or {}).items())
    text = f"{name}: CA {record['ca']:.4f}{asr}; {time_.get('total', 0):.1f} s ({stages}), {env.get('precision')}"
    return {**facts, "text": text}


def records_of(results: Path) -> list[dict[str, Any]]:
    """The records in a results folder, oldest first; those that cannot be read are left out."""
    found = []
    for path in sorted((results / "records").glob("[!.]*.json"), key=lambda path: path.stat().st_mtime):
        try:
            found.append(json.loads(path.read_text()))
        except (OSError, ValueError):
            continue
    return found


def main() -> int:
    """Run the rows; prints a fact, one JSON object a line, for each row. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", help="data folder")
    parser.add_argument("--dataset", default="cifar10", help="data set as in a matrix (default: cifar10)")
    parser.add_argument("--plugin", action="append", default=[], help="file with a plugin")
    parser.add_argument("--results", type=Path, required=True, help="results folder; finished cells there are kept")
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--smoke", action="store_true", help="one row of two tiny cells")
    args = parser.parse_args()
    end_with_parent()
    from benchbd import run_matrix

    code = 0
    for attack in SMALL["attacks"] if args.smoke else ATTACKS:
        began = time.perf_counter()
        run_matrix(
            matrix(args.dataset, args.smoke),
            output=args.results,
            data=args.data,
            plugins=args.plugin,
            filters=[f"attack={attack}"],
            smoke=args.smoke,
            device=args.device,
            jobs=1,
            display="plain",
        )
        seconds = time.perf_counter() - began
        mine = [record for record in records_of(args.results) if record["attack"] == attack]
        done = sum(record["status"] == "done" for record in mine)
        failed = done < len(mine)
        code |= failed
        text = f"row {attack}: {done} of {len(mine)} cells done in {seconds:.1f} s, with start-up and data"
        sys.stdout.write(json.dumps({"text": text, "row": attack, "seconds": seconds, "failed": failed}) + "\n")
        sys.stdout.flush()
    return code


if __name__ == "__main__":
    sys.exit(main())
