"""A program of somebody else runs apart, and nothing of it is left, however it ends."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from benchbd.core.program import Ended, clean_variables, peak, reset_peak, run_program


def run(tmp_path: Path, *words: str, seconds: float = 60.0) -> tuple[Ended, list[str]]:
    said: list[str] = []
    ended = run_program(words, tmp_path, clean_variables([], {}), seconds, said.append)
    return ended, "\n".join(said).split("\n")


def test_a_program_that_ends_well_has_no_fault(tmp_path):
    reset_peak()
    ended, said = run(tmp_path, "sh", "-c", "pwd; printf 'one\\rtwo\\n'; printf 'no end'; echo error >&2")
    assert (ended.code, ended.fault("1 h")) == (0, None)
    assert said[:3] == [str(tmp_path), "one", "two"]
    assert "error" in said[-1]
    assert peak() == ended.peak > 0


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["no-such-program"], "cannot be started (No such file or directory)"),
        (["./notes.txt"], "cannot be started (Permission denied)"),
        (["sh", "-c", "echo why; exit 7"], "ended with exit code 7 after 0 s; its last line: why"),
    ],
)
def test_a_program_that_ends_badly_has_one_line(words, fault, tmp_path):
    (tmp_path / "notes.txt").write_text("not a program")
    ended, _ = run(tmp_path, *words)
    assert ended.fault("1 h").replace(f"after {ended.seconds:.0f} s", "after 0 s") == fault


def test_an_interruption_ends_the_program_and_its_daemons(tmp_path):
    mark = tmp_path / "pid"

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    words = ["sh", "-c", f"(setsid sleep 600 & echo $! > {mark}); echo ready; sleep 600"]
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_program(words, tmp_path, clean_variables([], {}), 600.0, interrupt)
    assert time.monotonic() - began < 60
    assert not Path("/proc", mark.read_text().strip()).exists()


def test_the_environment_is_a_new_one(tmp_path, monkeypatch):
    for name in ("BENCHBD_DATA", "PYTHONPATH", "SLURM_JOB_NAME", "WANTED", "LC_ALL"):
        monkeypatch.setenv(name, "C")
    variables = clean_variables(["WANTED"], {"MORE": "1"})
    assert {"WANTED", "LC_ALL", "MORE", "PATH"} <= variables.keys()
    assert not {"BENCHBD_DATA", "PYTHONPATH", "SLURM_JOB_NAME"} & variables.keys()
    code = "import os; print(sorted(os.environ))"
    said: list[str] = []
    run_program([sys.executable, "-c", code], tmp_path, {"PATH": "/bin", "ONE": "1"}, 60.0, said.append)
    assert set(eval(said[0])) <= {"PATH", "ONE", "LC_CTYPE", "PWD"}


def test_every_line_of_a_program_that_prints_fast_arrives(tmp_path):
    text = "import sys; sys.stdout.write('same\\n' * 300_000 + 'bar 1\\rbar 2\\r\\n' + 'caf\\xe9\\x1b[0m' + '\\nend')"
    heard: list[str] = []
    ended = run_program([sys.executable, "-c", text], tmp_path, {"PYTHONIOENCODING": "utf-8"}, 60, heard.append)
    lines = "\n".join(heard).split("\n")
    assert lines == ["same"] * 300_000 + ["bar 1", "bar 2", "café [0m", "end"]
    assert ended.code == 0
    assert list(ended.tail) == lines[-20:]
    assert len(heard) < 3000, "lines that come together are one call"
