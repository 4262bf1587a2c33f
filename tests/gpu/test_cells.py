"""Whole cells on a GPU: a process for each that is forked from a worker without CUDA, records, errors, shared GPUs."""

from __future__ import annotations

import pytest
import torch

from benchbd.api import run_matrix
from benchbd.storage.records import read_record

MATRIX = {
    "name": "cells",
    "seeds": [0],
    "recipe": {"epochs": 2, "batch_size": 32},
    "blocks": [
        {
            "dataset": "digits(train=200,test=100)",
            "model": "resnet18(width=2)",
            "attacks": ["bn-g"],
            "defenses": ["none", "fine-pruning", "lfd(teachers=1,teacher_epochs=1)"],
        }
    ],
}


@pytest.fixture
def run(machine, tmp_path):
    """A function that runs a matrix in workers and returns its records by defense."""

    def go(defenses=None, plugins=(), matrix=MATRIX, **settings):
        if defenses is not None:
            matrix = {**matrix, "blocks": [{**matrix["blocks"][0], "defenses": list(defenses)}]}
        frame = run_matrix(matrix, output=tmp_path, plugins=plugins, device=machine.type, **{"jobs": 1, **settings})
        found = [read_record(tmp_path, ident) for ident in frame["id"]]
        return {f"{record['defense']} {record['params']['defense'].get('how', '')}".strip(): record for record in found}

    return go


def test_forked_cells_compute_on_the_device(run, machine):
    """Each cell starts CUDA in a process of its own: the worker that forks it must not have."""
    records = run()
    assert {record["status"] for record in records.values()} == {"done"}, [r["error"] for r in records.values()]
    for record in records.values():
        assert record["peak_memory_bytes"] > 1 << 20
        assert record["env"]["precision"].startswith(machine.type)
    if machine.type == "cuda":
        assert {record["env"]["device"] for record in records.values()} == {torch.cuda.get_device_name(machine)}
        assert all(record["env"]["cuda"] == torch.version.cuda for record in records.values())


def test_what_breaks_the_device_costs_one_cell(run, zoo):
    path = zoo("device_endings")
    broken = [f"breaks-device(how='{how}')" for how in ("memory", "index")]
    records = run(["none", *broken, "fine-pruning"], plugins=[path])
    assert records["breaks-device memory"]["status"] == "oom"
    assert records["breaks-device index"]["status"] == "failed"
    assert [records[name]["status"] for name in ("none", "fine-pruning")] == ["done", "done"]


def test_two_cells_at_once_share_the_device(run, machine):
    records = run(["none", "fine-pruning"], jobs=2)
    assert {record["status"] for record in records.values()} == {"done"}
    if machine.type == "cuda":
        assert {record["env"].get("gpu_share") for record in records.values()} == {"2"}


def test_strict_cells_repeat_bit_for_bit(run, machine, tmp_path):
    """The same cell again in an empty folder: the same accuracies and the same stored weights."""
    precision = "strict" if machine.type == "cuda" else None
    first = run(["none"], precision=precision)["none"]
    matrix = {**MATRIX, "blocks": [{**MATRIX["blocks"][0], "defenses": ["none"]}]}
    frame = run_matrix(matrix, output=tmp_path / "again", device=machine.type, jobs=1, precision=precision)
    again = read_record(tmp_path / "again", frame["id"][0])
    assert [again[key] for key in ("ca", "asr", "ra")] == [first[key] for key in ("ca", "asr", "ra")]
    one, other = (_weights(folder) for folder in (tmp_path, tmp_path / "again"))
    assert one
    assert one == other


def _weights(output) -> dict[str, bytes]:
    found = (output / "store" / "model").rglob("*.safetensors")
    return {path.parent.name: path.read_bytes() for path in found}
