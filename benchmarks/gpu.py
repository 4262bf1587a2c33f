"""Every figure about a GPU in one run of under nine minutes: ``make bench-gpu``, or ``python benchmarks/gpu.py``.

Needs torch, torchvision, pandas, rich, scikit-learn, pytest and this source tree, which need not be installed.
``--device cpu --smoke`` runs every part on tiny sizes, in about a minute, to see that it runs.

Images are random bytes: what they show does not change how long they take. Times leave out data upload, warm-up, graph
capture and compilation, which are told apart where they matter.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import benchbd  # noqa: E402

# The plugin folders lie beside the package; an installation puts them inside it.
benchbd.__path__.append(str(ROOT))

from benchbd.core.images import Normalisation  # noqa: E402
from benchbd.core.recipe import Recipe  # noqa: E402
from benchbd.datasets._torchvision import torchvision  # noqa: E402
from benchbd.engine import Classifier, build, choose_precision, fit  # noqa: E402
from benchbd.engine.augment import draw_epoch  # noqa: E402
from benchbd.engine.packed import fit_packed  # noqa: E402
from benchbd.engine.state import make_optimizer  # noqa: E402
from benchbd.engine.step import Step, training_mode  # noqa: E402
from benchbd.plugins import registry  # noqa: E402

NORMALISATION = Normalisation((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
BUDGET = 440.0
"""Seconds after which no further part is begun."""
TARGETS = "targets on an H100: 80 epochs in 50 s (stretch 42), 4 times the conventional loop (8), packed 5 times alone"


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
        student: the network in place of ResNet-18, and of ResNet-34.
        images: of a measured epoch at 32 pixels; ``large`` at ``pixels``.
        batch: images in a batch.
        full: images and epochs of the full training.
        product: side of the matrices whose product is the ceiling.
        workers: of the conventional loop's DataLoader.
        teachers: packed in one.
        jobs: trainings side by side.
    """

    student: tuple[str, str] = ("resnet18", "resnet34")
    images: int = 25_600
    large: int = 2_560
    pixels: int = 224
    batch: int = 128
    full: tuple[int, int] = (50_000, 80)
    product: int = 8192
    workers: int = 4
    teachers: int = 8
    jobs: tuple[int, ...] = (1, 2, 4)


SMOKE = Sizes(("resnet18(width=2)", "resnet34(width=2)"), 32, 16, 96, 16, (32, 2), 128, 0, 3, (2,))


def say(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def random_set(count: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """uint8 (N, 3, size, size) and labels 0..9."""
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 10, (count,), generator=generator)


def network(spec: str, seed: int = 0, size: int = 32) -> Classifier:
    """A fresh network of 10 classes."""
    return build(registry.make("models", spec), 10, size, NORMALISATION, seed)


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


class PluginUnderTest:
    """The parts, in order of importance; each leaves lines and may use what earlier ones found."""

    def __init__(self, device: torch.device, sizes: Sizes) -> None:
        self.device, self.sizes = device, sizes
        self.cuda = device.type == "cuda"
        self.ceiling = 0.0
        self.rates: dict[str, float] = {}

    def wait(self) -> None:
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

    def told(self, name: str, rate: float, flops: float) -> None:
        """Keep and say images a second, and what share of the ceiling that is."""
        self.rates[name] = rate
        say(f"{name}: {rate:,.0f} images/s, {rate * flops / self.ceiling:.1%} of the matrix products' rate")

    def training_flops(self, spec: str, size: int) -> float:
        """Floating point operations of training on one image, counted, forward and backward."""
        from torch.utils.flop_counter import FlopCounterMode

        net = network(spec, size=size).train()
        with FlopCounterMode(display=False) as counter:
            net(torch.rand(2, 3, size, size)).sum().backward()
        return counter.get_total_flops() / 2

    # The parts.

    def products(self) -> None:
        """The ceiling: square matrix products in the precision that trainings use."""
        precision = choose_precision(self.device)
        n = self.sizes.product
        left, right = (torch.randn(n, n, device=self.device, dtype=precision.dtype or torch.float32) for _ in range(2))
        self.ceiling = 2 * n**3 / self.seconds(lambda: left @ right, 10)
        say(f"matrix products of {n}, {precision.name}: {self.ceiling / 1e12:.3g} TFLOP/s")

    def conventional(self) -> None:
        """PIL in a DataLoader, float32, NCHW, the loss and the hits read back at every step."""
        spec, (images, labels) = self.sizes.student[0], random_set(self.sizes.images // 2)
        net = network(spec).to(self.device).train()
        adam = torch.optim.Adam(net.parameters(), 1e-3)
        loader = DataLoader(
            PilSet(images, labels), self.sizes.batch, shuffle=True, num_workers=self.sizes.workers, pin_memory=self.cuda
        )

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
        self.told(
            f"{spec}, conventional loop, {self.sizes.workers} loader workers", rate, self.training_flops(spec, 32)
        )

    def engine(self, spec: str, size: int, count: int, wishes: dict[str, str]) -> None:
        """The engine's own loop in several precision classes."""
        (images, labels), flops = random_set(count, size), self.training_flops(spec, size)
        recipe = Recipe(epochs=2, batch_size=self.sizes.batch, schedule="constant")
        for name, wish in wishes.items():
            precision = choose_precision(self.device, wish)
            rates, began = [], time.perf_counter()
            for _ in range(2 if self.cuda else 1):
                net = network(spec, size=size)
                done = fit(net, images, labels, recipe, device=self.device, precision=precision, seed=0)
                rates.append(count * recipe.epochs / done.seconds)
            self.told(f"{spec} at {size}, batch {self.sizes.batch}, {name} ({precision.name})", max(rates), flops)
            spent = time.perf_counter() - began - sum(count * recipe.epochs / rate for rate in rates)
            say(f"  upload, warm-up, capture and compilation of {len(rates)} trainings: {spent:.1f} s")

    def student(self) -> None:
        wishes = {"eager": "eager", "graph": "auto", "compile + graph": "compile", "strict": "strict"}
        self.engine(self.sizes.student[0], 32, self.sizes.images, wishes)

    def full(self) -> None:
        """The whole training that one cell of CIFAR-10 needs, by the clock."""
        (count, epochs), spec = self.sizes.full, self.sizes.student[0]
        images, labels = random_set(count)
        recipe = Recipe(epochs=epochs, batch_size=self.sizes.batch)
        precision, began = choose_precision(self.device), time.perf_counter()
        done = fit(network(spec), images, labels, recipe, device=self.device, precision=precision, seed=0)
        wall = time.perf_counter() - began
        say(f"{spec}, {epochs} epochs of {count:,} images, {precision.name}: {done.seconds:.1f} s, {wall:.1f} s in all")

    def teachers(self) -> None:
        """ResNet-S alone and packed, in the teacher's recipe."""
        images, labels = random_set(self.sizes.images)
        recipe = Recipe(epochs=2, batch_size=self.sizes.batch, augment=())
        precision, count = choose_precision(self.device), self.sizes.teachers
        for spec in ("resnet-s", "resnet-s(stem=64)"):
            flops = self.training_flops(spec, 32)
            done = fit(network(spec), images, labels, recipe, device=self.device, precision=precision, seed=0)
            alone = len(images) * recipe.epochs / done.seconds
            self.told(f"{spec} alone ({precision.name})", alone, flops)
            for lanes in (1, 8, 16, 64) if self.cuda else (8,):
                nets = [network(spec, seed) for seed in range(count)]
                done = fit_packed(
                    nets,
                    [images] * count,
                    [labels] * count,
                    recipe,
                    device=self.device,
                    precision=precision,
                    seeds=range(count),
                    lanes=lanes,
                )[0]
                rate = len(images) * recipe.epochs / done.seconds
                self.told(f"{spec}, {count} packed, {lanes} lanes, images/s of all", rate, flops)
                say(f"  {rate / alone:.2f} times as fast per teacher as alone")

    def jobs(self) -> None:
        """Trainings side by side in processes of their own, as ``--jobs-per-gpu`` starts them; all images a second."""
        for count in self.sizes.jobs:
            command = [sys.executable, __file__, "--device", str(self.device), "--worker"]
            command += [] if self.cuda else ["--smoke"]
            workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
            told = [each.communicate()[0].split() for each in workers]
            if any(each.returncode for each in workers):
                raise RuntimeError(f"a training beside {count - 1} others failed")
            rates = [float(words[-1]) for words in told]
            say(f"--jobs-per-gpu {count}: {sum(rates):,.0f} images/s in all, {min(rates):,.0f} the slowest")

    def synchronisations(self) -> None:
        """A step in CUDA's mode in which waiting for the device is an error."""
        images, labels = (t.to(self.device) for t in random_set(self.sizes.batch * 2))
        net, recipe = network(self.sizes.student[0]).to(self.device), Recipe(batch_size=self.sizes.batch)
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

    def repeatable(self) -> None:
        """The strict class: two trainings, bit by bit."""
        images, labels = random_set(self.sizes.batch * 10 + 3)
        recipe, precision = Recipe(epochs=2, batch_size=self.sizes.batch), choose_precision(self.device, "strict")
        nets = [network(self.sizes.student[0]) for _ in range(2)]
        for net in nets:
            fit(net, images, labels, recipe, device=self.device, precision=precision, seed=0)
        one, other = (net.state_dict() for net in nets)
        same = all(torch.equal(one[name], other[name]) for name in one)
        say(f"{precision.name}: two trainings are {'the same bit by bit' if same else 'NOT the same'}")
        if not same:
            raise RuntimeError("the strict class is not repeatable")

    def large(self) -> None:
        self.engine(self.sizes.student[1], self.sizes.pixels, self.sizes.large, {"eager": "eager", "graph": "auto"})

    def ratio(self) -> None:
        """The engine against the conventional loop."""
        slow = [rate for name, rate in self.rates.items() if "conventional" in name]
        fast = [rate for name, rate in self.rates.items() if " at 32, " in name and "strict" not in name]
        if slow and fast:
            say(f"engine over conventional loop: {max(fast) / slow[0]:.1f}")


def worker(device: torch.device, sizes: Sizes) -> None:
    """One training among others; prints its images a second."""
    images, labels = random_set(sizes.images)
    recipe = Recipe(epochs=6, batch_size=sizes.batch)
    net, precision = network(sizes.student[0]), choose_precision(device)
    done = fit(net, images, labels, recipe, device=device, precision=precision, seed=0)
    say(f"{len(images) * recipe.epochs / done.seconds}")


def main() -> int:
    """Run all parts; one that fails costs itself alone. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    device, sizes = torch.device(args.device), SMOKE if args.smoke else Sizes()
    if device.type == "cpu":
        torch.set_num_threads(1)
        if not args.smoke:
            sys.stderr.write("on a CPU this would take days: add --smoke, or use make bench\n")
            return 2
    if args.worker:
        worker(device, sizes)
        return 0
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU, sizes that say nothing"
    say(f"{name}, torch {torch.__version__}")
    bench, began, broken = PluginUnderTest(device, sizes), time.monotonic(), []
    parts = [
        bench.products,
        bench.synchronisations,
        bench.repeatable,
        bench.conventional,
        bench.student,
        bench.ratio,
        bench.full,
        bench.teachers,
        bench.jobs,
        bench.large,
    ]
    for part in parts:
        if time.monotonic() - began > BUDGET:
            say(f"{part.__name__}: left out, the time is up")
            continue
        try:
            part()
        except Exception as error:
            broken.append(part.__name__)
            say(f"{part.__name__}: FAILED: {type(error).__name__}: {error}")
    say(TARGETS if device.type == "cuda" else "nothing here was measured on a GPU")
    say(f"{time.monotonic() - began:.0f} s; failed: {', '.join(broken) or 'none'}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
