"""Networks of torchvision and timm by name: equal to the package's own, with new or pretrained weights."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from benchbd.core.files_folder import VARIABLE
from benchbd.core.images import IMAGENET, DatasetInfo, Normalisation
from benchbd.core.torchvision_module import torchvision_module
from benchbd.engine import trial_fault
from benchbd.engine.network import SafeStridedConv1x1, build
from benchbd.engine.operations import count_operations
from benchbd.engine.outside_state import load_outside_state, renamed_state
from benchbd.errors import Impossible, UsageError
from benchbd.models._library import network_names
from benchbd.plugins import registry
from benchbd.plugins.identity import part_of
from benchbd.plugins.trained import ModelSpec, last_filters

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.usefixtures("folder")]
OTHER = Normalisation((0.5,) * 3, (0.25,) * 3)
SMALL = "shufflenet_v2_x0_5"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which files of weights are looked up; there is no network."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))

    def refuse(*_: object) -> None:
        raise AssertionError("a model asks for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path


def timm_module() -> Any:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed; pip install 'benchbd[timm]'")
    torchvision_module()
    return pytest.importorskip("timm")


def plain(package: str, name: str, classes: int, seed: int) -> nn.Module:
    """The package's own network, with trained statistics of batch norms."""
    torch.manual_seed(seed)
    if package == "torchvision":
        net: nn.Module = torchvision_module().models.get_model(name, num_classes=classes)
    else:
        net = timm_module().create_model(name, num_classes=classes)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    return net.eval()


def spec(text: str, classes: int = 10, size: int = 32) -> ModelSpec:
    made = registry.make("models", text)
    return ModelSpec(made, part_of(made), classes, size, OTHER)


def info(size: int, classes: int = 10) -> DatasetInfo:
    return DatasetInfo(classes=classes, size=size, train=100, test=10, class_counts=None, target=0)


def images(size: int = 32) -> torch.Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))


def normal(x: torch.Tensor, to: Normalisation = IMAGENET) -> torch.Tensor:
    return (x - torch.tensor(to.mean).view(1, 3, 1, 1)) / torch.tensor(to.std).view(1, 3, 1, 1)


NETWORKS = [("torchvision", "resnet18"), ("torchvision", SMALL), ("timm", "test_resnet"), ("timm", "test_convnext")]


@pytest.mark.parametrize(("package", "name"), NETWORKS)
@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_logits_are_those_of_the_package(package: str, name: str, form: str, folder: Path) -> None:
    theirs = plain(package, name, 7, seed=5)
    if form == "pth":
        torch.save({"state_dict": theirs.state_dict()}, folder / "w.pth")
    else:
        save_file(theirs.state_dict(), folder / "w.safetensors")
    given = spec(f"{package}(name='{name}', weights='w.{form}')", classes=7, size=64)
    given.model.check(info(64, 7))  # type: ignore[attr-defined]
    net, x = given.build(0).eval(), images(64)
    with torch.no_grad():
        wanted = theirs(normal(x, given.pixels))
        if not any(isinstance(part, SafeStridedConv1x1) for part in net.modules()):
            assert torch.equal(net.net(normal(x, given.pixels)), wanted)
        torch.testing.assert_close(net(x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("package", "name"), NETWORKS[1:3])
def test_the_head_is_new_for_other_classes_and_the_rest_is_the_files(package: str, name: str, folder: Path) -> None:
    theirs = plain(package, name, 1000, seed=5)
    torch.save(theirs.state_dict(), folder / "w.pth")
    headless = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    torch.save(headless, folder / "headless.pth")
    for file in ("w.pth", "headless.pth"):
        given = spec(f"{package}(name='{name}', weights='{file}')")
        one, same, other = (given.build(seed).net for seed in (0, 0, 1))
        assert torch.equal(one.head.weight, same.head.weight)  # type: ignore[union-attr]
        assert not torch.equal(one.head.weight, other.head.weight)  # type: ignore[union-attr]
        names = one.library_names()  # type: ignore[operator]
        for key, value in headless.items():
            assert torch.equal(one.state_dict()[names[key]], value), key
        assert given.initial is not None
        assert given.initial.fixed is not None
        assert trial_fault(given.build(0), 32) is None


def test_a_new_network_is_the_packages_from_the_same_seed() -> None:
    net = build(registry.make("models", f"torchvision(name='{SMALL}')"), 10, 32, OTHER, 4)
    torch.manual_seed(4)
    theirs = torchvision_module().models.get_model(SMALL, num_classes=10)
    names = net.net.library_names()  # type: ignore[operator]
    assert {names[key] for key in theirs.state_dict()} == set(net.net.state_dict())
    assert all(torch.equal(net.net.state_dict()[names[key]], value) for key, value in theirs.state_dict().items())


def test_pretrained_weights_take_the_normalisation_of_their_package(folder: Path) -> None:
    torch.save(plain("torchvision", SMALL, 10, 0).state_dict(), folder / "w.pth")
    for more, wanted in (
        ("", OTHER),
        (", weights='w.pth'", IMAGENET),
        (", weights='w.pth', normalise='dataset'", OTHER),
        (", normalise='pretrained'", IMAGENET),
    ):
        given = spec(f"torchvision(name='{SMALL}'{more})")
        assert given.pixels == wanted
        assert torch.equal(given.build(0).mean.flatten(), torch.tensor(wanted.mean))


def test_images_are_enlarged_inside_the_network() -> None:
    theirs = plain("torchvision", SMALL, 10, 3)
    given = spec(f"torchvision(name='{SMALL}', resize=96)")
    net = given.build(0).eval()
    named = net.net.library_names()  # type: ignore[operator]
    net.net.load_state_dict({named[key]: value for key, value in theirs.state_dict().items()})
    x = images()
    with torch.no_grad():
        large = F.interpolate(normal(x, OTHER), size=(96, 96), mode="bilinear", align_corners=False)
        torch.testing.assert_close(net(x), theirs(large), rtol=1e-5, atol=1e-5)
    small = count_operations(spec(f"torchvision(name='{SMALL}')").build(0), 32)
    assert count_operations(net, 32).step > 8 * small.step


@pytest.mark.parametrize(
    ("text", "size", "kind", "line"),
    [
        ("torchvision", 28, Impossible, "needs images of 32 pixels or more, not 28; resize=224 enlarges them"),
        ("torchvision(name='vit_b_16')", 32, Impossible, "does not take images of 32 pixels (Wrong image height"),
        ("torchvision(name='inception_v3')", 32, Impossible, "resize=299 enlarges them inside the network"),
        ("torchvision(resize=64)", 96, Impossible, "resize=64 must not make images of 96 pixels smaller"),
        ("torchvision(name='squeezenet1_1')", 64, UsageError, "its last step is not one linear layer of features"),
        ("timm(name='deit_tiny_distilled_patch16_224')", 224, UsageError, "its last step is not one linear layer"),
        ("timm(name='test_resnet.nope')", 64, UsageError, "timm has no weights 'nope' of test_resnet; known: test_res"),
        ("timm(name='vit_tiny_patch16_224')", 32, Impossible, "resize=224 enlarges them inside the network"),
    ],
)
def test_what_a_network_does_not_take_is_refused_before_it_runs(text, size, kind, line) -> None:
    if text.startswith("timm"):
        timm_module()
    before = torch.get_rng_state()
    with pytest.raises(kind) as caught:
        registry.make("models", text).check(info(size))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_outputs_are_left_out(name: str, folder: Path) -> None:
    size = 96
    torch.manual_seed(0)
    theirs = torchvision_module().models.get_model(
        name, num_classes=10, aux_logits=True, transform_input=True, init_weights=False
    )
    torch.save(theirs.state_dict(), folder / "w.pth")
    made = spec(f"torchvision(name='{name}', weights='w.pth')", size=size)
    net, x = made.build(0), images(size)
    again = made.build_to_load()
    load_outside_state(again, renamed_state(theirs.state_dict(), again), "it does not fit")
    assert torch.equal(again.net.head.weight, net.net.head.weight)  # type: ignore[union-attr]
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), theirs.eval()(normal(x)), rtol=1e-4, atol=1e-4)
        assert isinstance(net.train()(x), torch.Tensor)


def _states(folder: Path) -> None:
    state = plain("torchvision", SMALL, 10, 0).state_dict()
    torch.save(plain("torchvision", "resnet18", 10, 0).state_dict(), folder / "other.pth")
    torch.save({k: v for k, v in state.items() if k != "conv1.0.weight"}, folder / "lacks.pth")
    torch.save({**state, "conv1.0.weight": torch.zeros(24, 3, 5, 5)}, folder / "shape.pth")
    torch.save({**state, "conv1.0.weight": torch.full((24, 3, 3, 3), float("nan"))}, folder / "nan.pth")
    torch.save({**state, "fc.weight": torch.zeros(10, 9)}, folder / "head.pth")
    torch.save({**state, "channel_mask": torch.zeros(2).to_sparse()}, folder / "pruned.pth")
    torch.save(plain("torchvision", SMALL, 10, 0), folder / "pickle.pth")
    (folder / "text.safetensors").write_text("no weights")


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("other.pth", "other.pth does not fit torchvision(name='shufflenet_v2_x0_5'): it lacks"),
        ("lacks.pth", "it lacks body.conv1.0.weight"),
        ("shape.pth", "body.conv1.0.weight is (24, 3, 5, 5), not (24, 3, 3, 3)"),
        ("nan.pth", "body.conv1.0.weight has values that are not finite"),
        ("head.pth", "head.weight is (10, 9), not (10, 1024)"),
        ("pruned.pth", "pruned.pth holds a pruned model"),
        ("pickle.pth", "is refused: it is not a torch archive, is damaged, or holds objects that are not plain arrays"),
        ("text.safetensors", "text.safetensors is refused"),
    ],
)
def test_weights_that_do_not_fit_are_one_line_at_plan_time(file: str, line: str, folder: Path) -> None:
    _states(folder)
    made = registry.make("models", f"torchvision(name='{SMALL}', weights='{file}')")
    assert made.missing() is None
    with pytest.raises(UsageError) as caught:
        made.check(info(32))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("timm(name='hf-hub:somebody/net')", "timm: name 'hf-hub:somebody/net' is not a network's, such as resnet18"),
        ("timm(name='local-dir:/etc')", "is not a network's"),
        ("torchvision(name='resnet18', network='resnet18')", "name is another name of network; give one of them"),
        ("torchvision(weights='/etc/w.pth')", "must be a name below the folder of the matrix file or the data folder"),
        ("torchvision(weights='../w.pth')", "must be a name below"),
        ("torchvision(weights='~/w.pth')", "must be a name below"),
        ("torchvision(weights='')", "must be a name below"),
        ("torchvision(resize=8)", "resize must be from 32 to 4096 pixels, not 8"),
        ("torchvision(normalise='imagenet')", "normalise"),
    ],
)
def test_wrong_parameters_are_one_line(text: str, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        registry.make("models", text)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_is_said_without_an_import_of_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = registry.make("models", "torchvision(name='resnet19')").missing()
    assert "has no network 'resnet19'; did you mean 'resnet18'?" in said
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("BENCHBD_DATA", str(tmp_path / "data"))
    assert "there are" in registry.make("models", "torchvision(name='zzz')").missing()
    assert "has no network 'resnet18.in1k'" in registry.make("models", "torchvision(name='resnet18.in1k')").missing()
    lacking = registry.make("models", "torchvision(weights='w.pth')")
    assert "weights 'w.pth' is not in" in lacking.missing()
    assert str(tmp_path / "data") in lacking.missing()
    (tmp_path / "data" / "w.pth").write_bytes(b"x")
    assert lacking.missing() is None
    assert lacking.input_files() == [str(tmp_path / "data" / "w.pth")]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    assert registry.make("models", "timm").missing() == "model timm needs timm; pip install 'benchbd[timm]'"


def test_names_read_from_the_files_are_those_of_the_packages() -> None:
    models = torchvision_module().models
    assert network_names("torchvision") == set(models.list_models(module=models))
    assert network_names("timm") == set(timm_module().list_models())
    assert network_names("no_such_package") == frozenset()


def test_keys_name_the_weights_and_the_version_of_the_package(folder: Path) -> None:
    keys = []
    for seed in (0, 1):
        torch.save(plain("torchvision", SMALL, 10, seed).state_dict(), folder / "w.pth")
        keys.append(spec(f"torchvision(name='{SMALL}', weights='w.pth')").spec())
    assert keys[0]["model"] == keys[1]["model"]
    assert keys[0] != keys[1]
    assert keys[0]["packages"] == {"torchvision": torchvision_module().__version__.partition("+")[0]}
    new = spec(f"torchvision(name='{SMALL}')")
    assert new.initial is not None
    assert new.initial.fixed is None
    assert "own_normalisation" not in new.spec()


def test_filters_feed_the_head_where_the_network_ends_in_a_convolution() -> None:
    assert last_filters(spec("torchvision").build(0)) == [
        *("net.body.layer4.1.conv2.weight", "net.body.layer4.1.bn2.weight", "net.body.layer4.1.bn2.bias")
    ]
    net = spec(f"torchvision(name='{SMALL}')").build(0).train()
    assert last_filters(net)[0] == "net.body.conv5.0.weight"
    assert net.net.training
    for name in ("densenet121", "mobilenet_v3_small"):
        with pytest.raises(Impossible, match="does not say which convolution's filters feed its head"):
            last_filters(spec(f"torchvision(name='{name}')").build(0))


def test_networks_of_convolutions_and_batch_norms_can_be_packed() -> None:
    assert spec("torchvision").packing_fault() is None
    said = spec(f"torchvision(name='{SMALL}')").packing_fault()
    assert said is not None
    assert "channels of different models mix" in said


@pytest.mark.parametrize(("name", "size", "std"), [("test_resnet", 160, 0.5), ("test_vit.r160_in1k", 160, 0.5)])
def test_timm_says_size_and_normalisation(name: str, size: int, std: float) -> None:
    timm_module()
    made = registry.make("models", f"timm(name='{name}', normalise='pretrained')")
    assert made.native_size() == size
    assert made.normalisation() == Normalisation((0.5,) * 3, (std,) * 3)
