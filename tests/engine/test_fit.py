"""The training loop: what it computes, in which order, and what it must not do."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from benchbd.core.recipe import Recipe
from benchbd.engine import Precision, choose_precision, fit, losses_of
from benchbd.engine.augment import draw_epoch
from benchbd.engine.epochs import batch_bounds
from benchbd.errors import BenchbdError, Diverged

CPU = torch.device("cpu")
SHORT = Recipe(epochs=2, batch_size=32, lr=0.01)


def train(net, data, recipe, precision, **more):
    return fit(net, data.images, data.labels, recipe, device=CPU, precision=precision, seed=more.pop("seed", 9), **more)


def same_state(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "recipe",
    [
        SHORT.but(augment=()),
        SHORT.but(augment=(), weight_decay=0.01, schedule="steps", milestones=(1,)),
        SHORT.but(augment=(), optimizer="sgd", weight_decay=5e-4),
        SHORT.but(augment=(), optimizer="sgd", nesterov=True, schedule="constant"),
        SHORT.but(augment=(), optimizer="sgd", momentum=0.0),
        SHORT.but(augment=(), bn="eval"),
    ],
    ids=["adam", "adam-decay", "sgd", "nesterov", "sgd-plain", "frozen-bn"],
)
def test_equals_a_plain_torch_loop(make_net, toy_set, plain, recipe):
    """Two epochs without augmentation, written the textbook way, give the same weights to the last bit."""
    net, images, labels = make_net(), toy_set.images, toy_set.labels
    if recipe.optimizer == "adam":
        optimizer = torch.optim.Adam(net.parameters(), 0.01, weight_decay=recipe.weight_decay, fused=True)
    else:
        more = {"weight_decay": recipe.weight_decay, "nesterov": recipe.nesterov}
        optimizer = torch.optim.SGD(net.parameters(), 0.01, recipe.momentum, **more, fused=True)
    means = []
    for epoch in range(2):
        net.train()
        if recipe.bn == "eval":
            net.net.norm.eval()
            net.net.norm2.eval()
        optimizer.param_groups[0]["lr"] = recipe.lr_at(epoch)
        order, total = draw_epoch(9, epoch, 150)[:, 0], 0.0
        for picks in order.split(32):
            losses = F.cross_entropy(net(images[picks].float() / 255), labels[picks], reduction="none")
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
            total += losses.double().sum().item()
        means.append(total / 150)

    ours = make_net()
    result = train(ours, toy_set, recipe, plain)
    assert same_state(ours, net)
    assert result.epoch_losses == pytest.approx(means, rel=1e-7)
    assert result.steps == 10
    assert not same_state(ours, make_net())


def test_channels_last_computes_the_same_up_to_rounding(make_net, toy_set, plain):
    one, other = make_net(), make_net()
    train(one, toy_set, SHORT.but(epochs=1), plain)
    train(other, toy_set, SHORT.but(epochs=1), plain._replace(channels_last=True))
    torch.testing.assert_close(dict(one.state_dict()), dict(other.state_dict()), rtol=1e-3, atol=1e-4)


def test_is_deterministic_and_seeded(make_net, toy_set, plain):
    nets = [make_net(dropout=True) for _ in range(3)]
    results = [train(net, toy_set, SHORT, plain, seed=seed) for net, seed in zip(nets, (4, 4, 5), strict=True)]
    assert same_state(nets[0], nets[1])
    assert not same_state(nets[0], nets[2])
    assert results[0].epoch_losses == results[1].epoch_losses


@pytest.mark.learning
def test_learns(make_net, toy_set):
    net = make_net()
    result = train(net, toy_set, SHORT.but(epochs=12), choose_precision(CPU))
    assert result.epoch_losses[-1] < 0.6 * result.epoch_losses[0]
    assert len(result.epoch_losses) == 12


@pytest.mark.learning
def test_trains_in_bf16(make_net, toy_set):
    net, exact = make_net(), make_net()
    result = train(net, toy_set, SHORT, Precision("cpu-bf16", torch.bfloat16, graph=False))
    reference = train(exact, toy_set, SHORT, Precision("cpu-fp32", graph=False))
    assert result.epoch_losses == pytest.approx(reference.epoch_losses, rel=0.05)
    assert result.epoch_losses != reference.epoch_losses
    assert all(p.dtype == torch.float32 for p in net.parameters())


def test_leaves_the_network_in_eval_mode_contiguous_and_without_gradients(make_net, toy_set):
    net = make_net()
    train(net, toy_set, SHORT, choose_precision(CPU))
    assert not any(module.training for module in net.modules())
    assert all(p.grad is None and p.is_contiguous() for p in net.parameters())


def test_the_global_generator_is_left_alone(make_net, toy_set, plain):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    train(make_net(dropout=True), toy_set, SHORT, plain)
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_are_left_alone(make_net, toy_set, plain):
    before = torch.get_num_threads()
    train(make_net(), toy_set, SHORT.but(epochs=1), plain)
    assert torch.get_num_threads() == before


# Weights and losses


@dataclasses.dataclass(frozen=True)
class Recorded:
    """Keeps what it is shown; the default loss."""

    seen: list

    def __call__(self, losses, weights):
        self.seen.append((losses.detach().clone(), weights.clone()))
        return (losses * weights).mean()


def test_weights_travel_with_their_images(make_net, toy_set, plain):
    """The weight of image i is i: what the loss sees must follow the permutation of each epoch."""
    seen = []
    weights = torch.arange(150, dtype=torch.float32)
    train(make_net(), toy_set, SHORT.but(lr=0.0), plain, weights=weights, loss=Recorded(seen))
    orders = torch.cat([draw_epoch(9, epoch, 150)[:, 0] for epoch in range(2)])
    assert torch.equal(torch.cat([w for _, w in seen]), orders.float())


def test_losses_belong_to_the_same_images_as_weights(make_net, toy_set, plain):
    """With frozen weights and statistics, the losses seen in training are those of a pass, in shuffled order."""
    net, seen = make_net(), []
    expected = losses_of(net, toy_set.images, toy_set.labels, device=CPU)
    weights = torch.arange(150, dtype=torch.float32)
    recipe = SHORT.but(lr=0.0, augment=(), bn="eval")
    result = train(net, toy_set, recipe, plain, weights=weights, loss=Recorded(seen))
    for losses, picks in seen:
        torch.testing.assert_close(losses, torch.from_numpy(expected)[picks.long()])
    assert result.epoch_losses == pytest.approx([expected.mean()] * 2, rel=1e-6)


def test_images_of_weight_zero_do_not_teach(make_net, toy_set, plain):
    """Batch norm frozen: changing pixels and labels of weightless images changes nothing."""
    recipe = SHORT.but(bn="eval")
    weights = (torch.arange(150) % 3 > 0).float()
    one, other = make_net(), make_net()
    train(one, toy_set, recipe, plain, weights=weights)
    images, labels = toy_set.images.clone(), toy_set.labels.clone()
    images[weights == 0] = 255 - images[weights == 0]
    labels[weights == 0] = (labels[weights == 0] + 1) % 3
    train(other, toy_set._replace(images=images, labels=labels), recipe, plain, weights=weights)
    torch.testing.assert_close(dict(one.state_dict()), dict(other.state_dict()), rtol=1e-6, atol=1e-7)
    third = make_net()
    train(third, toy_set._replace(images=images, labels=labels), recipe, plain)
    assert not torch.allclose(one.head.weight, third.head.weight, rtol=1e-2)


def test_no_weights_are_weights_of_one(make_net, toy_set, plain):
    one, other = make_net(), make_net()
    train(one, toy_set, SHORT, plain)
    train(other, toy_set, SHORT, plain, weights=torch.ones(150))
    assert same_state(one, other)


@dataclasses.dataclass(frozen=True)
class Ascent:
    def __call__(self, losses, weights):
        return -losses.mean()


@pytest.mark.learning
def test_a_custom_loss_is_what_is_minimised(make_net, toy_set, plain):
    up = train(make_net(), toy_set, SHORT.but(epochs=4, schedule="constant"), plain, loss=Ascent())
    down = train(make_net(), toy_set, SHORT.but(epochs=4, schedule="constant"), plain)
    assert up.epoch_losses[-1] > up.epoch_losses[0]
    assert down.epoch_losses[-1] < down.epoch_losses[0]


# Batch norm, batches


@pytest.mark.parametrize("bn", ["train", "eval"])
def test_batch_norm_follows_the_recipe(make_net, toy_set, plain, bn):
    net = make_net()
    before = net.net.norm.running_mean.clone()
    train(net, toy_set, SHORT.but(bn=bn), plain)
    assert torch.equal(net.net.norm.running_mean, before) is (bn == "eval")
    assert int(net.net.norm.num_batches_tracked) == (0 if bn == "eval" else 10)


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (10, 4, [(0, 4), (4, 8), (8, 10)]),
        (8, 4, [(0, 4), (4, 8)]),
        (9, 4, [(0, 4), (4, 9)]),
        (3, 4, [(0, 3)]),
        (1, 4, [(0, 1)]),
        (3, 1, [(0, 1), (1, 3)]),
    ],
)
def test_batches_cover_everything_and_none_has_one_image_if_it_can_be_helped(count, size, expected):
    assert batch_bounds(count, size) == expected


@pytest.mark.parametrize("count", [32, 33, 34])
def test_the_last_batch_is_trained(make_net, toy_set, plain, count):
    seen = []
    data = toy_set._replace(images=toy_set.images[:count], labels=toy_set.labels[:count])
    train(make_net(), data, SHORT.but(epochs=1), plain, loss=Recorded(seen))
    assert [len(losses) for losses, _ in seen] == {32: [32], 33: [33], 34: [32, 2]}[count]


def test_no_epochs_change_nothing(make_net, toy_set, plain):
    net = make_net()
    result = train(net, toy_set, SHORT.but(epochs=0), plain)
    assert result.epoch_losses == []
    assert result.steps == 0
    assert same_state(net, make_net())


# What goes wrong


@pytest.mark.parametrize("when", [1, 3])
def test_divergence_names_the_epoch(make_net, toy_set, plain, when):
    @dataclasses.dataclass
    class Breaks:
        calls: int = 0

        def __call__(self, losses, weights):
            self.calls += 1
            return losses.mean() * (float("nan") if self.calls == (when - 1) * 5 + 3 else 1.0)

    with pytest.raises(Diverged, match=rf"^loss is not finite in epoch {when} of 4$"):
        train(make_net(), toy_set, SHORT.but(epochs=4), plain, loss=Breaks())


def test_an_infinite_loss_that_heals_is_still_divergence(make_net, toy_set, plain):
    @dataclasses.dataclass
    class Once:
        calls: int = 0

        def __call__(self, losses, weights):
            self.calls += 1
            return losses.mean() + (float("inf") if self.calls == 1 else 0.0)

    with pytest.raises(Diverged, match="epoch 1 of 2"):
        train(make_net(), toy_set, SHORT, plain, loss=Once())


def test_a_last_step_that_ruins_the_weights_is_divergence(make_net, toy_set, plain):
    @dataclasses.dataclass
    class Last:
        calls: int = 0

        def __call__(self, losses, weights):
            self.calls += 1
            # sqrt has an infinite slope at 0: a finite loss with gradients that are not.
            return ((losses - losses.detach()) * 1.0).sum().sqrt() if self.calls == 10 else losses.mean()

    with pytest.raises(Diverged, match="weights are not finite"):
        train(make_net(), toy_set, SHORT, plain, loss=Last())


def test_what_does_not_fit_together_is_refused(make_net, toy_set, plain):
    with pytest.raises(BenchbdError, match="no image"):
        train(make_net(), toy_set._replace(images=toy_set.images[:0], labels=toy_set.labels[:0]), SHORT, plain)
    with pytest.raises(ValueError, match="one weight per image"):
        train(make_net(), toy_set, SHORT, plain, weights=torch.ones(149))
    with pytest.raises(ValueError, match="uint8"):
        train(make_net(), toy_set._replace(images=toy_set.images.float()), SHORT, plain)
    for change in (1, -1):
        with pytest.raises(ValueError, match=r"labels 0\.\.2"):
            train(make_net(), toy_set._replace(labels=toy_set.labels + change), SHORT, plain)


# Callbacks and perturbations


def test_callbacks_see_every_epoch_and_change_nothing(make_net, toy_set, plain):
    silent, watched = make_net(dropout=True), make_net(dropout=True)
    epochs, told = [], []

    def on_epoch(epoch, net):
        epochs.append((epoch, net.training, net.net.norm.training))
        net(torch.rand(4, 3, 12, 12)).sum().backward()
        torch.manual_seed(0)

    train(silent, toy_set, SHORT, plain)
    watched(torch.rand(4, 3, 12, 12)).sum().backward()
    watched.load_state_dict(make_net(dropout=True).state_dict())
    result = train(watched, toy_set, SHORT, plain, on_epoch=on_epoch, on_progress=told.append)
    assert same_state(silent, watched)
    assert epochs == [(0, False, False), (1, False, False)]
    ends = [note for note in told if "loss" in note]
    assert [note["loss"] for note in ends] == result.epoch_losses
    assert [(n["epoch"], n["epochs"], n["step"], n["steps"], n["images"]) for n in ends] == [
        (1, 2, 5, 5, 150),
        (2, 2, 5, 5, 300),
    ]


def test_progress_is_told_a_few_times_a_second_at_most(make_net, toy_set, plain, monkeypatch):
    monkeypatch.setattr("benchbd.engine.epochs.PROGRESS_EVERY", 3600.0)
    told = []
    train(make_net(), toy_set, SHORT.but(batch_size=5), plain, on_progress=told.append)
    assert len([note for note in told if "loss" not in note]) == 1
    monkeypatch.setattr("benchbd.engine.epochs.PROGRESS_EVERY", 0.0)
    told.clear()
    train(make_net(), toy_set, SHORT.but(batch_size=5), plain, on_progress=told.append)
    assert [note["step"] for note in told] == [*range(1, 31)] * 2


def test_perturb_comes_after_augmentation_with_frozen_batch_norm(make_net, toy_set, plain):
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Push:
        def __call__(self, net, x01, labels):
            x01 = x01.detach().requires_grad_()
            loss = F.cross_entropy(net(x01), labels)
            (gradient,) = torch.autograd.grad(loss, x01)
            seen.append((net.training, net.net.norm.training, tuple(x01.shape), labels.clone()))
            return (x01 + 0.05 * gradient.sign() + 0.01 * torch.randn_like(x01)).clamp(0, 1)

    one, two, clean = make_net(), make_net(), make_net()
    train(one, toy_set, SHORT, plain, perturb=Push())
    train(two, toy_set, SHORT, plain, perturb=Push())
    train(clean, toy_set, SHORT, plain)
    assert same_state(one, two)
    assert not same_state(one, clean)
    assert int(one.net.norm.num_batches_tracked) == 10
    assert all(note[:2] == (False, False) for note in seen)
    orders = torch.cat([draw_epoch(9, epoch, 150)[:, 0] for epoch in range(2)])
    assert torch.equal(torch.cat([note[3] for note in seen[:10]]), toy_set.labels[orders])
