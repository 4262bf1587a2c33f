"""The committed records behind README and docs/results.md, read without the report's code."""

from __future__ import annotations

import functools
import json
import re
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DASH = "\N{EN DASH}"
MATRICES = {
    "all of CIFAR-10": "cifar10-narrow",
    "CIFAR-10 at half width": "cifar10-fast",
    "all of GTSRB": "gtsrb-narrow",
    "all of Imagenette": "imagenette-narrow",
}


Cells = dict[tuple[str, str], dict[int, dict[str, Any]]]
"""Finished records by defense and attack, then by seed."""


@functools.cache
def committed(name: str = "results") -> list[dict[str, Any]]:
    """The records of a committed file, shared by all tests: change none."""
    return list(map(json.loads, (ROOT / "leaderboard" / f"{name}.jsonl").read_text().splitlines()))


def finished(matrix: str) -> list[dict[str, Any]]:
    """The finished records of a matrix in the committed leaderboard."""
    return [record for record in committed() if record["matrix"] == matrix and record["status"] == "done"]


def records(matrix: str) -> Cells:
    """The finished records of a matrix whose attacks have one setting each, but for attacks that are not implanted."""
    found: Cells = {}
    for record in finished(matrix):
        seeds = found.setdefault((column(record), record["attack"]), {})
        assert record["seed"] not in seeds, f"{record['label']} would hide another record; give its column an option"
        seeds[record["seed"]] = record
    failed = {attack for _, attack in not_implanted(found)}
    return {key: seeds for key, seeds in found.items() if key[1] not in failed}


def not_implanted(found: Cells) -> set[tuple[str, str]]:
    """The undefended cells of attacks whose mean ASR is under 50 %."""
    return {key for key, seeds in found.items() if key[0] == "none" and key[1] != "none" and rate(seeds, "asr") < 0.5}


def rate(seeds: dict[int, dict[str, Any]], metric: str) -> float:
    """Mean over the seeds of a cell."""
    return statistics.mean(record[metric] for record in seeds.values())


def text(page: str) -> str:
    """A page on one line, without the signs of code and of bold and the targets of links."""
    plain = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", (ROOT / page).read_text())
    return " ".join(plain.replace("**", "").replace("`", "").split())


def der(found: Cells, defense: str, attack: str) -> float:
    """DER of a cell, over seeds that no defense has as well: (1 + fall of ASR - fall of CA) / 2."""
    seeds, undefended = found[defense, attack], found["none", attack]
    return statistics.mean(
        (1 + max(0, undefended[seed]["asr"] - record["asr"]) - max(0, undefended[seed]["ca"] - record["ca"])) / 2
        for seed, record in seeds.items()
    )


def column(record: dict[str, Any]) -> str:
    """Name of the defense in the tables, with the option in which two columns differ."""
    name, given = str(record["defense"]), record["params"]["defense"]
    options = {
        "abl": ("finetune_epochs", 60),
        "ac": ("preset", "per-class"),
        "spectral": ("scored", "uncentred"),
        "lfd": ("teachers", 1),
    }
    option, other = options.get(name, ("", None))
    return f"{name}({option}={other})" if option and given.get(option) == other else name


def percent(value: float) -> str:
    """A share in percent. Of thousands of images, a share may lie halfway between two tenths, and rounds up."""
    return f"{100 * value + 1e-9:.1f}"
