"""A process for each cell costs less than 50 ms of processor time more than a process for all cells."""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import pytest

from benchbd.pipeline.run_cell import execute
from benchbd.plan import matrix
from benchbd.run.executor import Job
from benchbd.run.settings import RunSettings
from benchbd.run.workers.local import LocalExecutor
from benchbd.run.workers.slots import Slot

MATRIX = """
name: cells
seeds: [0, 1, 2, 3, 4, 5]
recipe: {epochs: 1, batch_size: 64, augment: []}
dataset: {digits: {train: 200, test: 100}}
model: lenet-s
attacks: [bn-g]
defenses: [none]
"""
LIMIT = 0.05
"""Seconds of processor time a cell."""


def _spent(pid: int) -> float:
    """Seconds of processor time of a process and of the children that it has waited for."""
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("model", ["lenet-s", "resnet-s"])
def test_cost_of_a_process_for_each_cell(benchmark, tmp_path, one_thread, model):
    """As workers did before: cells one after another in this process, between cells that workers fork."""
    pytest.importorskip("pytest_benchmark")
    path = tmp_path / "m.yaml"
    path.write_text(MATRIX.replace("lenet-s", model))
    cells = matrix.load(str(path)).cells
    settings = RunSettings(output=tmp_path / "forked", device="cpu")
    ready: list[int] = []
    local = LocalExecutor([Slot(0, None, 1, 1)], settings, lambda cell_id, event: None)
    forked, here = [], []

    def run(cell) -> None:
        local.start(Job(cell.id, cell.label, cell.to_json()))
        while not local.poll(0.1):
            pass

    def both() -> None:
        for cell in cells[1:]:
            began = _spent(ready[0])
            run(cell)
            forked.append(_spent(ready[0]) - began)
            began = _spent(os.getpid())
            execute(cell.to_json(), output=tmp_path / "here", device="cpu")
            here.append(_spent(os.getpid()) - began)

    try:
        run(cells[0])
        guard = local._workers[0].process.pid
        ready += [int(p.name) for p in Path("/proc").glob("[0-9]*") if _parent(int(p.name)) == guard]
        execute(cells[0].to_json(), output=tmp_path / "here", device="cpu")
        benchmark.pedantic(both, rounds=1, iterations=1)
    finally:
        local.close()
    cost = statistics.median(forked) - statistics.median(here)
    benchmark.extra_info |= {"forked": statistics.median(forked), "in one process": statistics.median(here)}
    assert cost < LIMIT


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
