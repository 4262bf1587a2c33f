"""Weights of other repositories compute in benchbd's networks what they compute in plain torch; others are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from other_networks import PreActResNet, ResNet, Vgg, WideResNet, lively
from PIL import Image
from safetensors.torch import save, save_file
from torch import nn

from benchbd import testing
from benchbd.cli import main
from benchbd.cli.one_off import component
from benchbd.core.images import DatasetInfo, Normalisation
from benchbd.core.recipe import Recipe
from benchbd.core.torchvision_module import torchvision_module
from benchbd.engine.network import Classifier
from benchbd.engine.outside_state import renamed_state
from benchbd.errors import UsageError
from benchbd.exchange.backdoorbench_model import BackdoorBenchModel
from benchbd.exchange.model_program import FORMAT, METADATA
from benchbd.exchange.model_readers import read_model
from benchbd.plugins import registry
from benchbd.plugins.train_set import TrainSet

CIFAR = Normalisation((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
DATASET = "digits(train=100,test=50)"
EVALUATE = ("evaluate", "--dataset", DATASET, "--attack", "bn-g", "--device", "cpu", "--output", "out")
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "preactresnet18(width=8)": (lambda: PreActResNet(width=8), 32),
    "wrn-16-1": (WideResNet, 32),
    "resnet18(width=8)": (lambda: ResNet(width=8), 32),
    "resnet18(width=8,stem_kind=imagenet)": (lambda: ResNet(width=8, torchvision=True), 32),
    "resnet18(width=8,)": (lambda: ResNet(width=8, torchvision=True), 96),
    "vgg11(width=8)": (lambda: Vgg(width=8), 32),
}
"""By the model of benchbd: the same network under other names, and the size of its images."""

pytestmark = pytest.mark.usefixtures("one_thread")


def info_of(size: int = 32, classes: int = 10) -> DatasetInfo:
    return DatasetInfo(classes, size, 100, 50, None, 0)


def arch_of(text: str) -> Any:
    given = component(text.replace(",)", ")"), "model")
    name, params = (given, {}) if isinstance(given, str) else next(iter(given.items()))
    return registry.make("models", name, **params)


def images(size: int = 32) -> torch.Tensor:
    return torch.rand(20, 3, size, size, generator=torch.Generator().manual_seed(3))


def standardised(x: torch.Tensor, by: Normalisation) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in by)
    return (x - mean) / std


@torch.no_grad()
def same(found: nn.Module, net: nn.Module, x: torch.Tensor, by: Normalisation) -> None:
    wanted, logits = net(standardised(x, by)), found(x)
    assert float(wanted.std(0).mean()) > 0.01
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def record(net: nn.Module, **entries: Any) -> dict[str, Any]:
    """What BackdoorBench puts into attack_result.pt; an entry that is None is left out."""
    state = {
        "bd_data_container": {
            "save_folder_path": "record/x/bd_train_dataset",
            "data_dict": {np.int64(3): {"path": "record/x/bd_train_dataset/1/3.png", "other_info": [0, 1]}},
            "save_file_format": ".png",
        },
        "getitem_all": True,
        "getitem_all_switch": False,
        "original_index_array": np.arange(5),
        "poison_indicator": np.zeros(5),
        "save_folder_path": "record/x/bd_train_dataset",
    }
    found = {
        "model_name": "preactresnet18",
        "num_classes": 10,
        "model": net.state_dict(),
        "data_path": "./data/cifar10",
        "img_size": (32, 32, 3),
        "clean_data": "cifar10",
        "bd_train": state,
        "bd_test": state,
        **entries,
    }
    return {name: value for name, value in found.items() if value is not None}


DEFENDED = {"data_path": None, "img_size": None, "clean_data": None, "bd_train": None, "bd_test": None}
"""What a defense_result.pt lacks."""


@pytest.mark.parametrize("form", ["plain", "module.", "module._orig_mod.", "state_dict", "safetensors"])
@pytest.mark.parametrize("arch", NETWORKS)
def test_networks_of_others_compute_the_same_here(arch, form, tmp_path):
    make, size = NETWORKS[arch]
    net, path = lively(make), tmp_path / "ckpt_epoch_200.pth"
    state = net.state_dict()
    if form == "safetensors":
        save_file(state, path)
    elif form == "state_dict":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    else:
        prefix = form.removeprefix("plain")
        torch.save({f"{prefix}{name}": value for name, value in state.items()}, path)
    found = read_model(path, info_of(size), CIFAR, arch_of(arch), "dataset")
    same(found.net, net, images(size), CIFAR)


def test_torchvisions_own_names_are_those_of_the_plain_network(tmp_path):
    """The plain network of these tests is torchvision's, so that the test above says something about torchvision."""
    resnet18 = torchvision_module().models.resnet18
    assert {n: v.shape for n, v in ResNet(torchvision=True).state_dict().items()} == {
        n: v.shape for n, v in resnet18(num_classes=10).state_dict().items()
    }


@pytest.mark.parametrize(("kind", "dataset"), [("attack_result", "digits"), ("defense_result", "cifar10")])
def test_files_of_backdoorbench_name_network_and_normalisation(kind, dataset, tmp_path):
    net, path = lively(PreActResNet), tmp_path / f"{kind}.pt"
    torch.save(record(net, **(DEFENDED if kind == "defense_result" else {})), path)
    found = read_model(path, info_of(), Normalisation((0.5,) * 3, (0.5,) * 3), None, None, dataset)
    assert found.arch == "preactresnet18"
    words = "mean 0.4914, 0.4822, 0.4465; deviation 0.247, 0.243, 0.261 (BackdoorBench's for cifar10)"
    assert found.normalisation == words
    same(found.net, net, images(), CIFAR)


def test_evaluate_measures_a_file_of_backdoorbench_as_plain_torch_does(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    net = lively(PreActResNet)
    test = registry.make("datasets", DATASET).load("test", None)
    with torch.no_grad():
        net.linear.bias -= net(standardised(test.images.float() / 255, CIFAR)).mean(0)  # so that it has many answers
        answers = net(standardised(test.images.float() / 255, CIFAR)).argmax(1)
    assert len(set(answers.tolist())) > 2
    torch.save(record(net), "attack_result.pt")
    assert main([*EVALUATE, "--model", "attack_result.pt", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rates"]["ca"]["value"] == pytest.approx(float((answers == test.labels).float().mean()))
    assert found["architecture"] == "preactresnet18"
    assert main([*EVALUATE, "--model", "attack_result.pt", "--normalise", "none"]) == 0
    assert "normalisation none added, sha256" in capsys.readouterr().out


def test_a_run_of_backdoorbench_is_measured_on_its_own_triggered_images(tmp_path, monkeypatch, capsys):
    """A record of PNG files, info.pickle and attack_result.pt, imported as a poisoned set and evaluated."""
    data, sets = registry.make("datasets", DATASET), {}
    for part, change in (("train", slice(0, 9)), ("test", slice(0, 50))):
        clean, labels = data.load(part, None)
        marked = clean.clone()
        marked[:, :, -6:, -6:] = torch.tensor([255, 0, 255], dtype=torch.uint8).view(3, 1, 1)
        listed = {}
        for place in (p for p in range(len(labels))[change] if labels[p] != 1):
            path = tmp_path / f"run/bd_{part}_dataset/{int(labels[place])}/{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(marked[place].permute(1, 2, 0).numpy()).save(path)
            listed[np.int64(place)] = {"path": str(path), "other_info": [1, int(labels[place])]}
        sets[f"bd_{part}"] = {"bd_data_container": {"data_dict": listed}}
        kept = marked[[int(place) for place in listed]].float() / 255
    net = lively(PreActResNet)
    with torch.no_grad():
        logits = net(standardised(kept, CIFAR))
        others = logits.index_fill(1, torch.tensor([1]), -torch.inf).amax(1)
        net.linear.bias[1] += (others - logits[:, 1]).median() + 1e-3  # half of the images go to the target
        right = float((net(standardised(kept, CIFAR)).argmax(1) == 1).float().mean())
    assert 0.4 < right < 0.6
    torch.save(record(net, **sets), tmp_path / "run/attack_result.pt")
    torch.save({"attack": "badnet", "attack_target": 1, "attack_label_trans": "all2one"}, tmp_path / "run/info.pickle")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCHBD_DATA", str(tmp_path))
    assert main(["import", "run", "--format", "backdoorbench", "--dataset", DATASET, "--to", "run.npz"]) == 0
    capsys.readouterr()
    words = ["evaluate", "--dataset", DATASET, "--attack", "imported(file='run.npz')", "--device", "cpu", "--json"]
    assert main([*words, "--output", "out", "--model", "run/attack_result.pt"]) == 0
    rates = json.loads(capsys.readouterr().out)["rates"]
    assert rates["asr"]["images"] == len(kept)
    assert rates["asr"]["value"] == pytest.approx(right)


def test_gtsrb_of_backdoorbench_is_not_normalised(tmp_path):
    net = lively(lambda: PreActResNet(43))
    torch.save(record(net, num_classes=43, clean_data="gtsrb"), tmp_path / "a.pt")
    found = read_model(tmp_path / "a.pt", info_of(classes=43), CIFAR, None, None, "csv-folder")
    assert found.normalisation == "none added (BackdoorBench's for gtsrb)"
    same(found.net, net, images(), Normalisation((0.0,) * 3, (1.0,) * 3))


def test_a_pruned_layer_of_torch_is_its_product(tmp_path):
    """BackdoorBench's fine-pruning saves ``linear.weight_orig`` and ``linear.weight_mask``."""
    from torch.nn.utils import prune

    net = lively(PreActResNet)
    mask = torch.ones_like(net.linear.weight)
    mask[:, ::3] = 0
    prune.custom_from_mask(net.linear, "weight", mask)
    state = net.state_dict()
    assert {"linear.weight_orig", "linear.weight_mask"} <= state.keys()
    torch.save(record(net, model=state, **DEFENDED), tmp_path / "defense_result.pt")
    found = read_model(tmp_path / "defense_result.pt", info_of(), CIFAR, None, None, "cifar10")
    same(found.net, net, images(), CIFAR)
    torch.save({**state, "linear.weight_mask": mask[:, :7]}, tmp_path / "odd.pt")
    with pytest.raises(UsageError, match=r"has unknown linear\.bias, linear\.weight_orig, linear\.weight_mask"):
        read_model(tmp_path / "odd.pt", info_of(), CIFAR, arch_of("preactresnet18"), "none")


def test_a_network_that_is_pruned_itself_keeps_its_names():
    from torch.nn.utils import prune

    net = registry.make("models", "airbench(width=4)").build(10, 32)
    prune.random_unstructured(net.head, "weight", 0.5)
    classifier = Classifier(net, CIFAR)
    state = classifier.state_dict()
    assert {"net.head.weight_orig", "net.head.weight_mask"} <= state.keys()
    assert renamed_state(state, classifier).keys() == state.keys()


def test_torchvision_networks_of_backdoorbench(tmp_path):
    names = torchvision_module().models
    net = lively(lambda: names.mobilenet_v2(num_classes=10))
    torch.save(record(net, model_name="mobilenet_v2"), tmp_path / "a.pt")
    found = read_model(tmp_path / "a.pt", info_of(), CIFAR, None, None)
    assert found.arch == "torchvision(network=mobilenet_v2)"
    same(found.net, net, images(), CIFAR)
    # Vision transformers stand behind a resize there. A small network stands for them.
    assert BackdoorBenchModel("vit_b_16", 10, 32, None).spec == ("torchvision", {"network": "vit_b_16", "resize": 224})
    whole = nn.Sequential(
        nn.Upsample((64, 64), mode="bilinear"), lively(lambda: names.shufflenet_v2_x0_5(num_classes=10))
    )
    torch.save(whole.state_dict(), tmp_path / "b.pt")
    found = read_model(
        tmp_path / "b.pt", info_of(), CIFAR, arch_of("torchvision(network=shufflenet_v2_x0_5,resize=64)"), "dataset"
    )
    same(found.net, whole.eval(), images(), CIFAR)


def test_the_program_of_the_command_defense_takes_the_same_names(lab_over):
    testing.register()
    x = (images(16) * 255).byte()
    lab = lab_over(TrainSet(x, torch.arange(20) % 4, "x"), Recipe())
    net = lively(lambda: PreActResNet(4, width=8))
    model = lab.read_model(save(net.state_dict()), "safetensors", inputs="unit", model="preactresnet18(width=8)")
    with torch.no_grad():
        wanted = net(x.float() / 255).numpy()
    np.testing.assert_allclose(lab.logits(model, lab.poisoned), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


class Evil:
    def __reduce__(self):
        return Path.write_text, (Path("ran"), "code")


PRE, RES = lambda: PreActResNet(width=64), lambda: ResNet(width=64)
FILES: dict[str, Callable[[], Any]] = {
    "plain": lambda: PRE().state_dict(),
    "res": lambda: RES().state_dict(),
    "seven": lambda: PreActResNet(7).state_dict(),
    "norm": lambda: PreActResNet(last_norm=True).state_dict(),
    "lies": lambda: record(RES()),
    "res18": lambda: record(PRE(), model_name="resnet18"),
    "unknown": lambda: record(PRE(), model_name="foonet"),
    "stranger": lambda: record(nn.Linear(3, 4), model_name="foonet"),
    "classes": lambda: record(PRE(), num_classes=43),
    "size": lambda: record(PRE(), img_size=[64, 64, 3]),
    "tongue": lambda: record(PRE(), clean_data="svhn"),
    "odd": lambda: record(PRE(), num_classes="ten", img_size="large", clean_data=7, model_name="preactresnet18"),
    "evil": lambda: record(PRE(), bd_train=Evil()),
    "hidden": lambda: record(PRE(), model={**PRE().state_dict(), "hook": Evil()}),
    "text": lambda: record(PRE(), model={**PRE().state_dict(), "note": "hello"}),
    "nameless": lambda: record(PRE(), model_name=3),
    "many": lambda: record(PRE(), num_classes=10**600),
    "nested": lambda: with_head(torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])),
    "ragged": lambda: with_pruned_head(torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])),
    "repeated": lambda: with_pruned_head(torch.zeros(1).expand(10**7, 10**6)),
}


def with_head(value: torch.Tensor) -> dict[str, Any]:
    return record(PRE(), model={**PRE().state_dict(), "linear.weight": value})


def with_pruned_head(value: torch.Tensor) -> dict[str, Any]:
    found = with_head(value)["model"]
    del found["linear.weight"]
    return record(PRE(), model={**found, "linear.weight_orig": value, "linear.weight_mask": value})


@pytest.mark.parametrize(
    ("name", "flags", "line"),
    [
        ("plain", "", "name the architecture with --arch 'preactresnet18', whose names and shapes it has\n"),
        ("res", "", "name the architecture with --arch 'resnet18', whose names and shapes it has\n"),
        ("nameless", "", "weights without a program; name the architecture with --arch 'preactresnet18'"),
        ("plain", "--arch preactresnet18", "say it with --normalise"),
        ("plain", "--arch resnet18 --normalise none", "; it has the names and shapes of --arch 'preactresnet18'\n"),
        ("res", "--arch preactresnet18 --normalise none", "; it has the names and shapes of --arch 'resnet18'\n"),
        ("res", "--arch resnet34 --normalise none", "; it has the names and shapes of --arch 'resnet18'\n"),
        ("seven", "--arch preactresnet18 --normalise none", "head.weight is (7, 512), not (10, 512)\n"),
        ("norm", "--arch preactresnet18 --normalise none", "it has unknown bn.weight, bn.bias, bn.running_mean"),
        ("lies", "", "does not fit preactresnet18 for 10 classes: it has unknown last.weight"),
        (
            "lies",
            "",
            "network is 'preactresnet18'; it has the names and shapes of --arch 'resnet18'",
        ),
        ("res18", "", "the file says that its network is 'resnet18'; it has the names and shapes of --arch 'preact"),
        (
            "unknown",
            "",
            "does not know the network 'foonet' that the file names; name the architecture with --arch 'p",
        ),
        ("stranger", "", "the architecture with --arch, or export the network as TorchScript or ONNX"),
        ("classes", "", "is for 43 classes, but the data set has 10 classes; name the data set"),
        ("size", "", "is for images of 64 pixels, but the data set has images of 32 pixels"),
        ("tongue", "", "does not say how its network's images are normalised; say it with --normalise"),
        ("odd", "", "does not say how its network's images are normalised; say it with --normalise"),
        ("evil", "", "evil.pt is refused: it is not a torch archive, is damaged, or holds objects"),
        ("hidden", "", "hidden.pt is refused: it is not a torch archive, is damaged, or holds objects"),
        ("text", "", "text.pt holds no state dict (tensors by name), alone or under state_dict"),
        ("many", "", "000... classes, but the data set has 10 classes; name the data set"),
        ("nested", "", "head.weight is not a plain array of numbers"),
        ("ragged", "", "unknown linear.bias, linear.weight_orig, linear.weight_mask"),
        ("repeated", "", "unknown linear.bias, linear.weight_orig, linear.weight_mask"),
    ],
)
def test_other_files_are_one_line_and_exit_code_2(name, flags, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(FILES[name](), f"{name}.pt")
    assert main([*EVALUATE, "--model", f"{name}.pt", *flags.split()]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "model", [None, ["resnet18"], {"name": "resnet18", "params": [1]}, {"name": "resnet18", "params": "x"}]
)
def test_odd_metadata_of_our_own_files_is_one_line(model, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(PreActResNet(width=8).state_dict(), path, {METADATA: json.dumps({"format": FORMAT, "model": model})})
    with pytest.raises(UsageError, match=r"a\.safetensors is damaged: its metadata names no model; write it again"):
        read_model(path, info_of(), CIFAR, None, "none")


def test_a_cut_file_of_backdoorbench_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(record(PRE()), "a.pt")
    whole = Path("a.pt").read_bytes()
    for part in (whole[: len(whole) // 2], whole[:-40], b"", whole[200:]):
        Path("b.pt").write_bytes(part)
        assert main([*EVALUATE, "--model", "b.pt"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("benchbd: ")
        assert said.count("\n") == 1
