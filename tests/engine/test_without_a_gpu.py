"""CUDA's own code paths without CUDA: stand-ins for torch.cuda note what is called, in which order.

test_capturable.py runs whole steps on the device ``meta``. Fake tensors that claim to be on a GPU (``FakeTensorMode``)
are no help: a build of torch for CPUs can neither differentiate nor re-lay them.
"""

from __future__ import annotations

import contextlib
import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchbd.engine.epochs import all_finite, own_randomness
from benchbd.engine.graph import WARM_UP, CudaRecorder, GraphedStep
from benchbd.engine.passes import pass_batch

GPU = torch.device("cuda", 0)


def test_a_gpu_gets_thousands_of_images_in_a_batch_of_a_pass():
    assert pass_batch(32, GPU) == 2048
    assert pass_batch(224, GPU) >= 8


class Notes(list):
    """What was called, in order."""

    def context(self, name: str):
        @contextlib.contextmanager
        def entered(*args, **kwargs):
            self.append(f"{name}(")
            yield
            self.append(")")

        return entered


@pytest.fixture
def cuda(monkeypatch) -> Notes:
    """Streams, captures and graphs of torch.cuda, which note what is called and compute nothing."""
    notes = Notes()

    class Stream:
        def __init__(self, name) -> None:
            self.name = name if isinstance(name, str) else "side"

        def wait_stream(self, other) -> None:
            notes.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self) -> None:
            notes.append("replay")

    def graph(graph, capture_error_mode):
        assert isinstance(graph, Graph)
        assert capture_error_mode == "thread_local", "a progress display may call CUDA in another thread"
        return notes.context("capture")()

    current = Stream("current")
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: notes.append(f"back on {stream.name}"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: notes.context(f"on {stream.name}")())
    monkeypatch.setattr(torch.cuda, "device", notes.context("device"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return notes


def test_the_recorder_warms_up_on_a_side_stream_and_captures(cuda):
    recorder = CudaRecorder(GPU)
    recorder.warm_up(lambda: cuda.append("work"))
    around = ["side waits for current", "on side(", *["work"] * WARM_UP, ")", "current waits for side"]
    assert cuda == around
    cuda.clear()
    replay = recorder.record(lambda: cuda.append("work"))
    assert cuda == ["device(", "capture(", "work", ")", ")", "back on current"]
    cuda.clear()
    replay()
    assert cuda == ["replay"]


def test_a_failed_capture_ends_on_the_stream_on_which_it_began(cuda, monkeypatch):
    """torch's context does not come back by itself where the capture cannot be ended."""

    class Failing:
        def __init__(self, graph, capture_error_mode) -> None:
            pass

        def __enter__(self) -> None:
            cuda.append("capture(")

        def __exit__(self, *error: object) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "graph", Failing)
    with pytest.raises(RuntimeError, match="previous error during capture"):
        CudaRecorder(GPU).record(lambda: None)
    assert cuda[-1] == "back on current"


def test_a_failed_capture_is_explained_by_its_first_error(caplog):
    """Ending a capture that has failed raises an error that says only that it has failed."""

    class Broken:
        def warm_up(self, work) -> None:
            work()

        def record(self, work):
            try:
                raise RuntimeError("operation not permitted when stream is capturing: item\nmore")
            finally:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    class Adds:
        optimizer = SimpleNamespace(zero_grad=lambda set_to_none: None)

        def __call__(self, rows) -> None:
            weight.add_(1)

        def tensors(self):
            return {"weight": weight}

    weight = torch.ones(3)
    with caplog.at_level(logging.WARNING, "benchbd.engine"):
        graphed = GraphedStep(Adds(), torch.zeros(2, 4, dtype=torch.int64), Broken())
    line = "training without a CUDA graph: operation not permitted when stream is capturing: item"
    assert [record.message for record in caplog.records] == [line]
    assert torch.equal(weight, torch.ones(3)), "nothing of the failed capture is left"
    graphed(torch.zeros(2, 4, dtype=torch.int64))
    assert torch.equal(weight, torch.full((3,), 2.0))


@pytest.mark.parametrize("device", [GPU, torch.device("cuda")], ids=str)
def test_each_step_seeds_the_generators_of_cpu_and_gpu(monkeypatch, device):
    seeds, forked = [], []

    @contextlib.contextmanager
    def fork_rng(devices):
        forked.extend(devices)
        yield

    monkeypatch.setattr(torch.random, "fork_rng", fork_rng)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "default_generators", (SimpleNamespace(manual_seed=seeds.append),))
    before = torch.get_rng_state()
    try:
        with own_randomness(device) as reseed:
            reseed(5)
            first = torch.rand(1)
            reseed(5)
            assert torch.equal(torch.rand(1), first)
    finally:
        torch.set_rng_state(before)
    assert (seeds, forked) == ([5, 5], [0])


def test_the_weights_are_checked_with_one_value_read_back():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    with torch.profiler.profile() as profile:
        assert all_finite(net)
    assert sum(event.name == "aten::_local_scalar_dense" for event in profile.events()) == 1
    with torch.no_grad():
        net[2].bias[1] = torch.nan
    assert not all_finite(net)
    assert all_finite(nn.ReLU())
