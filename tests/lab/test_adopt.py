"""Weights made elsewhere become a model of the lab; a loop may hold a frozen model; the lab names its model."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch.nn import functional as F

from benchbd import UsageError
from benchbd.errors import Diverged, Misused


def averaged(one: Any, other: Any) -> dict[str, torch.Tensor]:
    state, more = one.module().state_dict(), other.module().state_dict()
    return {k: (v + more[k]) / 2 if v.is_floating_point() else v for k, v in state.items()}


def test_averaged_weights_are_a_model_like_any_other(open_lab, fits):
    lab = open_lab()
    one, other = (lab.train(lab.poisoned, repeat=n) for n in range(2))
    state = averaged(one, other)
    found = lab.adopt(state)
    assert len(fits) == 2
    for name, value in found.module().state_dict().items():
        assert torch.equal(value, state[name])
    net = one.module()
    net.load_state_dict(state)
    with torch.no_grad():
        wanted = net.eval()(lab.poisoned.images.float() / 255).numpy()
    np.testing.assert_allclose(lab.logits(found, lab.poisoned), wanted, rtol=1e-4, atol=1e-5)
    assert lab.adopt({k: v.numpy() for k, v in state.items()}).key == found.key
    assert lab.adopt(one.module().state_dict()).key not in (found.key, one.key)
    assert lab.train(lab.poisoned, start=found, epochs=1).epochs == 1
    assert open_lab().adopt(state).key == found.key


def test_names_of_other_programs(open_lab):
    lab = open_lab()
    one = lab.train(lab.poisoned)
    plain = one.module().net.state_dict()
    renamed = {f"module.{name.replace('head.', 'fc.')}": value for name, value in plain.items()}
    found, direct = lab.adopt(renamed), lab.adopt(plain)
    assert found.key == direct.key
    np.testing.assert_array_equal(lab.logits(found, lab.poisoned), lab.logits(one, lab.poisoned))


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda state: {}, "a state is a dict of arrays by name"),
        (lambda state: [1], "a state is a dict of arrays by name"),
        (lambda state: {**state, "net.extra": torch.zeros(1)}, "it has unknown extra"),
        (lambda state: {k: v for k, v in state.items() if k != "net.head.bias"}, "it lacks head.bias"),
        (lambda state: {**state, "net.head.bias": torch.zeros(9)}, "head.bias is (9,), not (4,)"),
        (lambda state: {**state, "net.head.bias": "text"}, "not an array of numbers"),
    ],
)
def test_states_that_do_not_fit(edit, line, open_lab):
    lab = open_lab()
    state = lab.train(lab.poisoned).module().state_dict()
    with pytest.raises(UsageError, match=r"adopt: ") as found:
        lab.adopt(edit(state))
    assert line in str(found.value)


def test_values_that_are_not_finite_are_a_diverged_training(open_lab):
    lab = open_lab()
    state = lab.train(lab.poisoned).module().state_dict()
    state["net.head.bias"][1] = float("nan")
    with pytest.raises(Diverged, match=r"adopt: the state does not fit .*: head\.bias has values that are not finite"):
        lab.adopt(state)


def test_later_changes_of_the_state_do_not_reach_the_model(open_lab):
    lab = open_lab()
    state = lab.train(lab.poisoned).module().state_dict()
    found = lab.adopt(state)
    before = found.head()[1]
    state["net.head.bias"] += 1
    np.testing.assert_array_equal(found.head()[1], before)


@dataclasses.dataclass(frozen=True)
class Distilled:
    teacher: Any

    def epoch(self, loop: Any) -> None:
        teacher = self.teacher.module().to(loop.device)
        for rows in loop.batches():
            x = loop.views(rows)
            with torch.no_grad():
                soft = teacher(x).softmax(1)
            loop.step(F.cross_entropy(loop.net(x), soft))


def test_a_loop_may_hold_a_frozen_model(open_lab):
    lab = open_lab()
    one, other = (lab.train(lab.poisoned, repeat=n) for n in range(2))
    weights = {k: v.clone() for k, v in one.module().state_dict().items()}
    first, second = (lab.train(lab.poisoned, training_loop=Distilled(teacher)) for teacher in (one, other))
    assert first.key != second.key
    assert lab.train(lab.poisoned, training_loop=Distilled(one)).key == first.key
    assert all(torch.equal(v, weights[k]) for k, v in one.module().state_dict().items())
    with pytest.raises(Misused, match=r"training_loop\.teacher is a model of another cell"):
        open_lab().train(lab.poisoned, training_loop=Distilled(one))


def test_the_lab_names_its_model(open_lab):
    lab = open_lab(model="tiny-net")
    assert lab.model.startswith("tiny-net")
    assert lab.train(lab.poisoned, model=lab.model).key == lab.train(lab.poisoned).key
    with pytest.raises(Misused):
        lab.model = "other"


def test_the_mean_and_deviation_in_a_file_count(open_lab):
    lab = open_lab()
    trained = lab.train(lab.poisoned).module()
    state = {name: value.clone().contiguous() for name, value in trained.state_dict().items()}
    own = lab.read_model(save({**state, "mean": state["mean"] + 0.25}), "safetensors", name="own")
    np.testing.assert_allclose(own.module().mean, state["mean"] + 0.25)
    bare = {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}
    plain = lab.read_model(save(bare), "safetensors", name="plain")
    np.testing.assert_allclose(plain.module().mean.flatten(), lab.normalisation.mean)
