"""Results files that are empty, compressed, of another kind or begin with a byte order mark, in every verb."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchbd import load_results
from benchbd.cli import main
from benchbd.errors import UsageError
from benchbd.plan import matrix
from benchbd.storage import records, results_file

MARK = b"\xef\xbb\xbf"
READERS = (
    "leaderboard --results FILE",
    "leaderboard FILE",
    "leaderboard --results FILE --check --write board.md",
    "leaderboard toys.yaml --results FILE",
    "plot scatter FILE",
    "plot fig1 --results FILE",
    "show ab --results FILE",
    "verify FILE",
    "compare FILE good.jsonl",
    "compare good.jsonl FILE",
    "merge FILE --output merged",
)


@pytest.fixture
def good(toy_matrix: Path) -> bytes:
    """The content of a results file, which is good.jsonl in the working folder."""
    found = [records.blank(cell, "done") | {"ca": 0.5, "asr": 0.25} for cell in matrix.load(str(toy_matrix)).cells]
    results_file.write(found, "good.jsonl")
    Path("board.md").write_text("a page\n")
    return Path("good.jsonl").read_bytes()


def refusal(capsys: pytest.CaptureFixture[str], line: str) -> str:
    code = main(line.split())
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1), line
    return err


@pytest.mark.parametrize("reader", READERS)
def test_a_file_without_records_is_refused(good: bytes, capsys: pytest.CaptureFixture[str], reader: str) -> None:
    for content in (b"", b"\n \n", MARK):
        Path("empty.jsonl").write_bytes(content)
        said = refusal(capsys, reader.replace("FILE", "empty.jsonl"))
        assert said == "benchbd: empty.jsonl: has no records; benchbd export writes a file of records\n"


def test_a_folder_without_records_is_refused_unless_a_run_may_have_begun(
    toy_matrix: Path, told: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out/records").mkdir(parents=True)
    for line in ("plot scatter", "show ab", "export all.csv", "export all.jsonl"):
        assert "no records" in refusal(capsys, f"{line} --output out"), line
    assert not Path("all.csv").exists()
    assert "No records yet." in told("leaderboard", "--output", "out")
    assert "# toys" in told("leaderboard", "toys.yaml", "--output", "out")


def test_the_folder_of_records_is_no_results_folder(good: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    records.write_record(Path("there"), results_file.load("good.jsonl")[0])
    for line in ("show", "show ab", "export all.csv", "rerun ab", "leaderboard", "plot scatter"):
        said = refusal(capsys, f"{line} --output there/records")
        assert said == "benchbd: no records in there/records; did you mean 'there'?\n", line
    for line in ("compare there there/records", "merge there/records --output all", "verify there/records"):
        assert refusal(capsys, line).endswith("a folder with records/ in it); did you mean 'there'?\n"), line


@pytest.mark.parametrize("reader", READERS)
def test_a_compressed_file_is_to_be_unpacked(good: bytes, capsys: pytest.CaptureFixture[str], reader: str) -> None:
    for ending, compress, name in (("gz", gzip, "gzip"), ("bz2", bz2, "bzip2"), ("xz", lzma, "xz")):
        file = f"good.jsonl.{ending}"
        Path(file).write_bytes(compress.compress(good))
        said = refusal(capsys, reader.replace("FILE", file))
        assert said == f"benchbd: {file}: is compressed ({name}); unpack it first\n"


@pytest.mark.parametrize("reader", READERS)
def test_text_of_another_kind_is_no_results_file(good: bytes, capsys: pytest.CaptureFixture[str], reader: str) -> None:
    Path("table.jsonl").write_text("id,ca\nab,0.5\n")
    said = refusal(capsys, reader.replace("FILE", "table.jsonl"))
    assert "table.jsonl: is not a results file, which has a JSON record on each line" in said
    for text in (
        json.dumps(json.loads(good.splitlines()[0]), indent=1),
        '{\n "cells": [\n  "/my.py"\n ]\n}\n',
        "{\n3\n",
    ):
        Path("table.jsonl").write_text(text)
        said = refusal(capsys, reader.replace("FILE", "table.jsonl"))
        assert said.startswith(
            "benchbd: table.jsonl: is not a results file, which has a JSON record on each line (line 1:"
        )
    Path("table.jsonl").write_bytes(good.decode().encode("utf-16"))
    said = refusal(capsys, reader.replace("FILE", "table.jsonl"))
    assert said == "benchbd: table.jsonl: is not UTF-8 text but UTF-16; save it as UTF-8\n"


@pytest.mark.parametrize("verb", ["leaderboard", "plot scatter", "plot fig1", "plot"])
def test_a_file_in_the_place_of_a_matrix_is_named(good: bytes, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    for name in ("table.csv", "table.parquet", "all.zip", "notes.txt"):
        Path(name).write_text("id,ca\nab,0.5\n")
        for folder in ("absent", "there"):
            records.write_record(Path("there"), results_file.load("good.jsonl")[0])
            assert name in refusal(capsys, f"{verb} {name} --output {folder}")
            shutil.rmtree("there")


def test_a_byte_order_mark_is_no_part_of_any_text(
    good: bytes, toy_matrix: Path, told: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("marked.jsonl").write_bytes(MARK + good)
    assert results_file.load("marked.jsonl") == results_file.load("good.jsonl")
    board = told("leaderboard", "--results", "marked.jsonl")
    assert board == told("leaderboard", "good.jsonl")
    Path("board.md").write_bytes(MARK + board.encode())
    assert told("leaderboard", "--results", "good.jsonl", "--check", "--write", "board.md") == ""

    record = results_file.load("good.jsonl")[0]
    records.write_record(Path("out"), record)
    path = records.record_path(Path("out"), record["id"])
    path.write_bytes(MARK + path.read_bytes())
    assert records.read_record(Path("out"), record["id"]) == record

    plan = told("plan", "toys.yaml", "--json")
    toy_matrix.write_bytes(MARK + toy_matrix.read_bytes())
    assert told("plan", "toys.yaml", "--json") == plan


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (gzip.compress(b"name: m"), "is compressed (gzip); unpack it first"),
        ("name: m".encode("utf-16"), "is not UTF-8 text but UTF-16; save it as UTF-8"),
        (b"name: \xff", "is not UTF-8 text; is it a matrix?"),
    ],
    ids=["gzip", "utf-16", "latin-1"],  # a gzip file has the time in it: workers must collect tests of one name
)
def test_a_matrix_of_another_kind(
    content: bytes, line: str, toy_matrix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy_matrix.write_bytes(content)
    for verb in ("plan", "validate", "status", "run", "leaderboard"):
        assert refusal(capsys, f"{verb} toys.yaml") == f"benchbd: matrix toys.yaml: {line}\n"


def test_the_library_refuses_an_empty_file(toy_matrix: Path) -> None:
    Path("empty.jsonl").touch()
    with pytest.raises(UsageError, match=r"empty\.jsonl: has no records"):
        load_results("empty.jsonl")
