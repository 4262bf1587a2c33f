"""The table in the README against the committed records, recomputed here without the report's code."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]


def summary(dataset: str, measure: str) -> dict[str, dict[str, float]]:
    """Mean over seeds, by defense and attack."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in (ROOT / "leaderboard" / "results.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["dataset"] == dataset and record["attack"] != "none" and record["status"] == "done":
            values[record["defense"]][record["attack"]].append(record[measure])
    return {d: {a: statistics.mean(v) for a, v in attacks.items()} for d, attacks in values.items()}


def mean(found: dict[str, dict[str, float]], defense: str) -> str:
    """In percent, over attacks; an en dash where nothing was measured."""
    return f"{100 * statistics.mean(found[defense].values()):.1f}" if defense in found else "\N{EN DASH}"


def test_the_table_says_what_the_records_say():
    text = (ROOT / "README.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    table = {row[0].strip("`"): row[1:] for row in rows if len(row) == 6}
    ca, asr = summary("cifar10", "ca"), summary("cifar10", "asr")
    gtsrb_ca, gtsrb_asr = summary("gtsrb", "ca"), summary("gtsrb", "asr")
    assert set(table) == set(ca)
    for name, shown in table.items():
        worst = max(asr[name], key=asr[name].__getitem__)
        expected = [mean(ca, name), mean(asr, name), f"{100 * asr[name][worst]:.1f} ({worst})"]
        assert shown == [*expected, mean(gtsrb_ca, name), mean(gtsrb_asr, name)], name
