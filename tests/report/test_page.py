from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from html.parser import HTMLParser

import pytest

from benchbd.report import board
from benchbd.report.formats.page_packing import inert_json, packed, rounded, unpacked
from benchbd.report.formats.page_records import course, picture, train_curves
from benchbd.report.formats.reproduce import command

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 20).decode()


def script_of(page, ident):
    return re.search(rf'<script type="[a-z/]+" id="{ident}">(.*?)</script>', page, re.DOTALL)[1]


def data_of(page):
    return json.loads(script_of(page, "data"))


def evidence_of(page):
    """What each record opens to, in the order of the list, unpacked as the script does it."""
    columns, places = data_of(page)["columns"], json.loads(script_of(page, "places"))
    lines = script_of(page, "lines").split("\n")
    pool = unpacked(lines[places["pool"]])
    order = sorted(range(len(columns["id"])), key=lambda i: (columns["seed"][i], i))
    found = [{} for _ in order]
    for turn, i in enumerate(order):
        line, place = divmod(turn, places["size"])
        facts = unpacked(lines[places["facts"][line]])[place]
        facts |= {name: pool["items"][facts[name]] for name in ("recipe", "env", "sources")}
        before, between, after = pool["items"][facts["rerun"]]
        facts["command"] = f"{before}{columns['id'][i]}{between}{columns['seed'][i]}{after}"
        facts["params"] = {kind: of_kind[columns[kind][i]] for kind, of_kind in pool["params"].items()}
        for kind, numbers in places["extras"].items():
            number = numbers[line]
            facts[kind] = "left out" if number == -1 else None if number is None else unpacked(lines[number])[place]
        facts |= facts.pop("measured") or {}
        if isinstance(facts["trigger"], int):
            facts["trigger"] = lines[facts["trigger"]] if facts["trigger"] >= 0 else "left out"
        found[i] = facts
    return found


class Elements(HTMLParser):
    """Every element with its attributes, and a check that what is opened is closed."""

    VOID = frozenset({"meta", "link", "br", "img", "input"})

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_no_network(published_records):
    page = board(published_records, paper=True).render("html")
    elements = Elements(page)
    assert elements.open == []
    for _, attributes in elements.found:
        for name in ("src", "href", "action", "data", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,"))
    policy = next(a["content"] for t, a in elements.found if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert "http:" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in page
    assert "@@" not in page


def test_every_header_says_what_it_is_of_and_ids_are_unique(published_records):
    elements = Elements(board(published_records[:60]).render("html")).found
    assert {a.get("scope") for t, a in elements if t == "th"} == {"row", "col"}
    ids = [a["id"] for _, a in elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in elements:
        assert attributes.get("aria-labelledby", ids[0]) in ids


def test_only_the_pages_own_script_and_style_count(make_record):
    page = board([make_record()]).render("html")
    policy = next(a["content"] for t, a in Elements(page).found if t == "meta" and "http-equiv" in a)
    for tag in ("script", "style"):
        (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert not any("style" in attributes for _, attributes in Elements(page).found)


def test_each_cell_finds_its_records(make_record):
    records = [make_record(seed=s) for s in (0, 1)]
    records.append(make_record(seed=1, version=0))  # an older one, which no table shows
    page = board(records).render("html")
    data = data_of(page)
    (scale,) = data["scales"]
    columns = data["columns"]
    names = [data["variants"][kind][scale[f"{kind}s"][0]]["name"] for kind in ("attack", "defense")]
    assert names == ["bn-g", "none"]
    shown = {ident for ident, group in zip(columns["id"], columns["group"], strict=True) if group == 0}
    assert shown == {r["id"] for r in records[:2]}
    elements = Elements(page).found
    assert [a["data-a"] for t, a in elements if t == "th" and "data-a" in a] == [str(scale["attacks"][0])]
    assert [a["data-d"] for t, a in elements if t == "tr" and "data-d" in a] == [str(scale["defenses"][0])]


def test_the_list_holds_the_numbers_in_hundredths_of_a_percent(make_record):
    record = make_record(ca=0.86135, asr=1.0, detection={"auroc": 0.98765, "precision": None, "recall": None})
    failed = make_record(seed=1, status="oom", error="no memory", time=None)
    columns = data_of(board([record, failed]).render("html"))["columns"]
    assert columns["seed"] == [0, 1]
    assert columns["ca"] == [8614, None]
    assert columns["asr"] == [10000, None]
    assert columns["auroc"] == [988, None]
    assert columns["time"] == [100.0, None]
    assert [columns["statuses"][n] for n in columns["status"]] == ["done", "oom"]


def test_records_are_embedded_with_what_they_open_to(make_record):
    histogram = {"edges": [0.0, 0.5, 1.0], "clean": [5, 1], "poisoned": [0, 3]}
    detection = {"auroc": 0.9, "precision": 0.5, "recall": None, "histogram": histogram}
    way = [
        {"name": "0 pruned", "ca": 0.9, "asr": 1.0, "ra": 0.0},
        {"name": "1 pruned", "ca": 0.8, "asr": 0.1, "ra": None},
    ]
    notes = {"train_loss": {"model": [2.30259, None, 0.1]}, "trigger_png": PNG, "lfd": {"gamma": 0.25}, "curve": way}
    probe = {"epochs": [1, 2], "clean_mean": [2.0, 1.0], "poison_mean": [1.0, 0.1], "poison_over_clean_mean": [9, 1]}
    record = make_record(defense="lfd", detection=detection, notes=notes | {"probe": probe}, matrix="my matrix.yaml")
    (shown,) = evidence_of(board([record]).render("html"))
    assert shown["params"]["defense"]["alpha"] == 0.15
    assert shown["env"]["device"] == "Processor X"
    assert shown["recipe"]["epochs"] == 80
    assert shown["loss"] == [["model", [2.303, None, 0.1]]]
    assert shown["histogram"] == histogram
    assert shown["detection"] == {"auroc": 0.9, "precision": 0.5, "recall": None}
    assert shown["trigger"] == PNG
    assert shown["probe"] == {"epochs": [1.0, 2.0], "clean": [2.0, 1.0], "poison": [1.0, 0.1]}
    assert shown["course"] == {
        "name": ["0 pruned", "1 pruned"], "ca": [0.9, 0.8], "asr": [1.0, 0.1], "ra": [0.0, None]
    }  # fmt: skip
    assert shown["notes"] == {"lfd": {"gamma": 0.25}}
    assert shown["poison"] == {"count": 5000, "share_of_set": 0.1}
    assert shown["time"] == record["time"]
    assert shown["command"] == command(record)
    del detection["histogram"]
    older = make_record(defense="lfd", detection=detection, notes={"suspicion": histogram})
    assert evidence_of(board([older]).render("html"))[0]["histogram"] == histogram


def test_losses_have_a_line_for_the_targets_label_or_the_reason(make_record):
    probe = {"epochs": [1, 2], "clean_mean": [2.0, 1.0], "poison_mean": [1.0, 0.1]}
    line = {"clean_target_mean": [0.5, 0.25], "poison_over_clean_target_mean": [9, 1], "clean_target_count": 4500}
    for given, expected in ((line, {"target": [0.5, 0.25]}), ({"no_clean_target": "why"}, {"no_target": "why"})):
        (shown,) = evidence_of(board([make_record(notes={"probe": probe | given})]).render("html"))
        assert shown["probe"] == {"epochs": [1.0, 2.0], "clean": [2.0, 1.0], "poison": [1.0, 0.1], **expected}


def test_rates_by_epoch_are_shown_of_both_trainings_if_they_differ(make_record):
    one = {"epochs": [1, 2], "ca": [0.3, 0.9], "asr": [0.0, 0.8], "ra": [0.4, 0.2]}
    other = {"epochs": [1, 2], "ca": [0.2, 0.8], "asr": [None, None], "ra": [None, None]}
    cases = (
        ({"model": one, "undefended": other}, {"model": one, "undefended": other}),
        ({"model": one, "undefended": one}, {"model": one}),
        ({"model": {**one, "pruned": True}}, {"model": {**one, "pruned": True}}),
        ({"model": {**one, "ca": [0.5]}, "undefended": {"no_rates": "none"}}, None),
    )
    for given, expected in cases:
        record = make_record(notes={"rates_by_epoch": given})
        record["spec"]["probe"] = {"rates": 1}
        (shown,) = evidence_of(board([record]).render("html"))
        assert shown["epochs"] == expected
        assert ("rates_by_epoch" in (shown["notes"] or {})) == (expected is None)


def test_each_record_opens_to_its_own_evidence(make_record):
    """Also where records fill several lines and seeds are not in the order of the list."""
    records = [
        make_record(f"a{a}", "none", s, notes={"train_loss": [a + s / 10]} if a % 2 else {}, error=f"{a} {s}")
        for a in range(40)
        for s in (2, 0, 1)
    ]
    page = board(records).render("html")
    ids = data_of(page)["columns"]["id"]
    by_id = {r["id"]: r for r in records}
    for ident, shown in zip(ids, evidence_of(page), strict=True):
        record = by_id[ident]
        assert shown["error"] == record["error"]
        assert shown["command"] == command(record)
        losses = record["notes"].get("train_loss")
        assert shown["loss"] == ([["train", losses]] if losses else None)


def test_shared_values_are_embedded_once(published_records):
    page = board(published_records).render("html")
    assert len(data_of(page)["columns"]["id"]) == len(published_records)
    places = json.loads(script_of(page, "places"))
    pool = unpacked(script_of(page, "lines").split("\n")[places["pool"]])
    assert len([item for item in pool["items"] if isinstance(item, dict) and "device" in item]) == 1


def test_equal_pictures_are_embedded_once(make_record):
    page = board([make_record(seed=s, notes={"trigger_png": PNG}) for s in range(5)]).render("html")
    assert page.count(PNG) == 1
    assert {shown["trigger"] for shown in evidence_of(page)} == {PNG}


def test_a_page_that_would_be_too_large_leaves_evidence_out_and_keeps_the_numbers(make_record, monkeypatch):
    chance = random.Random(0)
    many = [[chance.random() for _ in range(60)] for _ in range(360)]
    records = [
        make_record(f"a{a}", "none", s, notes={"train_loss": many.pop(), "own": {"x": many.pop()}})
        for a in range(60)
        for s in (0, 1, 2)
    ]
    whole = board(records).render("html")
    assert all(shown["notes"]["own"] for shown in evidence_of(whole))
    limit = len(whole) - 15_000
    monkeypatch.setattr("benchbd.report.formats.page.LARGEST_PAGE", limit)
    small = board(records).render("html")
    assert len(small.encode()) <= limit
    found = evidence_of(small)
    assert all(shown["loss"] for shown in found)
    seeds = data_of(small)["columns"]["seed"]
    left = {s for shown, s in zip(found, seeds, strict=True) if shown["notes"] == "left out"}
    assert left
    assert 0 not in left, "the first seeds of all cells keep their evidence"
    assert data_of(small)["columns"] == data_of(whole)["columns"]


def test_the_answer_stands_first(make_record):
    page = board(
        [
            make_record(f"a{a}", d, s, ca, asr)
            for a in range(8)
            for s in (0, 1)
            for d, ca, asr in (("none", 0.9, 0.95), ("lfd", 0.89, 0.02 + a / 100), ("ac", 0.85, 0.8 + a / 100))
        ]
    ).render("html")
    first = page[page.index('id="glance"') : page.index('class="scale"')]
    assert "lfd is best: significantly better by DER than 1 other ranked defense." in first
    assert "2 defenses compared over 8 attacks by Wilcoxon&#x27;s signed-rank test at 5 %" in first
    assert "2 seeds a cell." in first


@pytest.mark.parametrize(
    "text",
    ["</script><script>alert(1)</script>", "<!--", "\u2028", "'\"><img src=x onerror=alert(1)>", "@@data@@", "&lt;"],
)
def test_hostile_text_cannot_leave_its_place(make_record, text):
    record = make_record(
        attack=text, error=text, status="failed", matrix=text, notes={text: text}, env={"device": text}
    )
    clean = Elements(board([make_record(attack="a", status="failed", error="b")]).render("html"))
    page = board([record]).render("html")
    found = Elements(page)
    assert found.open == []
    assert [t for t, _ in found.found if t in ("script", "img")] == [
        t for t, _ in clean.found if t in ("script", "img")
    ]
    assert not any(name.startswith("on") for _, attributes in found.found for name in attributes)
    (shown,) = evidence_of(page)
    assert shown["error"] == text
    assert shown["notes"] == {text: text}
    data = data_of(page)
    assert data["variants"]["attack"][data["columns"]["attack"][0]]["name"] == text


def test_packed_values_come_back_even_with_odd_signs():
    value = {"</script>": ["\ud800", "\u2028", 1.5, None]}
    assert unpacked(packed(value)) == value
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packed(value))


def test_numbers_are_cut_to_five_digits_and_whole_ones_stay():
    given = {"a": [0.123456789, 123456789, True, None, float("nan")], "b": "x"}
    assert rounded(given) == {"a": [0.12346, 123456789, True, None, None], "b": "x"}


@pytest.mark.parametrize("given", [None, {}, [], [{"ca": 1, "asr": 1, "ra": 1}], [1, 2], [{"ca": "x"}, {"ca": 1}]])
def test_a_course_needs_two_points(given):
    assert course(given) is None


def test_inert_json_survives_any_sign():
    value = {"<!--</script>&\u2028\u2029": ["]]>", "\\u003c"]}
    text = inert_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


@pytest.mark.parametrize(
    "given", [None, 3, "", "PHN2Zz4=", "not base64!", base64.b64encode(b"<svg>").decode(), PNG + "\n"]
)
def test_only_pngs_are_pictures(given):
    assert picture(given) is None


def test_train_curves_take_lists_and_named_lists():
    assert train_curves({"train_loss": [1, 2.00001]}) == [("train", [1.0, 2.0])]
    assert train_curves({"train_loss": {"a": [1], "b": "x", "c": [], "d": [True]}}) == [("a", [1.0])]
    assert train_curves({}) == []
