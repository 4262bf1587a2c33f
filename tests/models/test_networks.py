"""The networks: sizes pinned to the published ones, the split into features and head, initialisation, limits."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from benchbd.core import params
from benchbd.core.images import DatasetInfo, Normalisation
from benchbd.datasets._torchvision import torchvision
from benchbd.errors import Impossible, UsageError
from benchbd.plugins import registry
from benchbd.plugins.identity import part_of
from benchbd.plugins.trained import ModelSpec, initial_weights

pytestmark = pytest.mark.usefixtures("one_thread")
ALL = ["resnet18", "resnet34", "resnet-s", "resnet-s1", "resnet-s2", "vgg11", "vgg-s", "lenet", "lenet-s"]
ALL += ["mobilenetv2", "mobilenetv2-s", "airbench", "preactresnet18", "wrn-16-1"]
THIN = ["resnet18(width=4)", "resnet34(width=4)", "resnet-s", "resnet-s(stem=8)", "resnet-s1", "resnet-s2(width=4)"]
THIN += ["vgg11(width=4)", "vgg11(width=4, batch_norm=False)", "vgg-s", "lenet", "lenet-s", "mobilenetv2(width=4)"]
THIN += ["mobilenetv2-s", "mobilenetv2-s(stride=1)", "mobilenetv2-s(shortcut='identity')"]
THIN += ["airbench(width=4)", "preactresnet18(width=4)", "wrn-16-1"]
SHORTCUTS = ("resnet", "preactresnet")
"""Networks whose last convolution a shortcut bypasses, with no batch norm after their sum."""


def build(spec: str, classes: int = 10, size: int = 32, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return registry.make("models", spec).build(classes, size)


def info(size: int) -> DatasetInfo:
    return DatasetInfo(classes=10, size=size, train=100, test=10, class_counts=None, target=0)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("spec", "classes", "size", "parameters"),
    [
        ("resnet18", 10, 32, 11_173_962),
        ("resnet18", 43, 32, 11_190_891),
        ("resnet18", 12, 32, 11_174_988),
        ("resnet34", 10, 32, 21_282_122),
        ("resnet34(stem_kind='cifar')", 12, 224, 21_283_148),
        ("resnet34", 12, 224, 21_290_828),
        ("resnet-s1", 10, 32, 146),
        ("resnet-s1(stem=64)", 10, 32, 2_606),
        ("resnet-s", 10, 32, 612),
        ("resnet-s", 43, 32, 777),
        ("resnet-s", 12, 32, 622),
        ("resnet-s(stem=64)", 10, 32, 3_658),
        ("resnet-s(stem=64)", 43, 32, 3_823),
        ("resnet-s(stem=64)", 12, 32, 3_668),
        ("resnet-s2", 10, 32, 4_903_242),
        ("resnet-s2", 43, 32, 4_920_171),
        ("vgg11", 10, 32, 9_231_114),
        ("vgg-s", 10, 32, 181_434),
        ("vgg-s(batch_norm=False)", 10, 32, 180_130),
        ("lenet", 10, 32, 62_006),
        ("lenet-s", 10, 32, 1_358),
        ("mobilenetv2", 10, 32, 2_296_922),
        ("preactresnet18", 10, 32, 11_171_146),  # BackdoorBench's and kuangliu's
        ("preactresnet18", 43, 32, 11_188_075),
        ("wrn-16-1", 10, 32, 175_066),  # NAD's and ABL's
        ("wrn-16-1(widen=2)", 10, 32, 691_674),
        ("airbench", 10, 32, 497_216),
        # airbench94's 1,972,792 less 288 filters, 24 biases and 1,152 scales of batch norm.
        ("airbench(width=64)", 10, 32, 1_971_328),
        ("mobilenetv2-s", 10, 32, 990),
        ("mobilenetv2-s(stride=1)", 10, 32, 990),
        ("mobilenetv2-s(shortcut='identity', stride=1)", 10, 32, 942),
    ],
)
def test_parameter_counts_are_the_published_ones(spec: str, classes: int, size: int, parameters: int) -> None:
    with torch.device("meta"):
        assert count(registry.make("models", spec).build(classes, size)) == parameters


def test_width_scales_every_layer() -> None:
    net = build("resnet18(width=16)")
    assert [stage[0].conv1.out_channels for stage in net.stages] == [16, 32, 64, 128]
    assert net.stem[0].out_channels == 16
    assert net.head.in_features == 128
    assert build("vgg11(width=8)").head.in_features == 64
    assert build("mobilenetv2(width=16)").head.in_features == 640


@pytest.mark.parametrize("size", [32, 33, 96])
@pytest.mark.parametrize("spec", THIN)
def test_forward_is_head_of_features(spec: str, size: int) -> None:
    net = build(spec, classes=7, size=size).eval()
    x = torch.randn(3, 3, size, size)
    features = net.features(x)
    assert isinstance(net.head, nn.Linear)
    assert features.shape == (3, net.head.in_features)
    assert net(x).shape == (3, 7)
    assert torch.equal(net(x), net.head(features))


@pytest.mark.parametrize("spec", ["lenet", "lenet-s", "vgg-s", "resnet18(width=4)", "mobilenetv2-s"])
def test_features_come_after_the_last_relu(spec: str) -> None:
    features = build(spec).features(torch.randn(16, 3, 32, 32))
    assert (features >= 0).all()
    assert (features > 0).any()


@pytest.mark.parametrize("spec", [s for s in THIN if "lenet" not in s])
def test_the_last_convolution_decides_the_features(spec: str) -> None:
    """Without its filter and batch norm a feature no longer depends on what that convolution sees."""
    net = build(spec).eval()
    conv, norm = net.last_convolution()
    seen: list[torch.Tensor] = []
    conv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        before = net.features(torch.randn(2, 3, 32, 32))
        assert seen[0].shape[1] == before.shape[1] == net.head.in_features
        for part in filter(None, (conv, norm)):
            for parameter in part.parameters():
                parameter[0] = 0
        after = net.features(torch.randn(8, 3, 32, 32))
    assert (after[:, 0] == 0).all() or spec.startswith(SHORTCUTS)


def test_lenets_features_come_from_no_convolution() -> None:
    assert build("lenet").last_convolution() == (None, None)


@pytest.mark.parametrize("spec", THIN)
def test_every_parameter_is_trained(spec: str) -> None:
    """One backward pass reaches every parameter (with a seed for which the tiniest net's ReLUs are alive)."""
    for seed in range(20):
        net = build(spec, seed=seed)
        nn.functional.cross_entropy(net(torch.randn(32, 3, 32, 32)), torch.arange(32) % 10).backward()
        grads = [p.grad for p in net.parameters() if p.requires_grad]
        assert all(g is not None and torch.isfinite(g).all() for g in grads)
        if all(float(p.grad.abs().sum()) > 0 for p in net.parameters() if p.dim() > 1):
            return
    pytest.fail("some weight never gets a gradient")


@pytest.mark.parametrize("spec", ALL)
def test_seed_decides_the_weights(spec: str) -> None:
    has_width = any(field.name == "width" for field in params.schema(registry.load("models", spec)))
    small = f"{spec}(width=4)" if has_width else spec
    one, same, other = (build(small, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("spec", ["resnet18", "vgg11", "mobilenetv2"])
def test_convolutions_start_with_kaiming_weights(spec: str) -> None:
    checked = 0
    for part in build(spec).modules():
        if isinstance(part, nn.Conv2d) and part.weight.numel() > 20_000:
            fan_out = part.out_channels // part.groups * part.kernel_size[0] * part.kernel_size[1]
            assert float(part.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.03)
            assert abs(float(part.weight.detach().mean())) < 0.02 * math.sqrt(2 / fan_out) + 1e-4
            checked += 1
        if isinstance(part, nn.BatchNorm2d):
            assert (part.weight == 1).all()
            assert (part.bias == 0).all()
    assert checked >= 5


def test_stem_is_chosen_by_image_size() -> None:
    assert build("resnet34(width=2)", size=64).stem[0].kernel_size == (3, 3)
    assert build("resnet34(width=2)", size=96).stem[0].kernel_size == (7, 7)
    assert build("resnet34(width=2, stem_kind='imagenet')", size=64).stem[0].kernel_size == (7, 7)
    assert build("resnet-s", size=224).stem[0].out_channels == 2
    large = build("resnet18(width=2)", size=224)
    assert large.stages(large.stem(torch.zeros(1, 3, 224, 224))).shape == (1, 16, 7, 7)
    small = build("resnet18(width=2)", size=32)
    assert small.stages(small.stem(torch.zeros(1, 3, 32, 32))).shape == (1, 16, 4, 4)


def test_mobilenet_strides() -> None:
    shapes = {}
    for size in (32, 224):
        net = build("mobilenetv2(width=4)", size=size)
        shapes[size] = tuple(net.blocks(net.stem(torch.zeros(1, 3, size, size))).shape[2:])
    assert shapes == {32: (4, 4), 224: (7, 7)}
    net = build("mobilenetv2-s")
    assert net.blocks(net.stem(torch.zeros(1, 3, 32, 32))).shape == (1, 8, 16, 16)
    net = build("mobilenetv2-s(stride=1)")
    assert net.blocks(net.stem(torch.zeros(1, 3, 32, 32))).shape == (1, 8, 32, 32)


def _copy(source: nn.Module, into: nn.Module) -> None:
    """Copy weights in order of definition: the architectures must list equal shapes in equal order."""
    given, taken = source.state_dict(), into.state_dict()
    assert [v.shape for v in given.values()] == [v.shape for v in taken.values()]
    into.load_state_dict(dict(zip(taken, given.values(), strict=True)))


@pytest.mark.parametrize(("name", "size"), [("resnet18", 96), ("resnet34", 96)])
def test_resnets_compute_what_torchvision_computes(name: str, size: int) -> None:
    torch.manual_seed(0)
    reference = getattr(torchvision().models, name)(num_classes=12)
    for part in reference.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.running_mean, std=0.1)
    net = build(name, classes=12, size=size)
    _copy(reference, net)
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), reference.eval()(x), rtol=1e-4, atol=1e-4)


def test_vgg_computes_what_torchvision_computes() -> None:
    torch.manual_seed(0)
    reference = torchvision().models.vgg11_bn(num_classes=3).features
    net = build("vgg11")
    _copy(reference, net.convolutions)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net.eval().features(x), reference.eval()(x).mean((2, 3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("spec", "smallest"),
    [
        ("resnet18(width=4)", 8),
        ("resnet18(width=4, stem_kind='imagenet')", 32),
        ("resnet-s", 8),
        ("vgg-s", 32),
        ("lenet", 16),
        ("lenet-s", 16),
        ("mobilenetv2(width=4)", 8),
        ("mobilenetv2-s", 8),
    ],
)
def test_smallest_image_works_and_a_smaller_one_is_refused(spec: str, smallest: int) -> None:
    model = registry.make("models", spec)
    model.check(info(smallest))
    assert model.build(10, smallest)(torch.randn(2, 3, smallest, smallest)).shape == (2, 10)
    with pytest.raises(Impossible, match=rf"at least {smallest}x{smallest} pixels, not {smallest - 1}x"):
        model.check(info(smallest - 1))


@pytest.mark.parametrize("spec", ["resnet18(width=0)", "resnet-s(stem=0)", "vgg11(width=-1)", "mobilenetv2(width=0)"])
def test_sizes_below_one_are_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="must be 1 or more"):
        registry.make("models", spec)


def test_plugin_files_import_nothing_heavy() -> None:
    """Planning imports model and data set plugins; torch and numpy must wait until something is built or read."""
    code = (
        "import sys, benchbd.plugins.registry as r\n"
        "for kind in ('models', 'datasets'):\n"
        "    for e in r.entries(kind): r.load(kind, e.name)().params()\n"
        "print(sorted({'torch', 'numpy', 'torchvision', 'sklearn', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_registry_knows_all_of_them() -> None:
    assert {e.name for e in registry.entries("models")} >= set(ALL)


@pytest.mark.parametrize("spec", THIN)
def test_shipped_networks_start_from_the_seed_alone(spec: str) -> None:
    """The keys of their trainings hold the model's spec, and no digest of the initial weights."""
    component = registry.make("models", spec)
    plan = ModelSpec(component, part_of(component), 10, 32, Normalisation((0.5,) * 3, (0.5,) * 3))
    assert plan.initial is None
    assert "initial" not in plan.spec()
    if not spec.startswith("airbench"):  # whose filters begin as the identity, with every seed
        assert initial_weights(plan.build).fixed is None
