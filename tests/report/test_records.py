from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbd.core.files import write_named
from benchbd.errors import UsageError
from benchbd.plan.cell import identity
from benchbd.report import board
from benchbd.storage import results_file
from benchbd.storage.record_schema import STATUSES


def write_folder(root, found):
    folder = root / "records"
    folder.mkdir(parents=True)
    for record in found:
        (folder / f"{record['id']}.json").write_text(json.dumps(record))
    return root


def test_folder_and_file_hold_the_same(tmp_path, make_record):
    found = [make_record(defense=d, seed=s) for d in ("none", "lfd") for s in (0, 1)]
    results_file.write(found, tmp_path / "results.jsonl")
    from_folder = results_file.load(write_folder(tmp_path / "out", found), identity)
    from_file = results_file.load(tmp_path / "results.jsonl", identity)
    assert sorted(from_folder, key=lambda r: r["id"]) == sorted(from_file, key=lambda r: r["id"])
    assert len(from_file) == 4


def test_file_is_the_same_whatever_the_order(make_record):
    places = [(a, d, s) for a in ("bn-g", "sig") for d in ("none", "lfd") for s in range(3)]
    found = [make_record(a, d, s) for a, d, s in places]
    text = results_file.lines(found)
    random.Random(1).shuffle(found)
    assert results_file.lines(found) == text
    rows = [json.loads(line) for line in text.splitlines()]
    assert [(r["attack"], r["defense"], r["seed"]) for r in rows] == sorted(places)


def test_one_changed_cell_changes_one_line(make_record):
    before = [make_record(defense=d, seed=s) for d in ("none", "lfd", "oracle") for s in (0, 1)]
    after = [dict(r) for r in before]
    after[3]["ca"] = 0.123
    old, new = results_file.lines(before).splitlines(), results_file.lines(after).splitlines()
    assert sum(a != b for a, b in zip(old, new, strict=True)) == 1


def test_long_notes_stay_out_of_the_file_and_are_named(make_record):
    record = make_record(notes={"tsne": {"xy": [[0.5, 0.5]] * 2000}, "lfd": {"gamma": 0.1}})
    row = json.loads(results_file.lines([record]))
    assert row["notes"] == {"lfd": {"gamma": 0.1}, "omitted": ["tsne"]}
    assert "omitted" not in record["notes"]
    assert results_file.lines([row]) == results_file.lines([record])


BROKEN = [
    ("not JSON", "{"),
    ("not JSON", '{"id": NaN}'),
    ("not JSON", "[" * 100_000),
    ("is not a record", "[1]"),
    ("has no id", "{}"),
    ("id must be 16 hex digits", '{"id": "../../x"}'),
    ("id must be 16 hex digits", '{"id": "ab"}'),
    ("dataset must be a name", '{"id": "0123456789abcdef", "dataset": 3}'),
]


@pytest.mark.parametrize(("fault", "text"), BROKEN)
def test_broken_text_is_one_line_with_the_place(fault, text):
    with pytest.raises(UsageError, match=fault) as caught:
        results_file.parse(text, "x.json")
    assert str(caught.value).startswith("x.json: ")
    assert "\n" not in str(caught.value)


FAULTS = {
    "ca": (1.5, -0.1, "0.9", True, math.inf),
    "asr": (2, "high"),
    "seed": (1.5, "0", None, True),
    "status": ("finished", None, 3),
    "params": ([], {"attack": 3}),
    "time": ({"total": -1}, {"total": "long"}, {"stages": {"a": "b"}}, 3),
    "detection": ({"auroc": 1.2}, {"recall": "all"}, []),
    "trainings": ({"full": "one"}, {"teacher": None}, {"asked": {"full": 1}}),
    "needs": ("clean", [3]),
    "control": ("yes", 1),
    "notes": ([],),
    "model": ("", "m" * 500, None),
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in FAULTS.items() for v in values])
def test_wrong_field_is_refused_by_name(make_record, key, value):
    record = make_record() | {key: value}
    text = json.dumps(record).replace("Infinity", "1e999")
    with pytest.raises(UsageError, match=key):
        results_file.parse(text, "x.json")


def test_good_records_of_every_status_are_read(make_record):
    for status in STATUSES:
        record = make_record(status=status, error=None if status == "done" else "why")
        assert results_file.parse(json.dumps(record), "x", identity) == record


def test_done_needs_a_ca(make_record):
    with pytest.raises(UsageError, match="is done but has no ca"):
        results_file.parse(json.dumps(make_record(ca=None)), "x")


def test_id_must_be_that_of_the_spec(tmp_path, make_record):
    record = make_record()
    record["spec"]["seed"] = 5
    root = write_folder(tmp_path, [record])
    assert results_file.load(root) == [record]
    with pytest.raises(UsageError, match=f"claims the id {record['id']}, but its spec has the id"):
        results_file.load(root, identity)
    record["spec"] = None
    with pytest.raises(UsageError, match="spec must be an object"):
        results_file.parse(json.dumps(record), "x", identity)


def test_line_number_of_the_broken_line(tmp_path, make_record):
    path = tmp_path / "r.jsonl"
    path.write_text(results_file.lines([make_record()]) + "\n" + "nonsense\n")
    with pytest.raises(UsageError, match=r"r\.jsonl, line 3: not JSON"):
        results_file.load(path)


def test_an_unpacked_export_names_its_file(tmp_path, make_record):
    (tmp_path / "other.jsonl").write_text("")
    (tmp_path / "results.jsonl").write_text(results_file.lines([make_record()]))
    with pytest.raises(UsageError, match=r"no records found .*which can be read: .*results\.jsonl$"):
        results_file.load(tmp_path)


def test_places_without_records(tmp_path):
    with pytest.raises(UsageError, match="no records found"):
        results_file.load(tmp_path)
    with pytest.raises(UsageError, match="no records found"):
        results_file.load(tmp_path / "absent.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        results_file.load(tmp_path / "latin.jsonl")


def test_links_and_folders_among_the_records_are_refused(tmp_path, make_record):
    root = write_folder(tmp_path / "out", [make_record()])
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    link = root / "records" / "link.json"
    link.symlink_to(outside)
    with pytest.raises(UsageError, match="must be a plain file"):
        results_file.load(root)
    link.unlink()
    (root / "records" / "dir.json").mkdir()
    with pytest.raises(UsageError, match="must be a plain file"):
        results_file.load(root)


def test_files_being_written_are_passed_over(tmp_path, make_record):
    root = write_folder(tmp_path, [make_record()])
    (root / "records" / ".half.json").write_text("{")
    (root / "records" / "note.txt").write_text("hello")
    assert len(results_file.load(root)) == 1


def test_a_named_file_is_replaced_or_left_alone(tmp_path, monkeypatch):
    target = tmp_path / "deep" / "file.md"
    write_named(target, "one")
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UsageError, match="cannot be written \\(No space left"):
        write_named(target, "two")
    assert target.read_text() == "one"
    assert [p.name for p in target.parent.iterdir()] == ["file.md"]


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@settings(deadline=None)
@given(st.recursive(leaves, lambda s: st.lists(s) | st.dictionaries(st.text(), s)))
def test_no_json_at_all_gives_anything_but_a_usage_error(value):
    with pytest.raises(UsageError):
        results_file.parse(json.dumps(value), "x", identity)


@settings(deadline=None)
@given(st.data())
def test_any_one_field_may_be_anything(make_record, data):
    record = make_record()
    key = data.draw(st.sampled_from(sorted(record)))
    record[key] = data.draw(st.recursive(leaves, st.lists))
    try:
        parsed = results_file.parse(json.dumps(record), "x", identity)
    except UsageError as error:
        message = str(error)
    else:
        message = ""
        made = board([parsed])
        for fmt in ("md", "csv", "json", "latex", "html", "jsonl"):
            assert made.render(fmt)
    assert "\n" not in message
