from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import pytest

from benchbd.report import board
from benchbd.report.formats.page import inert_json, picture, train_curves
from benchbd.report.formats.reproduce import command

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 20).decode()


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


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
    assert {a.get("scope") for t, a in elements if t == "th"} == {"row", "col", "colgroup"}
    ids = [a["id"] for _, a in elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in elements:
        assert attributes.get("aria-labelledby", ids[0]) in ids


def test_each_cell_carries_its_records(make_record):
    records = [make_record(seed=s) for s in (0, 1)]
    page = board(records).render("html")
    buttons = [a for t, a in Elements(page).found if t == "button" and a.get("class") == "open"]
    assert {b["data-ids"] for b in buttons} == {" ".join(r["id"] for r in records)}
    assert {b["aria-label"].split(":")[0] for b in buttons} == {"none CA", "none ASR"}


def test_records_are_embedded_with_what_they_open_to(make_record):
    histogram = {"edges": [0.0, 0.5, 1.0], "clean": [5, 1], "poisoned": [0, 3]}
    detection = {"auroc": 0.9, "precision": 0.5, "recall": None, "histogram": histogram}
    notes = {"train_loss": {"model": [2.30259, None, 0.1]}, "trigger_png": PNG, "lfd": {"gamma": 0.25}}
    probe = {"epochs": [1, 2], "clean_mean": [2.0, 1.0], "poison_mean": [1.0, 0.1], "poison_over_clean_mean": [9, 1]}
    record = make_record(defense="lfd", detection=detection, notes=notes | {"probe": probe}, matrix="my matrix.yaml")
    data = data_of(board([record]).render("html"))
    (shown,) = data["records"]
    assert data["pool"][shown["defense"]]["name"] == "lfd"
    assert data["pool"][shown["defense"]]["params"]["alpha"] == 0.15
    assert data["pool"][shown["env"]]["device"] == "Processor X"
    assert shown["curves"] == [["model", [2.303, None, 0.1]]]
    assert shown["histogram"] == histogram
    del detection["histogram"]
    older = make_record(defense="lfd", detection=detection, notes={"suspicion": histogram})
    assert data_of(board([older]).render("html"))["records"][0]["histogram"] == histogram
    assert shown["detection"] == {"auroc": 0.9, "precision": 0.5, "recall": None}
    assert shown["trigger"] == f"data:image/png;base64,{PNG}"
    assert shown["probe"] == {"epochs": [1.0, 2.0], "clean": [2.0, 1.0], "poison": [1.0, 0.1]}
    assert shown["notes"] == {"lfd": {"gamma": 0.25}}
    assert shown["command"] == command(record)


def test_shared_values_are_embedded_once(published_records):
    data = data_of(board(published_records).render("html"))
    assert len(data["records"]) == len(published_records)
    environments = [item for item in data["pool"] if "device" in item]
    assert len(environments) == 1


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
    (shown,) = data_of(page)["records"]
    assert shown["error"] == text
    assert data_of(page)["pool"][shown["attack"]]["name"] == text


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
