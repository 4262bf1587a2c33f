"""One small matrix of real trainings through every executor: the records are the same but for environment and time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MATRIX = """
name: same
seeds: [0]
recipe: {epochs: 1, batch_size: 256}
blocks:
  - dataset: digits
    model: lenet-s
    attacks: [none, bn-g]
    defenses: [none, fine-pruning]
"""
VOLATILE = ("env", "time", "peak_memory_bytes", "trainings_computed")


def run(folder: Path, executor: str, *words: str) -> dict[str, dict[str, Any]]:
    """Run the matrix in a process of its own; the records without what may differ."""
    matrix = folder / "same.yaml"
    matrix.write_text(MATRIX)
    command = [
        sys.executable,
        "-m",
        "benchbd",
        "run",
        str(matrix),
        "--output",
        str(folder / executor),
        "--device",
        "cpu",
    ]
    done = subprocess.run(
        [*command, "--executor", executor, "--display", "plain", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(path.read_text()) for path in (folder / executor / "records").glob("*.json")]
    return {r["id"]: {k: v for k, v in r.items() if k not in VOLATILE} for r in found}


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return run(tmp_path_factory.mktemp("inline"), "inline")


def test_local(inline: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    assert len(inline) == 4
    assert run(tmp_path, "local", "--jobs", "2") == inline


@pytest.mark.usefixtures("slurm")
def test_slurm(inline: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    assert run(tmp_path, "slurm", "--executor-config", "{poll: 1, timeout_min: 20}") == inline


def test_ray(inline: dict[str, dict[str, Any]], ray: Any, tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    assert run(tmp_path, "ray", "--executor-config", f"{{address: '{address}'}}") == inline


@pytest.mark.skipif("SLURM_CONF" in os.environ, reason="this machine has a Slurm of its own")
@pytest.mark.parametrize("executor", ["slurm", "ray"])
def test_what_is_missing_is_said_in_one_line(tmp_path: Path, executor: str) -> None:
    matrix = tmp_path / "same.yaml"
    matrix.write_text(MATRIX)
    # An import of the cluster library that fails is what a user without the extra sees.
    code = "import sys; sys.modules['submitit'] = sys.modules['ray'] = None; from benchbd.cli import main; "
    code += f"sys.exit(main(['run', {str(matrix)!r}, '--output', {str(tmp_path)!r}, '--executor', {executor!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"benchbd: --executor {executor} needs ")
    assert f"pip install 'benchbd[{executor}]'" in done.stderr
    assert done.stderr.count("\n") == 1
