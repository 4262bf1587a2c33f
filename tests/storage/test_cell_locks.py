"""One run at a time works on a cell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchbd.storage.cell_locks import CellLocks, running

HOLD = "import sys, time; from pathlib import Path; from benchbd.storage.cell_locks import CellLocks; "
HOLD += "c = CellLocks(Path(sys.argv[1])); print(c.take('a' * 16), flush=True); time.sleep(60)"


def test_a_claim_excludes_others_until_it_is_given_up(tmp_path: Path) -> None:
    mine, theirs = CellLocks(tmp_path), CellLocks(tmp_path)
    assert mine.take("a")
    assert mine.take("a"), "taking twice is no harm"
    assert not theirs.take("a")
    assert theirs.take("b")
    assert running(tmp_path) == {"a", "b"}
    mine.give_up("a")
    assert theirs.take("a")
    theirs.close()
    mine.close()
    assert running(tmp_path) == set()
    assert not (tmp_path / "running").exists()


def test_a_killed_run_leaves_no_claim(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert running(tmp_path) == {"a" * 16}
        assert not CellLocks(tmp_path).take("a" * 16)
        other.kill()
        other.wait()
    assert running(tmp_path) == set()
    assert CellLocks(tmp_path).take("a" * 16)
