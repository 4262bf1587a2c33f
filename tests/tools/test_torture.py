"""The short version of ``make torture``: twenty faults on real trainings, nothing lost."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(1500)
def test_twenty_faults_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("needs /proc to find a run's workers")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools")
    import torture

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    counts = torture.torture(tmp_path, faults=20)
    sys.stdout.write(f"{counts}\n")
    assert counts["faults"] >= 20
    unmountable = {"disk filled"} if "disk filled" not in counts and os.geteuid() else set()
    assert torture.FAULTS.keys() - unmountable <= counts.keys(), "every kind of fault happened"
    assert counts["records compared"] >= counts["cells"] == 16
