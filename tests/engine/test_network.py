"""The wrapper around every network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchbd.core.images import Normalisation
from benchbd.engine import Classifier


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
