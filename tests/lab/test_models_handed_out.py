"""A trained model cannot be changed, and a lab takes no model that it did not train."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from lab_inputs import tiny

from benchbd.errors import Misused, UsageError


@pytest.mark.parametrize("name", ["key", "epochs", "epoch_losses", "_state", "_plan", "_origin"])
def test_attributes_of_a_model_cannot_be_assigned(open_lab, name):
    lab = open_lab()
    trained = lab.train(lab.poisoned)
    with pytest.raises(Misused, match="cannot be assigned"):
        setattr(trained, name, getattr(trained, name))
    with pytest.raises(Misused, match="cannot be deleted"):
        delattr(trained, name)


def test_stored_weights_are_read_only_and_a_module_is_a_copy(open_lab):
    lab = open_lab()
    trained = lab.train(lab.poisoned)
    before = lab.logits(trained, lab.poisoned)
    with pytest.raises(ValueError, match="read-only"):
        trained._state["net.head.weight"][...] = 0
    with pytest.raises(TypeError):
        trained._state["net.head.weight"] = np.zeros(3)
    net = trained.module()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    trained.head()[0][...] = 0
    other = open_lab(where="other")
    assert np.array_equal(other.logits(trained_again := other.train(tiny()), tiny()), before)
    assert trained_again.key == trained.key


def other_models(open_lab):
    lab = open_lab()
    trained = lab.train(lab.poisoned)
    return {
        "another cell's": open_lab().train(tiny()),
        "unpickled": pickle.loads(pickle.dumps(trained)),
        "pruned by another cell": (lambda other: other.prune(other.train(tiny()), [0]))(open_lab()),
        "packed by another cell": open_lab().train_packed(tiny(), repeats=[0], epochs=1)[0],
    }, lab


def test_a_model_of_another_cell_is_refused(open_lab):
    models, lab = other_models(open_lab)
    data = lab.poisoned
    for trained in models.values():
        for use in (
            lambda m: lab.losses(m, data),
            lambda m: lab.features(m, data),
            lambda m: lab.logits(m, data),
            lambda m: lab.prune(m, [1]),
            lambda m: lab.trace("point", m),
            lambda m: lab.train(data, start=m),
            lambda m: lab.train(data, scorer=m, weight_fn=lambda losses: losses),
        ):
            with pytest.raises(Misused, match="a model of another cell or read from a file; train it with"):
                use(trained)


def test_copies_and_prunings_of_a_labs_own_model_are_its_own(open_lab):
    lab = open_lab()
    trained = lab.train(lab.poisoned)
    for own in (copy.copy(trained), copy.deepcopy(trained), lab.prune(trained, [0]), lab.prune(trained, [])):
        assert len(lab.losses(own, lab.poisoned)) == 64
    assert len(lab.losses(lab.train_packed(lab.poisoned, repeats=[0], epochs=1)[0], lab.poisoned)) == 64


def test_a_network_is_not_a_trained_model(open_lab):
    lab = open_lab()
    net = lab.train(lab.poisoned).module()
    with pytest.raises(UsageError, match="losses: trained is a Classifier, not what train or prune gave"):
        lab.losses(net, lab.poisoned)
