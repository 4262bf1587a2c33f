"""What a CUDA graph needs of a training step, seen without a GPU: no value read back, addresses that stay.

Every operation of a step passes through a dispatch mode, those of its backward pass too. Tensors of the device ``meta``
stand for those of a GPU: they hold no numbers, so reading one is an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys

import pytest
import torch
import toy_training
from dispatch_watch import OneDevice, Watch
from torch.nn import functional as F

from benchbd.core.images import Normalisation
from benchbd.core.recipe import AUGMENTATIONS, CROPS, FLIPS, Recipe
from benchbd.defenses.abl import Flooding, GlobalGradientAscent, LocalGradientAscent
from benchbd.defenses.cbd import Deconfounded
from benchbd.defenses.lfd import CappedAscent
from benchbd.engine import Precision, build
from benchbd.engine.augment import batch_of, draw_epoch
from benchbd.engine.batch_buffer import BatchBuffer
from benchbd.engine.packed import PackedStep
from benchbd.engine.packed_network import Packed
from benchbd.engine.state import make_optimizer, set_lr
from benchbd.engine.step import Step, training_mode
from benchbd.engine.update import Average, clip
from benchbd.plugins import registry

CPU = torch.device("cpu")
EVERYTHING = dataclasses.replace(
    toy_training.EVERYTHING, epochs=80, batch_size=16, optimizer="adam", augment=("crop4", "hflip")
)
VIEWS = [(name,) for name in AUGMENTATIONS] + [("translate2", "flip_alternate", "rotate15", "cutout"), ()]


@pytest.fixture
def rates_in_tensors(monkeypatch):
    """Rates as on CUDA. Torch's own steps are left out: the fused ones read such rates on a CPU, but not on CUDA."""

    def prepare(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"])
        return optimizer

    def nothing(self: torch.optim.Optimizer, closure: None = None) -> None:
        """No step."""

    nothing.hooked = True  # torch would wrap it and leave the wrapper in AdamW for good
    for kind in (torch.optim.SGD, torch.optim.Adam):
        monkeypatch.setattr(kind, "step", nothing)
    return prepare


def network(spec: str = "airbench(width=4)", seed: int = 0):
    return build(registry.make("models", spec), 3, 32, Normalisation((0.5,) * 3, (0.25,) * 3), seed)


def images_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (32, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return images, torch.arange(32) % 3


def make_step(recipe: Recipe, prepare, loss=None) -> Step:
    net = network().to(memory_format=torch.channels_last)
    training_mode(net, recipe.bn)
    optimizer = prepare(make_optimizer(net, recipe, CPU))
    return Step(net, optimizer, *images_and_labels(), torch.ones(32), recipe, Precision("test"), loss)


@pytest.mark.parametrize("augment", VIEWS, ids="+".join)
def test_a_step_reads_no_value_back(rates_in_tensors, augment):
    recipe = dataclasses.replace(EVERYTHING, optimizer="sgdw", augment=augment)
    step, rows = make_step(recipe, rates_in_tensors), draw_epoch(0, 0, 32, augment)
    with Watch() as watch:
        step(rows[:16])
    assert watch.seen > 200


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "sgdw", "muon"])
def test_a_packed_step_reads_no_value_back(rates_in_tensors, optimizer):
    recipe = dataclasses.replace(EVERYTHING, optimizer=optimizer, augment=("crop4_reflect", "flip_alternate"))
    nets = [network("resnet-s", seed) for seed in range(2)]
    pack, (images, labels) = Packed(nets), images_and_labels()
    training_mode(pack, recipe.bn)
    made, both = rates_in_tensors(make_optimizer(pack, recipe, CPU)), torch.stack([labels] * 2)
    step = PackedStep(
        pack, nets, made, [images] * 2, both, torch.ones(2, 32), recipe, Precision("test", channels_last=False), None
    )
    rows = torch.stack([draw_epoch(seed, 0, 32, recipe.augment) for seed in range(2)], 1)
    with Watch():
        step(rows[:16])


@dataclasses.dataclass(frozen=True)
class Curious:
    """A loss that looks."""

    def __call__(self, losses, weights):
        return losses.mean() if losses.mean() > 0 else losses.sum()


def test_a_loss_that_looks_is_seen(rates_in_tensors):
    recipe = dataclasses.replace(EVERYTHING, optimizer="sgdw", augment=())
    step = make_step(recipe, rates_in_tensors, Curious())
    with pytest.raises(AssertionError, match="_local_scalar_dense"), Watch():
        step(draw_epoch(0, 0, 32)[:16])


@pytest.mark.parametrize("augment", VIEWS, ids="+".join)
def test_an_augmentation_makes_its_tensors_on_the_device(augment):
    """A meta tensor stands for one on a GPU: an index or a grid on the host does not go with it."""
    rows = draw_epoch(0, 0, 32, augment).to("meta")
    assert batch_of(torch.empty(32, 3, 32, 32, dtype=torch.uint8, device="meta"), rows, augment).device.type == "meta"


def test_the_groups_of_augmentations_are_all_here():
    assert set(CROPS) | set(FLIPS) <= {name for names in VIEWS for name in names}


def on_meta(step: Step) -> Step:
    """The step with everything on the device ``meta``, its averages and rates too."""
    net, recipe, precision = step.net.to("meta"), step.recipe, step.precision
    optimizer = make_optimizer(net, recipe, torch.device("meta"))
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"], device="meta")
    images, labels, weights = (t.to("meta") for t in (step.images, step.labels, step.weights))
    return Step(net, optimizer, images, labels, weights, recipe, precision, buffer=step.buffer)


@pytest.fixture
def no_autocast(monkeypatch):
    """torch has no autocast for ``meta``, not even a disabled one."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    for name in ("step", "packed"):
        module = sys.modules[f"benchbd.engine.{name}"]
        monkeypatch.setattr(module, "Autocast", lambda device, dtype: contextlib.nullcontext())


@pytest.mark.parametrize("streamed", [False, True], ids=["resident", "streamed"])
@pytest.mark.parametrize("augment", VIEWS, ids="+".join)
def test_a_step_makes_all_its_tensors_on_the_device(rates_in_tensors, no_autocast, augment, streamed):
    recipe = dataclasses.replace(EVERYTHING, optimizer="sgdw", augment=augment)
    step = on_meta(make_step(recipe, rates_in_tensors))
    step.buffer = BatchBuffer(images_and_labels()[0], 16, torch.device("meta")) if streamed else None
    rows = draw_epoch(0, 0, 32, augment).to("meta")
    with OneDevice("meta") as watch:
        step(rows[:16])
    assert watch.seen > 200


def test_a_loss_with_a_tensor_of_the_host_is_seen(rates_in_tensors, no_autocast):
    recipe = dataclasses.replace(EVERYTHING, optimizer="sgdw", augment=())
    step = on_meta(make_step(recipe, rates_in_tensors))
    step.loss = lambda losses, weights: (losses * torch.ones(16)).mean()
    rows = draw_epoch(0, 0, 32).to("meta")
    with pytest.raises(AssertionError, match=r"aten\.ones.* meets tensors of cpu"), OneDevice("meta"):
        step(rows[:16])


LOSSES = [
    *(LocalGradientAscent(0.5, level) for level in ("batch", "sample")),
    *(Flooding(0.5, level) for level in ("batch", "sample")),
    *(GlobalGradientAscent(), CappedAscent(4.0), Deconfounded()),
]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_built_in_loss_reads_no_value_back(rates_in_tensors, no_autocast, loss):
    recipe = dataclasses.replace(EVERYTHING, optimizer="sgdw", augment=())
    step = on_meta(make_step(recipe, rates_in_tensors))
    step.loss = loss
    rows = draw_epoch(0, 0, 32).to("meta")
    with OneDevice("meta"):
        step(rows[:16])


@pytest.mark.parametrize(
    "spec", ["resnet18", "preactresnet18", "airbench", "resnet-s", "vgg11", "mobilenetv2", "lenet-s"]
)
def test_a_model_makes_all_its_tensors_on_the_device(no_autocast, spec):
    net = network(spec).to("meta").to(memory_format=torch.channels_last)
    with OneDevice("meta"):
        net(torch.empty(4, 3, 32, 32, device="meta")).sum().backward()


LAUNCHES = {"resnet18": 220, "airbench": 110, "resnet-s": 150}
"""Most operations of a step with the paper's recipe that compute something; docs/gpu.md has the counts."""


@pytest.mark.parametrize("spec", LAUNCHES)
def test_a_step_launches_no_more_than_it_did(spec):
    recipe = Recipe(batch_size=16, augment=("crop4", "hflip"))
    net = network(spec).to(memory_format=torch.channels_last)
    training_mode(net, recipe.bn)
    optimizer = make_optimizer(net, recipe, CPU)
    step = Step(net, optimizer, *images_and_labels(), torch.ones(32), recipe, Precision("test"))
    rows = draw_epoch(0, 0, 32, recipe.augment)
    step(rows[:16])
    with Watch() as watch:
        step(rows[16:])
    assert LAUNCHES[spec] * 0.8 < watch.launches <= LAUNCHES[spec]


def addresses(step: Step) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in step.tensors().items()}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "sgdw", "muon"])
def test_tensors_stay_where_a_graph_reads_them(optimizer):
    """Through steps, a look at the average, new rates and a restored average."""
    recipe = dataclasses.replace(EVERYTHING, optimizer=optimizer)
    step = make_step(recipe, lambda made: made)
    before, rows, average = addresses(step), draw_epoch(0, 0, 32, recipe.augment), step.update.average
    assert isinstance(average, Average)
    step(rows[:16])
    saved = average.saved()
    with average.in_use():
        step.net(torch.rand(2, 3, 32, 32))
    average.restore(saved)
    step(rows[16:])
    assert addresses(step) == before


def test_a_rate_is_written_into_the_tensor_that_a_graph_reads(rates_in_tensors):
    made = rates_in_tensors(make_optimizer(network(), EVERYTHING, CPU))
    rates = [group["lr"] for group in made.param_groups]
    set_lr(made, 0.25)
    assert [group["lr"] for group in made.param_groups] == rates
    assert [float(rate) for rate in rates] == [0.25, 1.0]
    assert all(group["lr"] is rate for group, rate in zip(made.param_groups, rates, strict=True))


def test_a_parameter_without_axes_is_clipped_too():
    """A learned temperature, say."""
    scale, weight = torch.nn.Parameter(torch.tensor(2.0)), torch.nn.Parameter(torch.ones(3))
    F.mse_loss(scale * weight, torch.zeros(3)).backward()
    expected = [p.grad.clone() for p in (scale, weight)]
    clip([scale, weight], 0.1)
    factor = 0.1 / (torch.stack([g.square().sum() for g in expected]).sum().sqrt() + 1e-6)
    for p, g in zip((scale, weight), expected, strict=True):
        torch.testing.assert_close(p.grad, g * factor)
