"""Networks that initialise themselves from the data: which data, when, and under which key."""

from __future__ import annotations

import pytest
import torch
from lab_inputs import tiny

from benchbd.plugins.contract import model
from benchbd.plugins.train_set import TrainSet


def register(monkeypatch):
    """A model whose head's bias starts as the mean colour of the images that it was shown."""
    from torch import nn

    from benchbd import Model
    from benchbd.plugins import registry

    class Net(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.head = nn.Linear(3, classes)
            self.register_buffer("seen", torch.zeros(3))

        def features(self, x):
            return x.mean((2, 3))

        def initialise_from(self, x):
            self.seen.copy_(x.mean((0, 2, 3)))

    @model("from-data", version=1)
    class FromData(Model):
        """Shown the data."""

        def build(self, classes, size):
            return Net(classes)

    real = registry.make
    monkeypatch.setattr(
        registry, "make", lambda kind, spec, **p: FromData() if spec == "from-data" else real(kind, spec, **p)
    )


@pytest.fixture
def lab(open_lab, monkeypatch):
    register(monkeypatch)
    return open_lab()


def seen(trained) -> torch.Tensor:
    return trained.module().net.seen


def brighter(data: TrainSet) -> TrainSet:
    return data.replace(images=(data.images // 2 + 100).to(torch.uint8))


def test_a_training_starts_from_its_own_data_and_a_continued_one_keeps_what_it_has(lab):
    first = lab.train(lab.poisoned, model="from-data")
    normal = first.module()
    expected = normal.normalise(lab.poisoned.images.float() / 255).mean((0, 2, 3))
    torch.testing.assert_close(seen(first), expected, rtol=1e-4, atol=1e-5)
    other = lab.train(brighter(lab.poisoned), model="from-data")
    assert other.key != first.key
    assert not torch.allclose(seen(other), seen(first))
    continued = lab.train(brighter(lab.poisoned), start=first)
    assert torch.equal(seen(continued), seen(first))


def test_repeats_differ_in_their_weights_only(lab):
    one, two = (lab.train(lab.poisoned, model="from-data", repeat=number) for number in (0, 1))
    assert torch.equal(seen(one), seen(two))
    assert not torch.equal(one.module().net.head.weight, two.module().net.head.weight)
    again = lab.train(tiny(), model="from-data")
    assert again.key == one.key
