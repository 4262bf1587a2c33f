"""A package of somebody else, built and installed with pip: its four plugins are known, checked, and run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "example_package"
PLUGINS = {"attacks": "example-frame", "datasets": "example-bars", "defenses": "example-trim", "models": "example-net"}
MATRIX = """\
name: example
recipe: {epochs: 1, batch_size: 32, augment: []}
dataset: example-bars
model: example-net
attacks: [none, example-frame]
defenses: [none, example-trim]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip put it; built from a copy, since building leaves files in the tree it builds from."""
    source, target = tmp_path_factory.mktemp("source") / "package", tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    words = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    command = [sys.executable, "-m", "pip", *words, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def told(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What a command says where the package is installed."""
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchbd", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_its_plugins_are_listed_beside_our_own(site, tmp_path):
    rows = {(row["kind"], row["name"]): row for row in json.loads(told(site, tmp_path, "list", "--json").stdout)}
    for kind, name in PLUGINS.items():
        row = rows[kind, name]
        assert row["status"] == "ok"
        assert row["summary"]
        assert "package benchbd-example" in row["origin"]


@pytest.mark.parametrize("name", PLUGINS.values())
def test_each_keeps_its_promises(site, tmp_path, name):
    done = told(site, tmp_path, "check", name)
    assert (done.returncode, done.stderr) == (0, "")
    assert "package benchbd-example" in done.stdout
    assert "checks" in done.stdout


def test_a_matrix_of_them_runs_in_worker_processes(site, tmp_path):
    (tmp_path / "example.yaml").write_text(MATRIX)
    done = told(site, tmp_path, "run", "example.yaml", "--jobs", "1", "--device", "cpu", "--display", "none")
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "benchbd-out" / "records").glob("[0-9a-f]*.json")]
    found = {(r["attack"], r["defense"]): r["status"] for r in records}
    attacks, defenses = ("none", "example-frame"), ("none", "example-trim")
    assert found == {(attack, defense): "done" for attack in attacks for defense in defenses}
    assert "example-trim" in done.stdout
