"""The tables in the README against the committed records, recomputed here without the report's code."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DASH = "\N{EN DASH}"


def records() -> list[dict[str, Any]]:
    lines = (ROOT / "leaderboard" / "results.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["status"] == "done"]


def tables() -> list[list[list[str]]]:
    """Every table of the README as rows of cells, backticks taken off; the line under the header left out."""
    found: list[list[list[str]]] = [[]]
    for line in (ROOT / "README.md").read_text().splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [[table[0], *table[2:]] for table in found if table]


def table(corner: str, column: str) -> list[list[str]]:
    (only,) = (found for found in tables() if found[0][0] == corner and column in found[0])
    return only


def summary(matrix: str, measure: str) -> dict[str, dict[str, float]]:
    """Mean over seeds, by defense and attack."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records():
        if record["matrix"] == matrix and record["attack"] != "none":
            values[record["defense"]][record["attack"]].append(record[measure])
    return {d: {a: statistics.mean(v) for a, v in attacks.items()} for d, attacks in values.items()}


def mean(found: dict[str, dict[str, float]], defense: str) -> str:
    """In percent, over attacks; an en dash where nothing was measured."""
    return f"{100 * statistics.mean(found[defense].values()):.1f}" if defense in found else DASH


def test_the_summary_says_what_the_records_say():
    shown = {row[0]: row[1:] for row in table("defense", "worst ASR ↓")[1:]}
    ca, asr = summary("cifar10-small", "ca"), summary("cifar10-small", "asr")
    gtsrb_ca, gtsrb_asr = summary("gtsrb-small", "ca"), summary("gtsrb-small", "asr")
    assert set(shown) == set(ca)
    for name, cells in shown.items():
        worst = max(asr[name], key=asr[name].__getitem__)
        expected = [mean(ca, name), mean(asr, name), f"{100 * asr[name][worst]:.1f} ({worst})"]
        assert cells == [*expected, mean(gtsrb_ca, name), mean(gtsrb_asr, name)], name


def one_seed(attack: str, defense: str) -> str:
    """``CA / ASR`` in percent of seed 0 at cifar10-small's scale; CA alone without an attack. Names, or names with
    parameters as in a label where one name has several columns or rows."""
    found = []
    for record in records():
        _, _, row, column, seed = record["label"].split("/")
        if (
            seed == "s0"
            and record["matrix"].startswith("cifar10-small")
            and attack in (row, record["attack"])
            and (column == defense or record["defense"] == defense != "spectral")
        ):
            found.append(record)
    if not found:
        return DASH
    (record,) = found
    ca = f"{100 * record['ca']:.1f}"
    return ca if record["attack"] == "none" else f"{ca} / {100 * record['asr']:.1f}"


def test_attacks_beyond_the_paper():
    header, *rows = table("attack", "oracle")
    assert len(rows) == 5
    for attack, *cells in rows:
        assert cells == [one_seed(attack, defense) for defense in header[1:]], attack


def test_defenses_beyond_the_paper():
    header, *rows = table("defense", "no attack")
    assert {row[0].partition("(")[0] for row in rows} >= {"none", "lfd", "spectral", "asd"}
    for defense, *cells in rows:
        attacks = ["none" if name == "no attack" else name for name in header[1:]]
        assert cells == [one_seed(attack, defense) for attack in attacks], defense


def test_all_of_cifar10():
    header, *rows = table("all of CIFAR-10", "no attack")
    found = {
        (r["defense"], r["attack"]): r
        for r in records()
        if r["matrix"] == "cifar10-narrow" and r["params"]["defense"].get("teachers", 8) == 8
    }
    attacks = ["none" if name == "no attack" else name for name in header[1:-1]]
    assert {key for key in found if key[0] in {row[0] for row in rows}} <= {(d, a) for d, *_ in rows for a in attacks}
    for defense, *cells, times in rows:
        for attack, cell in zip(attacks, cells, strict=True):
            record = found.get((defense, attack))
            numbers = [] if record is None else [record["ca"], record["asr"]][: 1 if attack == "none" else 2]
            assert cell == (" / ".join(f"{100 * number:.1f}" for number in numbers) or DASH), (defense, attack)
        ratio = found[defense, "bn-g"]["time"]["total"] / found["none", "bn-g"]["time"]["total"]
        assert times == f"{ratio:.1f}", defense
