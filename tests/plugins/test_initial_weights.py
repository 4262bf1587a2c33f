"""What a network starts from: the seed, or something else, which keys and records must then name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchbd.core.images import Normalisation
from benchbd.errors import UsageError
from benchbd.plugins import registry
from benchbd.plugins.identity import part_of
from benchbd.plugins.part import Part
from benchbd.plugins.trained import InitialWeights, ModelSpec


class Net(nn.Module):
    def __init__(self, loaded: float | None, noise: float) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4)
        if loaded is not None:
            with torch.no_grad():
                self.head.weight.copy_(torch.arange(8.0).reshape(2, 4) * loaded + noise * torch.randn(2, 4))


class Mine:
    """A user's model that reads a value."""

    def __init__(self, loaded: float | None = None, noise: float = 0.0) -> None:
        self.loaded, self.noise = loaded, noise

    def build(self, classes: int, size: int) -> nn.Module:
        return Net(self.loaded, self.noise)


def plan(model: Any) -> ModelSpec:
    return ModelSpec(model, Part("mine", 1, {}, "mine"), 2, 8, Normalisation((0.5,) * 3, (0.5,) * 3))


def initial(model: Any) -> InitialWeights:
    found = plan(model).initial
    assert found is not None
    return found


def test_loaded_weights_are_named_and_drawn_ones_and_constants_are_not() -> None:
    assert initial(Mine()).fixed is None
    one, other = initial(Mine(1.0)), initial(Mine(2.0))
    assert one.fixed is not None
    assert one == initial(Mine(1.0))
    assert one.fixed != other.fixed
    assert plan(Mine(1.0)).spec() != plan(Mine(2.0)).spec()


def test_loaded_weights_with_noise_are_in_the_key() -> None:
    assert initial(Mine(1.0, noise=0.1)).drawn != initial(Mine(2.0, noise=0.1)).drawn


def test_types_that_numpy_lacks_are_weights_too() -> None:
    class Half(Mine):
        def build(self, classes: int, size: int) -> nn.Module:
            net = super().build(classes, size)
            net.register_buffer("table", torch.arange(4).to(torch.bfloat16))
            net.register_buffer("empty", torch.zeros(0))
            return net

    assert initial(Half()).fixed is not None


def test_torchs_generator_is_left_as_it_was() -> None:
    before = torch.get_rng_state()
    assert plan(Mine(1.0)).initial
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_that_change_under_a_cell_are_refused() -> None:
    model = Mine(1.0)
    network = plan(model)
    assert network.spec()["initial"]
    network.fresh(0)
    model.loaded = 2.0
    with pytest.raises(UsageError, match="model 'mine': build\\(\\) gives other weights than before"):
        network.fresh(0)


MODEL = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(4, 2)
    def forward(self, x):
        return self.head(x) * SCALE
@model("mine", version=1)
class Mine(Model):
    def build(self, classes, size):
        return Net()
"""


def test_a_users_models_code_is_in_the_key(plugin_file: Callable[[str], Path], fresh_registry: None) -> None:
    def spec(text: str) -> dict[str, Any]:
        file = str(plugin_file(text))
        registry.add_plugin_file(file)
        made = registry.make("models", "mine")
        found = ModelSpec(made, part_of(made), 2, 8, Normalisation((0.5,) * 3, (0.5,) * 3)).spec()
        registry.forget_plugin_file(file)
        return found

    one, other = spec(MODEL.replace("SCALE", "1.0")), spec(MODEL.replace("SCALE", "3.0"))
    assert one["initial"] == other["initial"], "the weights do not tell"
    assert one != other
    assert spec("# a comment" + MODEL.replace("SCALE", "1.0")) == one


def test_shipped_models_are_in_keys_by_name_and_version() -> None:
    made = registry.make("models", "lenet-s")
    spec = ModelSpec(made, part_of(made), 10, 32, Normalisation((0.5,) * 3, (0.5,) * 3)).spec()
    assert spec.keys() == {"model", "classes", "size", "normalisation"}
