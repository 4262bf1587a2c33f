"""Significance, first screen and hand-written tables of the pages of results, without the report's code."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from typing import Any

import pytest
from committed_results import ROOT, Cells, committed, der, finished, percent, rate, records, text

from benchbd.cli import main

THREE = ("lfd", "abl", "fine-pruning")


def says(page: str, *sentences: str) -> None:
    missing = [sentence for sentence in sentences if sentence not in text(page)]
    assert missing == [], f"{page} does not say what the records say"


def whole(share: float) -> str:
    """A share in whole percent, halves up."""
    return f"{100 * share + 1e-9:.0f}"


@pytest.fixture(scope="module")
def narrow() -> Cells:
    return records("cifar10-narrow")


def attacks(found: Cells) -> list[str]:
    return [attack for defense, attack in found if defense == "none" and attack != "none"]


def asr(found: Cells, defense: str, attack: str) -> float:
    return rate(found[defense, attack], "asr")


def mean(found: Cells, defense: str) -> float:
    return statistics.mean(asr(found, defense, attack) for attack in attacks(found))


def cost(found: Cells, defense: str) -> float:
    """Mean fall of CA against no defense."""
    names = attacks(found)
    return statistics.mean(rate(found["none", name], "ca") - rate(found[defense, name], "ca") for name in names)


def significant(found: Cells, metric: str) -> set[frozenset[str]]:
    """Pairs that Wilcoxon's signed-rank test tells apart at 5 % (exact, two-sided, with Holm's correction)."""
    value = {"asr": asr, "der": der}[metric]

    def p_value(first: str, second: str) -> float:
        differences = [value(found, first, attack) - value(found, second, attack) for attack in attacks(found)]
        ranks = [1 + sum(abs(other) < abs(each) for other in differences) for each in differences]
        assert sorted(ranks) == list(range(1, len(ranks) + 1)), "no ties"
        far = abs(sum(math.copysign(rank, each) for rank, each in zip(ranks, differences, strict=True)))
        sums = [abs(sum(signed)) for signed in itertools.product(*([-rank, rank] for rank in ranks))]
        return sum(each >= far for each in sums) / len(sums)

    pairs = list(itertools.combinations(THREE, 2))
    ordered = sorted((p_value(*pair), frozenset(pair)) for pair in pairs)
    kept = itertools.takewhile(lambda case: case[1][0] * (len(pairs) - case[0]) <= 0.05, enumerate(ordered))
    return {pair for _, (_, pair) in kept}


def test_pages_say_which_differences_are_significant(narrow: Cells) -> None:
    assert significant(narrow, "asr") == set()
    assert significant(narrow, "der") == set()
    says("README.md", "no difference between the three is significant, neither in DER nor in ASR")
    says(
        "docs/results.md",
        "By DER, no difference is significant",
        f"(means of {whole(mean(narrow, 'abl'))} and {whole(mean(narrow, 'lfd'))} %), which is not significant",
        "finds no significant difference between the three",
    )
    before = {
        key: {seed: r for seed, r in seeds.items() if not (seed and key[1] == "blend")} for key, seeds in narrow.items()
    }
    assert significant(before, "asr") == {frozenset(("abl", "lfd"))}  # as the page says of the time before


def test_the_first_screens(narrow: Cells) -> None:
    lower = [attack for attack in attacks(narrow) if asr(narrow, "abl", attack) < asr(narrow, "lfd", attack)]
    assert set(attacks(narrow)) - set(lower) == {"blend"}
    assert len(lower) == 11
    few = {(r["defense"], r["attack"]): r["asr"] for r in finished("rates") if r["params"]["attack"]["rate"] == 0.01}
    scores = {d: percent(statistics.mean(der(narrow, d, attack) for attack in attacks(narrow))) for d in THREE}
    left = {name: whole(asr(narrow, name, "bn-a2a")) for name in ("none", *THREE)}
    says(
        "docs/results.md",
        f"LfD leaves an ASR of {left['lfd']} %, fine-pruning {left['fine-pruning']} % and ABL {left['abl']} %,"
        f" of {left['none']} %",
        f"LfD leaves an ASR of {percent(few['lfd', 'bn-g'])} and {percent(few['lfd', 'blend'])} %,"
        f" ABL {percent(few['abl', 'bn-g'])} and {percent(few['abl', 'blend'])} %",
        "By ASR, ABL is lower than LfD on eleven of twelve attacks",
        f"ABL costs {whole(cost(narrow, 'abl'))} points of CA, and LfD {percent(cost(narrow, 'lfd'))}",
        f"LfD has {scores['lfd']} %, ABL {scores['abl']} %, fine-pruning {scores['fine-pruning']} %",
    )
    says(
        "README.md",
        f"from {whole(mean(narrow, 'none'))} to {whole(mean(narrow, 'lfd'))} %"
        f" for {percent(cost(narrow, 'lfd'))} points of CA",
        f"ABL takes it to {whole(mean(narrow, 'abl'))} % for {whole(cost(narrow, 'abl'))} points of CA",
        "ABL has a lower ASR than LfD on eleven of twelve attacks",
    )


def test_the_small_figures_have_the_verdicts_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    results = str(ROOT / "leaderboard" / "figures.jsonl")
    assert main(["leaderboard", "--results", results, "--paper", "--format", "md"]) == 0
    rows = [[cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.splitlines()]
    verdicts = [row[3] for row in rows if len(row) > 4 and re.fullmatch("Figure [1-6][abc]?", row[2])]
    holds, fails = verdicts.count("holds"), verdicts.count("fails")
    assert (holds, fails) == (8, 8)
    says("docs/figures.md", "of the sixteen claims in Figures 1 to 6, eight hold and eight fail")


def row_of(page: str, start: str) -> list[str]:
    """The numbers of the table's row that begins so."""
    (line,) = (line for line in (ROOT / page).read_text().splitlines() if line.startswith(start))
    return [cell.strip() for cell in line[len(start) :].strip("|").split("|")]


def test_the_table_of_figure_5() -> None:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for record in committed("figures-narrow"):
        label = re.sub(",mode=[a-z]+", "", record["label"])
        if label.endswith("/lfd(teachers=1,teacher_epochs=10)/s0"):  # no other teacher, alpha, beta or seed
            found[record["params"]["defense"]["mode"], record["attack"]] = record
    plain = records("cifar10-narrow")

    def rates(record: dict[str, Any]) -> str:
        return " / ".join(percent(record[name]) for name in ("ca", "asr", "ra"))

    for start, mode in (
        ("no ascent", "none"),
        ("plain ascent", "unweighted"),
        ("weighted ascent, the default", "weighted"),
    ):
        shown = [rates(found[mode, attack]) for attack in ("blend", "sig")]
        assert row_of("docs/figures.md", f"| {start} |") == shown
    shown = [rates(plain["none", attack][0]) for attack in ("blend", "sig")]
    assert row_of("docs/figures.md", "| no defense |") == shown


def test_the_table_of_an_attack_that_knows_lfd() -> None:
    (table,) = re.findall(
        r"^\| noise of 5 %.*?\n\n", (ROOT / "docs" / "results.md").read_text(), re.MULTILINE | re.DOTALL
    )
    shown = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")][1:] for line in table.strip().splitlines()[2:]
    ]
    measured = []
    for record in sorted(finished("adaptive"), key=lambda record: "cover_ratio=1" in record["label"]):
        if record["params"]["attack"]["of"] == "lfd(teachers=1, teacher_epochs=20)":
            defense = record["label"].split("/")[-2] if record["defense"] != "none" else "none"
            found = record["detection"]
            seen = [f"{found['auroc']:.3f}", f"{whole(found['recall'])} %"] if found else ["\N{EN DASH}"] * 2
            measured.append([defense.replace(",", ", "), percent(record["ca"]), percent(record["asr"]), *seen])
    assert sorted(shown) == sorted(measured)


def test_the_table_of_figures_4b_and_4c() -> None:
    shown = {
        "`alpha: 0.15`, `beta: 0.001`, the defaults": (0.15, 0.001),
        "`alpha: 0.01`": (0.01, 0.001),
        "`beta: 0`": (0.15, 0),
    }
    for record in committed("figures-narrow"):
        given = record["params"]["defense"]
        if record["attack"] == "blend" and record["defense"] == "lfd" and given["mode"] == "weighted":
            (start,) = (name for name, pair in shown.items() if pair == (given["alpha"], given["beta"]))
            candidates = record["notes"]["lfd"]["candidates"]
            seen = round(record["detection"]["precision"] * candidates)
            rates = " / ".join(percent(record[name]) for name in ("ca", "asr", "ra"))
            assert row_of("docs/figures.md", f"| {start} |") == [rates, f"{seen:,} of {candidates:,}"]
            shown.pop(start)
    assert shown == {}
