"""Ctrl-C while the command still imports ends it as later Ctrl-C does; programs that import benchbd get their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchbd.core import early_interrupt

HOOK = """
import os, signal, sys
handler, moment, names = os.environ["SIGINT_HANDLER"], os.environ["MOMENT"], []
# A shell starts what ends in & with SIGINT ignored; the tests may run there.
signal.signal(signal.SIGINT, getattr(signal, handler))
def hook(event, arguments):
    if event == "import":
        names.append(arguments[0])
        if names.count(moment) == 1 and names[-1] == moment:
            signal.raise_signal(signal.SIGINT)
sys.addaudithook(hook)
if moment == "never":
    import atexit
    atexit.register(lambda: sys.stderr.write(" ".join(names)))
"""
"""Sends SIGINT when a module is about to be imported, which no clock could time."""
SCRIPT = """
import re
import sys
from benchbd.cli import main
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])
    sys.exit(main())
"""
"""What pip installs as ``benchbd``."""
LIBRARY = """
try:
    import benchbd
except KeyboardInterrupt:
    print("mine")
"""
GUARD, LAST = "benchbd.core.early_interrupt", "benchbd.cli.common"


@pytest.fixture
def start(tmp_path: Path):
    """A function that starts Python with SIGINT at a moment: exit code, standard output and standard error."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HOOK)
    (tmp_path / "benchbd").write_text(SCRIPT)
    (tmp_path / "study").write_text(LIBRARY)

    def run(*words: str, moment: str, handler: str = "default_int_handler") -> tuple[int, str, str]:
        path = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "MOMENT": moment, "SIGINT_HANDLER": handler}
        given = [sys.executable, *(str(tmp_path / word) if word in ("benchbd", "study") else word for word in words)]
        if "-m" in words:
            given = [sys.executable, *words]
        done = subprocess.run(given, capture_output=True, text=True, cwd=tmp_path / "site", env=environment, timeout=60)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.parametrize("words", [("benchbd", "version"), ("-m", "benchbd", "version")], ids=" ".join)
def test_ctrl_c_while_the_command_imports_is_one_line_and_130(start, words):
    code, _, names = start(*words, moment="never")
    assert code == 0
    moments = names.split()
    moments = moments[moments.index(GUARD) + 1 : moments.index(LAST) + 1]
    assert len(moments) > 20
    for moment in (*moments[1 :: len(moments) // 6], LAST):
        assert (moment, *start(*words, moment=moment)) == (moment, 130, "", "benchbd: interrupted\n")


def test_nothing_of_benchbd_is_imported_before_the_guard(start):
    names = start("benchbd", "version", moment="never")[2].split()
    before = [name for name in names[: names.index(GUARD)] if name.startswith("benchbd")]
    assert before == ["benchbd.cli", "benchbd"]


@pytest.mark.parametrize("words", [("benchbd", "version"), ("-m", "benchbd", "version")], ids=" ".join)
def test_an_ignored_ctrl_c_stays_ignored(start, words):
    code, output, errors = start(*words, moment="benchbd.core.recipe", handler="SIG_IGN")
    assert (code, errors) == (0, "")
    assert output.startswith("benchbd")


def test_a_program_that_imports_benchbd_gets_its_interrupt(start):
    assert start("study", moment="benchbd.core.recipe") == (0, "mine\n", "")


@pytest.mark.parametrize(
    ("argv", "orig_argv", "expected"),
    [
        (["/usr/bin/benchbd", "run"], ["python", "/usr/bin/benchbd", "run"], True),
        (["C:\\env\\Scripts\\benchbd.exe"], ["python", "C:\\env\\Scripts\\benchbd.exe"], True),
        (["-m", "run", "x"], ["python", "-X", "dev", "-m", "benchbd", "run", "x"], True),
        (["-m"], ["python", "-Im", "benchbd"], True),
        (["-m", "run"], ["python", "-mbenchbd", "run"], True),
        (["-m", "benchbd"], ["python", "-m", "pytest", "benchbd"], False),
        (["-m"], ["python", "-m", "benchbd.run.workers.worker"], False),
        (["study.py", "benchbd"], ["python", "study.py", "benchbd"], False),
        (["-c"], ["python", "-c", "import benchbd"], False),
        ([""], ["python"], False),
        ([], [], False),
    ],
)
def test_the_command_is_told_from_other_programs(argv, orig_argv, expected):
    assert early_interrupt.is_command(argv, orig_argv) is expected


def test_a_handler_of_somebody_else_stays():
    def mine(number, frame):
        pass

    before = signal.signal(signal.SIGINT, mine)
    try:
        early_interrupt.hand_over()
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)
