"""Packed trainings against the same ones one by one: step by step in float64, within a tolerance in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from benchbd.core.images import Normalisation
from benchbd.core.recipe import Recipe
from benchbd.engine import Classifier, Precision, build, fit
from benchbd.engine.epochs import NotFinite
from benchbd.engine.packed import fit_packed, fit_several, packing_pays
from benchbd.engine.packed_network import Packed, _PackedConv2d
from benchbd.plugins import registry

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
NORMALISATION = Normalisation((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
PLAIN = Precision("cpu-fp32")
RECIPE = Recipe(epochs=2, batch_size=32, lr=1e-3)
RELATIVE = 1e-3
"""The stated tolerance of a short training's epoch losses.

Packed sums run in another order, and Adam makes whole steps of gradients near zero, whatever their sign.
"""


def models(spec: str, count: int, size: int = 16) -> list[Classifier]:
    return [build(registry.make("models", spec), 3, size, NORMALISATION, seed) for seed in range(count)]


def sets(count: int, images: int = 45, size: int = 16) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(7)
    labels = [torch.randint(0, 3, (images,), generator=generator) for _ in range(count)]
    pictures = [torch.randint(0, 180, (images, 3, size, size), generator=generator).to(torch.uint8) for _ in labels]
    for picture, label in zip(pictures, labels, strict=True):
        picture[torch.arange(images), label] += 60
    return pictures, labels


def one_by_one(nets, images, labels, recipe=RECIPE, **more):
    weights = more.pop("weights", [None] * len(nets))
    return [
        fit(net, x, y, recipe, device=CPU, precision=PLAIN, seed=number, weights=w, **more)
        for number, (net, x, y, w) in enumerate(zip(nets, images, labels, weights, strict=True))
    ]


def together(nets, images, labels, recipe=RECIPE, **more):
    return fit_packed(nets, images, labels, recipe, device=CPU, precision=PLAIN, seeds=range(len(nets)), **more)


@pytest.mark.learning
@pytest.mark.parametrize(
    ("spec", "count"),
    [("resnet-s", 8), ("resnet-s", 3), ("resnet-s(stem=64)", 2), ("resnet-s1", 5), ("mobilenetv2-s", 2)],
)
def test_a_packed_model_learns_what_it_learns_alone(spec, count):
    """Different sets, seeds, orders and augmentations; a last batch that is smaller than the others."""
    size = 32 if spec.startswith("mobilenet") else 16
    alone, packed, data = models(spec, count, size), models(spec, count, size), sets(count, size=size)
    expected, found = one_by_one(alone, *data), together(packed, *data)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.epoch_losses == pytest.approx(theirs.epoch_losses, rel=RELATIVE)
        assert mine.steps == theirs.steps


@pytest.mark.learning
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("bn", ["train", "eval"])
def test_weights_and_statistics_after_two_epochs(optimizer, bn):
    """A learning rate at which rounding stays rounding: every tensor then agrees, batch norm's statistics too."""
    recipe = RECIPE.but(lr=1e-5, optimizer=optimizer, weight_decay=0.1, bn=bn)
    alone, packed, data = models("resnet-s", 4), models("resnet-s", 4), sets(4)
    one_by_one(alone, *data, recipe)
    together(packed, *data, recipe)
    for mine, theirs in zip(packed, alone, strict=True):
        torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), rtol=1e-3, atol=1e-4)
        assert not mine.training


def gradients(nets: list[Classifier], x: Tensor, labels: Tensor, lanes: int) -> tuple[list[Tensor], list[Tensor]]:
    """Of a pack and of its models alone, in float64: the mathematics, without rounding in the way."""
    pack = Packed(nets, lanes).double().train()
    for net in nets:
        net.double().train()
    logits = pack(pack.inputs([net.normalise(part) for net, part in zip(nets, x, strict=True)]))
    losses = F.cross_entropy(logits.transpose(1, 2), labels.t(), reduction="none").mean(0)
    losses.sum().backward()
    for net, part, label in zip(nets, x, labels, strict=True):
        F.cross_entropy(net(part), label).backward()
    mine = [part for p in pack.net.parameters() for part in p.grad.chunk(len(nets))]
    theirs = [net.net.get_parameter(name).grad for name, _ in pack.net.named_parameters() for net in nets]
    return mine, theirs


@settings(max_examples=8, deadline=None)
@given(
    spec=st.sampled_from(["resnet-s", "resnet-s1", "resnet-s(stem=8)"]),
    count=st.integers(1, 6),
    lanes=st.sampled_from([1, 4, 8, 64]),
)
def test_gradients_in_float64_are_those_of_each_model_alone(spec, count, lanes):
    torch.manual_seed(count)
    x, labels = torch.rand(count, 4, 3, 16, 16, dtype=torch.float64), torch.randint(0, 3, (count, 4))
    mine, theirs = gradients(models(spec, count), x, labels, lanes)
    assert len(mine) > 10
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other.view_as(one), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("lanes", [1, 8, 64])
@pytest.mark.parametrize("spec", ["resnet-s", "resnet-s1", "resnet-s(stem=16)"])
def test_packed_convolutions_as_computed_on_this_machine(spec, lanes):
    """Channels last in float32, as trained, against float64: some backends got such gradients wrong.

    Errors are measured against what the terms of the largest sum come to when none cancels another.
    """
    count = 8
    pack = Packed(models(spec, count), lanes).to(memory_format=torch.channels_last).train()
    seen: dict[str, list[Tensor]] = {}

    def keep(name: str, part: nn.Module) -> None:
        part.register_forward_pre_hook(lambda _, given_: seen.__setitem__(name, [given_[0].detach().double()]))

        def after(_: nn.Module, given_: tuple[Tensor], made: Tensor) -> None:
            seen[name].append(made.detach().double())
            made.register_hook(lambda gradient: seen[name].append(gradient.double()))

        part.register_forward_hook(after)

    parts = {name: part for name, part in pack.named_modules() if isinstance(part, _PackedConv2d)}
    for name, part in parts.items():
        keep(name, part)
    x = torch.randn(16, 3 * count, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(16 * count).view(16, count) % 3
    logits = pack(x.contiguous(memory_format=torch.channels_last))
    F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum().backward()
    for name, part in parts.items():
        given_, made, gradient = seen[name]
        stride, padding = (part.slices, 0) if part.slices else (part.stride, part.padding)
        exact = []
        for take in (lambda t: t, torch.abs):
            weight = take(part.weight.detach().double()).requires_grad_()
            out = F.conv2d(take(given_), weight, None, stride, padding, groups=count)
            out.backward(take(gradient))
            exact += [out.detach(), weight.grad]
        for mine, right, terms in ((made, exact[0], exact[2]), (part.weight.grad, exact[1], exact[3])):
            assert float((mine - right).abs().max() / terms.max()) < 1e-5, name


def test_neighbours_do_not_count():
    """Whatever else is in the pack, a model ends with the same bits."""
    images, labels = sets(4)
    first, second = models("resnet-s", 4), models("resnet-s", 4)
    together(first, images, labels)
    others = [images[0], *(torch.flip(x, (0,)) for x in images[1:])]
    fit_packed(second, others, labels, RECIPE, device=CPU, precision=PLAIN, seeds=[0, 11, 12, 13])
    for name, tensor in first[0].state_dict().items():
        assert torch.equal(tensor, second[0].state_dict()[name]), name
    assert not torch.equal(first[1].head.weight, second[1].head.weight)


@pytest.mark.learning
def test_weights_and_losses_of_each_model(monkeypatch):
    def squared(losses: Tensor, weights: Tensor) -> Tensor:
        return (losses.square() * weights).mean()

    generator = torch.Generator().manual_seed(5)
    weights = [torch.rand(45, generator=generator), None, torch.zeros(45)]
    alone, packed, data = models("resnet-s", 3), models("resnet-s", 3), sets(3)
    before = packed[2].head.weight.clone()
    expected = one_by_one(alone, *data, weights=weights, loss=squared)
    found = together(packed, *data, weights=weights, loss=squared)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.epoch_losses == pytest.approx(theirs.epoch_losses, rel=RELATIVE)
    assert torch.equal(packed[2].head.weight, before), "weights of zero teach nothing"


@pytest.mark.parametrize(
    ("spec", "pays"), [("resnet-s", True), ("resnet-s(stem=64)", False), ("resnet18(width=8)", False)]
)
def test_networks_that_fill_a_core_by_themselves_train_one_by_one_there(spec, pays):
    """Then each is bit for bit what it is alone."""
    alone, several, data = models(spec, 2), models(spec, 2), sets(2)
    assert packing_pays(several[0], CPU) == pays
    assert packing_pays(several[0], torch.device("cuda"))
    one_by_one(alone, *data)
    fit_several(several, *data, RECIPE, device=CPU, precision=PLAIN, seeds=range(2))
    same = [
        torch.equal(a, b)
        for x, y in zip(alone, several, strict=True)
        for a, b in zip(x.parameters(), y.parameters(), strict=True)
    ]
    assert all(same) != pays


@pytest.mark.learning
def test_seeds_over_one_set():
    """One tensor of images for all; each model has its own order."""
    images, labels = sets(1)
    alone, packed = models("resnet-s", 4), models("resnet-s", 4)
    data = (images * 4, labels * 4)
    for mine, theirs in zip(together(packed, *data), one_by_one(alone, *data), strict=True):
        assert mine.epoch_losses == pytest.approx(theirs.epoch_losses, rel=RELATIVE)


def test_one_diverging_model_spoils_the_pack_and_no_network():
    images, labels = sets(4)
    nets = models("resnet-s", 4)
    with torch.no_grad():
        nets[2].head.weight.fill_(float("inf"))
    before = [net.head.weight.clone() for net in nets]
    with pytest.raises(NotFinite, match="pack"):
        together(nets, images, labels)
    assert all(torch.equal(net.head.weight, kept) for net, kept in zip(nets, before, strict=True))


class Mixing(nn.Module):
    """Adds up all its channels where no layer shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def features(self, x: Tensor) -> Tensor:
        x = self.conv(x).mean((2, 3))
        return x - x.mean(1, keepdim=True)


class Small(nn.Module):
    """A convolution, some layer or other, another convolution."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.before, self.layer, self.after, self.head = nn.Conv2d(3, 4, 3), layer, nn.Conv2d(4, 6, 3), nn.Linear(6, 3)

    def features(self, x: Tensor) -> Tensor:
        return self.after(self.layer(self.before(x))).mean((2, 3))


class Averaged(nn.Module):
    """The mean of all channels beside each."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x.mean(1, keepdim=True)


class Fixed(nn.Module):
    """A convolution with a buffer or a frozen parameter of another value in each network."""

    def __init__(self, buffer: bool) -> None:
        super().__init__()
        filters = torch.randn(4, 4, 3, 3)
        if buffer:
            self.register_buffer("filters", filters)
        else:
            self.filters = nn.Parameter(filters, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filters, padding=1)


def small(make, count: int = 2) -> list[Classifier]:
    torch.manual_seed(3)
    return [Classifier(Small(make()), NORMALISATION) for _ in range(count)]


def tied() -> Small:
    net = Small(nn.Conv2d(3, 4, 3))
    net.layer = net.before
    return net


def one_frozen() -> list[Classifier]:
    nets = small(nn.ReLU)
    nets[1].net.after.bias.requires_grad_(False)
    return nets


def reference(nets: list[Classifier]) -> list[dict[str, Tensor]]:
    return [{k: v.clone() for k, v in net.state_dict().items()} for net in nets]


SGD = RECIPE.but(lr=0.05, optimizer="sgd", weight_decay=1e-3)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.BatchNorm2d, nn.Linear])
@pytest.mark.parametrize("entry", ["weight", "bias"])
def test_what_is_frozen_stays_frozen(kind, entry):
    """To the bit, while the rest learns what it learns alone."""

    def frozen() -> list[Classifier]:
        nets = small(lambda: nn.BatchNorm2d(4))
        for net in nets:
            for part in net.modules():
                if isinstance(part, kind):
                    part.get_parameter(entry).requires_grad_(False)
        return nets

    alone, packed, data = frozen(), frozen(), sets(2)
    before = reference(packed)
    one_by_one(alone, *data, SGD)
    together(packed, *data, SGD)
    for mine, theirs, start in zip(packed, alone, before, strict=True):
        torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), rtol=1e-3, atol=1e-4)
        for name, parameter in mine.named_parameters():
            assert torch.equal(parameter, start[name]) == (not parameter.requires_grad), name


@pytest.mark.parametrize("buffer", [True, False])
def test_a_layer_with_nothing_to_train_keeps_each_models_own_tensors(buffer):
    alone, packed, data = small(lambda: Fixed(buffer)), small(lambda: Fixed(buffer)), sets(2)
    before = reference(packed)
    assert not torch.equal(packed[0].net.layer.filters, packed[1].net.layer.filters)
    one_by_one(alone, *data, SGD.but(clip_norm=1.0))
    together(packed, *data, SGD.but(clip_norm=1.0))
    for mine, theirs, start in zip(packed, alone, before, strict=True):
        torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), rtol=1e-3, atol=1e-4)
        assert torch.equal(mine.net.layer.filters, start["net.layer.filters"])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (
            lambda: models("lenet", 2, 32),
            r"hidden\.0 \(Linear\) cannot be packed: it has trained weights; .*one by one",
        ),
        (lambda: small(Averaged), r"^layer \(Averaged\) cannot be packed: in it, channels of different models mix"),
        (lambda: small(lambda: nn.Unflatten(1, (4, 1))), r"^after \(Conv2d\) cannot be packed: it fails on images"),
        (lambda: small(lambda: nn.LayerNorm((4, 62, 62), elementwise_affine=False)), r"^layer \(LayerNorm\).* joined"),
        (lambda: small(lambda: nn.Dropout2d()), r"^layer \(Dropout2d\) cannot be packed: it is dropout"),
        (lambda: small(lambda: nn.utils.spectral_norm(nn.Conv2d(4, 4, 1))), r"^layer\.weight.* cannot be packed"),
        (lambda: [Classifier(tied(), NORMALISATION) for _ in range(2)], "shares its weights"),
        (one_frozen, r"^after\.bias cannot be packed: it is frozen or absent in one network"),
        (lambda: [*models("resnet-s", 1), *models("resnet-s1", 1)], "one architecture"),
        (lambda: [Classifier(Mixing(), NORMALISATION), Classifier(Mixing(), NORMALISATION)], "mix"),
        (lambda: [], "one architecture"),
    ],
)
def test_what_cannot_be_packed_is_refused(make, why):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=why):
        Packed(make())


def test_sets_of_different_sizes_are_refused():
    (first, second), labels = sets(2)
    with pytest.raises(ValueError, match="one size"):
        together(models("resnet-s", 2), [first, second[:40]], [labels[0], labels[1][:40]])


def test_a_pack_reads_nothing_back_within_an_epoch():
    """Three batches or nine, the number of reads is the same."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func._schema.name.removeprefix("aten::") in ("_local_scalar_dense", "nonzero", "equal")
            return func(*args, **(kwargs or {}))

    images, labels = sets(2)
    counts = []
    for batch_size in (15, 5):
        with Reads() as reads:
            together(models("resnet-s", 2), images, labels, RECIPE.but(epochs=1, batch_size=batch_size))
        counts.append(reads.count)
    assert counts[0] == counts[1] > 0


@pytest.mark.learning
def test_losses_after_packing_rank_as_before():
    """The unpacked networks are what the trainings made: the last epoch's frozen losses agree."""
    from benchbd.engine import losses_of

    images, labels = sets(2)
    alone, packed = models("resnet-s", 2), models("resnet-s", 2)
    one_by_one(alone, images, labels, RECIPE.but(lr=1e-4))
    together(packed, images, labels, RECIPE.but(lr=1e-4))
    for mine, theirs, x, y in zip(packed, alone, images, labels, strict=True):
        np.testing.assert_allclose(losses_of(mine, x, y, device=CPU), losses_of(theirs, x, y, device=CPU), rtol=1e-2)


def test_a_pack_makes_whole_steps_of_sgd() -> None:
    """SGD sees the scale of a gradient, Adam does not: a pack that averages its models' losses makes smaller steps."""
    recipe = Recipe(epochs=1, batch_size=32, lr=0.05, optimizer="sgd", momentum=0.0, schedule="constant", augment=())
    images, labels = sets(4, images=32)
    before, alone, packed = models("resnet-s", 4), models("resnet-s", 4), models("resnet-s", 4)
    one_by_one(alone, images, labels, recipe)
    together(packed, images, labels, recipe)
    for start, mine, theirs in zip(before, packed, alone, strict=True):
        moved = theirs.head.weight - start.head.weight
        assert moved.abs().max() > 1e-3
        torch.testing.assert_close(mine.head.weight - start.head.weight, moved, rtol=1e-3, atol=1e-5)
