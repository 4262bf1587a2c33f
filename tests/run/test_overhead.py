"""What the harness itself costs, in processor time: other work on the machine is no fault of the runner's."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchbd.plan.cell import Cell
from benchbd.run import Outcome
from benchbd.storage import records


def spent() -> float:
    """Seconds of processor time of this process and of those it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def finish(output: Path, cells: list[Cell]) -> None:
    """Records as a run leaves them, written without syncing each."""
    (output / "records").mkdir(parents=True)
    for cell in cells:
        record = {**records.blank(cell, "done"), "ca": 0.9, "asr": 0.1}
        records.record_path(output, cell.id).write_text(json.dumps(record))


def test_a_run_with_nothing_left_to_do_of_a_thousand_cells(
    fakes: ModuleType, go: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Under 2 seconds, the best of three, and nothing is started."""
    cells = [fakes.cell(n=n, attack=f"a{n % 7}", seed=n % 5) for n in range(1000)]
    finish(tmp_path, cells)
    best = 9.0
    for _ in range(3):
        began = spent()
        outcome = go(cells)
        best = min(best, spent() - began)
    assert (outcome.exit_code, outcome.ran) == (0, [])
    assert best < 2.0
    assert not (tmp_path / "trace").exists()


def test_overhead_of_a_cell_once_its_worker_is_warm(
    fakes: ModuleType, go: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Under 50 ms from the end of one cell to the start of the next, and of processor time, start-up left out."""
    costs = []
    for number, count in enumerate((1, 41)):
        output = tmp_path / str(number)
        began = spent()
        assert go([fakes.cell(n=n) for n in range(count)], jobs=1, output=output).exit_code == 0
        costs.append(spent() - began)
    rows = fakes.read_trace(tmp_path / "1")
    gaps = [later[0] - row[0] for row, later in itertools.pairwise(rows) if row[1] == "end"]
    assert len(gaps) == 40
    # A gap is wall-clock: on a busy machine, only the shortest is the runner's own doing.
    assert min(gaps) < 0.05
    assert (costs[1] - costs[0]) / 40 < 0.05


MEMORY = """
import sys, torch
from benchbd.core import allocator
from benchbd.core.images import Normalisation
from benchbd.core.recipe import Recipe
from benchbd.engine import build, choose_precision, fit, losses_of
from benchbd.plugins import registry
torch.set_num_threads(1)
images = torch.randint(0, 256, (50_000, 3, 32, 32), dtype=torch.uint8)
poisoned, labels = images.clone(), torch.randint(0, 10, (50_000,))
net = build(registry.make("models", sys.argv[1]), 10, 32, Normalisation((0.5,) * 3, (0.2,) * 3), 0)
net.initialise_from(poisoned)
recipe, cpu = Recipe.parse({"preset": sys.argv[2], "epochs": 2}), torch.device("cpu")
few = recipe.batch_size
fit(net, poisoned[:few], labels[:few], recipe, device=cpu, precision=choose_precision(cpu, "fp32"), seed=0)
losses_of(net, poisoned[:256], labels[:256], device=cpu)
print(allocator.peak() // 1024)  # ru_maxrss would begin at the size of the process that started this one
"""


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("model", "preset", "bound"), [("resnet18", "paper", 1.5e9), ("airbench", "fast", 1.2e9)], ids=["resnet18", "fast"]
)
def test_peak_memory_of_a_cifar10_worker(model: str, preset: str, bound: float) -> None:
    """A model and its recipe beside the clean and the poisoned training set. Two steps are like all.

    The libraries of a CUDA build of torch weigh some 0.4 GB more, also where there is no GPU.
    """
    from benchbd.core.allocator import KEEP_MEMORY

    environment = {**os.environ, **{name: str(size) for name, size in KEEP_MEMORY.items()}, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEMORY, model, preset]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    bound += 0.0 if torch.version.cuda is None else 0.5e9
    assert int(done.stdout) * 1024 < bound, f"{int(done.stdout) / 1024:.0f} MiB"
