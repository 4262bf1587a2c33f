"""Numbers and lists in the sentences of README and the documents, against the committed records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from committed_results import ROOT, Cells, committed, finished, percent, rate, records, text

from benchbd.plugins import registry

Record = dict[str, Any]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
WORDS += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]
TITLES = {"bn-g": "BN-G", "wanet": "WaNet", "blend": "Blend", "sig": "SIG", "bn-a2a": "all-to-all", "cl": "CL"}
TITLES |= {"dynamic": "Dynamic", "adap-blend": "Adap-Blend", "adap-patch": "Adap-Patch", "l2": "L2"}
FAMILIAR = ("none", "fine-pruning", "abl", "lfd")


def narrow() -> Cells:
    return records("cifar10-narrow")


def known(kind: str) -> set[str]:
    """The plugins of a kind that come with benchbd."""
    # Other tests may have registered plugins of their own.
    return {entry.name for entry in registry.entries(kind) if Path(entry.file).is_relative_to(ROOT / kind)}


def joined(names: list[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def span(values: list[float], places: int = 0) -> str:
    return f"{min(values):.{places}f} to {max(values):.{places}f}"


def asr(defense: str, attacks: str) -> str:
    return span([100 * rate(narrow()[defense, attack], "asr") for attack in attacks.split()])


def lost(found: Cells, attacks: str) -> str:
    """Points of CA that LfD costs."""
    pairs = [(found["none", attack], found["lfd", attack]) for attack in attacks.split()]
    return span([100 * (rate(undefended, "ca") - rate(defended, "ca")) for undefended, defended in pairs], 1)


def failures(defense: str) -> set[str]:
    """Attacks of whose ASR a defense leaves half or more."""
    found = narrow()
    attacks = {attack for name, attack in found if name == defense and attack != "none"}
    return {a for a in attacks if rate(found[defense, a], "asr") >= rate(found["none", a], "asr") / 2}


def by_precision() -> str:
    counts = Counter(record["env"]["precision"] for record in finished("cifar10-narrow"))
    assert set(counts) == {"cpu-fp32", "cpu-bf16"}
    return (
        f"{counts['cpu-fp32']} of the {counts.total()} records of cifar10-narrow come from cores with AVX2 in float32"
    )


def in_bf16() -> str:
    return f"Of the {sum(record['env']['precision'] == 'cpu-bf16' for record in committed())} records in bf16"


def partly_measured() -> str:
    found = narrow()
    whole = {attack for name, attack in found if name == "none" and attack != "none"}
    defenses = {name for name, _ in found}
    partly = [name for name in defenses if not whole <= {attack for other, attack in found if other == name}]
    return f"{WORDS[len(partly)].capitalize()} more defenses and settings were measured on some of the attacks"


def beyond_the_paper() -> str:
    """How many attacks each of the defenses that README lists last was measured on, in any matrix."""
    names = ["spectral", "dbd", "asd", "lfd-ensemble", "cbd", "d-br", "nab", "pdb", "augment", "dp-sgd"]
    attacks = {name: {r["attack"] for r in committed() if r["defense"] == name} for name in names}
    never = joined(sorted(name for name in names if not attacks[name]))
    return f"Each is measured on at most {WORDS[max(map(len, attacks.values()))]} attacks; {never} on none."


def never_run() -> str:
    done = {record["defense"] for record in committed()} | {"command"}
    return f"Not measured at this scale: {joined(sorted(known('defenses') - done))};"


def attacks_never_run() -> str:
    done = {record["attack"] for record in committed()} | {"imported"}
    titles = {"ftrojan": "FTrojan", "bpp": "Bpp"}
    return f"; {joined([titles.get(a, a) for a in sorted(known('attacks') - done)[::-1]])};"


def missing_at_half_width() -> str:
    large = {record["attack"] for record in finished("cifar10-fast")}
    small = dict.fromkeys(record["attack"] for record in finished("cifar10-narrow"))
    order = ["dynamic", "cl", "adap-patch", "bn-a2a"]
    missing = [*filter(set(small).__contains__, order), *(a for a in small if a not in order)]
    return f"; {joined([TITLES.get(a, a) for a in missing if a not in large])} with the larger network;"


def rates_measured() -> str:
    shares: dict[str, set[float]] = {}
    for record in finished("rates"):
        shares.setdefault(record["attack"], set()).add(100 * record["params"]["attack"]["rate"])
    said = [f"{joined([f'{s:g}' for s in sorted(shares[a])])} % of {TITLES.get(a, a)}" for a in sorted(shares)[::-1]]
    return f"rates below 10 % except {joined(said)};"


def with_two_seeds() -> list[str]:
    return sorted({a for found in (narrow(), records("cifar10-fast")) for (_, a), s in found.items() if len(s) > 1})


def second_seeds() -> str:
    return f"a second seed except on {joined([TITLES.get(attack, attack) for attack in with_two_seeds()])};"


def second_seeds_of_the_table() -> str:
    for attack in with_two_seeds():
        assert {name for name in FAMILIAR if len(narrow()[name, attack]) > 1} == set(FAMILIAR)
    return f"On {joined(with_two_seeds())}, none, fine-pruning, ABL and LfD also have seed 1"


def whole_abl() -> str:
    done = {a for name, a in narrow() if name == "abl(finetune_epochs=60)"}
    return f"ABL at its published length except on {joined([TITLES.get(a, a) for a in sorted(done)])};"


def on_gtsrb() -> str:
    paper = {"bn-g", "blend", "tj-sq", "dynamic", "cl", "sig"}
    done = {record["attack"] for record in finished("gtsrb-narrow")}
    return f"; {WORDS[len(paper - done)]} of the paper's attacks on GTSRB;"


def teachers() -> tuple[list[float], list[float]]:
    """Shares of entropy that the teachers of LfD's runs learnt: those that saw the poison, and those that did not."""
    saw: dict[tuple[float, float], bool] = {}
    for record in committed():
        learnt = record["notes"].get("lfd", {}).get("teachers", {}).get("learnt")
        if learnt and record["attack"] != "none" and record["dataset"] in ("cifar10", "imagenette"):
            auroc = record["detection"]["auroc"]
            assert auroc >= 0.94 or auroc <= 0.81, "between the two groups of docs/results.md"
            saw[learnt, auroc] = auroc >= 0.94
    return [100 * s for (s, _), yes in saw.items() if yes], [100 * s for (s, _), yes in saw.items() if not yes]


def seeing_teachers() -> str:
    found, _ = teachers()
    return f"the {len(found)} teachers that saw it (AUROC of 0.94 or more) have learnt {span(found)} % of the labels"


def blind_teachers() -> str:
    _, found = teachers()
    return f"The {len(found)} that did not (0.80 or less) have learnt {span(found)} %"


def times(precision: str) -> list[tuple[float, str]]:
    """LfD's time in trainings, with that of the teachers in trainings of the student, on the same kind of core."""
    out = []
    for attack in {attack for name, attack in narrow() if name == "lfd"}:
        for seed, record in narrow()["lfd", attack].items():
            other = narrow()["none", attack].get(seed)
            if other and record["env"]["precision"] == other["env"]["precision"] == precision:
                out.append((record["time"]["total"] / other["time"]["total"], f"{attack}/{seed}"))
    return sorted(out)


def time_in_bf16() -> str:
    *usual, slowest = [time for time, _ in times("cpu-bf16")]
    return f"LfD costs {span(usual, 1)} times a training in bf16 ({slowest:.1f} in one cell that ran beside other work)"


def time_in_float32() -> str:
    found = [f"{time:.1f}" for time, _ in times("cpu-fp32")]
    return f"{joined(found)} times in float32 ({WORDS[len(found)]} cells"


def time_of_teachers() -> str:
    stages = [r["time"]["stages"] for (name, _), seeds in narrow().items() if name == "lfd" for r in seeds.values()]
    *usual, slowest = sorted(stage["teachers"] / stage["train"] for stage in stages)
    return f"eight teachers take {span(usual, 1)} times as long as its student ({slowest:.1f} in"


def accuracy_of_abl() -> str:
    found = narrow()
    cells = [100 * rate(seeds, "ca") for (name, attack), seeds in found.items() if name == "abl" and attack != "none"]
    before = [
        point["ca"] * 100 for (name, _), seeds in found.items() if name == "abl" for record in seeds.values()
        for point in record["notes"]["curve"] if point["name"] == "fine-tuning"
    ]  # fmt: skip
    clean = 100 * rate(found["abl", "none"], "ca")
    said = f"its CA is {span(cells)} %, and {clean:.0f} % without any attack. The 80 published steps of ascent cost it:"
    return f"{said} before them, CA is {span(before)} %"


def cells_of_the_figures() -> str:
    found = committed("figures")
    return f"The {len(found)} cells took {sum(r['time']['own'] for r in found) / 3600:.1f} core hours"


def ranges_of_the_readme() -> str:
    return f"takes patches, Blend, SIG, CL and tj-wm to {asr('lfd', 'bn-g bn-w blend sig cl tj-wm')} %"


SENTENCES: list[tuple[str, Callable[[], str]]] = [
    ("docs/results.md", by_precision),
    ("docs/results.md", in_bf16),
    ("README.md", partly_measured),
    ("README.md", beyond_the_paper),
    ("README.md", second_seeds_of_the_table),
    ("README.md", ranges_of_the_readme),
    ("docs/results.md", never_run),
    ("docs/results.md", attacks_never_run),
    ("docs/results.md", missing_at_half_width),
    ("docs/results.md", rates_measured),
    ("docs/results.md", second_seeds),
    ("docs/results.md", whole_abl),
    ("docs/results.md", on_gtsrb),
    ("docs/results.md", seeing_teachers),
    ("docs/results.md", blind_teachers),
    ("docs/results.md", time_in_bf16),
    ("docs/results.md", time_in_float32),
    ("docs/results.md", time_of_teachers),
    ("docs/results.md", accuracy_of_abl),
    ("docs/figures.md", cells_of_the_figures),
]


@pytest.mark.parametrize(("page", "sentence"), SENTENCES, ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.usefixtures("fresh_registry")
def test_a_sentence_has_the_numbers_of_the_records(page: str, sentence: Callable[[], str]) -> None:
    assert sentence() in text(page)


def test_the_ranges_of_lfd_and_fine_pruning() -> None:
    said = text("docs/results.md")
    patches = "bn-g bn-w blend sig cl tj-wm"
    l2, square = asr("lfd", "l2").split()[0], asr("lfd", "tj-sq").split()[0]
    assert f"the student loses {lost(narrow(), patches + ' l2 tj-sq')} points of CA" in said
    assert f"The ASR falls to {asr('lfd', patches)} %, that of l2 to {l2} % and that of tj-sq to {square} %" in said
    assert f"nearly whole ({asr('fine-pruning', 'blend sig l2 tj-wm')} %)" in said
    assert f"an ASR of {asr('fine-pruning', 'bn-g bn-w dynamic')} % on bn-g, bn-w and dynamic" in said


def test_each_defense_fails_where_the_page_says() -> None:
    said = text("docs/results.md")
    assert failures("lfd") == {"wanet", "adap-blend", "bn-a2a", "dynamic"}
    assert "LfD fails on WaNet, Adap-Blend, all-to-all and Dynamic" in said
    assert failures("abl") == {"wanet", "adap-blend", "bn-a2a"}
    assert failing_seeds("abl", "blend") == (1, 2)
    assert "ABL fails on WaNet, Adap-Blend and all-to-all, and on Blend with one of two seeds." in said
    assert failures("fine-pruning") == {"blend", "sig", "l2", "tj-wm", "bn-a2a"}
    assert "Fine-pruning fails on Blend, SIG, L2, tj-wm and all-to-all." in said


def failing_seeds(defense: str, attack: str) -> tuple[int, int]:
    """How many seeds of a cell leave half of the ASR or more, and how many there are."""
    defended, undefended = narrow()[defense, attack], narrow()["none", attack]
    return sum(r["asr"] >= undefended[seed]["asr"] / 2 for seed, r in defended.items()), len(defended)


def test_each_seed_of_wanet_under_fine_pruning() -> None:
    seeds = {seed: f"{100 * r['asr']:.0f} %" for seed, r in narrow()["fine-pruning", "wanet"].items()}
    assert f"ASR {seeds[0]} with one seed, {seeds[1]} with another" in text("README.md")


def test_one_teacher_on_each_seed() -> None:
    seeds = {seed: percent(record["asr"]) for seed, record in narrow()["lfd(teachers=1)", "bn-g"].items()}
    assert f"fails on bn-g with one seed ({seeds[0]} %) and holds with another ({seeds[1]} %)" in text("README.md")


def test_the_teachers_beside_figure_5_are_the_same_for_each_mode() -> None:
    modes: dict[str, set[float]] = {}
    for record in committed("figures-narrow"):
        if record["defense"] == "lfd":
            modes.setdefault(record["attack"], set()).add(record["detection"]["auroc"])
    assert modes
    assert {len(found) for found in modes.values()} == {1}
