"""`benchbd env --check`: what the probe finds, times that a measured rate backs, no time where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchbd.cli import main
from benchbd.cli.env import check_lines
from benchbd.core.operations import Operations
from benchbd.plan.matrix import load
from benchbd.plan.work import work_of
from benchbd.run import machine_check, machine_probe
from benchbd.run.machine_check import USUAL, check_machine, usual_cells

OPERATIONS, SECONDS_PER_IMAGE = Operations(3e6, 1e6), 1e-3
CPU = [
    {"what": "torch", "device": "", "value": {"version": "2.13.0+cpu", "cuda": None, "gpus": 0}},
    {"what": "class", "device": "cpu", "value": {"auto": "cpu-bf16", "fp32": "cpu-fp32"}},
    {"what": "product", "device": "cpu", "value": {"precision": "fp32", "side": 512, "operations_per_second": 3e10}},
    {"what": "product", "device": "cpu", "value": {"precision": "bf16", "error": "not here"}},
]
STEP = {"precision": "bf16", "model": "resnet18", "images_per_second": 30_000.0, "operations_per_second": 1e14}
GPU = [
    {"what": "torch", "device": "", "value": {"version": "2.13.0", "cuda": "13.0", "gpus": 1}},
    {"what": "gpu", "device": "cuda:0", "value": {"name": "X100", "free_bytes": 70 << 30, "total_bytes": 80 << 30}},
    {"what": "class", "device": "cuda:0", "value": {"auto": "cuda-bf16", "fp32": "cuda-fp32"}},
    {"what": "class", "device": "cpu", "value": {"auto": "cpu-fp32", "fp32": "cpu-fp32"}},
    {"what": "graph", "device": "cuda:0", "value": None},
    {"what": "step", "device": "cuda:0", "value": STEP},
]


class Answers:
    """Stands in for the measuring process; notes what it is asked and how long it may take."""

    def __init__(self, known: tuple[str, ...] = ("operations", "rate"), loops: bool = True) -> None:
        self.known, self.loops, self.asked, self.limits = known, loops, [], []

    def __call__(self, kind: str, requests: list[dict[str, Any]], limit: float) -> list[Any]:
        self.asked += requests
        self.limits.append(limit)
        values = {"operations": list(OPERATIONS), "rate": SECONDS_PER_IMAGE}
        return [
            values[r["what"]] if r["what"] in self.known and (self.loops or not r.get("loop")) else None
            for r in requests
        ]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCHBD_DATA", raising=False)


def test_times_are_operations_by_measured_rates(tmp_path: Path) -> None:
    """By hand: with one rate for all models, work is the number of images; a forward pass is a third of a step."""
    found = check_machine(tmp_path, lambda seconds: CPU, Answers())
    pieces = {}
    for _, work in work_of(load("quickstart").cells):
        for piece in (*work.attack, *work.defense):
            pieces[piece.key] = piece.work
        pieces[work.evaluation.key] = work.evaluation.work
    images = sum(work.images + work.forward / 3 for work in pieces.values())
    run = found["runs"]["quickstart"]
    assert run["core_seconds"] == pytest.approx(images * SECONDS_PER_IMAGE)
    assert run["seconds"] >= run["core_seconds"] / found["jobs"] * (1 - 1e-12), "up to the order of sums"
    assert run["within"] == 2.0
    assert run["unknown"] == {}
    assert found["runs"]["cifar10-fast"]["unknown"] == {}
    assert list(found["runs"]) == list(USUAL)


def test_loops_of_unknown_speed_are_counted(tmp_path: Path) -> None:
    found = check_machine(tmp_path, lambda seconds: CPU, Answers(loops=False))
    assert sum(found["runs"]["cifar10-fast"]["unknown"].values()) == 3, "dp-sgd's on three attacks"
    assert found["runs"]["quickstart"]["unknown"] == {}


def test_a_run_without_a_rate_has_no_time(tmp_path: Path) -> None:
    found = check_machine(tmp_path, lambda seconds: CPU, Answers(known=("operations",)))
    assert [run["seconds"] for run in found["runs"].values()] == [None] * 3
    text = "\n".join(check_lines(found))
    assert text.count("unknown  no rate of its models was measured in time") == 3


def test_nothing_is_asked_twice_or_when_the_time_is_over(tmp_path: Path) -> None:
    answers = Answers()
    check_machine(tmp_path, lambda seconds: CPU, answers)
    told = [json.dumps(request, sort_keys=True) for request in answers.asked]
    assert len(set(told)) == len(told)
    assert all(limit <= machine_check.SECONDS for limit in answers.limits)
    assert not any(request["what"] == "class" for request in answers.asked), "the probe has told"
    late = Answers()
    found = check_machine(tmp_path / "other", lambda seconds: CPU, late, seconds=1.0)
    assert late.asked == []
    assert found["devices"]["cpu"]["class"] == "cpu-bf16"


def test_the_row_of_table2_is_one_row(tmp_path: Path) -> None:
    cells = usual_cells()["row of table2"]
    assert {(cell.dataset.text, cell.attack.text, cell.seed) for cell in cells} == {("cifar10", "bn-g", 0)}
    assert len(cells) == 7


def test_the_text_names_devices_rates_and_how_sure(tmp_path: Path) -> None:
    text = "\n".join(check_lines(check_machine(tmp_path, lambda seconds: CPU, Answers(loops=False))))
    assert "no GPU: torch 2.13.0+cpu is a build for CPUs" in text
    assert "not used without a GPU" in text
    assert "fp32  30 GFLOP/s" in text
    assert "bf16  none: not here" in text
    assert "within a factor of 2.0 (100% from rates measured here)" in text
    assert "cifar10-fast   more than" in text
    assert "trainings of unknown cost" in text
    found = {**check_machine(tmp_path, lambda seconds: CPU, Answers()), **machine_check._devices(GPU)}
    text = "\n".join(check_lines(found))
    assert "cuda:0  X100, 70.0 GiB of 80.0 GiB free" in text
    assert "precision class cuda-bf16" in text
    assert "capture works on cuda:0" in text
    assert "30,000 images/s, 1e+05 GFLOP/s" in text
    GPU_BROKEN = [{**fact, "value": "no"} if fact["what"] == "graph" else fact for fact in GPU]
    text = "\n".join(check_lines({**found, **machine_check._devices(GPU_BROKEN)}))
    assert "capture fails on cuda:0, trainings will run without: no" in text
    assert text.count("not measured in time") == 3, "one of the four rates is there"
    assert "did not answer in time" in "\n".join(check_lines({**found, **machine_check._devices([])}))


def test_the_probe_finds_the_devices_of_this_machine() -> None:
    """The real process, on sizes that take little."""
    small = "import benchbd.run.machine_probe as p; p.PRODUCT['cpu'] = 32; p.PRODUCT_SECONDS = 0.01; p.main()"
    command = [sys.executable, "-c", f"import sys; sys.argv = ['probe', '0.01']; {small}"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    facts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [fact["what"] for fact in facts] == ["torch", "class", "product", "product", "step", "step"]
    assert facts[1]["value"]["fp32"] == "cpu-fp32"
    for fact in facts[2:]:
        assert fact["value"]["operations_per_second"] > 0
        assert fact["value"]["precision"] in ("fp32", "bf16")
    assert facts[4]["value"]["class"] == facts[1]["value"]["auto"], "the class of trainings comes first"


def test_the_probe_finds_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from pretended_gpu import MEMORY, NAME, pretended_gpu

    small = {"PRODUCT": {"cuda": 16}, "STUDENT": {"cuda": ("resnet-s", "paper")}, "PRODUCT_SECONDS": 0.01, "SIZE": 8}
    for name, value in small.items():
        monkeypatch.setattr(machine_probe, name, value)
    with pretended_gpu(monkeypatch) as gpu:
        facts = [(fact.what, fact.device, fact.value) for fact in machine_probe.facts(0.01)]
    assert [what for what, *_ in facts] == [
        "torch",
        "gpu",
        "class",
        "class",
        *["graph", "product", "product"],
        *["step"] * 2,
    ]
    assert facts[1] == ("gpu", "cuda:0", {"name": NAME, "free_bytes": MEMORY, "total_bytes": MEMORY})
    assert facts[2][2] == {"auto": "cuda-fp32", "fp32": "cuda-fp32"}
    assert facts[4] == ("graph", "cuda:0", None)
    assert sum(graph.replays for graph in gpu.graphs) > 1
    assert facts[7][2]["images_per_second"] > 0
    assert facts[8][2] == {"precision": "bf16", "error": "precision 'bf16': this GPU cannot compute in bf16; use fp32"}


def test_a_probe_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys, time; print('{\"what\": 1}', flush=True); sys.stdout.write('{\"half'); time.sleep(60)"
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **more: run([sys.executable, "-c", program], **more))
    began = time.monotonic()
    assert list(machine_check._probe(3.0)) == [{"what": 1}]
    assert time.monotonic() - began < 30


def test_a_graph_that_captures_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from eager_recorder import EagerRecorder

    import benchbd.engine.graph as graph

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(graph, "CudaRecorder", lambda device: EagerRecorder())
    assert machine_probe.graph_fault(torch.device("cpu")) is None
    monkeypatch.setattr(EagerRecorder, "record", lambda self, work: lambda: None)
    assert machine_probe.graph_fault(torch.device("cpu")) == "a captured step changes nothing when it is replayed"

    def refuse(self, work):
        raise RuntimeError("operation not permitted\nwhen capturing")

    monkeypatch.setattr(EagerRecorder, "record", refuse)
    assert machine_probe.graph_fault(torch.device("cpu")) == "operation not permitted when capturing"


def test_the_verb_prints_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"devices": {}, "runs": {}}
    monkeypatch.setattr(machine_check, "check_machine", lambda output, say: found)
    assert main(["env", "--check", "--json", "--output", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == found
    (tmp_path / "file").touch()
    assert main(["env", "--check", "--output", str(tmp_path / "file")]) == 2
    assert "is a file, not a folder" in capsys.readouterr().err
