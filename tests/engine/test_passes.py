"""Whole-set passes: order, mode, precision and memory bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchbd.core.images import Normalisation
from benchbd.engine import build, features_of, logits_of, losses_of, passes
from benchbd.plugins import registry

CPU = torch.device("cpu")


@pytest.fixture
def small_batches(monkeypatch):
    """Passes in batches of 16, so that 150 images make ten of them, the last a partial one."""
    monkeypatch.setitem(passes.PIXELS, "cpu", 16 * 12 * 12)


def test_results_come_in_the_order_of_the_set(make_net, toy_set, small_batches):
    net = make_net().eval()
    with torch.no_grad():
        singles = torch.cat([net(image[None].float() / 255) for image in toy_set.images])
        features = torch.cat([net.features(image[None].float() / 255) for image in toy_set.images])
        losses = F.cross_entropy(singles, toy_set.labels, reduction="none")
    np.testing.assert_allclose(logits_of(net, toy_set.images, device=CPU), singles, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features_of(net, toy_set.images, device=CPU), features, rtol=1e-4, atol=1e-5)
    ours = losses_of(net, toy_set.images, toy_set.labels, device=CPU)
    np.testing.assert_allclose(ours, losses, rtol=1e-4, atol=1e-5)
    assert ours.dtype == np.float32
    assert ours.shape == (150,)


def test_eval_mode_inside_and_every_mode_put_back(make_net, toy_set):
    net = make_net(dropout=True)
    net.train()
    net.net.norm.eval()
    modes = [module.training for module in net.modules()]
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first = losses_of(net, *toy_set, device=CPU)
    np.testing.assert_array_equal(first, losses_of(net, *toy_set, device=CPU))
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_passes_are_float32_whatever_surrounds_them(make_net, toy_set):
    net = make_net()
    plain = logits_of(net, toy_set.images, device=CPU)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = logits_of(net, toy_set.images, device=CPU)
    np.testing.assert_array_equal(plain, inside)


def test_a_mask_shows_in_features(make_net, toy_set):
    net = make_net()
    net.channel_mask[1] = 0
    assert not features_of(net, toy_set.images, device=CPU)[:, 1].any()


def test_an_empty_set_gives_empty_arrays(make_net, toy_set):
    net = make_net()
    assert losses_of(net, toy_set.images[:0], toy_set.labels[:0], device=CPU).shape == (0,)
    assert logits_of(net, toy_set.images[:0], device=CPU).shape == (0, 3)
    assert features_of(net, toy_set.images[:0], device=CPU).shape == (0, 8)


def test_batches_are_large_and_memory_is_bounded():
    assert passes.pass_batch(32, torch.device("cuda")) >= 1024
    for kind in ("cpu", "cuda"):
        device = torch.device(kind)
        for size in (8, 32, 64, 224):
            assert passes.pass_batch(size, device) * size * size <= max(passes.PIXELS[kind], 8 * size * size)


@pytest.mark.parametrize("spec", ["resnet-s", "resnet-s1", "lenet-s", "vgg-s"])
def test_the_layout_of_images_changes_no_more_than_rounding(spec, monkeypatch):
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    net = build(registry.make("models", spec), 10, 32, Normalisation((0.5,) * 3, (0.25,) * 3), 0)
    layouts = []
    found = []
    for planes in (False, True):
        monkeypatch.setattr(passes, "_keeps_planes", lambda net, device, planes=planes: planes)
        first = next(part for part in net.modules() if isinstance(part, torch.nn.Conv2d))
        handle = first.register_forward_pre_hook(lambda net, given: layouts.append(given[0].is_contiguous()))
        found.append(logits_of(net, images, device=CPU))
        handle.remove()
    assert layouts == [False, True]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_only_the_narrowest_networks_keep_planes():
    kept = {
        spec: passes._keeps_planes(
            build(registry.make("models", spec), 10, 32, Normalisation((0,) * 3, (1,) * 3), 0), CPU
        )
        for spec in ("resnet-s", "resnet-s2", "resnet18(width=8)", "vgg-s")
    }
    assert kept == {"resnet-s": True, "resnet-s2": False, "resnet18(width=8)": False, "vgg-s": False}
