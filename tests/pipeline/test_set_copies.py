"""How many copies of its sets a cell holds, in bytes of the training set: machine and libraries do not matter."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from benchbd import testing
from benchbd.core.allocator import KEEP_MEMORY
from benchbd.core.hashing import sha_of
from benchbd.pipeline import evaluate
from benchbd.pipeline.poison import Poisoner
from benchbd.pipeline.run_cell import execute
from benchbd.plugins import registry
from benchbd.plugins.train_set import TrainSet
from benchbd.storage.artifacts import Store

ZOO = Path(__file__).parents[1] / "zoo" / "sets.py"
COPIES = 1.6
"""Training sets that a cell may hold at once, with copies of its poisoned images and all that grows with the set."""

CELL = """
import sys
import numpy as np, torch
torch.set_num_threads(1)
from benchbd import testing
from benchbd.core import allocator
from benchbd.core.images import Images
from benchbd.datasets.digits import Digits
from benchbd.pipeline import run_cell
from benchbd.plugins import registry
registry.add_plugin_file(sys.argv[1])
sets = int(sys.argv[2])
def few(self, split, root):  # a built-in data set whose images are made in every call
    count = sets if split == "train" else 200
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return Images(torch.from_numpy(images), torch.from_numpy(np.arange(count) % 10))
def run(where, count):
    global sets
    sets = count
    cell = testing.cell(dataset="digits", attack="bn-g(rate=0.05)", defense="suspicious", epochs=1)
    record = run_cell.execute(cell.to_json(), output=where / str(count), device="cpu")
    assert record["status"] == "done" and record["detection"], record["error"]
    return record["peak_memory_bytes"]
Digits.load = few
from pathlib import Path
where, count = Path(sys.argv[3]), sets
print(run(where, 1000), run(where, count))
"""


def test_a_cell_takes_one_copy_of_its_training_set(tmp_path: Path) -> None:
    """Not a second one while it is poisoned, nor two more while findings are judged, which made 3.2 in all."""
    count = 40_000
    environment = {**os.environ, **{name: str(size) for name, size in KEEP_MEMORY.items()}, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CELL, str(ZOO), str(count), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    small, large = map(int, done.stdout.split())
    taken = (large - small) / (count * 3 * 32 * 32)
    assert taken < COPIES, f"{taken:.2f} training sets"


@pytest.mark.parametrize("defense", ["none", "fine-pruning"])
def test_no_training_set_is_left_when_test_images_are_measured(tmp_path, monkeypatch, defense):
    """Neither the poisoned set nor the clean part nor the clean set."""
    import gc

    seen = []

    def measured(*args, **given):
        gc.collect()
        seen.append([thing for thing in gc.get_objects() if isinstance(thing, TrainSet)])
        return accuracy(*args, **given)

    accuracy = evaluate.accuracy
    monkeypatch.setattr(evaluate, "accuracy", measured)
    cell = testing.cell(dataset="digits(train=500)", attack="bn-g(rate=0.1)", defense=defense, epochs=1)
    record = execute(cell.to_json(), output=tmp_path, device="cpu")
    assert record["status"] == "done", record["error"]
    assert seen == [[]]


def test_a_users_data_set_may_keep_its_images(tmp_path, zoo):
    """Its memory is not the harness's to write in: a second cell, and a second reading, get the same images."""
    zoo("sets")
    cell = testing.cell(dataset="kept", attack="tiny-patch", defense="none")
    poisoner = Poisoner(cell, cell.components(), Store(tmp_path / "s"), torch.device("cpu"), lambda event: None, None)
    assert not poisoner.owns_images
    records = [execute(cell.to_json(), output=tmp_path / str(n), device="cpu") for n in range(2)]
    assert [record["status"] for record in records] == ["done", "done"], records[0]["error"]
    assert records[0]["artifacts"] == records[1]["artifacts"]


def test_images_of_built_in_data_sets_and_attacks_are_overwritten_and_of_no_others(tmp_path, zoo):
    zoo("sets")
    for dataset, attack, own in (
        ("digits", "bn-g", True),
        ("digits", "lfd-adaptive", True),
        ("digits", "lfd-adaptive(of='heeded')", False),
        ("digits", "tiny-patch", False),
        ("tiny", "bn-g", False),
        ("kept", "tiny-patch", False),
    ):
        cell = testing.cell(dataset=dataset, attack=attack)
        poisoner = Poisoner(cell, cell.components(), Store(tmp_path), torch.device("cpu"), lambda event: None, None)
        assert poisoner.owns_images is own, (dataset, attack)


@pytest.mark.parametrize("spec", ["digits(train=50,test=20)", "cifar10", "imagenette(train=20,test=10)"])
def test_a_built_in_data_set_gives_new_memory_in_every_call(spec):
    """So the harness may write into it: the next call gives the images of the files."""
    dataset, root = registry.make("datasets", spec), os.environ.get("BENCHBD_DATA")
    if spec != "digits(train=50,test=20)" and (root is None or dataset.missing(root)):
        pytest.skip(f"{spec} is not in BENCHBD_DATA")
    for split in ("train", "test"):
        first = dataset.load(split, root).images
        before = first.clone()
        first.bitwise_not_()
        assert torch.equal(dataset.load(split, root).images, before)


def test_a_hash_takes_no_copy_of_a_set():
    images = np.zeros((1000, 3, 32, 32), np.uint8)
    sha_of(images)
    tracemalloc.start()
    try:
        sha_of(images)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < images.nbytes / 10
