"""The wrapper around every network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchbd.core.images import Normalisation
from benchbd.engine import Classifier, build, trial_fault
from benchbd.errors import UsageError
from benchbd.plugins.contract import Model


def test_normalises_masks_and_applies_the_head(make_net, toy_set):
    net = make_net().eval()
    x01 = toy_set.images[:9].float() / 255
    mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    std = torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1)
    assert torch.equal(net.normalise(x01), (x01 - mean) / std)
    other_layout = net.normalise(x01.to(memory_format=torch.channels_last))
    assert torch.equal(other_layout, (x01 - mean) / std)
    assert other_layout.is_contiguous(memory_format=torch.channels_last)
    expected = net.net.features((x01 - mean) / std)
    torch.testing.assert_close(net.features(x01), expected, rtol=0, atol=0)
    torch.testing.assert_close(net(x01), net.net.head(expected), rtol=0, atol=0)


def test_a_masked_channel_is_zero_and_silent(make_net, toy_set):
    net = make_net().eval()
    x01 = toy_set.images[:9].float() / 255
    whole = net.features(x01)
    net.channel_mask[2] = 0
    pruned = net.features(x01)
    assert (pruned[:, 2] == 0).all()
    keep = [0, 1, 3, 4, 5, 6, 7]
    assert torch.equal(pruned[:, keep], whole[:, keep])
    assert (whole[:, 2] != 0).any()
    weight, bias = net.head.weight, net.head.bias
    torch.testing.assert_close(net(x01), whole[:, keep] @ weight[:, keep].T + bias)


def test_everything_is_in_the_state(make_net):
    net, other = make_net(1), make_net(2)
    net.channel_mask[3] = 0
    other.load_state_dict(net.state_dict())
    assert {"mean", "std", "channel_mask"} <= set(net.state_dict())
    assert other.channel_mask[3] == 0
    assert torch.equal(other.head.weight, net.head.weight)


def test_logits_are_float32_under_autocast(make_net, toy_set):
    net = make_net().eval()
    x01 = toy_set.images[:9].float() / 255
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, logits = net.features(x01), net(x01)
        low = net.net.features(x01)
    assert low.dtype == torch.bfloat16
    assert features.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(logits, nn.functional.linear(features, net.head.weight, net.head.bias), rtol=0, atol=0)


def test_build_is_seeded_and_leaves_the_global_generator_alone(make_net):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, same, other = make_net(1), make_net(1), make_net(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.net.first.weight, same.net.first.weight)
    assert not torch.equal(first.net.first.weight, other.net.first.weight)


def test_a_network_without_a_linear_head_is_refused():
    with pytest.raises(TypeError, match="head"):
        Classifier(nn.Sequential(nn.Flatten()), Normalisation((0, 0, 0), (1, 1, 1)))


class Net(nn.Module):
    """A convolution, the mean over pixels and a head; ``tail`` changes what features() returns."""

    def __init__(self, classes: int = 5, tail=lambda net, x: x):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, 2, 1)
        self.head = nn.Linear(6, classes)
        self.tail = tail

    def features(self, x):
        return self.tail(self, torch.relu(self.conv(x)).mean((2, 3)))


class Headless(nn.Module):
    """Its last layer has another name, or another kind."""

    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)

    def features(self, x):
        return x.mean((2, 3))


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        return self.head(x.mean((2, 3)))


class Brought(Model):
    """A model as people bring it."""

    name = "brought"

    def __init__(self, make):
        self.make = make

    def build(self, classes, size):
        return self.make()


def lazy() -> nn.Module:
    net = Net()
    net.more = nn.LazyLinear(6)
    return net


def misplaced() -> nn.Module:
    net = Net()
    net.register_buffer("mask", torch.ones(3, device="meta"))
    return net


BROUGHT = {
    "build returned None, not a network; end it with `return net`": lambda: None,
    "build returned a list, not a network": lambda: [Net()],
    "build returned a scripted module": lambda: torch.jit.script(Scripted()),
    "Headless needs a final nn.Linear named 'head', not None": lambda: Headless(fc=nn.Linear(3, 5)),
    "Headless needs a final nn.Linear named 'head', not a Sequential": lambda: Headless(
        head=nn.Sequential(nn.Linear(3, 5))
    ),
    "more.weight has no size yet (a lazy layer)": lazy,
    "conv.weight is on meta; build the network on the CPU": lambda: Net().to("meta"),
    "mask is on meta": misplaced,
    "parameter conv.weight is torch.float64; build the network in float32": lambda: Net().double(),
    "parameter conv.weight is torch.float16": lambda: Net().half(),
    "parameter conv.weight is torch.bfloat16": lambda: Net().bfloat16(),
    "its head has 1000 outputs for 5 classes; make it nn.Linear(..., classes)": lambda: Net(1000),
    "all its parameters are frozen": lambda: Net().requires_grad_(False),
}


@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:.*torch.jit.script")
@pytest.mark.parametrize("line", BROUGHT)
def test_a_network_that_cannot_be_trained_is_refused_by_name(line):
    with pytest.raises(UsageError) as caught:
        build(Brought(BROUGHT[line]), 5, 16, Normalisation((0.5,) * 3, (0.5,) * 3), 0)
    assert str(caught.value).startswith(f"model 'brought': {line}")
    assert "\n" not in str(caught.value)


def keep_graph(net, x):
    net.kept = x.mean() + getattr(net, "kept", 0.0)
    return x + net.kept


FEATURES = {
    "features() returns a tuple; return one float tensor (B, 6), the inputs of the head": lambda net, x: (x, x),
    "features() returns a list": lambda net, x: [x],
    "features() returns a dict": lambda net, x: {"x": x},
    "features() returns None": lambda net, x: None,
    "features() returns torch.float32 (4, 6, 1, 1) for 4 images": lambda net, x: x[:, :, None, None],
    "features() returns torch.float32 (6,) for 4 images": lambda net, x: x.mean(0),
    "features() returns torch.float32 (1, 6) for 4 images": lambda net, x: x[:1],
    "features() returns torch.float32 (4, 5) for 4 images": lambda net, x: x[:, :5],
    "features() returns torch.int64 (4, 6) for 4 images": lambda net, x: x.long(),
    "features() fails on images of 16 pixels: RuntimeError": lambda net, x: x @ torch.ones(7, 6),
    "a new network's features are not finite": lambda net, x: x / 0,
    "a training step fails, as it keeps tensors of the step before; detach() what it keeps": keep_graph,
    "a training step fails: RuntimeError": lambda net, x: x.sigmoid().mul_(2).sqrt().mul_(0) + x.exp_().exp().add_(x),
}


@pytest.mark.parametrize("line", FEATURES)
def test_a_trial_names_what_is_wrong_with_the_features(line):
    net = build(Brought(lambda: Net(tail=FEATURES[line])), 5, 16, Normalisation((0.5,) * 3, (0.5,) * 3), 0)
    before = torch.get_rng_state()
    found = trial_fault(net, 16)
    assert found is not None
    assert found.startswith(line)
    assert "\n" not in found
    assert torch.equal(torch.get_rng_state(), before)


def test_a_trial_finds_a_head_that_starts_with_nan():
    net = build(Brought(Net), 5, 16, Normalisation((0.5,) * 3, (0.5,) * 3), 0)
    assert trial_fault(net, 16) is None
    nn.init.constant_(net.head.weight, float("nan"))
    assert trial_fault(net, 16) == "a new network's logits are not finite; check the head's initial weights"


def test_shared_weights_and_a_detached_output_are_fine():
    def tail(net, x):
        net.kept = x.detach()
        return x

    def shared():
        net = Net(tail=tail)
        net.again = net.conv
        return net

    assert trial_fault(build(Brought(shared), 5, 16, Normalisation((0.5,) * 3, (0.5,) * 3), 0), 16) is None
