"""Keys of trainings are those that stores out there are filled with, and a request cannot change once it is made."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from benchbd.engine import precision
from benchbd.errors import Diverged, UsageError
from benchbd.lab.train_request import TrainRequest

KEYS = {
    "plain": "b06decae2da8e0b89129196144ba95e800c1f3a9db20e2fc2b227f69df27fa67",
    "weights": "379c4c139e311e1b8d597503d12cf39809c45e3329c1eaf188cec57d4c6b5ee1",
    "start": "2ffc4e805d158fffa7c3227ca2edf6c9f703fd01246a603d867ba8bc80bbf5b2",
    "repeat": "e27a014f75c77334cac25660d19ec440e1900bfce72df03d7a5e1969916a2bba",
    "pack": "a102d5072d9db9d50193dc904319ed4c72e0874eca5de2b124a16a0cd8f70b31",
}


def test_keys_are_those_of_earlier_releases(open_lab, no_training, monkeypatch):
    """Of trainings without a plugin's own code, so that they are the same as long as CODE_VERSION is."""
    # The keys are of float32. Without its cache, so that the choice of later tests is their own.
    monkeypatch.setattr(precision, "_choose", precision._choose.__wrapped__)
    monkeypatch.setattr(precision, "cpu_multiplies_bf16", lambda: False)
    lab = open_lab()
    plain = lab.train(lab.poisoned, model="resnet-s")  # a model of benchbd's own
    found = {
        "plain": plain.key,
        "weights": lab.train(lab.poisoned, model="resnet-s", weights=np.arange(64) / 64).key,
        "start": lab.train(lab.poisoned, start=plain, epochs=1, kind="fine-tune").key,
        "repeat": lab.train(lab.poisoned, repeat=3, model="resnet-s", augment=()).key,
        "pack": lab.train_packed(lab.poisoned, repeats=[0, 2], model="resnet-s", augment=())[1].key,
    }
    assert found == KEYS


@pytest.fixture
def request_for(open_lab):
    """A request over the tiny set: ``request_for(weights=...)``."""
    lab = open_lab()

    def build(**given) -> TrainRequest:
        usual = {
            "data": lab.poisoned,
            "kind": "full",
            "name": "mine",
            "model": lab._network,
            "recipe": lab.recipe,
            "seed": 0,
            "precision": lab.precision_for(lab._network),
        }
        return TrainRequest(**{**usual, **given})

    return build


def test_a_request_is_frozen_and_keeps_its_own_weights(request_for):
    given = np.ones(64, np.float64)
    request = request_for(weights=given)
    key = request.key()
    given[0] = 5.0
    assert request.key() == key
    assert request.weights.dtype == np.float32
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.seed = 1


def test_a_request_knows_its_network_and_seeds(request_for):
    one, again, other = request_for(), request_for(), request_for(repeat=1)
    states = [r.network().state_dict() for r in (one, again, other)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not all(torch.equal(states[0][k], states[2][k]) for k in states[0])
    assert one.batch_seed() == again.batch_seed() != other.batch_seed()
    assert one.epoch_weights() is None


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"kind": "student"}, UsageError, "mine: kind must be one of"),
        ({"weights": [1.0]}, UsageError, "mine: 64 samples but weights of shape"),
        ({"weights": np.full(64, np.inf)}, Diverged, "mine: 64 of 64 weights are not finite"),
        ({"weight_fn": object()}, UsageError, "mine: scorer and weight_fn go together"),
        ({"training_loop": object(), "weights": np.ones(64)}, UsageError, "takes no weights, scorer, loss and perturb"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_by_the_names_of_its_parameters(request_for, given, error, said):
    with pytest.raises(error, match=said):
        request_for(**given)
