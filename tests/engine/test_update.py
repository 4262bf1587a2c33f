"""Clipping, decoupled decay, rates of biases, averages and schedules by step, in every loop that trains."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
import toy_training
from eager_recorder import EagerRecorder
from killed_training import Kept, Killed
from torch.nn import functional as F

from benchbd.core.recipe import Recipe
from benchbd.engine import Precision, choose_precision, fit, fit_with_loop, losses_of
from benchbd.engine.augment import draw_epoch
from benchbd.engine.epochs import batch_bounds
from benchbd.engine.graph import GraphedStep
from benchbd.engine.packed import fit_packed
from benchbd.engine.state import make_optimizer
from benchbd.engine.update import Average, Update, clip
from benchbd.errors import Diverged

CPU = torch.device("cpu")
EVERYTHING = dataclasses.replace(toy_training.EVERYTHING, peak=0.3, lr_start=0.2, lr_end=0.1)


def train(net, data, recipe, precision=None, **more):
    precision = precision or choose_precision(CPU)
    return fit(net, *data, recipe, device=CPU, precision=precision, seed=more.pop("seed", 2), **more)


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# -- against a loop written the textbook way


def textbook(net, data, recipe: Recipe) -> dict[str, torch.Tensor]:
    """Two epochs by torch's own parts, and the averages in float64."""
    biases = [p for name, p in net.named_parameters() if name.endswith("bias") or "norm" in name]
    others = [p for name, p in net.named_parameters() if not (name.endswith("bias") or "norm" in name)]
    groups = [{"params": others}, {"params": biases}]
    rates = (1.0, recipe.bias_lr)
    if recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999))
    else:
        optimizer = torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=recipe.nesterov)
    decoupled = recipe.optimizer == "sgdw"
    mean = {k: v.double().clone() for k, v in net.state_dict().items()}
    net.train()
    steps = 0
    for epoch in range(recipe.epochs):
        order = draw_epoch(2, epoch, 150, recipe.augment)[:, 0]
        bounds = batch_bounds(150, recipe.batch_size)
        for batch, (start, end) in enumerate(bounds):
            lr = recipe.lr_at(epoch + batch / len(bounds))
            for group, factor in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = lr * factor
                group["weight_decay"] = 0.0 if decoupled else recipe.weight_decay / factor
            picks = order[start:end]
            logits = net(data.images[picks].float() / 255)
            optimizer.zero_grad()
            F.cross_entropy(logits, data.labels[picks], label_smoothing=recipe.label_smoothing).backward()
            if recipe.clip_norm:
                torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.clip_norm)
            if decoupled:
                with torch.no_grad():
                    for p in net.parameters():
                        p.mul_(1 - lr * recipe.weight_decay)
            optimizer.step()
            steps += 1
            keep = min(recipe.ema, (1 + steps) / (10 + steps))
            for name, value in net.state_dict().items():
                mean[name] = keep * mean[name] + (1 - keep) * value if value.is_floating_point() else value.clone()
    return mean if recipe.ema else dict(net.state_dict())


@pytest.mark.parametrize(
    "changes",
    [
        {"augment": ()},
        {"augment": (), "optimizer": "adamw", "lr": 0.01, "momentum": 0.9, "nesterov": False},
        {"augment": (), "optimizer": "sgd", "ema": 0.0},
        {"augment": (), "ema": 0.0, "clip_norm": None, "label_smoothing": 0.0},
        {"augment": (), "schedule": "cosine", "schedule_per": "step", "warmup": 0.6, "bias_lr": 1.0},
    ],
    ids=["everything", "adamw", "coupled", "decoupled", "warm cosine"],
)
def test_equals_a_plain_torch_loop(make_net, toy_set, plain, changes):
    recipe = Recipe(**{**dataclasses.asdict(EVERYTHING), "epochs": 2, **changes})
    expected, net = textbook(make_net(), toy_set, recipe), make_net()
    train(net, toy_set, recipe, plain)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=2e-4, atol=2e-5, msg=name)
    assert int(net.net.norm.num_batches_tracked) == 10


def test_decoupled_decay_is_not_the_coupled_one(make_net, toy_set, plain):
    recipe = Recipe(epochs=2, batch_size=32, optimizer="sgd", lr=0.05, weight_decay=0.1)
    coupled, decoupled, neither = make_net(), make_net(), make_net()
    train(coupled, toy_set, recipe, plain)
    train(decoupled, toy_set, recipe.but(optimizer="sgdw"), plain)
    train(neither, toy_set, recipe.but(weight_decay=0.0), plain)
    assert not same(coupled, decoupled)
    assert decoupled.head.weight.norm().item() < neither.head.weight.norm().item()


def test_each_step_of_decay_shrinks_biases_as_much_as_weights(make_net):
    """Without gradients' pull: what one step leaves of a weight is 1 - lr * decay in both groups."""
    for optimizer in ("sgdw", "adamw"):
        net = make_net()
        with torch.no_grad():
            for p in net.parameters():
                p.fill_(1.0)
        recipe = Recipe(optimizer=optimizer, lr=0.1, weight_decay=0.5, bias_lr=8.0)
        ours = make_optimizer(net, recipe, CPU)
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        ours.step()
        assert {round(float(p.mean()), 6) for p in net.parameters()} == {0.95}
        assert len(ours.param_groups) == 2


# -- what a training hands over


def test_the_stored_weights_and_the_watched_ones_are_the_average(make_net, toy_set, plain):
    recipe = Recipe(epochs=3, batch_size=32, lr=0.05, optimizer="sgd", ema=0.9)
    last, averaged, seen = make_net(), make_net(), []

    def watch(epoch, net):
        seen.append({k: v.clone() for k, v in net.state_dict().items()})
        assert not net.training

    train(last, toy_set, recipe.but(ema=0.0), plain)
    train(averaged, toy_set, recipe, plain, on_epoch=watch)
    assert not same(last, averaged)
    assert all(torch.equal(seen[-1][name], value) for name, value in averaged.state_dict().items())
    unwatched = make_net()
    train(unwatched, toy_set, recipe, plain)
    assert same(unwatched, averaged)
    assert float((averaged.net.norm.running_mean - last.net.norm.running_mean).abs().max()) > 0


def test_an_average_forgets_the_initial_weights_soon():
    net = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(100.0)
    average = Average(net, 0.9)
    with torch.no_grad():
        net.weight.fill_(1.0)
    for _ in range(30):
        average.update()
    average.swap()
    assert float(net.weight) == pytest.approx(1.0, abs=0.01)


def test_a_training_that_diverges_says_so_with_an_average_too(make_net, toy_set, plain):
    with pytest.raises(Diverged, match="not finite"):
        train(make_net(), toy_set, EVERYTHING.but(optimizer="sgd", lr=1e30, ema=0.9, schedule="constant"), plain)


def test_epoch_losses_stay_cross_entropies_under_label_smoothing(make_net, toy_set, plain):
    frozen = Recipe(epochs=1, batch_size=32, lr=0.0, augment=(), bn="eval", label_smoothing=0.3)
    net = make_net()
    result = train(net, toy_set, frozen, plain)
    expected = losses_of(make_net().eval(), *toy_set, device=CPU).mean()
    assert result.epoch_losses == pytest.approx([float(expected)], rel=1e-4)


@dataclasses.dataclass(frozen=True)
class Seen:
    """Keeps the losses it gets."""

    losses: list

    def __call__(self, losses, weights):
        self.losses.append(losses.detach().clone())
        return (losses * weights).mean()


def test_a_plugins_own_loss_gets_plain_cross_entropies(make_net, toy_set, plain):
    """ABL's and LGA's thresholds are cross-entropies; smoothing has a floor far above them."""
    recipe = Recipe(epochs=1, batch_size=32, lr=0.0, augment=(), bn="eval", label_smoothing=0.3)
    seen = []
    train(make_net(), toy_set, recipe, plain, loss=Seen(seen))
    order = draw_epoch(2, 0, 150)[:, 0].numpy()
    expected = losses_of(make_net().eval(), *toy_set, device=CPU)[order]
    torch.testing.assert_close(torch.cat(seen), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


# -- clipping


def test_clipping_is_torchs_and_each_model_of_a_pack_is_clipped_for_itself():
    generator = torch.Generator().manual_seed(1)
    shapes = [(4, 3, 3, 3), (4,), (2, 5)]
    gradients = [[torch.randn(shape, generator=generator) * scale for shape in shapes] for scale in (1.0, 0.01)]
    alone = []
    for model in gradients:
        params = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
        for p, g in zip(params, model, strict=True):
            p.grad = g.clone()
        torch.nn.utils.clip_grad_norm_(params, 0.7)
        alone.append([p.grad for p in params])
    packed = []
    for one, two in zip(*gradients, strict=True):
        p = torch.nn.Parameter(torch.zeros(2 * len(one), *one.shape[1:]))
        p.grad = torch.cat([one, two])
        if p.grad.ndim == 4:
            p.grad = p.grad.to(memory_format=torch.channels_last)
        packed.append(p)
    clip(packed, 0.7, models=2)
    for p, one, two in zip(packed, *alone, strict=True):
        torch.testing.assert_close(p.grad, torch.cat([one, two]), rtol=1e-5, atol=1e-7)
    assert torch.equal(alone[1][0], gradients[1][0])  # short already


# -- resume, graphs, packs, loops


@pytest.mark.parametrize("optimizer", ["sgdw", "adamw", "muon"])
@pytest.mark.parametrize("kill_at", [1, 4, 5, 8, 14])
def test_resume_is_bit_identical(make_net, toy_set, optimizer, kill_at):
    recipe = dataclasses.replace(EVERYTHING, optimizer=optimizer)
    whole, resumed, kept = make_net(dropout=True), make_net(seed=99, dropout=True), Kept(kill_at)
    expected = train(whole, toy_set, recipe)
    with pytest.raises(Killed):
        train(make_net(dropout=True), toy_set, recipe, checkpoint=kept)
    kept.kill_at = 0
    assert train(resumed, toy_set, recipe, checkpoint=kept).epoch_losses == expected.epoch_losses
    assert same(whole, resumed)


def test_a_checkpoint_without_the_average_is_refused(make_net, toy_set):
    kept = Kept(3)
    with pytest.raises(Killed):
        train(make_net(), toy_set, dataclasses.replace(EVERYTHING, ema=0.0), checkpoint=kept)
    kept.kill_at = 0
    with pytest.raises(KeyError):
        train(make_net(), toy_set, EVERYTHING, checkpoint=kept)


@pytest.mark.parametrize("optimizer", ["sgdw", "adamw", "muon"])
def test_a_graphed_training_equals_an_eager_one(make_net, toy_set, monkeypatch, optimizer):
    """The warm-up leaves no trace in the averages; each replay has its own learning rate."""
    recipe, recorder = dataclasses.replace(EVERYTHING, optimizer=optimizer), EagerRecorder()
    eager, graphed = make_net(), make_net()
    expected = train(eager, toy_set, recipe)
    monkeypatch.setattr(
        sys.modules["benchbd.engine.fit"], "fast_step", lambda step, rows: GraphedStep(step, rows, recorder)
    )
    assert train(graphed, toy_set, recipe).epoch_losses == expected.epoch_losses
    assert recorder.replays == 12
    assert same(eager, graphed)


def test_what_follows_the_gradients_reads_no_value_back(make_net, toy_set, monkeypatch):
    """A graph could not capture it. On CUDA rates are tensors; here the unfused step is plain tensor arithmetic."""
    net, other = make_net(), make_net()
    made = [make_optimizer(each, EVERYTHING, CPU) for each in (net, other)]
    for group in (group for optimizer in made for group in optimizer.param_groups):
        group["fused"] = False
    for group in made[0].param_groups:
        group["lr"] = torch.tensor(group["lr"])
    updates = [Update(*pair, EVERYTHING) for pair in zip((net, other), made, strict=True)]
    losses = [F.cross_entropy(each(toy_set.images.float() / 255), toy_set.labels) for each in (net, other)]

    def refuse(*args):
        raise AssertionError("read a value back")

    with monkeypatch.context() as patch:
        for name in ("item", "__bool__", "__float__", "__int__", "tolist"):
            patch.setattr(torch.Tensor, name, refuse)
        updates[0](losses[0])
    updates[1](losses[1])
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"epochs": 2}, marks=pytest.mark.learning),
        {"epochs": 1, "optimizer": "muon", "muon_lr": 0.01},
        {"epochs": 1, "optimizer": "muon", "muon_lr": 0.01, "ema": 0.0},
    ],
    ids=["sgdw", "muon", "muon without average"],
)
def test_a_packed_model_learns_what_it_learns_alone(changes):
    """With Muon, each model's filters are a matrix of their own: one matrix for the pack would be another step."""
    from benchbd.core.images import Normalisation
    from benchbd.engine import build
    from benchbd.plugins import registry

    recipe = dataclasses.replace(EVERYTHING, lr=1e-3, **changes)
    generator = torch.Generator().manual_seed(7)
    labels = torch.randint(0, 3, (90,), generator=generator)
    images = torch.randint(0, 180, (90, 3, 16, 16), generator=generator).to(torch.uint8)
    images[torch.arange(90), labels] += 60

    def nets():
        normal = Normalisation((0.5,) * 3, (0.25,) * 3)
        return [build(registry.make("models", "resnet-s"), 3, 16, normal, seed) for seed in range(3)]

    how = {"device": CPU, "precision": Precision("cpu-fp32")}
    alone, packed = nets(), nets()
    expected = [fit(net, images, labels, recipe, seed=seed, **how) for seed, net in enumerate(alone)]
    found = fit_packed(packed, [images] * 3, [labels] * 3, recipe, seeds=range(3), **how)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.epoch_losses == pytest.approx(theirs.epoch_losses, rel=1e-3)
    for mine, theirs in zip(packed, alone, strict=True):
        torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), rtol=1e-3, atol=1e-3)


@dataclasses.dataclass(frozen=True)
class Plain:
    """The engine's own training, as a plugin would write it."""

    rates: list = dataclasses.field(default_factory=list)

    def epoch(self, run):
        for rows in run.batches():
            with run.autocast():
                logits = run.net(run.views(rows))
            losses = F.cross_entropy(logits, run.labels[rows[:, 0]], label_smoothing=run.recipe.label_smoothing)
            run.step(losses)
            self.rates.append(run.optimizer.param_groups[0]["lr"])


def loop(net, data, recipe, **more):
    how = {"device": CPU, "precision": choose_precision(CPU), "seed": 2}
    training_loop = more.pop("training_loop", Plain())
    return fit_with_loop(training_loop, net, *data, recipe, **how, **more)


def test_a_plugins_loop_has_the_schedule_and_the_average(make_net, toy_set):
    plain, net, other = Plain(), make_net(), make_net()
    loop(net, toy_set, EVERYTHING, training_loop=plain)
    assert plain.rates == [pytest.approx(EVERYTHING.lr_at(e + s / 5)) for e in range(3) for s in range(5)]
    loop(other, toy_set, dataclasses.replace(EVERYTHING, ema=0.0))
    assert not same(net, other)


@pytest.mark.parametrize("kill_at", [1, 2])
def test_a_plugins_loop_resumes_to_the_same_bits(make_net, toy_set, kill_at):
    whole, resumed, kept = make_net(dropout=True), make_net(seed=9, dropout=True), Kept(kill_at)
    expected = loop(whole, toy_set, EVERYTHING)
    with pytest.raises(Killed):
        loop(make_net(dropout=True), toy_set, EVERYTHING, checkpoint=kept)
    kept.kill_at = 0
    assert loop(resumed, toy_set, EVERYTHING, checkpoint=kept).epoch_losses == expected.epoch_losses
    assert same(whole, resumed)


def test_flips_alternate_over_the_epochs_of_a_plugins_loop_too(make_net, toy_set):
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Watch(Plain):
        def epoch(self, run):
            rows = torch.cat(run.batches())
            seen.append(rows[rows[:, 0].argsort(), 3])
            super().epoch(run)

    loop(make_net(), toy_set, EVERYTHING, training_loop=Watch())
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[0], 1 - seen[1])
