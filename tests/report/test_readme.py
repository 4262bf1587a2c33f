"""The tables of results in the README and docs/results.md against the committed records, without the report's code."""

from __future__ import annotations

import re
import shlex
import statistics
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from committed_results import DASH, MATRICES, ROOT, Cells, column, der, finished, percent, rate, records
from developer_tools import tool

from benchbd.cli import main


def tables(page: str) -> list[list[list[str]]]:
    """Every table of a page as rows of cells, backticks taken off; the line under the header left out."""
    found: list[list[list[str]]] = [[]]
    for line in (ROOT / page).read_text().splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [[table[0], *table[2:]] for table in found if table]


def shown() -> list[tuple[str, str, list[list[str]]]]:
    """Page, matrix and rows of each table of results."""
    return [
        (page, MATRICES[rows[0][0].partition(",")[0]], rows)
        for page in ("README.md", "docs/results.md")
        for rows in tables(page)
        if rows[0][0].partition(",")[0] in MATRICES
    ]


def of_kind(kind: str) -> list[tuple[str, str, list[list[str]]]]:
    """The tables of means over attacks (``means``), those by seed (``seeds``), or the others (``attacks``)."""

    def kind_of(header: list[str]) -> str:
        return "means" if "worst ASR ↓" in header else "seeds" if header[0].endswith(" by seed") else "attacks"

    return [case for case in shown() if kind_of(case[2][0]) == kind]


def device(record: dict[str, Any]) -> tuple[str, str]:
    return record["env"]["device"], record["env"]["precision"]


def times(found: Cells, defense: str) -> str:
    """Time over that of no defense, summed over the cells that both have on the device with the most records."""
    counts = Counter(device(record) for seeds in found.values() for record in seeds.values())
    most = max(counts, key=lambda name: (counts[name], name))
    pairs = [
        (record["time"]["total"], other["time"]["total"])
        for (name, attack), seeds in found.items()
        for seed, record in seeds.items()
        if name == defense
        and (other := found.get(("none", attack), {}).get(seed))
        and device(record) == device(other) == most
    ]
    return f"{sum(a for a, _ in pairs) / sum(b for _, b in pairs):.1f}" if pairs else DASH


def test_the_introduction_has_the_means_of_the_records():
    found = records("cifar10-narrow")
    attacks = [attack for defense, attack in found if defense == "lfd" and attack != "none"]

    def mean(defense: str, metric: str) -> float:
        return 100 * statistics.mean(rate(found[defense, attack], metric) for attack in attacks)

    text = " ".join((ROOT / "README.md").read_text().split("## Two commands")[0].split())
    count = {6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten", 11: "eleven", 12: "twelve", 13: "thirteen"}[
        len(attacks)
    ]
    lost = f"{mean('none', 'ca') - mean('lfd', 'ca'):.1f}"
    fall = f"from {mean('none', 'asr'):.0f} to {mean('lfd', 'asr'):.0f} %"
    said = f"the mean ASR of {count} attacks {fall} for {lost} points of CA"
    assert f"{said} and {times(found, 'lfd')} times the time" in text


@pytest.fixture(scope="module")
def program() -> ModuleType:
    module = tool("result_tables")
    return module


def test_the_program_that_writes_the_tables_says_in_one_line_what_is_missing(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "ROOT", tmp_path)
    assert program.main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"result_tables: {tmp_path}")
    assert said.count("\n") == 1


def test_the_program_that_writes_the_tables_has_nothing_to_change(program: ModuleType) -> None:
    assert program.main(["--check"]) == 0, "run tools/result_tables.py"
    found = program.records()
    table = [["all of GTSRB, ASR ↓", "sig"], ["---", "---"], ["`none`", "1.0"], ["`nonesuch`", "1.0"]]
    header, first, *others = program.filled(table, found)
    assert (header, first) == (["all of GTSRB, ASR ↓", "blend", "bn-g"], ["`none`", "100.0", "100.0"])
    assert {name for name, *_ in others} == {"`abl`", "`fine-pruning`", "`lfd`"}


def test_both_pages_show_results():
    pages = [(page, matrix) for page, matrix, _ in shown()]
    assert pages.count(("README.md", "cifar10-narrow")) == 1
    assert pages.count(("README.md", "cifar10-fast")) == 2
    assert pages.count(("docs/results.md", "cifar10-narrow")) == 4
    assert pages.count(("docs/results.md", "cifar10-fast")) == 3
    measured = {name for name in MATRICES.values() if records(name)}
    assert {matrix for page, matrix in pages if page == "docs/results.md"} == measured


@pytest.mark.parametrize(("page", "matrix", "rows"), of_kind("means"))
def test_means_over_attacks(page: str, matrix: str, rows: list[list[str]]) -> None:
    found, (header, *lines) = records(matrix), rows
    of: dict[str, list[str]] = {}
    for defense, attack in sorted(found):
        of.setdefault(defense, []).extend([attack] if attack != "none" else [])
    whole = {defense for defense, attacks in of.items() if attacks == of["none"]}
    assert {row[0] for row in lines} == (set(of) if page == "docs/results.md" else whole)
    for defense, *cells in lines:
        attacks = of[defense]
        mean = {m: percent(statistics.mean(rate(found[defense, a], m) for a in attacks)) for m in ("ca", "asr")}
        worst = max(attacks, key=lambda attack: rate(found[defense, attack], "asr"))
        (needs,) = {tuple(record["needs"]) for attack in attacks for record in found[defense, attack].values()}
        expected = {
            "needs": ", ".join({"clean": "clean images", "truth": "ground truth"}[name] for name in needs) or DASH,
            "CA, no attack": percent(rate(found[defense, "none"], "ca")) if (defense, "none") in found else DASH,
            "CA ↑": mean["ca"],
            "ASR ↓": mean["asr"],
            "worst ASR ↓": f"{percent(rate(found[defense, worst], 'asr'))} ({worst})",
            "DER ↑": DASH if defense == "none" else percent(statistics.mean(der(found, defense, a) for a in attacks)),
            "attacks": str(len(attacks)),
            "time \N{MULTIPLICATION SIGN} none": times(found, defense),
        }
        wanted = expected if page == "docs/results.md" else expected.keys() - {"attacks"}
        assert {*header[1:]} == {*wanted}
        assert cells == [expected[name] for name in header[1:]], (page, defense)


ELSEWHERE = {
    "GTSRB": "gtsrb-narrow",
    "Imagenette": "imagenette-narrow",
    "CIFAR-10": "rates",
}


def test_the_readme_shows_the_other_data_and_rates() -> None:
    (((_, *defenses), *lines),) = (rows for rows in tables("README.md") if rows[0][0] == "elsewhere, CA / ASR")

    def row(where: str, record: dict[str, Any]) -> str:
        share = f" at {100 * record['params']['attack']['rate']:g} %" if where == "CIFAR-10" else ""
        return f"{where}, {'no attack' if record['attack'] == 'none' else record['attack']}{share}"

    measured: dict[tuple[str, str], str] = {}
    for where, matrix in ELSEWHERE.items():
        for record in finished(matrix):
            if (name := column(record)) in defenses:
                key = (row(where, record), name)
                assert key not in measured, f"{record['label']} hides another record"
                ca, asr = percent(record["ca"]), record["asr"]
                measured[key] = ca if asr is None else f"{ca} / {percent(asr)}"
    said = {
        (name, defense): cell
        for name, *cells in lines
        for defense, cell in zip(defenses, cells, strict=True)
        if cell != DASH
    }
    assert defenses == ["none", "fine-pruning", "abl", "lfd"]
    assert said == measured


@pytest.mark.parametrize(("page", "matrix", "rows"), of_kind("attacks"))
def test_each_attack(page: str, matrix: str, rows: list[list[str]]) -> None:
    found, (header, *lines) = records(matrix), rows
    measure = "asr" if header[0].endswith("ASR ↓") else "ca"
    attacks = ["none" if name == "no attack" else name for name in header[1:]]
    defenses = [row[0] for row in lines]
    everything = {key for key in found if measure == "ca" or key[1] != "none"}
    assert everything == {(d, a) for d in defenses for a in attacks} & found.keys(), "a record is left out"
    for defense, *cells in lines:
        expected = [percent(rate(found[defense, a], measure)) if (defense, a) in found else DASH for a in attacks]
        assert cells == expected, (page, defense)


def test_cells_with_two_seeds_are_shown_by_seed() -> None:
    several = {
        (matrix, *key): seeds
        for matrix in MATRICES.values()
        for key, seeds in records(matrix).items()
        if len(seeds) > 1
    }
    named = {
        (matrix, defense, "none" if attack == "no attack" else attack): cell
        for _, matrix, ((_, *header), *lines) in of_kind("seeds")
        for defense, *cells in lines
        for attack, cell in zip(header, cells, strict=True)
        if cell != DASH
    }
    assert several, "no cell was measured with two seeds"

    def text(seeds: dict[int, dict[str, Any]], metric: str) -> str:
        return ", ".join(percent(record[metric]) for _, record in sorted(seeds.items()))

    assert named == {
        key: text(seeds, "ca") + ("" if key[2] == "none" else f" / {text(seeds, 'asr')}")
        for key, seeds in several.items()
    }


def test_lower_rates_are_shown_as_they_were_measured() -> None:
    def row(record: dict[str, Any]) -> str:
        return f"{record['attack']}, {100 * record['params']['attack']['rate']:g} %"

    measured = {
        (row(record), record["defense"]): f"{percent(record['ca'])} / {percent(record['asr'])}"
        for record in finished("rates")
    }
    (((_, *defenses), *lines),) = (rows for rows in tables("docs/results.md") if rows[0][0] == "poison, CA / ASR")
    said = {
        (name, defense): cell
        for name, *cells in lines
        for defense, cell in zip(defenses, cells, strict=True)
        if cell != DASH
    }
    assert measured
    assert len(measured) == len(finished("rates")), "a record hides another"
    assert said == measured


def test_the_claims_have_the_verdicts_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    results = str(ROOT / "leaderboard" / "results.jsonl")
    assert main(["leaderboard", "cifar10-narrow", "--results", results, "--paper", "--format", "md"]) == 0
    text = capsys.readouterr().out.partition("## The paper's claims")[2]
    judged = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[2] in ("holds", "fails"):
            figures = re.sub("; difference[^)]*", "", cells[4])
            judged.append([cells[0].removeprefix("CIFAR-10: "), cells[2], figures])
    (stated,) = (rows for rows in tables("docs/results.md") if rows[0][0] == "Claim on CIFAR-10")
    assert judged
    assert stated[1:] == judged


def test_the_figure_of_both_pages_is_drawn_from_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "results.md").read_text().replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if line.startswith("benchbd plot heatmap"))
    *words, written = shlex.split(line)[1:]
    monkeypatch.chdir(ROOT)
    assert main([*words, str(tmp_path / "asr.csv")]) == 0
    assert (tmp_path / "asr.csv").read_text() == (ROOT / written).with_suffix(".csv").read_text()
    assert (ROOT / written).stat().st_size > 10_000
    assert f"]({written})" in (ROOT / "README.md").read_text()
    assert f"]({Path(written).relative_to('docs')})" in text
