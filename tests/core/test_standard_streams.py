"""Closed standard streams, and readers that go away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OPEN = """
import os, sys
from benchbd.core.standard_streams import lasting_stderr, open_standard_streams
open_standard_streams()
read, write = os.pipe()
assert min(read, write) > 2
with lasting_stderr():
    for _ in range(3):
        print("lost", file=sys.stderr, flush=True)
sys.stdout.write("lost"); sys.stdout.flush()
assert sys.stdin.read() == ""
open(sys.argv[1], "w").write("|".join(os.readlink(f"/proc/self/fd/{n}") for n in range(3)))
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_opened_on_the_null_device(tmp_path: Path, closed: str) -> None:
    command = f'exec "$0" -c "$1" "$2" </dev/null >/dev/null 2>/dev/null {closed}'
    done = subprocess.run(["bash", "-c", command, sys.executable, OPEN, str(tmp_path / "said")], check=False)
    assert done.returncode == 0
    assert (tmp_path / "said").read_text().split("|") == [os.devnull] * 3


def test_messages_are_lost_when_their_reader_is_gone(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    said = tmp_path / "said"
    done = subprocess.run([sys.executable, "-c", OPEN, str(said)], stdin=subprocess.DEVNULL, stderr=write, check=False)
    os.close(write)
    assert done.returncode == 0
    assert said.read_text().split("|")[2] == os.devnull
