"""merge, compare, export and clean."""

from __future__ import annotations

import csv
import io
import json
import random
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchbd.cli import main
from benchbd.core.kinds import KINDS
from benchbd.errors import UsageError
from benchbd.plan.cell import identity
from benchbd.report import published
from benchbd.report.compare import Limit, compare, failures, parse_limit
from benchbd.storage import records
from benchbd.storage import results_file as checked
from benchbd.storage.cell_locks import CellLocks
from benchbd.storage.merge import merge


def made(fakes: ModuleType, n: int = 1, status: str = "done", seed: int = 0, **fields: Any) -> dict[str, Any]:
    """A whole record of a fake cell."""
    record = records.blank(fakes.cell(n=n, seed=seed), status, None if status == "done" else "broken")
    numbers = {"ca": 0.9, "asr": 0.5, "ra": 0.4} if status == "done" else {}
    return {**record, **numbers, **fields}


def fill(folder: Path, *found: dict[str, Any]) -> Path:
    for record in found:
        records.write_record(folder, record)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "records").glob("*"))}


def test_merge_is_a_union(fakes: ModuleType, tmp_path: Path) -> None:
    one, two, three = (made(fakes, n) for n in (1, 2, 3))
    a, b = fill(tmp_path / "a", one, two), fill(tmp_path / "b", two, three)
    before = contents(a), contents(b)
    merged = merge([a, b], tmp_path / "all")
    assert (merged.added, merged.same, merged.conflicts, merged.refused) == (3, 1, [], [])
    assert contents(tmp_path / "all") == {**before[0], **before[1]}
    assert (contents(a), contents(b)) == before
    assert merge([a, b], tmp_path / "all").added == 0


def test_merge_prefers_results_over_failures_both_ways(fakes: ModuleType, tmp_path: Path) -> None:
    good, bad = fill(tmp_path / "good", made(fakes)), fill(tmp_path / "bad", made(fakes, status="failed"))
    for number, order in enumerate(([good, bad], [bad, good])):
        merge(order, tmp_path / f"{number}")
        assert contents(tmp_path / f"{number}") == contents(good)


def test_merge_keeps_both_of_a_contradiction(
    fakes: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    a, b = fill(tmp_path / "a", made(fakes)), fill(tmp_path / "b", made(fakes, asr=0.53, ca=0.899))
    assert main(["merge", str(a), str(b), "--output", str(tmp_path / "all")]) == 1
    said = capfd.readouterr().out
    assert "largest difference: 3.00 points" in said
    assert contents(tmp_path / "all") == contents(a)
    (kept,) = (tmp_path / "all" / "conflicts").iterdir()
    assert json.loads(kept.read_text())["asr"] == 0.53
    lost = fill(tmp_path / "c", made(fakes, asr=None))
    assert merge([lost], tmp_path / "all").conflicts[0].difference == 1.0


def test_a_conflict_names_precision_classes_that_differ(
    fakes: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    a = fill(tmp_path / "a", made(fakes, env={"precision": "cpu-fp32", "threads": 1}))
    b = fill(tmp_path / "b", made(fakes, asr=0.53, env={"precision": "cuda-bf16", "threads": 8}))
    assert main(["merge", str(a), str(b), "--output", str(tmp_path / "all")]) == 1
    assert "3.00 points (precision classes cpu-fp32 and cuda-bf16); the other is" in capfd.readouterr().out
    same = fill(tmp_path / "c", made(fakes, asr=0.53, env={"precision": "cpu-fp32", "threads": 1}))
    assert merge([same], tmp_path / "all").conflicts[0].classes == ()


def test_a_conflict_says_what_differs_and_what_to_do(
    fakes: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def measured(asr: float, digest: str, release: str, device: str, commit: str) -> dict[str, Any]:
        sources = {kind: "code:" + digit * 64 for kind, digit in zip(KINDS, "1234", strict=True)}
        env = {"precision": "cpu-fp32", "device": device, "versions": {"benchbd": release, "torch": "2.13.0"}}
        sources["defense"] = "code:" + digest * 64
        return made(fakes, asr=asr, sources=sources, env={**env, "git": {"commit": commit, "dirty": False}})

    def said(other: dict[str, Any]) -> str:
        fill(tmp_path / "b", other)
        assert main(["merge", str(tmp_path / "b"), "--output", str(tmp_path / "a")]) == 1
        return capfd.readouterr().out

    first = measured(0.5, "a", "0.1.0", "A", "f" * 40)
    fill(tmp_path / "a", first)
    lines = said(measured(0.6, "b", "0.2.0", "B", "e" * 40)).splitlines()
    assert lines[0].endswith(
        "; different: code of defense act, benchbd 0.1.0 and 0.2.0, commit of benchbd ffffffffff and eeeeeeeeee, "
        "device 'A' and 'B'"
    )
    assert lines[-1].endswith(f"to decide by measuring it here: benchbd rerun {first['id']} --output {tmp_path / 'a'}")
    assert said(measured(0.6, "b", "0.1.0", "A", "f" * 40)).splitlines()[0].endswith("; different: code of defense act")
    line = said(measured(0.6, "a", "0.1.0", "A", "f" * 40)).splitlines()[0]
    assert line.endswith("; different: nothing recorded, so chance or the machine")


def test_merge_tells_different_data_from_different_numbers(
    fakes: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def data(train: str, weights: str | None = None) -> dict[str, str | None]:
        return {"train": train * 64, "test": "0" * 64, "files": None, "weights": weights and weights * 64}

    one = fill(tmp_path / "one", made(fakes, 1, data=data("a")))
    other = fill(tmp_path / "other", made(fakes, 1, data=data("b", "c")), made(fakes, 2, data=data("b", "c")))
    assert main(["merge", str(one), str(other), "--output", str(tmp_path / "all")]) == 1
    said = capfd.readouterr().out
    assert "different data: another training set, initial weights: " in said
    assert "differs by up to 0.00 points" in said
    assert "1 conflict," in said
    assert contents(tmp_path / "all").keys() == contents(other).keys()
    (kept,) = (tmp_path / "all" / "conflicts").iterdir()
    assert json.loads(kept.read_text())["data"]["train"] == "b" * 64
    assert "different data: 1 of 2 cells such as" in said

    old = fill(tmp_path / "old", made(fakes, 1), made(fakes, 3, data=None))
    assert main(["merge", str(one), str(old), "--output", str(tmp_path / "some")]) == 0, "old records say nothing"
    assert "different data" not in capfd.readouterr().out


def test_merge_reads_only_those_records_again_that_no_source_has(
    fakes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It read every record of the output once more after writing it, to tell different data."""
    here, there = ({"data": {"train": name * 64, "test": "c" * 64, "weights": None}} for name in "ab")
    ids: list[str] = []
    read = records.read_record

    def watched(output: Path, cell_id: str) -> dict[str, Any] | None:
        ids.append(cell_id)
        return read(output, cell_id)

    alone = made(fakes, 4, **here)
    out = fill(tmp_path / "all", alone)
    a, b = fill(tmp_path / "a", made(fakes, 1, **here)), fill(tmp_path / "b", made(fakes, 2, **there), made(fakes, 3))
    monkeypatch.setattr(records, "read_record", watched)
    merged = merge([a, b], out)
    assert ids == [alone["id"]]
    assert len(merged.mixed) == 1
    assert merged.mixed[0].startswith("1 of 3 cells such as ")
    assert merged.mixed[0].endswith(" were measured on another training set than the rest")


def test_merge_refuses_what_is_no_record(fakes: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = made(fakes, 1)
    a = fill(tmp_path / "a", good)
    liar = {**made(fakes, 2), "id": "f" * 16}
    (a / "records" / "liar.json").write_text(json.dumps(liar))
    (a / "records" / "junk.json").write_text("{nonsense")
    (a / "records" / "link.json").symlink_to("/etc/passwd")
    path_trick = {**made(fakes, 3), "id": "../../evil"}
    (a / "records" / "trick.json").write_text(json.dumps(path_trick))
    assert main(["merge", str(a), "--output", str(tmp_path / "all")]) == 1
    told = capfd.readouterr()
    assert told.err.count("refused: ") == 4
    assert "1 added, 0 there already, 0 conflicts, 4 refused" in told.out
    assert [p.name for p in (tmp_path / "all" / "records").iterdir()] == [f"{good['id']}.json"]
    assert not (tmp_path / "evil.json").exists()


def test_one_record_that_cannot_be_written_stops_no_merge(
    fakes: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = [made(fakes, n) for n in range(1, 6)]
    source, target = fill(tmp_path / "a", *found), fill(tmp_path / "all", made(fakes, 9), made(fakes, 4, asr=0.1))
    (target / "records" / f"{found[1]['id']}.json").write_text("{junk")
    for name in ("damaged", "conflicts"):
        (target / name).write_text("a file")
    (target / "failed_reruns" / f"{found[2]['id']}.json").mkdir(parents=True)
    assert main(["merge", str(source), "--output", str(target)]) == 1
    told = capfd.readouterr()
    assert "3 added, 0 there already, 0 conflicts, 2 refused" in told.out
    for n in (1, 3):
        assert f"refused: {found[n]['id']} is not merged: " in told.err
    assert told.err.count("\n") == 2
    assert (target / "records" / f"{found[1]['id']}.json").read_text() == "{junk"


def test_merge_into_what_is_no_folder_ends_with_one_line(
    fakes: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = fill(tmp_path / "a", made(fakes, 1), made(fakes, 2))
    (tmp_path / "all").write_text("a file")
    for place in (tmp_path / "all", Path("/proc/nowhere")):
        assert main(["merge", str(source), "--output", str(place)]) == 2
        said = capfd.readouterr().err
        assert said.count("\n") == 1
        assert "--output" in said


def test_nothing_is_merged_if_a_source_holds_no_records(
    fakes: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = fill(tmp_path / "a", made(fakes, 1), made(fakes, 2))
    (tmp_path / "notes.json").write_text('{\n"a": 1\n}\n')
    for other in ("nowhere", "notes.json"):
        assert main(["merge", str(source), str(tmp_path / other), "--output", str(tmp_path / "all")]) == 2
        assert capfd.readouterr().err.startswith(f"benchbd: {tmp_path / other}: ")
        assert not (tmp_path / "all").exists()


def test_merge_reads_result_files_and_says_where_nothing_is(fakes: ModuleType, tmp_path: Path) -> None:
    checked.write([made(fakes, 1), made(fakes, 2)], tmp_path / "r.jsonl")
    assert merge([tmp_path / "r.jsonl"], tmp_path / "all").added == 2
    with pytest.raises(UsageError, match="no records found"):
        merge([tmp_path / "nowhere"], tmp_path / "all")


NASTY = (
    None,
    "",
    "../../x",
    "/etc/passwd",
    "\0",
    "x" * 10_000,
    -1,
    0,
    1e308,
    10**400,
    [],
    {},
    {"a": [{}]},
    True,
    ["../x"],
)


def mutate(record: dict[str, Any], dice: random.Random) -> str:
    """A record as JSON with something wrong in it, somewhere."""
    how = dice.choice(("value", "deep", "drop", "cut", "byte", "id"))
    record = json.loads(json.dumps(record))
    key = dice.choice(sorted(record))
    if how == "value":
        record[key] = dice.choice(NASTY)
    elif how == "deep" and isinstance(record[key], dict) and record[key]:
        record[key][dice.choice(sorted(record[key]))] = dice.choice(NASTY)
    elif how == "drop":
        del record[key]
    elif how == "id":
        record["id"] = "".join(dice.choices("0123456789abcdef./\0", k=dice.randrange(20)))
    text = json.dumps(record)
    place = dice.randrange(len(text))
    if how == "cut":
        return text[:place]
    return text[:place] + dice.choice('{}[]",:0x') + text[place + 1 :] if how == "byte" else text


@settings(
    max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(seed=st.integers(0, 2**32))
def test_a_thousand_mutated_records_never_write_outside_nor_break_merge(
    fakes: ModuleType, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """25 examples of 40 records each."""
    folder, dice = tmp_path_factory.mktemp("mutated"), random.Random(seed)
    record = made(fakes, 1)
    (folder / "in" / "records").mkdir(parents=True)
    for number in range(40):
        (folder / "in" / "records" / f"{number}.json").write_text(mutate(record, dice), encoding="utf-8")
    before = set(folder.rglob("*"))
    merged = merge([folder / "in"], folder / "out")
    assert merged.added + merged.same + len(merged.conflicts) + len(merged.refused) == 40
    assert all("\n" not in line for line in merged.refused)
    assert all(path.is_relative_to(folder / "out") for path in set(folder.rglob("*")) - before)
    for path in (folder / "out" / "records").glob("*"):
        kept = json.loads(path.read_text())
        assert identity(kept["spec"]) == kept["id"] == path.stem


def test_limits() -> None:
    assert parse_limit("asr:+2") == Limit("asr", 2.0)
    assert parse_limit(" ca:-0.5 ") == Limit("ca", -0.5)
    assert Limit("asr", 2.0).broken(2.1)
    assert not Limit("asr", 2.0).broken(2.0)
    assert Limit("ca", -1.0).broken(-1.5)
    assert not Limit("ca", -1.0).broken(0.5)
    for text in ("asr", "asr:2", "asr:+", "asb:+2", "asr:+nan", ""):
        with pytest.raises(UsageError, match="--fail"):
            parse_limit(text)


def test_compare_pairs_seeds_and_ignores_versions(fakes: ModuleType) -> None:
    before = [made(fakes, seed=s, asr=0.1 * s, time={"total": 10.0}) for s in range(3)]
    after = [made(fakes, seed=s, asr=0.1 * s + 0.04, time={"total": 15.0}) for s in range(1, 4)]
    for record in after:  # a new version of the plugin: other ids, the same configuration
        record["spec"] = {**record["spec"], "defense": {**record["spec"]["defense"], "version": 2}}
        record["id"] = identity(record["spec"])
    (line,) = compare(before, after).lines
    asr, time = line.changes["asr"], line.changes["time"]
    assert asr is not None
    assert (round(asr.mean, 9), asr.n) == (4.0, 2)
    assert asr.half is None
    assert (asr.low, asr.high) == pytest.approx((4.0, 4.0))
    assert time is not None
    assert time.mean == pytest.approx(50.0)
    assert failures(compare(before, after), [Limit("asr", 2.0)]) != []
    assert failures(compare(before, after), [Limit("asr", 4.5), Limit("ca", -0.1), Limit("time", 60.0)]) == []


def test_compare_sees_lost_results_and_what_only_one_side_has(fakes: ModuleType) -> None:
    found = compare([made(fakes, 1), made(fakes, 2)], [made(fakes, 1, status="failed"), made(fakes, 3)])
    assert found.lines[0].lost == [0]
    assert found.lines[0].changes["ca"] is None
    assert len(found.only_a) == len(found.only_b) == 1
    assert failures(found, []) != []


def test_compare_has_the_order_of_the_tables() -> None:
    found = checked.load(Path(__file__).parents[2] / "leaderboard" / "results.jsonl", identity)
    tables = published.grouped(found).groups
    entries = [table.entry(row, column).by_seed for table in tables for row in table.rows for column in table.columns]
    labels = [record["label"].rpartition("/s")[0] for entry in entries for record in list(entry.values())[:1]]
    assert labels != sorted(labels)
    for one in (found, found[::-1]):
        lines = [line.label for line in compare(one, found).lines]
        assert [label for label in lines if label in labels] == labels
    only = compare(found[:1], found[:0:-1]).only_b
    assert only == [line.label for line in compare(found, found).lines if line.label in only]


def test_compare_takes_the_version_of_a_set_that_tables_show(fakes: ModuleType) -> None:
    old, new = made(fakes, asr=0.9), made(fakes, asr=0.2)
    new["spec"] = {**new["spec"], "defense": {**new["spec"]["defense"], "version": 2}}
    new["id"] = identity(new["spec"])
    for before in ([old, new], [new, old]):
        (line,) = compare(before, [made(fakes, asr=0.3)]).lines
        assert line.changes["asr"] is not None
        assert line.changes["asr"].mean == pytest.approx(10.0)


def test_compare_on_the_command_line(fakes: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a, b = fill(tmp_path / "a", made(fakes)), fill(tmp_path / "b", made(fakes, asr=0.56))
    assert main(["compare", str(a), str(b)]) == 0
    assert "+6.00" in capfd.readouterr().out
    assert main(["compare", str(a), str(b), "--fail", "asr:+2"]) == 1
    assert "FAIL toy-images/toy-net/toy-attack/act(n=1): asr +6.00 (limit +2)" in capfd.readouterr().out
    assert main(["compare", str(a), str(b), "--fail", "asr:+7", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["broken"] == []
    assert told["cells"][0]["asr"]["mean"] == pytest.approx(6.0)
    assert main(["compare", str(a), str(tmp_path / "nowhere")]) == 2


def test_export(fakes: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = fill(tmp_path / "out", made(fakes, 1), made(fakes, 2, status="failed", error="=cmd()"))
    (out / "logs").mkdir()
    (out / "logs" / f"{made(fakes, 1)['id']}.log").write_text("said\n")
    for name in ("r.jsonl", "r.csv", "r.zip"):
        assert main(["export", str(tmp_path / name), "--output", str(out)]) == 0
    assert len(checked.load(tmp_path / "r.jsonl", identity)) == 2
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert [row["status"] for row in rows] == ["done", "failed"]
    assert rows[0]["params.defense.n"] == "1"
    assert rows[1]["error"] == "'=cmd()", "a spreadsheet must not run it"
    with zipfile.ZipFile(tmp_path / "r.zip") as archive:
        assert set(archive.namelist()) == {"results.jsonl", "leaderboard.md", f"logs/{made(fakes, 1)['id']}.log"}
    assert main(["export", str(tmp_path / "r.pkl"), "--output", str(out)]) == 2
    assert main(["export", str(tmp_path / "r.csv"), "--output", str(out), "--matrix", "other"]) == 2
    assert main(["export", str(tmp_path / "r.csv" / "r.zip"), "--output", str(out)]) == 2


@pytest.fixture
def full(fakes: ModuleType, tmp_path: Path) -> Path:
    """A results folder with everything in it that clean may meet."""
    out = fill(tmp_path / "out", made(fakes, 1), made(fakes, 2, status="failed"))
    for name in ("store/model/ab/abcd/arrays", "store/locks/x.lock", "store/tmp/half/arrays", "records/.x.json.1.tmp"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("x" * 100)
    (out / "logs").mkdir()
    for n in (1, 2):
        (out / "logs" / f"{made(fakes, n)['id']}.log").write_text("said\n")
    return out


def test_clean_removes_litter_only(full: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kept = contents(full)
    del kept[".x.json.1.tmp"]
    assert main(["clean", "-y", "--output", str(full)]) == 0
    assert "1 lock file, 2 temporary files" in capfd.readouterr().out
    assert contents(full) == kept
    assert (full / "store" / "model" / "ab" / "abcd" / "arrays").exists()
    assert not list((full / "store" / "locks").iterdir())
    assert not list((full / "store" / "tmp").iterdir())


def test_clean_flags(full: Path, fakes: ModuleType) -> None:
    assert main(["clean", "-y", "--artifacts", "--failed", "--logs", "--output", str(full)]) == 0
    assert list(contents(full)) == [f"{made(fakes, 1)['id']}.json"]
    assert not (full / "store").exists()
    assert not list((full / "logs").iterdir())


def test_clean_asks(full: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(full.rglob("*"))

    class Answer(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Answer("n\n"))
    assert main(["clean", "--artifacts", "--output", str(full)]) == 1
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["clean", "--artifacts", "--output", str(full)]) == 2
    assert "use -y" in capfd.readouterr().err
    assert sorted(full.rglob("*")) == before
    monkeypatch.setattr(sys, "stdin", Answer("y\n"))
    assert main(["clean", "--artifacts", "--output", str(full)]) == 0
    assert not (full / "store").exists()


def test_clean_keeps_off_a_folder_in_use(full: Path, capfd: pytest.CaptureFixture[str]) -> None:
    claims = CellLocks(full)
    claims.take("a" * 16)
    assert main(["clean", "-y", "--artifacts", "--output", str(full)]) == 2
    claims.close()
    assert "1 cell is running in this folder" in capfd.readouterr().err
    assert main(["clean", "-y", "--output", str(full.parent / "nothing")]) == 2
