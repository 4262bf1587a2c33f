"""The GPU benchmark runs to its end on a CPU, from a source tree that is not installed, with torch and little else."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
NOT_THERE = ("yaml", "safetensors", "tabulate", "matplotlib", "submitit", "ray", "hypothesis", "pytest_benchmark")
RUN = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({NOT_THERE!r}))
sys.argv = [{str(SCRIPT)!r}, "--device", "cpu", "--smoke"]
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""


@pytest.mark.timeout(900)  # about a minute on a machine that does nothing else
def test_the_gpu_benchmark_runs_on_a_cpu(tmp_path: Path) -> None:
    # Without site, an editable installation's finder is not there either.
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-S", "-c", RUN]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed: none" in done.stdout
    assert "nothing here was measured on a GPU" in done.stdout
    for word in ("TFLOP/s", "conventional loop", "compile + graph", "3 packed", "--jobs-per-gpu 2", "at 96"):
        assert word in done.stdout, word


def test_a_cpu_is_not_kept_busy_for_days_by_mistake() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--device", "cpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--smoke" in done.stderr
