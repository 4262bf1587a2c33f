from __future__ import annotations

import random

import pytest

from benchbd.report import board
from benchbd.report.figures.panels import source
from benchbd.report.paper.verdicts import claims
from benchbd.report.published import as_stated, scale_differences, table2
from benchbd.report.table import grid
from benchbd.report.wording import MINUS

PRINTED_AVERAGES = {
    # Averages over attacks as the paper's text and abstract print them.
    ("cifar10", "lfd", "asr"): 0.67,
    ("cifar10", "abl", "asr"): 8.20,
    ("cifar10", "lfd", "ca"): 92.09,
    ("gtsrb", "lfd", "asr"): 6.14,
    ("gtsrb", "abl", "asr"): 11.32,
    ("gtsrb", "ac", "asr"): 93.33,
    ("imagenet-subset", "lfd", "asr"): 1.42,
}

SINGLE = {"defense": {"teachers": 1}}
"""The paper's single teacher of LfD."""


def test_220_numbers():
    found = table2()
    assert len(found) == 110
    assert sum(len(cell) for cell in found.values()) == 220
    assert all(0 <= v <= 1 for cell in found.values() for v in cell)
    rows = {(dataset, attack) for dataset, attack, _ in found}
    assert len(rows) == 22
    assert {defense for _, _, defense in found} == {"none", "fine-pruning", "ac", "abl", "lfd"}


@pytest.mark.parametrize(("key", "printed"), PRINTED_AVERAGES.items())
def test_averages_agree_with_the_papers_text(key, printed):
    dataset, defense, metric = key
    values = [getattr(c, metric) for (d, a, f), c in table2().items() if (d, f) == (dataset, defense) and a != "none"]
    assert 100 * sum(values) / len(values) == pytest.approx(printed, abs=0.0101)


def test_cells_carry_the_published_value_and_the_difference(make_record):
    table = board([make_record("bn-g", "lfd", s, ca=0.9, asr=0.01, given=SINGLE) for s in (0, 1)], paper=True).tables[0]
    ca, asr = table.rows[0].cells
    assert (ca.published, ca.extra) == (0.9262, f"paper 92.62, {MINUS}2.62")
    assert (asr.published, asr.extra) == (0.0018, "paper 0.18, +0.82")
    assert board([make_record("bn-g", "lfd")]).tables[0].rows[0].cells[0].extra == ""


def test_failed_cells_still_show_what_the_paper_has(make_record):
    table = board([make_record("bn-g", "lfd", status="oom", given=SINGLE)], paper=True).tables[0]
    assert [(c.display, c.extra) for c in table.rows[0].cells] == [("oom", "paper 92.62"), ("oom", "paper 0.18")]


def test_scale_stands_in_the_table(make_record):
    small = {"dataset": {"train": 10000}, "model": {"width": 16}}
    table = board([make_record("bn-g", "lfd", epochs=20, given=small)], paper=True).tables[0]
    scale = next(r for r in table.rows if r.label == "Scale differences from the paper")
    assert grid(scale)[0].display == (
        "cifar10(train=10000) (paper: all images); resnet18(width=16) (paper: resnet18); epochs 20 (paper: 80)"
    )
    full = board([make_record("bn-g", "lfd")], paper=True).tables[0]
    assert grid(full.rows[-1])[0].display == "none"
    data = source([make_record(dataset="imagenet-subset", model="resnet34")])
    assert scale_differences(data.groups[0].scale, data.labels) == ["class list (the paper's is not published)"]


def compared(records):
    """Columns of the first table that stand beside the paper's."""
    table = board(records, paper=True).tables[0]
    cells = zip(table.columns, grid(table.rows[0]), strict=True)
    return {column.group for column, cell in cells if cell.published is not None}


def test_other_settings_of_lfd_are_not_the_papers(make_record):
    settings = ({"beta": 0.0}, {"alpha": 0.5}, {"mode": "drop"}, {"teacher": "resnet18"}, {})
    records = [make_record("bn-g", "lfd", given={"defense": {"teachers": 1, **d}}) for d in settings]
    assert compared([*records, make_record("bn-g", "lfd")]) == {"lfd(teachers=1)"}


def test_gtsrb_has_settings_of_its_own(make_record):
    theirs = {"defense": {"alpha": 0.2, "beta": 0.003, "teachers": 1}}
    records = [
        make_record("bn-g", "lfd", dataset="gtsrb", given=SINGLE),
        make_record("bn-g", "lfd", dataset="gtsrb", given=theirs),
    ]
    assert compared(records) == {"lfd(alpha=0.2,beta=0.003,teachers=1)"}
    assert as_stated(source(records).groups[0].columns[0], "digits")


def test_among_columns_equally_near_to_the_paper_the_newest_version_is_compared(make_record):
    settings = {"teachers": 1, "teacher_epochs": 20}
    old = make_record("bn-g", "lfd", given={"defense": {**settings, "teacher_epochs": 40}})
    for params in (old["params"]["defense"], old["spec"]["defense"]["params"]):
        params.pop("teachers", None), params.pop("teacher_steps", None)
    new = make_record("bn-g", "lfd", version=2, given={"defense": settings})
    assert compared([old, new]) == compared([new, old]) == {"lfd(teachers=1,teacher_epochs=20)"}
    assert compared([old]) == {"lfd"}, "the heading of a long label that is alone"
    steps = make_record("bn-g", "lfd", version=1, given={"defense": {"teachers": 1}})
    assert compared([steps, new]) == {"lfd(teachers=1)"}, "the paper's settings come first"


def test_among_rows_equally_near_to_the_paper_the_newest_version_is_compared(make_record):
    def rows(*records):
        table = board(list(records), paper=True).tables[0]
        return {r.label for r in table.rows if any(c.published is not None for c in grid(r))}

    old, new, other = (
        make_record("blend", version=v, given={"attack": given})
        for v, given in ((1, {"trigger_seed": 0}), (2, {}), (2, {"alpha": 0.3}))
    )
    assert rows(old, new) == {"blend"}
    assert rows(old, other) == {"blend(trigger_seed=0)"}
    assert rows(new, other) == {"blend"}


def test_variant_nearest_to_the_defaults_is_compared(make_record):
    stem = {"defense": {"teacher": "resnet-s(stem=64)", "teachers": 1}}
    longer = {"defense": {"teacher": "resnet-s(stem=64)", "teachers": 1, "teacher_epochs": 40}}
    records = [make_record("bn-g", "lfd", given=g) for g in (stem, longer)]
    assert compared(records) == {"lfd(teacher=resnet-s(stem=64),teachers=1)"}


def test_other_networks_and_data_are_not_compared(make_record):
    for record in (make_record(model="resnet-s"), make_record(dataset="digits"), make_record("wanet")):
        table = board([record], paper=True).tables[0]
        assert all(c.published is None for r in table.rows for c in r.cells)


def verdicts(records, **options):
    table = board(records, paper=True, **options).tables[-1]
    assert table.title == "The paper's claims"
    return {row.label: [c.display for c in row.cells] for row in table.rows}


def test_at_least_twelve_claims_all_open_without_records():
    assert len(claims()) >= 12
    assert len({claim.text for claim in claims()}) == len(claims())
    assert {v[1] for v in verdicts([]).values()} == {"not measured"}


def test_the_papers_own_numbers_hold_but_for_its_own_contradictions(published_records):
    # GTSRB's CL has 43.85 undefended: under the usual gate it would prove nothing.
    found = verdicts(published_records, gate=0.4)
    fails = {text for text, cells in found.items() if cells[1] == "fails"}
    # The paper's text says so; its own table has a higher CA for AC on Blend.
    assert fails == {"ImageNet subset: LfD has higher CA and lower ASR than every other defense on all attacks"}
    measured = [text for text, cells in found.items() if cells[1] == "holds"]
    assert len(measured) >= 12
    assert "on 3 of 4 attacks" in found[next(iter(fails))][3]
    assert found["CIFAR-10: LfD has the lowest ASR on most attacks"][2] == "8 of 9 attacks in Table 2"
    assert "lowest on 8 of 9" in found["CIFAR-10: LfD has the lowest ASR on most attacks"][3]
    assert "lowest on 5 of 6" in found["GTSRB: LfD has the lowest ASR on most attacks"][3]
    assert {found[t][5] for t in measured if "ImageNet" not in t} == {"as in the paper"}


def test_the_opposite_fails(published_records):
    swapped = []
    names = {"lfd": "fine-pruning", "fine-pruning": "lfd", "abl": "ac", "ac": "abl"}
    by_place = {(r["dataset"], r["attack"], r["defense"], r["seed"]): r for r in published_records}
    for (dataset, attack, defense, seed), record in by_place.items():
        other = by_place[dataset, attack, names.get(defense, defense), seed]
        swapped.append(record | {"ca": other["ca"], "asr": other["asr"]})
    found = verdicts(swapped)
    for text in (
        "CIFAR-10: LfD has the lowest average ASR of the four defenses",
        "CIFAR-10: LfD costs less than 1 point of CA on average",
        "CIFAR-10: LfD has the lowest ASR on most attacks",
        "CIFAR-10: ABL is the best of the older defenses by average ASR",
        "GTSRB: LfD costs less than 3 points of CA on average",
    ):
        assert found[text][1] == "fails", text


def sweeps(make_record, table, seeds=3, noise=0.0):
    """LfD records: parameter -> value -> (CA, ASR), on two attacks that are implanted."""
    draw = random.Random(3)
    records = [make_record(a, "none", s, 0.92, 0.99) for a in ("bn-g", "sig") for s in range(seeds)]
    for parameter, values in table.items():
        for value, (ca, asr) in values.items():
            for attack in ("bn-g", "sig"):
                for seed in range(seeds):
                    shake = draw.uniform(-noise, noise)
                    given = {"defense": {parameter: value}}
                    records.append(make_record(attack, "lfd", seed, ca + shake, max(asr + shake, 0.0), given=given))
    return records


UP = {0.01: (0.92, 0.9), 0.1: (0.91, 0.2), 0.5: (0.8, 0.01)}
DOWN = {0.01: (0.8, 0.01), 0.1: (0.91, 0.2), 0.5: (0.92, 0.9)}


def test_sweeps_hold_and_fail(make_record):
    good = verdicts(sweeps(make_record, {"alpha": UP, "beta": {0.0: (0.9, 0.5), 0.01: (0.8, 0.4)}}))
    assert [good[t][1] for t in ("A higher alpha lowers the ASR", "A higher alpha costs CA")] == ["holds", "holds"]
    assert [good[t][1] for t in ("A higher beta lowers the ASR", "A higher beta costs CA")] == ["holds", "holds"]
    assert "0.01: 90.00, 0.1: 20.00, 0.5: 1.00" in good["A higher alpha lowers the ASR"][3]
    bad = verdicts(sweeps(make_record, {"alpha": DOWN}))
    assert [bad[t][1] for t in ("A higher alpha lowers the ASR", "A higher alpha costs CA")] == ["fails", "fails"]
    assert bad["A higher beta costs CA"][1] == "not measured"


def test_noise_is_called_noise(make_record):
    table = {"beta": {0.0: (0.900, 0.30), 0.01: (0.899, 0.26)}}
    found = verdicts(sweeps(make_record, table, seeds=5, noise=0.1))
    assert "not separable" in found["A higher beta lowers the ASR"][3]
    clear = verdicts(sweeps(make_record, {"beta": {0.0: (0.9, 0.9), 0.01: (0.5, 0.1)}}, seeds=5, noise=0.001))
    assert "not separable" not in clear["A higher beta lowers the ASR"][3]
    few = verdicts(sweeps(make_record, table, seeds=4, noise=0.02))
    assert "over 4 common seeds, too few for a test" in few["A higher beta lowers the ASR"][3]


def test_a_difference_too_small_to_be_seen_is_none(make_record):
    texts = ("A higher beta lowers the ASR", "A higher beta costs CA")
    for change, verdict in ((0.004, "fails"), (0.006, "holds")):
        found = verdicts(sweeps(make_record, {"beta": {0.0: (0.9, 0.3), 0.01: (0.9 - change, 0.3 - change)}}, seeds=1))
        assert [found[t][1] for t in texts] == [verdict, verdict]


def test_teachers_and_modes(make_record):
    table = {
        "teacher": {"resnet-s1": (0.92, 0.8), "resnet-s": (0.92, 0.01), "resnet18": (0.8, 0.01)},
        "mode": {"none": (0.92, 0.5), "unweighted": (0.8, 0.01), "weighted": (0.92, 0.01)},
    }
    found = verdicts(sweeps(make_record, table))
    texts = [t for t in found if t.startswith(("A teacher", "Gradient ascent", "Weighted ascent", "Unweighted"))]
    assert len(texts) == 6
    assert {found[t][1] for t in texts} == {"holds"}


def test_attacks_that_are_not_implanted_prove_no_claim(make_record):
    records = [make_record("bn-g", "none", s, asr=0.1) for s in (0, 1)]
    records += [make_record("bn-g", "lfd", s, asr=0.01, given=SINGLE) for s in (0, 1)]
    records += [make_record("bn-g", "abl", s, asr=0.01) for s in (0, 1)]
    found = verdicts(records)
    assert found["CIFAR-10: LfD has the lowest average ASR of the four defenses"][1] == "not measured"
    assert verdicts(records, gate=0.05)["CIFAR-10: LfD has the lowest average ASR of the four defenses"][1] == "fails"


def probe(rate, poison=0.5, over=10):
    epochs = list(range(1, 21))
    clean = [2.3 * rate**e for e in epochs]
    low = [2.0 * poison**e for e in epochs]
    return {"epochs": epochs, "clean_mean": clean, "poison_mean": low, "poison_over_clean_mean": [over] * 20}


def test_loss_curves(make_record):
    names = {"resnet18": 0.8, "resnet-s": 0.98, "vgg11": 0.8, "vgg-s": 0.98, "lenet": 0.98, "lenet-s": 0.8}
    probes = {m: probe(rate, over=5 if m == "resnet-s" else 300) for m, rate in names.items()}
    records = [make_record(model=m, notes={"probe": p}) for m, p in probes.items()]
    found = verdicts(records)
    assert found["ResNet-S separates clean and poisoned losses more than ResNet-18"][1] == "holds"
    assert found["Fewer poisoned samples lie above the clean mean loss on ResNet-S than on ResNet-18"][1] == "holds"
    assert found["vgg-s separates clean and poisoned losses more than vgg11"][1] == "holds"
    assert found["lenet-s separates clean and poisoned losses more than lenet"][1] == "fails"
    assert found["mobilenetv2-s separates clean and poisoned losses more than mobilenetv2"][1] == "not measured"
    assert found["vgg-s separates clean and poisoned losses more than vgg11"][5] == "as in the paper"
    early = "Poisoned samples have lower losses than clean ones early on (ResNet-18, to epoch 5)"
    assert found[early][1] == "holds"
    late = probe(0.8)
    late["poison_mean"][0] = 9.0
    against = verdicts([make_record(notes={"probe": late})])[early]
    assert against[1] == "fails"
    assert "poisoned 9 at epoch 1" in against[3]
    assert verdicts([make_record(notes={"probe": probe(0.5, poison=0.9)})])[early][1] == "fails"


def test_neighbours_of_tsne(make_record):
    draw = random.Random(0)

    def picture(apart):
        xy = [[apart * (i % 10) + draw.gauss(0, 1), draw.gauss(0, 1)] for i in range(300)]
        xy += [[500 + draw.gauss(0, 1), 0] for _ in range(40)]
        return {"xy": xy, "poison": [0] * 300 + [1] * 40, "label": [i % 10 for i in range(300)] + [1] * 40}

    records = [make_record(model=m, notes={"tsne": picture(a)}) for m, a in (("resnet18", 20), ("resnet-s", 0.1))]
    text = next(c.text for c in claims() if c.where == "Figure 7")
    found = verdicts(records)[text]
    assert found[1] == "holds"
    assert "clean 1 on resnet18" in found[3]
    assert "poisoned 1 and 1" in found[3]
    turned = [r | {"notes": other["notes"]} for r, other in zip(records, reversed(records), strict=True)]
    assert verdicts(turned)[text][1] == "fails"


def judged(records, **wanted):
    """Claim, verdict, figures and differences of each claim that was measured."""
    table = board(records, paper=True, **wanted).tables[-1]
    assert table.title == "The paper's claims"
    cells = {row.label: [cell.display for cell in grid(row)] for row in table.rows}
    return {claim: (c[1], c[3], c[5]) for claim, c in cells.items() if c[1] != "not measured"}


def small(attack, defense, ca, asr, **more):
    return dict(dataset="cifar10", model="airbench", ca=ca, asr=asr, attack=attack, defense=defense, seed=0, **more)


def test_claims_are_judged_on_other_networks_and_with_other_parameters_and_say_so(make_record):
    records = [
        make_record(**small("bn-g", "none", 0.87, 0.99)),
        make_record(**small("bn-g", "lfd", 0.86, 0.01)),
        make_record(**small("bn-g", "abl", 0.7, 0.2, given={"defense": {"turning_epochs": 2}})),
        make_record(**small("wanet", "none", 0.85, 0.9)),
        make_record(**small("wanet", "lfd", 0.4, 0.9)),
    ]
    found = judged(records)
    verdict, figures, differences = found[
        "CIFAR-10: LfD brings the average ASR to the published level (rule: within 5 points)"
    ]
    assert (verdict, figures) == ("holds", "lfd 1.00 (1 attack)"), "WaNet is none of the paper's attacks"
    assert "airbench (paper: resnet18)" in differences
    assert "lfd teachers 8 (paper: 1)" in differences
    assert "abl" not in differences, "the figures of this claim do not name it"
    verdict, figures, differences = found["CIFAR-10: LfD keeps more CA than ABL on average"]
    assert verdict == "holds"
    assert figures.startswith("lfd 86.00, abl 70.00 (1 attack;")
    assert "abl turning epochs 2 (paper: 20)" in differences


def test_a_column_with_few_of_the_papers_attacks_does_not_stand_for_a_defense(make_record):
    """A single cell with the paper's parameters is no average over attacks."""
    attacks = ("bn-g", "bn-w", "blend", "sig", "l2")
    records = [make_record(a, d, 0, ca=0.9, asr=asr) for a in attacks for d, asr in (("none", 0.99), ("lfd", 0.01))]
    single = [make_record(a, "lfd", 0, ca=0.9, asr=0.9, given=SINGLE) for a in attacks]

    claim = "CIFAR-10: LfD brings the average ASR to the published level (rule: within 5 points)"
    assert judged(records + single[:2])[claim][:2] == ("holds", "lfd 1.00 (5 attacks)")
    assert judged(records + single[:3])[claim][:2] == ("fails", "lfd 90.00 (3 attacks)"), "half of them are enough"


def test_a_column_with_the_papers_parameters_goes_before_one_that_is_nearer_to_the_defaults(make_record):
    records = [
        make_record(**small("bn-g", "none", 0.87, 0.99)),
        make_record(**small("bn-g", "lfd", 0.86, 0.01)),
        make_record(**small("bn-g", "lfd", 0.85, 0.5, given={"defense": {"teachers": 1, "teacher_epochs": 10}})),
    ]
    verdict, figures, differences = judged(records)[
        "CIFAR-10: LfD brings the average ASR to the published level (rule: within 5 points)"
    ]
    assert (verdict, figures) == ("fails", "lfd 50.00 (1 attack)")
    assert "lfd teachers" not in differences
    assert "lfd teacher epochs 10 (paper: not stated)" in differences
