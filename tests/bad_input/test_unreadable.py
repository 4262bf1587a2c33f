"""Files and folders that may not be read or written: one line each, exit code 2; tried without root's privileges."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from good_matrix import GOOD, block

DRIVER = """
import contextlib, io, json, sys
from benchbd.cli import main

told = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    told.append([code, out.getvalue(), err.getvalue()])
json.dump(told, sys.stdout)
"""


PROBE = """
import benchbd.cli, os, sys

try:
    os.listdir(sys.argv[1])
except PermissionError:
    sys.exit(42)
"""


Unprivileged = Callable[..., list[tuple[int, str, str]]]


@pytest.fixture(scope="session")
def without_privileges() -> tuple[list[str], dict[str, Any]]:
    """Words before a command and options of subprocess.run, with which it can't read what its modes forbid.

    To root every folder is open. setpriv takes the two capabilities away that open them; another user has none.
    """
    setpriv = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    other = {"user": 65534, "group": 65534, "extra_groups": []}
    ways: list[tuple[list[str], dict[str, Any]]] = [([], {})]
    if os.geteuid() == 0:
        ways = [(setpriv, {}), ([], other)] if shutil.which("setpriv") else [([], other)]
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        (Path(place) / "closed").mkdir(mode=0)
        for words, options in ways:
            command = [*words, sys.executable, "-c", PROBE, str(Path(place) / "closed")]
            try:
                found = subprocess.run(command, capture_output=True, check=False, cwd=place, **options).returncode
            except OSError:
                continue
            if found == 42:
                return words, options
    pytest.skip("no way to run a command without root's privileges: setpriv and other users both fail here")


@pytest.fixture
def unprivileged(without_privileges: tuple[list[str], dict[str, Any]], place: Path) -> Unprivileged:
    """Run commands one after the other where modes count; return exit code, standard output and error of each."""
    before, options = without_privileges

    def run(*commands: Sequence[str], env: dict[str, str] | None = None) -> list[tuple[int, str, str]]:
        there = sorted(place.rglob("*"))
        done = subprocess.run(
            [*before, sys.executable, "-c", DRIVER],
            input=json.dumps([list(words) for words in commands]),
            capture_output=True,
            text=True,
            check=True,
            cwd=place,
            env={**{k: v for k, v in os.environ.items() if k != "BENCHBD_DATA"}, **(env or {})},
            **options,
        )
        assert sorted(place.rglob("*")) == there, "something was written"
        return [(code, out, err) for code, out, err in json.loads(done.stdout)]

    return run


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="benchbd-test-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        (folder / "good.yaml").write_text(GOOD)
        yield folder
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


def one_refusal(told: tuple[int, str, str]) -> str:
    code, out, err = told
    assert (code, out) == (2, ""), err
    assert err.startswith("benchbd: ")
    assert err.count("\n") == 1
    return err.removeprefix("benchbd: ").rstrip("\n")


def closed(path: Path) -> Path:
    path.chmod(0)
    return path


def test_an_unreadable_data_folder(unprivileged: Unprivileged, place: Path) -> None:
    folder = place / "closed"
    folder.mkdir(mode=0)
    ways = [[verb, "good.yaml", "--data", data] for verb in ("plan", "run") for data in ("closed", str(folder))]
    for words, told in zip(ways, unprivileged(*ways), strict=True):
        named = words[-1] if words[0] == "plan" else folder  # workers may have another working folder
        assert one_refusal(told) == f"data folder '{named}': not readable; check its permissions"
    (told,) = unprivileged(["plan", "good.yaml"], env={"BENCHBD_DATA": str(folder)})
    assert one_refusal(told) == f"data folder '{folder}': not readable; check its permissions"


CIFAR = ("cifar-10-batches-py", *(f"cifar-10-batches-py/data_batch_{n}" for n in range(1, 6)))


CIFAR_FILES = (*CIFAR[1:], "cifar-10-batches-py/test_batch", "cifar-10-batches-py/batches.meta")


SIGNS = "gtsrb/GTSRB/Final_Training/Images"


@pytest.mark.parametrize(
    ("data", "locked", "told"),
    [
        ("cifar10", "cifar-10-batches-py", "cifar10: {data}/cifar-10-batches-py/data_batch_1 cannot be read"),
        ("cifar10", "cifar-10-batches-py/test_batch", "cifar10: {data}/cifar-10-batches-py/test_batch cannot be read"),
        ("gtsrb", "gtsrb", "data folder {data} cannot be read"),
        ("gtsrb", "gtsrb/GTSRB", "gtsrb: {data}/" + SIGNS + " cannot be read"),
        ("gtsrb", SIGNS, "gtsrb: {data}/" + SIGNS + " cannot be read"),
        ("gtsrb", "gtsrb/GT-final_test.csv", "gtsrb: {data}/gtsrb/GT-final_test.csv cannot be read"),
    ],
    ids=lambda value: value.replace("/", "-") if "{" not in value else "",
)
def test_unreadable_data(unprivileged: Unprivileged, place: Path, data: str, locked: str, told: str) -> None:
    root = place / "data"
    for name in (*CIFAR_FILES, "gtsrb/GT-final_test.csv"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    (root / SIGNS).mkdir(parents=True)
    closed(root / locked)
    (place / "with.yaml").write_text(block(dataset=data))
    words = ["with.yaml", "--data", str(root)]
    ran, planned = unprivileged(["run", *words, "--display", "none"], ["plan", *words])
    line = told.format(data=root) + ": Permission denied; check its permissions"
    assert one_refusal(ran) == line
    code, out, err = planned
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"data: {line}"


@pytest.mark.parametrize("locked", ["out", "out/records", "out/logs", "out/store", "out/running", "behind"])
def test_an_unreadable_output_folder(unprivileged: Unprivileged, place: Path, locked: str) -> None:
    output = "behind/out" if locked == "behind" else "out"
    (place / locked).mkdir(parents=True)
    closed(place / locked)
    commands = [
        *([verb, "good.yaml"] for verb in ("plan", "status", "validate", "run")),
        *([verb, "abc"] for verb in ("show", "logs", "rerun")),
        *(["leaderboard"], ["leaderboard", "good.yaml"], ["clean", "-y"], ["export", "all.jsonl"]),
    ]
    for told in unprivileged(*([*words, "--output", output] for words in commands)):
        where = output if locked == "behind" else locked
        assert one_refusal(told) == f"--output '{where}': cannot be read (Permission denied); check its permissions"


def test_an_output_folder_that_cannot_be_written(unprivileged: Unprivileged, place: Path) -> None:
    (place / "out").mkdir(mode=0o555)
    (told,) = unprivileged(["run", "good.yaml", "--output", "out"])
    advice = "check its permissions and the disk, or name another folder"
    assert one_refusal(told) == f"--output 'out': cannot be written (Permission denied); {advice}"


def test_other_files_that_cannot_be_read(unprivileged: Unprivileged, place: Path) -> None:
    log = place / "out" / "logs" / f"{'a' * 16}.log"
    log.parent.mkdir(parents=True)
    log.write_text("== label")
    for path in (log, place / "mine.py", place / "closed.yaml"):
        path.touch()
        closed(path)
    commands = [
        ["logs", "aaaa", "--output", "out"],
        ["plan", "closed.yaml"],
        ["plan", "good.yaml", "--plugin", "mine.py"],
    ]
    for told, name in zip(unprivileged(*commands), (log.name, "closed.yaml", "mine.py"), strict=True):
        assert re.search(rf"{re.escape(name)}.*Permission denied", one_refusal(told))


def test_a_folder_behind_a_closed_one(
    refused: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.stat

    def stat(self: Path, **options: Any) -> os.stat_result:
        if "behind" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, **options)

    monkeypatch.setattr(Path, "stat", stat)
    for words in (["--data", "behind/x"], ["--output", "behind/x"], ["--plugin", "behind/x.py"]):
        assert "cannot be read (Permission denied)" in refused("validate", "good.yaml", *words)
    assert "cannot be read (Permission denied)" in refused("validate", "behind/x.yaml")
