"""What is stored is the network that was trained, to the last attribute; else nothing is stored."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from lab_inputs import tiny

from benchbd.errors import UsageError
from benchbd.plugins import registry

NET = '''
@model("mine", version=1)
class Mine(Model):
    """A network with something beside its layers."""

    def build(self, classes, size):
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = nn.Conv2d(3, 8, 3, 2, 1)
                {init}
                self.head = nn.Linear(8, classes)

            def features(self, x):
                x = self.first(x).relu().mean((2, 3))
                {features}
                return x

        return Net()
'''
OUTSIDE = {
    "non-persistent buffer": (
        "self.register_buffer('mask', torch.rand(8) + 0.1, persistent=False)",
        "x = x * self.mask",
    ),
    "plain tensor": ("self.mask = torch.rand(8) + 0.1", "x = x * self.mask"),
    "counter": ("self.seen = 0", "self.seen += self.training; x = x / (1 + self.seen)"),
    "Python attribute": ("import random; self.scale = random.random()", "x = x * self.scale"),
    "layer in a list": ("self.more = [nn.Linear(8, 8)]", "x = self.more[0](x)"),
    "running mean": ("self.mean = 0.0", "self.mean = 0.5 * self.mean + 0.5 * x.mean().item(); x = x - self.mean"),
}
INSIDE = {
    "buffer": ("self.register_buffer('mask', torch.rand(8) + 0.1)", "x = x * self.mask"),
    "the same constant": ("self.mask = torch.arange(8.0)", "x = x * self.mask"),
    "batch norm and dropout": (
        "self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.5)",
        "x = self.drop(self.norm(x))",
    ),
    "dropout that is always on": ("", "x = torch.dropout(x, 0.3, True)"),
    "a kept output": ("self.last = None", "self.last = x"),
    "tied weights": ("self.one = nn.Linear(8, 8); self.two = self.one", "x = self.two(self.one(x))"),
    "frozen layer": ("self.one = nn.Linear(8, 8).requires_grad_(False)", "x = self.one(x)"),
}


def lab_with(open_lab, plugin_file, init, features, **given):
    registry.add_plugin_file(str(plugin_file(NET.format(init=init or "pass", features=features or "pass"))))
    return open_lab(model="mine", recipe={"epochs": 2, "batch_size": 16, "lr": 0.01}, **given)


@pytest.mark.parametrize("kind", OUTSIDE)
def test_state_outside_state_dict_is_refused(open_lab, plugin_file, kind):
    lab = lab_with(open_lab, plugin_file, *OUTSIDE[kind])
    with pytest.raises(UsageError, match=r"^model 'mine': the trained network and the one rebuilt .*register_buffer"):
        lab.train(lab.poisoned)
    assert not list(lab._store.root.rglob("arrays.safetensors"))


@pytest.mark.parametrize("kind", INSIDE)
def test_state_that_is_all_stored_passes(open_lab, plugin_file, kind):
    lab = lab_with(open_lab, plugin_file, *INSIDE[kind])
    trained = lab.train(lab.poisoned)
    again = lab_with(open_lab, plugin_file, *INSIDE[kind], where="other").train(tiny())
    assert all(np.array_equal(trained._state[name], again._state[name]) for name in trained._state)


def test_a_state_that_a_new_network_cannot_load_is_refused(open_lab, plugin_file):
    lab = lab_with(open_lab, plugin_file, "", "self.register_buffer('late', torch.ones(8)); x = x * self.late")
    with pytest.raises(UsageError, match="a new network cannot load the trained state"):
        lab.train(lab.poisoned)


def test_the_proof_leaves_random_numbers_and_weights_alone(open_lab, monkeypatch):
    """The bits are those without it."""
    from benchbd.lab import stages

    generators = [torch.get_rng_state().clone(), np.random.get_state()[1].copy(), random.getstate()]
    proved = open_lab().train(tiny())
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert np.array_equal(np.random.get_state()[1], generators[1])
    assert random.getstate() == generators[2]
    monkeypatch.setattr(
        stages, "proved_state", lambda net, *_: {k: v.detach().numpy().copy() for k, v in net.state_dict().items()}
    )
    plain = open_lab(where="other").train(tiny())
    assert plain.key == proved.key
    assert all(np.array_equal(plain._state[name], proved._state[name]) for name in plain._state)


def test_packed_networks_are_proved_too(open_lab, plugin_file):
    lab = lab_with(
        open_lab, plugin_file, "self.norm = nn.BatchNorm2d(8); self.scale = float(torch.rand(()))", "x = x * self.scale"
    )
    with pytest.raises(UsageError, match="mine"):
        lab.train_packed(lab.poisoned, repeats=[0, 1])
    assert not list(lab._store.root.rglob("arrays.safetensors"))
