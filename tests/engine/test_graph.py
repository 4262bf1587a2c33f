"""Graphed steps, with a stand-in for CUDA's recorder; tests/gpu has the real one."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import pytest
import torch
from eager_recorder import EagerRecorder

from benchbd.core.recipe import Recipe
from benchbd.engine import Precision, choose_precision, fit
from benchbd.engine.augment import draw_epoch
from benchbd.engine.graph import GraphedStep
from benchbd.engine.state import make_optimizer
from benchbd.engine.step import Step, training_mode

CPU = torch.device("cpu")
ANY_BATCH = draw_epoch(77, 0, 150)[:32]


class EmptyRecorder(EagerRecorder):
    """The failure seen in the wild: a capture that holds nothing."""

    def record(self, work):
        return lambda: None


class RefusingRecorder(EagerRecorder):
    """A step that reads a value back: the capture runs into an error, after some of the step was issued."""

    def record(self, work):
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


def make_step(net, data, recipe=None) -> Step:
    net.to(memory_format=torch.channels_last)
    recipe = recipe or Recipe(batch_size=32, lr=0.01)
    training_mode(net, recipe.bn)
    weights = torch.ones(len(data.images))
    return Step(net, make_optimizer(net, recipe, CPU), *data, weights, recipe, Precision("test"))


def epoch(run, seed=3) -> None:
    for rows in draw_epoch(seed, 0, 150).split(32):
        run(rows)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_graphed_epoch_equals_an_eager_one(make_net, toy_set, optimizer):
    """The warm-up steps leave no trace; the last, smaller batch goes on from the replayed weights."""
    recipe = Recipe(batch_size=32, lr=0.01, optimizer=optimizer)
    eager = make_step(make_net(), toy_set, recipe)
    epoch(eager)
    inner, recorder = make_step(make_net(), toy_set, recipe), EagerRecorder()
    graphed = GraphedStep(inner, ANY_BATCH, recorder)
    epoch(graphed)
    assert recorder.replays == 4
    assert graphed.setup_seconds > 0
    for name, tensor in eager.tensors().items():
        assert torch.equal(tensor, inner.tensors()[name]), name


def test_replays_read_their_own_batch(make_net, toy_set):
    """The rows buffer is refilled, not rebound: another order gives another result."""
    results = []
    for seed in (3, 4):
        step = make_step(make_net(), toy_set)
        epoch(GraphedStep(step, ANY_BATCH, EagerRecorder()), seed)
        results.append(step.net.head.weight.clone())
    assert not torch.equal(*results)


def test_a_graph_that_does_nothing_is_an_error(make_net, toy_set):
    with pytest.raises(RuntimeError, match="changes nothing"):
        epoch(GraphedStep(make_step(make_net(), toy_set), ANY_BATCH, EmptyRecorder()))


def test_a_replay_without_gradients_is_no_error(make_net, toy_set):
    """lr 0: weights rightly stay, the optimiser's counters and the sums move."""
    epoch(GraphedStep(make_step(make_net(), toy_set, Recipe(batch_size=32, lr=0.0)), ANY_BATCH, EagerRecorder()))


def test_what_cannot_be_captured_is_trained_eagerly_and_said(make_net, toy_set, caplog):
    eager = make_step(make_net(), toy_set)
    epoch(eager)
    step = make_step(make_net(), toy_set)
    with caplog.at_level(logging.WARNING, "benchbd.engine"):
        epoch(GraphedStep(step, ANY_BATCH, RefusingRecorder()))
    assert [r.message for r in caplog.records] == [
        "training without a CUDA graph: operation not permitted when stream is capturing"
    ]
    for name, tensor in eager.tensors().items():
        assert torch.equal(tensor, step.tensors()[name]), name


def test_a_whole_fit_through_the_graph_equals_an_eager_one(make_net, toy_set, monkeypatch):
    """The same loop, resumes and learning rates included, with every full batch replayed."""
    module = sys.modules["benchbd.engine.fit"]  # the package's attribute of that name is the function
    recipe = Recipe(epochs=3, batch_size=32, lr=0.01)
    eager, graphed = make_net(dropout=True), make_net(dropout=True)
    precision = choose_precision(CPU)
    fit(eager, *toy_set, recipe, device=CPU, precision=precision, seed=2)
    recorder = EagerRecorder()
    monkeypatch.setattr(module, "fast_step", lambda step, rows: GraphedStep(step, rows, recorder))
    fit(graphed, *toy_set, recipe, device=CPU, precision=precision, seed=2)
    assert recorder.replays == 12
    for name, tensor in eager.state_dict().items():
        assert torch.equal(tensor, graphed.state_dict()[name]), name


@pytest.mark.parametrize(
    ("wish", "perturbed", "rows", "graphed", "compiled"),
    [
        ({}, False, 32, True, False),
        ({"graph": False}, False, 32, False, False),
        ({"compile": True}, False, 32, True, True),
        ({"compile": True, "graph": False}, False, 32, False, True),
        ({}, True, 32, False, False),
        ({}, False, 31, False, False),
    ],
    ids=["graph", "eager", "compile", "compile-eager", "perturbed", "small-set"],
)
def test_which_steps_are_captured(monkeypatch, wish, perturbed, rows, graphed, compiled):
    """What a GPU would be given, without one."""
    module = sys.modules["benchbd.engine.fit"]
    monkeypatch.setattr(module, "GraphedStep", lambda step, rows, recorder: ("graphed", step))
    monkeypatch.setattr(torch, "compile", lambda net, dynamic: ("compiled", net))
    step = SimpleNamespace(
        device=torch.device("cuda", 0),
        precision=Precision("cuda-bf16", torch.bfloat16)._replace(**wish),
        recipe=Recipe(batch_size=32),
        perturb=object() if perturbed else None,
        net="net",
        forward="net",
    )
    assert module.fast_step(step, torch.zeros(rows, 4)) == (("graphed", step) if graphed else step)
    assert step.forward == (("compiled", "net") if compiled else "net")


def test_a_replayed_graph_reads_the_batches_of_a_set_that_stays_on_the_host(make_net, toy_set, plain, monkeypatch):
    recipe, recorder = Recipe(epochs=2, batch_size=32, augment=("crop4", "hflip")), EagerRecorder()
    resident, streamed = make_net(), make_net()
    fit(resident, *toy_set, recipe, device=CPU, precision=plain, seed=3)
    monkeypatch.setattr(sys.modules["benchbd.engine.fit"], "too_large", lambda images, device: True)
    monkeypatch.setattr(
        sys.modules["benchbd.engine.fit"], "fast_step", lambda step, rows: GraphedStep(step, rows, recorder)
    )
    fit(streamed, *toy_set, recipe, device=CPU, precision=plain, seed=3)
    assert recorder.replays == 8
    for mine, theirs in zip(streamed.state_dict().values(), resident.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
