"""The engine's rates on a GPU: ``rates.py --help``. Each fact is printed at once as a line of JSON.

Images are random bytes, except where real ones are given: what they show does not change how long they take. Times
leave out data upload, warm-up, graph capture and compilation, which have lines of their own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tree import end_with_parent

from benchbd.core.images import Images, Normalisation
from benchbd.core.recipe import Recipe
from benchbd.datasets._torchvision import torchvision
from benchbd.engine import Classifier, build, choose_precision, fit, logits_of
from benchbd.engine.augment import draw_epoch
from benchbd.engine.packed import fit_packed
from benchbd.engine.state import make_optimizer
from benchbd.engine.step import Step, training_mode
from benchbd.plugins import registry

NORMALISATION = Normalisation((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
WISHES = {"eager": "eager", "graph": "auto", "compile + graph": "compile", "strict": "strict"}
"""Precision wishes by the name in the report."""


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
        student: the network in place of ResNet-18.
        large: the network for images of ``pixels``.
        fast: the network of the recipe ``fast``.
        images: of a measured epoch at 32 pixels; ``few`` at ``pixels``.
        few: images of an epoch of the large network.
        pixels: a side of the large network's images.
        batch: images in a batch.
        full: images and epochs of the full training.
        product: side of the matrices whose product is the ceiling.
        workers: of the conventional loop's DataLoader.
        teachers: packed in one.
        jobs: trainings side by side.
    """

    student: str = "resnet18"
    large: str = "resnet34"
    fast: str = "airbench"
    images: int = 25_600
    few: int = 2_560
    pixels: int = 224
    batch: int = 128
    full: tuple[int, int] = (50_000, 80)
    product: int = 8192
    workers: int = 4
    teachers: int = 8
    jobs: tuple[int, ...] = (1, 2, 4)


SMOKE = Sizes("resnet18(width=2)", "resnet34(width=2)", "airbench(width=4)", 32, 16, 48, 16, (32, 2), 64, 0, 3, (2,))


def say(text: str, **values: Any) -> None:
    """Report a fact, at once."""
    sys.stdout.write(json.dumps({"text": text, **values}) + "\n")
    sys.stdout.flush()


def random_set(count: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """uint8 (N, 3, size, size) and labels 0..9."""
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 10, (count,), generator=generator)


def network(spec: str, seed: int = 0, size: int = 32) -> Classifier:
    """A fresh network of 10 classes."""
    return build(registry.make("models", spec), 10, size, NORMALISATION, seed)


def training_flops(spec: str, size: int = 32) -> float:
    """Floating point operations of training on one image, counted, forward and backward."""
    from benchbd.engine.operations import count_operations

    return count_operations(network(spec, size=size), size).step


class PilSet(Dataset):
    """An array of images, each turned into a PIL image when asked for, as torchvision's data sets do."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        torchvision()
        from torchvision import transforms as tt

        self.data, self.targets = images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
        self.transform = tt.Compose(
            [
                tt.RandomCrop(32, padding=4),
                tt.RandomHorizontalFlip(),
                tt.ToTensor(),
                tt.Normalize(NORMALISATION.mean, NORMALISATION.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


class Rates:
    """The measurements; each reports facts and may use what earlier ones found.

    Args:
        device: where to measure.
        sizes: how much.
        real: real training and test images; None to leave out what needs them.
    """

    def __init__(self, device: torch.device, sizes: Sizes, real: tuple[Images, Images] | None) -> None:
        self.device, self.sizes, self.real = device, sizes, real
        self.cuda = device.type == "cuda"
        self.ceiling = 0.0
        self.rates: dict[str, float] = {}

    def wait(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], rounds: int = 3) -> float:
        """Median seconds of some work, after once without a clock."""
        work()
        times = []
        for _ in range(rounds):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def report(self, name: str, rate: float, flops: float) -> None:
        """Report images a second, and the share of the matrix products' rate that they use."""
        self.rates[name] = rate
        share = rate * flops / self.ceiling if self.ceiling else None
        of = "" if share is None else f", {share:.1%} of the matrix products' rate"
        say(f"{name}: {rate:,.0f} images/s{of}", name=name, images_per_second=rate, share_of_products=share)

    def train(
        self, spec: str, images: Tensor, labels: Tensor, recipe: Recipe, wish: str = "auto"
    ) -> tuple[float, float]:
        """Train a fresh network; returns seconds of its steps and of everything."""
        precision, began = choose_precision(self.device, wish), time.perf_counter()
        net = network(spec, size=images.shape[-1])
        done = fit(net, images, labels, recipe, device=self.device, precision=precision, seed=0)
        return done.seconds, time.perf_counter() - began

    # What is measured.

    def products(self) -> None:
        """The ceiling: square matrix products in the precision that trainings use."""
        precision, n = choose_precision(self.device), self.sizes.product
        left, right = (torch.randn(n, n, device=self.device, dtype=precision.dtype or torch.float32) for _ in range(2))
        self.ceiling = 2 * n**3 / self.seconds(lambda: left @ right, 10)
        text = f"matrix products of {n}, {precision.name}: {self.ceiling / 1e12:.3g} TFLOP/s"
        say(text, name="products", flops_per_second=self.ceiling)

    def conventional(self) -> None:
        """PIL in a DataLoader, float32, NCHW, the loss and the hits read back at every step."""
        spec, (images, labels) = self.sizes.student, random_set(self.sizes.images // 2)
        net = network(spec).to(self.device).train()
        adam = torch.optim.Adam(net.parameters(), 1e-3)
        data = PilSet(images, labels)
        workers = {"num_workers": self.sizes.workers, "persistent_workers": self.sizes.workers > 0}
        loader = DataLoader(data, self.sizes.batch, shuffle=True, pin_memory=self.cuda, **workers)

        def epoch() -> None:
            for x, y in loader:
                x, y = x.to(self.device), y.to(self.device)
                adam.zero_grad()
                out = net.net(x)
                loss = F.cross_entropy(out, y)
                loss.backward()
                adam.step()
                loss.item()
                (out.argmax(1) == y).sum().item()

        rate = len(images) / self.seconds(epoch, 1)
        self.report(f"{spec}, conventional loop, {self.sizes.workers} loader workers", rate, training_flops(spec))

    def engine(self, spec: str, count: int, size: int, mode: str, recipe: Recipe | None = None) -> None:
        """The engine's own loop in one mode: the better of two trainings."""
        (images, labels), wish = random_set(count, size), WISHES[mode]
        recipe = recipe or Recipe(batch_size=self.sizes.batch, schedule="constant", augment=("crop4", "hflip"))
        recipe = recipe.but(epochs=2)
        runs = [self.train(spec, images, labels, recipe, wish) for _ in range(2 if self.cuda else 1)]
        precision = choose_precision(self.device, wish).name
        rate = max(count * recipe.epochs / steps for steps, _ in runs)
        name = f"{spec} at {size} pixels, batch {recipe.batch_size}, {mode} ({precision})"
        self.report(name, rate, training_flops(spec, size))
        spent = [whole - steps for steps, whole in runs]
        say(f"  upload, warm-up, capture and compilation: {spent[0]:.1f} s first, {spent[-1]:.1f} s again")

    def eager(self) -> None:
        """ResNet-18, one launch after the other."""
        self.engine(self.sizes.student, self.sizes.images, 32, "eager")

    def graph(self) -> None:
        """ResNet-18 as a CUDA graph, and how many times as fast as the conventional loop."""
        self.engine(self.sizes.student, self.sizes.images, 32, "graph")
        self.ratio()

    def compiled(self) -> None:
        """ResNet-18 compiled and as a CUDA graph."""
        self.engine(self.sizes.student, self.sizes.images, 32, "compile + graph")
        self.ratio()

    def strict(self) -> None:
        """ResNet-18 with deterministic kernels."""
        self.engine(self.sizes.student, self.sizes.images, 32, "strict")

    def airbench(self) -> None:
        """The network of the recipe ``fast``, with this recipe."""
        self.engine(self.sizes.fast, self.sizes.images, 32, "graph", self.fast_recipe())

    def fast_recipe(self) -> Recipe:
        """The recipe ``fast``, with small batches in a rehearsal."""
        recipe = Recipe.parse({"preset": "fast"})
        return recipe if self.cuda else recipe.but(batch_size=self.sizes.batch)

    def airbench_to_accuracy(self) -> None:
        """The recipe ``fast`` on real images: seconds and accuracy on test images."""
        if self.real is None:
            say("airbench on real images: left out, no images were given")
            return
        train, test = self.real
        recipe, precision = self.fast_recipe(), choose_precision(self.device)
        net = network(self.sizes.fast)
        net.initialise_from(train.images)
        done = fit(net, train.images, train.labels, recipe, device=self.device, precision=precision, seed=0)
        hits = logits_of(net, test.images, device=self.device).argmax(1) == test.labels.numpy()
        text = f"{self.sizes.fast}, recipe fast, {len(train.labels):,} real images, {recipe.epochs} epochs: "
        text += f"accuracy {hits.mean():.4f} on {len(hits):,} test images after {done.seconds:.1f} s of training"
        say(text, name="airbench to accuracy", seconds=done.seconds, accuracy=float(hits.mean()))

    def teachers(self) -> None:
        """ResNet-S alone and packed, in the teacher's recipe."""
        for spec, groupings in (("resnet-s", (8, 64, 1)), ("resnet-s(stem=64)", (1, 8))):
            self.packed(spec, groupings if self.cuda else groupings[:1])

    def packed(self, spec: str, groupings: tuple[int, ...]) -> None:
        """One network alone, and several as one, for several fewest channels of a group."""
        images, labels = random_set(self.sizes.images // 2)
        recipe = Recipe(epochs=2, batch_size=self.sizes.batch, augment=())
        precision, count, flops = choose_precision(self.device), self.sizes.teachers, training_flops(spec)
        alone = len(images) * recipe.epochs / self.train(spec, images, labels, recipe)[0]
        self.report(f"{spec} alone ({precision.name})", alone, flops)
        for lanes in groupings:
            nets = [network(spec, seed) for seed in range(count)]
            sets = [images] * count, [labels] * count
            wishes: dict[str, Any] = {"device": self.device, "precision": precision, "seeds": range(count)}
            done = fit_packed(nets, *sets, recipe, lanes=lanes, **wishes)[0]
            rate = len(images) * recipe.epochs / done.seconds
            self.report(f"{spec}, {count} packed, {lanes} lanes, images of all", rate, flops)
            say(f"  {rate / alone:.2f} times as fast per teacher as alone", name=f"packing {spec}", ratio=rate / alone)

    def full(self) -> None:
        """The whole training that one cell of CIFAR-10 needs, by the clock."""
        (count, epochs), spec = self.sizes.full, self.sizes.student
        recipe = Recipe(epochs=epochs, batch_size=self.sizes.batch)
        steps, whole = self.train(spec, *random_set(count), recipe)
        text = f"{spec}, {epochs} epochs of {count:,} images: {steps:.1f} s, {whole:.1f} s in all"
        say(text, name="full training", seconds=steps, seconds_in_all=whole)

    def jobs(self) -> None:
        """Trainings side by side in processes of their own, as ``--jobs-per-gpu`` starts them; all images a second."""
        for count in self.sizes.jobs:
            command = [sys.executable, __file__, "--device", str(self.device), "--worker"]
            command += [] if self.cuda else ["--smoke"]
            workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
            words = [each.communicate()[0].split() for each in workers]
            if any(each.returncode for each in workers):
                raise RuntimeError(f"a training beside {count - 1} others failed")
            rates = [float(found[-1]) for found in words]
            text = f"--jobs-per-gpu {count}: {sum(rates):,.0f} images/s in all, {min(rates):,.0f} the slowest"
            say(text, name=f"jobs {count}", images_per_second=sum(rates))

    def synchronisations(self) -> None:
        """A step in CUDA's mode in which waiting for the device is an error."""
        images, labels = (t.to(self.device) for t in random_set(self.sizes.batch * 2))
        net, recipe = network(self.sizes.student).to(self.device), Recipe(batch_size=self.sizes.batch)
        training_mode(net, recipe.bn)
        optimizer, ones = make_optimizer(net, recipe, self.device), torch.ones(len(images), device=self.device)
        step = Step(net, optimizer, images, labels, ones, recipe, choose_precision(self.device))
        rows = draw_epoch(0, 0, len(images)).to(self.device)
        step(rows[: self.sizes.batch])
        if self.cuda:
            torch.cuda.set_sync_debug_mode("error")
        try:
            step(rows[self.sizes.batch :])
        finally:
            if self.cuda:
                torch.cuda.set_sync_debug_mode("default")
        say("synchronisations in a step: 0" if self.cuda else "synchronisations: nothing to see without CUDA")

    def large_images(self) -> None:
        """A ResNet-34 at 224 pixels, eager and as a graph."""
        for mode in ("eager", "graph"):
            self.engine(self.sizes.large, self.sizes.few, self.sizes.pixels, mode)

    def ratio(self) -> None:
        """The engine against the conventional loop."""
        slow = [rate for name, rate in self.rates.items() if "conventional" in name]
        fast = [rate for name, rate in self.rates.items() if name.startswith(f"{self.sizes.student} at 32 ")]
        if slow and fast:
            ratio = max(fast) / slow[0]
            say(f"engine over conventional loop: {ratio:.1f}", name="engine over conventional loop", ratio=ratio)


FIRST = ("products", "conventional", "eager", "graph", "teachers", "airbench", "airbench_to_accuracy", "compiled")
"""What the part ``rates`` measures, in order: the last ones are cut off if the time is up."""
MORE = ("products", "synchronisations", "strict", "jobs", "large_images", "full")
"""What the part ``more`` measures."""


def real_images(dataset: str, data: str | None, plugins: list[str], smoke: bool) -> tuple[Images, Images]:
    """Training and test images of a data set as in a matrix."""
    for file in plugins:
        registry.add_plugin_file(file)
    made = registry.make("datasets", dataset)
    if smoke:
        made = registry.make("datasets", made.name, **type(made).smoke)
    return made.load("train", data), made.load("test", data)


def side_by_side(device: torch.device, sizes: Sizes) -> None:
    """One training among others; prints its images a second."""
    images, labels = random_set(sizes.images)
    recipe = Recipe(epochs=6, batch_size=sizes.batch)
    net, precision = network(sizes.student), choose_precision(device)
    done = fit(net, images, labels, recipe, device=device, precision=precision, seed=0)
    sys.stdout.write(f"{len(images) * recipe.epochs / done.seconds}\n")


def main() -> int:
    """Measure; what fails costs itself alone. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=120, help="nothing is begun after these")
    parser.add_argument("--more", action="store_true", help=f"measure {', '.join(MORE)}; without: {', '.join(FIRST)}")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--dataset", help="data set as in a matrix, for the measurement on real images")
    parser.add_argument("--data", help="data folder")
    parser.add_argument("--plugin", action="append", default=[], help="file with a plugin")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    end_with_parent()
    device, sizes, began = torch.device(args.device), SMOKE if args.smoke else Sizes(), time.monotonic()
    if device.type == "cpu":
        torch.set_num_threads(1)
    if args.worker:
        side_by_side(device, sizes)
        return 0
    real = None
    if args.dataset and not args.more:
        real = real_images(args.dataset, args.data, args.plugin, args.smoke)
    rates, code = Rates(device, sizes, real), 0
    for name in MORE if args.more else FIRST:
        if time.monotonic() - began > args.seconds:
            say(f"{name}: left out, the time is up")
            continue
        try:
            getattr(rates, name)()
        except Exception as error:
            code = 1
            say(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", name=name, failed=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
