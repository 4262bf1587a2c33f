"""The engine against a conventional loop: same network, batch, optimiser, images, one core, in turns; medians, ratios.

The conventional loop is written the way public toolboxes train: PIL images through torchvision transforms in a
DataLoader, float32, NCHW, the loss read back at every step, the test set evaluated at every epoch; its ranking of
samples goes through a DataLoader with a batch size of 1. Processor time is compared, which unlike wall-clock does not
depend on what else the machine does. ``make bench`` runs this; without ``--benchmark-only`` it is a quick run-through
on tiny sizes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchbd.core.images import Normalisation
from benchbd.core.recipe import Recipe
from benchbd.datasets._torchvision import torchvision
from benchbd.engine import build, choose_precision, fit, losses_of
from benchbd.engine.augment import batch_of, draw_epoch, unit_range
from benchbd.engine.packed import fit_packed
from benchbd.engine.precision import cpu_multiplies_bf16
from benchbd.plugins import registry

CPU = torch.device("cpu")
# A busy machine takes ten times as long as a quiet one.
pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("one_thread")]
NORMALISATION = Normalisation((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))


def in_turns(benchmark: Any, theirs: Callable[[], object], ours: Callable[[], object], rounds: int) -> list[float]:
    """Time both alternately. Returns the medians (theirs, ours) in seconds of processor time."""
    spent: list[list[float]] = [[], []]

    def timed(which: int, work: Callable[[], object]) -> None:
        began = time.process_time()
        work()
        spent[which].append(time.process_time() - began)

    benchmark.pedantic(lambda: timed(1, ours), setup=lambda: timed(0, theirs), rounds=rounds, iterations=1)
    medians = [statistics.median(times) for times in spent]
    benchmark.extra_info.update(conventional=medians[0], engine=medians[1], ratio=medians[0] / medians[1])
    return medians


class PilSet(Dataset):
    """CIFAR-10 as torchvision hands it out: an array of images, each turned into a PIL image when asked for."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable[[Any], Tensor]) -> None:
        self.data = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets, self.transform = labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def transforms(augmented: bool) -> Callable[[Any], Tensor]:
    torchvision()
    from torchvision import transforms as tt

    head = [tt.RandomCrop(32, padding=4), tt.RandomHorizontalFlip()] if augmented else []
    return tt.Compose([*head, tt.ToTensor(), tt.Normalize(NORMALISATION.mean, NORMALISATION.std)])


class Conventional(nn.Module):
    """A network as toolboxes wrap it: logits from normalised images."""

    def __init__(self, spec: str) -> None:
        super().__init__()
        self.net = registry.make("models", spec).build(10, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.net.head(self.net.features(x))

    def epoch(self, train: DataLoader, test: DataLoader, optimizer: torch.optim.Optimizer) -> float:
        """One epoch of training and the evaluation after it; returns the test accuracy."""
        self.train()
        total, right = 0.0, 0
        for x, y in train:
            optimizer.zero_grad()
            out = self(x)
            loss = F.cross_entropy(out, y)
            loss.backward()
            optimizer.step()
            total += loss.item()
            right += (out.argmax(1) == y).sum().item()
        self.eval()
        right = 0
        with torch.no_grad():
            for x, y in test:
                right += (self(x).argmax(1) == y).sum().item()
        return right / len(test.dataset)


def random_set(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator).to(torch.uint8)
    return images, torch.randint(0, 10, (count,), generator=generator)


@pytest.mark.parametrize(("spec", "steps", "rounds"), [("resnet18(width=16)", 2, 5), ("resnet18", 1, 3)])
def test_training_epoch(benchmark, report, full, spec, steps, rounds):
    """An epoch; the conventional loop also visits a test set of a fifth (CIFAR-10's share) after each one.

    Bars: 3 where the CPU multiplies bf16; elsewhere both compute in float32, and the engine must not be slower.
    """
    if not full:
        spec, rounds = "resnet18(width=2)", 1
    batch = 128 if full else 16
    count = batch * steps
    images, labels = random_set(count)
    test_set = random_set(count // 5)
    network = Conventional(spec)
    train_loader = DataLoader(PilSet(images, labels, transforms(True)), batch, shuffle=True)
    test_loader = DataLoader(PilSet(*test_set, transforms(False)), batch)
    adam = torch.optim.Adam(network.parameters(), 1e-3)
    net = build(registry.make("models", spec), 10, 32, NORMALISATION, 0)
    recipe = Recipe(epochs=1, batch_size=batch, schedule="constant")
    precision = choose_precision(CPU)

    theirs, ours = in_turns(
        benchmark,
        lambda: network.epoch(train_loader, test_loader, adam),
        lambda: fit(net, images, labels, recipe, device=CPU, precision=precision, seed=0),
        rounds,
    )
    bar = 3.0 if cpu_multiplies_bf16() else 1.0
    report.append(
        f"{spec}, batch {batch}, {precision.name}: conventional {theirs / count * 1e3:.2f} ms per image, "
        f"engine {ours / count * 1e3:.2f} ms, ratio {theirs / ours:.2f} (bar {bar:g})"
    )
    assert not full or theirs / ours >= bar


def test_augmentation(benchmark, report, full):
    """Crop, flip, to [0, 1], normalise: per image in PIL, per batch in the engine; bar 7."""
    count = 1280 if full else 64
    images, labels = random_set(count)
    pil = PilSet(images, labels, transforms(True))
    net = build(registry.make("models", "resnet-s"), 10, 32, NORMALISATION, 0)

    def ours() -> None:
        for rows in draw_epoch(0, 0, count).split(128):
            with torch.no_grad():
                net.normalise(unit_range(batch_of(images, rows, ("crop4", "hflip")), channels_last=True))

    theirs, mine = in_turns(benchmark, lambda: [pil[i] for i in range(count)], ours, 15 if full else 1)
    report.append(
        f"crop, flip, normalise at 32 pixels: PIL {theirs / count * 1e6:.1f} us per image, "
        f"engine {mine / count * 1e6:.1f} us, ratio {theirs / mine:.1f} (bar 7)"
    )
    assert not full or theirs / mine >= 7


@pytest.mark.parametrize(("spec", "bar"), [("resnet-s", 5.0), ("resnet18(width=16)", 2.0)])
def test_ranking_samples_by_loss(benchmark, report, full, spec, bar):
    """Losses of a whole set. The one-by-one loop is timed on a subset and its cost per image compared.

    On a CPU the network's own arithmetic bounds the ratio (a thin ResNet-18 is busy for most of the time even with one
    image); the bar of 50 is one for GPUs, where a batch of one costs a thousand launches and a wait.
    """
    few, many = (192, 4096 if spec == "resnet-s" else 768) if full else (8, 64)
    images, labels = random_set(many)
    net = build(registry.make("models", spec), 10, 32, NORMALISATION, 0).eval()
    conventional = Conventional(spec).eval()
    conventional.net.load_state_dict(net.net.state_dict())
    loader = DataLoader(PilSet(images[:few], labels[:few], transforms(False)), batch_size=1)
    found: dict[str, np.ndarray] = {}

    def one_by_one() -> None:
        losses = []
        for x, y in loader:
            with torch.no_grad():
                losses.append(F.cross_entropy(conventional(x), y).item())
        found["theirs"] = np.array(losses)

    def ours() -> None:
        found["ours"] = losses_of(net, images, labels, device=CPU)

    theirs, mine = in_turns(benchmark, one_by_one, ours, 5 if full else 1)
    np.testing.assert_allclose(found["ours"][:few], found["theirs"], rtol=1e-3, atol=1e-4)
    theirs, mine = theirs / few, mine / many
    report.append(
        f"losses of 50,000 images, {spec}: one by one {theirs * 5e4:.0f} s (from {few} images), "
        f"engine {mine * 5e4:.1f} s (from {many}), ratio {theirs / mine:.1f} (bar {bar:g})"
    )
    assert not full or theirs / mine >= bar


def test_packed_teachers(benchmark, report, full):
    """Trainings of small networks in one, against the engine's own, one by one; an epoch of the teacher's recipe each.

    Networks that fill a core's vectors by themselves are not packed there: ``packing_pays``.
    """
    spec, count, bar = "resnet-s", 8, 2.5
    rounds, size = (5, 384) if full else (1, 40)
    images, labels = random_set(size)
    nets = [build(registry.make("models", spec), 10, 32, NORMALISATION, seed) for seed in range(count)]
    recipe = Recipe(epochs=1, batch_size=128 if full else 16, augment=())
    precision = choose_precision(CPU, "fp32")

    def one_by_one() -> None:
        for seed, net in enumerate(nets[: 2 if full else 1]):
            fit(net, images, labels, recipe, device=CPU, precision=precision, seed=seed)

    alone, packed = in_turns(
        benchmark,
        one_by_one,
        lambda: fit_packed(
            nets, [images] * count, [labels] * count, recipe, device=CPU, precision=precision, seeds=range(count)
        ),
        rounds,
    )
    alone, packed = alone / (2 if full else 1), packed / count
    benchmark.extra_info.update(ratio=alone / packed)
    report.append(
        f"{spec}, {count} in one, {precision.name}: alone {alone / size * 1e3:.3f} ms per image and teacher, "
        f"packed {packed / size * 1e3:.3f} ms, ratio {alone / packed:.2f} (bar {bar:g})"
    )
    assert not full or alone / packed >= bar
