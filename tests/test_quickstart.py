"""What ``make quickstart`` shows must be true: its undefended models are backdoored, and a leaderboard is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.learning
@pytest.mark.timeout(1200)
def test_the_undefended_models_of_quickstart_are_backdoored(tmp_path: Path) -> None:
    words = ["run", "quickstart", "--filter", "defense=none,attack!=none", "--output", "out", "--jobs", "1"]
    told = subprocess.run(
        [sys.executable, "-m", "benchbd", *words, "--device", "cpu", "--display", "plain"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    found = [json.loads(path.read_text()) for path in sorted((tmp_path / "out" / "records").glob("[0-9a-f]*.json"))]
    assert sorted((r["attack"], r["seed"]) for r in found) == [("blend", 0), ("blend", 1), ("bn-g", 0), ("bn-g", 1)]
    assert {(r["attack"], r["seed"]): r["asr"] for r in found if not r["asr"] > 0.95} == {}
    assert min(r["ca"] for r in found) > 0.9
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "bn-g" in text
    assert "leaderboard: " in told.stdout
    assert "leaderboard.md" in told.stdout.splitlines()[-1]
