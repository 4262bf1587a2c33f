"""A cell's log keeps the first and the last part of what an attempt prints, whatever it prints."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from benchbd.core.cell_log import KEPT, LONGEST, CellLog, place_after

LINE = b"%09d something that a program prints\n"


def lines(numbers: range) -> bytes:
    return b"".join(LINE % number for number in numbers)


def test_up_to_the_limit_nothing_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "a.log"
    for text in (b"attempt 1\n", b"x" * LONGEST):
        log = CellLog(path)
        log.write(text)
        log.close()
    assert path.read_bytes() == b"attempt 1\n" + b"x" * LONGEST


@pytest.mark.parametrize("at_once", [700, 1 << 16, 5 * KEPT])
def test_the_middle_of_more_is_left_out_and_counted(at_once: int, tmp_path: Path) -> None:
    path, text = tmp_path / "a.log", lines(range(400_000))
    path.write_bytes(b"attempt 1\n")
    log, largest = CellLog(path), 0
    for start in range(0, len(text), at_once):
        log.write(text[start : start + at_once])
        largest = max(largest, path.stat().st_size)
    log.close()
    assert len(text) > 4 * LONGEST
    assert largest <= LONGEST + KEPT
    head, line, tail = re.split(rb"\n(== [\d,]+ bytes of output are left out here: .*\n)", path.read_bytes())
    assert head.startswith(b"attempt 1\n000000000 ")
    assert text.startswith(head.removeprefix(b"attempt 1\n"))
    assert text.endswith(tail)
    assert len(head) > 0.9 * KEPT
    assert len(tail) > 0.9 * KEPT
    assert tail[:9].isdigit(), "it begins with a whole line"
    missing = int(line.split()[1].replace(b",", b""))
    assert missing == len(text) - (len(head) - len(b"attempt 1\n")) - len(tail)
    log = CellLog(path)
    log.write(b"attempt 2\n")
    log.close()
    assert path.read_bytes().endswith(tail + b"attempt 2\n"), "the next attempt has a limit of its own"


def test_a_reader_goes_on_where_it_was_when_the_middle_is_left_out(tmp_path: Path) -> None:
    path, near_the_end = tmp_path / "a.log", LONGEST // len(LINE % 0) - 10
    log = CellLog(path)
    log.write(lines(range(near_the_end)))
    with path.open("rb") as reader:
        last = reader.read()[-1000:]
        assert place_after(reader.fileno(), reader.tell(), last) == reader.tell()
        log.write(lines(range(near_the_end, near_the_end + 20)))
        at = place_after(reader.fileno(), reader.tell(), last)
        assert os.pread(reader.fileno(), 1 << 20, at) == lines(range(near_the_end, near_the_end + 20))
        log.write(lines(range(near_the_end + 20, 400_000)))
        at = place_after(reader.fileno(), at, last)
        assert re.match(rb"\n== [\d,]+ bytes of output are left out here", os.pread(reader.fileno(), 100, at))
        os.truncate(path, 0)
        assert place_after(reader.fileno(), at, last) == 0
    log.close()


def test_one_endless_line_has_a_limit_too(tmp_path: Path) -> None:
    log = CellLog(tmp_path / "a.log")
    for _ in range(200):
        log.write(b"\r 50 %" * 10_000)
    log.close()
    text = (tmp_path / "a.log").read_bytes()
    assert len(text) <= LONGEST
    assert text.count(b"bytes of output are left out here") == 1


def test_a_log_that_is_emptied_meanwhile_goes_on(tmp_path: Path) -> None:
    log = CellLog(tmp_path / "a.log")
    log.write(lines(range(200_000)))
    os.truncate(tmp_path / "a.log", 0)
    log.write(b"after\n")
    log.close()
    assert (tmp_path / "a.log").read_bytes() == b"after\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_loses_what_is_printed_and_nothing_else(tmp_path: Path) -> None:
    log = CellLog(tmp_path / "a.log")
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, log.handle)
    os.close(full)
    log.write(b"lost\n")
    log.close()
