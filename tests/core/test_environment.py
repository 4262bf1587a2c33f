"""What a record says of the checkout that measured it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchbd.core import environment

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
FILES = (
    "benchbd/core/environment.py",
    "attacks/patch.py",
    "datasets/digits.py",
    "matrices/mine.yaml",
    "leaderboard/README.md",
)


def git(folder: Path, *arguments: str) -> str:
    words = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com", "-C", str(folder), *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A committed checkout with a file of each kind, from which benchbd seems to run."""
    root = tmp_path / "checkout"
    for name in FILES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "all")
    monkeypatch.setattr(environment, "__file__", str(root / "benchbd" / "core" / "environment.py"))
    return root


def state() -> dict[str, Any]:
    return environment.git_state.__wrapped__()


def test_a_committed_checkout_is_clean(checkout):
    assert state() == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}


@pytest.mark.parametrize("name", FILES[:4])
def test_an_uncommitted_change_of_code_or_a_matrix_is_recorded(checkout, name):
    (checkout / name).write_text("2\n")
    assert state()["dirty"] is True
    git(checkout, "commit", "-q", "-a", "-m", "change")
    assert state()["dirty"] is False


@pytest.mark.parametrize("name", ["defenses/cautious.py", "attacks/_helper.py", "matrices/new.yaml"])
@pytest.mark.parametrize("ignored", [False, True])
def test_a_plugin_or_matrix_that_no_commit_has_is_recorded(checkout, name, ignored):
    path = checkout / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("1\n")
    if ignored:
        (checkout / ".git" / "info" / "exclude").write_text(f"{name}\n")
    assert state()["dirty"] is True
    git(checkout, "add", "-f", name)
    git(checkout, "commit", "-q", "-m", "new")
    assert state()["dirty"] is False


def test_records_written_into_the_checkout_leave_it_clean(checkout):
    (checkout / "leaderboard" / "README.md").write_text("2\n")
    (checkout / "benchbd" / "notes.txt").write_text("not part of the checkout\n")
    (checkout / "benchmarks").mkdir()
    (checkout / "benchmarks" / "mine.py").write_text("no plugin\n")
    assert state()["dirty"] is False


def test_a_package_inside_another_checkout_has_no_commit(checkout, monkeypatch):
    inside = checkout / "site" / "benchbd" / "core" / "environment.py"
    monkeypatch.setattr(environment, "__file__", str(inside))
    inside.parent.mkdir(parents=True)
    assert state() == {"commit": None, "dirty": None}
