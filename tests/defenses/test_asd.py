"""ASD: its pools phase by phase, its seeds, its virtual model."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchbd import engine, testing
from benchbd.core.images import DatasetInfo, Normalisation
from benchbd.core.recipe import Recipe
from benchbd.defenses.asd import Adaptive, Asd, freeze_first_half, lowest, lowest_of_each_class
from benchbd.defenses.dbd import SemiSupervised
from benchbd.errors import Impossible, UsageError
from benchbd.lab.lab import Lab
from benchbd.plugins import registry
from benchbd.plugins.identity import part_of

POISONING = SimpleNamespace(poisons=True)
N, CLASSES = 240, 4
SHORT = {"seeds": 3, "epochs": 3, "second": 1, "third": 2, "iterations": 6, "batch": 16, "meta_batch": 60}
pytestmark = pytest.mark.usefixtures("one_thread")


def clean_part(data, poison):
    """80 of the images that are as they should be."""
    return data.subset(np.flatnonzero(~poison)[:80])


def test_the_lowest_losses_are_chosen():
    losses = torch.tensor([3.0, 1.0, 2.0, 1.0, 9.0])
    assert lowest(losses, 0.5).tolist() == [False, True, False, True, False]
    assert lowest(losses, 0.7).tolist() == [False, True, True, True, False]
    labels = torch.tensor([0, 0, 0, 1, 1])
    assert lowest_of_each_class(losses, labels, 1).tolist() == [False, True, False, True, False]
    assert lowest_of_each_class(losses, labels, 2).tolist() == [False, True, True, True, True]
    assert not lowest_of_each_class(losses, labels, 0).any()


class FakeLoop:
    """A run at an epoch of which the logits are given: column 1 high for low losses of label 1."""

    def __init__(self, number, margins, labels):
        self.epoch, self.labels, self.net = number, labels, "student"
        self._margins = margins

    def logits(self, net):
        out = torch.zeros(len(self.labels), 3)
        out[torch.arange(len(self.labels)), self.labels] = self._margins[net]
        return out


def adaptive(**given):
    usual = {field.name: None for field in dataclasses.fields(Adaptive)}
    return Adaptive(
        **{**usual, "seeds": 2, "second": 10, "third": 20, "every": 5, "add": 2, "share": 0.5, "alpha": 0.1,
           "beta": 1.0, **given}
    )  # fmt: skip


def pool(number, margins, labels, virtual=None):
    training_loop = adaptive()
    object.__setattr__(training_loop, "virtual", lambda run: "virtual")
    run = FakeLoop(number, {"student": margins, "virtual": virtual}, labels)
    return training_loop.clean_pool(run).nonzero().squeeze(1).tolist()


def test_pools_grow_by_class_then_hold_half_then_what_hardly_gets_easier():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 0, 1])  # the last two are the seeds
    margins = torch.tensor([9.0, 1, 2, 3, 8, 4, 5, 6, 0, 0])
    assert pool(0, margins, labels) == [8, 9]
    assert pool(4, margins, labels) == [8, 9]
    assert pool(5, margins, labels) == [0, 3, 4, 7, 8, 9]
    assert pool(10, margins, labels) == [0, 4, 5, 6, 7]
    assert pool(19, margins, labels) == [0, 4, 5, 6, 7]
    # Now sample 0 and 4, hitherto easiest, stay as they are; 1, 2 and 3 become easy at once: these are suspected.
    after = margins + torch.tensor([0.0, 9, 9, 9, 0, 0, 0, 0, 5, 5])
    assert pool(20, margins, labels, after) == [0, 4, 5, 6, 7]
    easier = margins + torch.tensor([0.0, 0, 0, 0, 0, 9, 9, 9, 9, 9])
    assert pool(20, margins, labels, easier) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("epochs", [1, 120, 500, 501, 1001, 3000])
def test_pools_of_a_long_training_are_recorded_now_and_then(monkeypatch, epochs):
    """A training or a defense may report 1,000 pools, DBD one of another stage among them."""
    monkeypatch.setattr("benchbd.defenses.asd.train_epoch", lambda *given: None)
    monkeypatch.setattr("benchbd.defenses.dbd.train_epoch", lambda *given: None)
    labels = torch.arange(8) % 2
    for training_loop in (adaptive(second=0, third=epochs), SemiSupervised(0.5, 0.1, 1.0, 10, None)):
        kept: list[int] = []
        for epoch in range(epochs):
            loop = FakeLoop(epoch, {"student": torch.arange(8.0), None: torch.arange(8.0)}, labels)
            loop.recipe = Recipe(epochs=epochs)
            loop.logits = lambda net=None, real=loop.logits: real(net)
            loop.report_pool = lambda name, members, epoch=epoch, kept=kept: kept.append(epoch)
            training_loop.epoch(loop)
        every = math.ceil(epochs / 500)
        assert kept == sorted({*range(0, epochs, every), epochs - 1})
        assert len(kept) <= 501


def test_of_a_resnet18_the_last_two_stages_and_the_head_are_left():
    net = engine.build(registry.make("models", "resnet18(width=4)"), 10, 32, Normalisation((0.5,) * 3, (0.5,) * 3), 0)
    freeze_first_half(net)
    live = {name.rsplit(".", 1)[0] for name, p in net.named_parameters() if p.requires_grad}
    assert live
    assert all(name.startswith(("net.stages.2", "net.stages.3", "net.head")) for name in live)
    frozen = [name for name, p in net.named_parameters() if not p.requires_grad]
    assert all(name.startswith(("net.stem", "net.stages.0", "net.stages.1")) for name in frozen)


@pytest.mark.parametrize("model", ["lenet-s", "vgg-s", "mobilenetv2-s", "resnet-s"])
def test_of_any_other_network_some_layers_stay_and_some_learn(model):
    net = engine.build(registry.make("models", model), 10, 32, Normalisation((0.5,) * 3, (0.5,) * 3), 0)
    freeze_first_half(net)
    states = [p.requires_grad for p in net.parameters()]
    assert any(states)
    assert not all(states)
    assert net.head.weight.requires_grad


@pytest.mark.learning
def test_the_virtual_model_learns_from_all_labels_and_leaves_the_network_alone(small_lab, banded):
    data, _, _ = banded
    checked = []

    @dataclasses.dataclass(frozen=True)
    class Watch(Adaptive):
        def epoch(self, run):
            before = {k: v.clone() for k, v in run.net.state_dict().items()}
            first, again = self.virtual(run), self.virtual(run)
            for name, value in run.net.state_dict().items():
                assert torch.equal(value, before[name])
                assert torch.equal(first.state_dict()[name], again.state_dict()[name])
            assert not torch.equal(first.head.weight, run.net.head.weight)
            assert torch.equal(next(first.parameters()), next(run.net.parameters()))
            assert all(p.requires_grad for p in run.net.parameters())
            before, after = (self._losses(run, net).mean() for net in (run.net, first))
            assert after < before
            checked.append(True)
            super().epoch(run)

    training_loop = Watch(2, 0, 0, 5, 10, 0.5, 0.1, 1.0, 0.015, 3, 30, Asd(**SHORT)._mixmatch())
    small_lab(data).train(data, training_loop=training_loop, epochs=1, batch_size=16)
    assert checked == [True]


def test_seeds_are_clean_images_as_many_of_each_class_put_beside_the_set(small_lab, banded):
    data, poison, _ = banded
    clean = clean_part(data, poison)
    lab = small_lab(data, clean=clean)
    seen, real = [], Lab.train

    def watching(self, given, **how):
        seen.append((given, how))
        return real(self, given, **how)

    lab.train = watching.__get__(lab)
    Asd(**SHORT).train(lab)
    ((joined, how),) = seen
    assert len(joined) == N + 3 * CLASSES
    assert how["training_loop"].seeds == 3 * CLASSES
    assert (lab.recipe.augment, how["augment"]) == ((), ("crop4_reflect", "hflip"))
    # The pools are those of the poisoned set: the seeds, which the first phase holds alone, are beside it.
    names = [f"clean pool, {phase}" for phase in ("growing per class", "lowest losses", "smallest falls")]
    assert [(pool.name, pool.epoch) for pool in lab.pools] == list(zip(names, (1, 2, 3), strict=True))
    sizes = [pool.members().sum() for pool in lab.pools]
    assert sizes[0] == 0
    for pool, kept, size in zip(lab.pools, Asd(**SHORT).train(small_lab(data, clean=clean)).pools, sizes, strict=True):
        assert np.array_equal(kept.members()[:N], pool.members())  # a stored model has its pools too
        assert kept.members().sum() == (3 * CLASSES if kept.epoch == 1 else int(0.5 * (N + 3 * CLASSES)))
        assert size == kept.members().sum() - kept.members()[N:].sum()
    assert torch.equal(joined.images[:N], data.images)
    assert torch.equal(joined.labels[:N], data.labels)
    assert torch.bincount(joined.labels[N:]).tolist() == [3] * CLASSES
    known = {image.numpy().tobytes(): int(label) for image, label in zip(clean.images, clean.labels, strict=True)}
    for image, label in zip(joined.images[N:], joined.labels[N:], strict=True):
        assert known[image.numpy().tobytes()] == label


@pytest.mark.learning
def test_wrong_labels_stay_unlearnt(small_lab, banded):
    data, poison, true = banded
    clean = clean_part(data, poison)
    lab = small_lab(data, clean=clean)
    # Not augmented: a class is the height of its band, which crops of such small images change.
    model = Asd(
        **{**SHORT, "augment": (), "epochs": 8, "second": 4, "third": 6, "every": 1, "iterations": 20, "lr": 0.01}
    ).train(lab)
    said = lab.logits(model, data).argmax(1)
    assert (said[~poison] == true[~poison]).mean() > 0.9
    assert (said[poison] == 1).mean() < 0.3
    assert lab.suspicion.scores[poison].mean() > lab.suspicion.scores[~poison].mean()
    assert lab.suspicion.flagged is None
    assert lab._ledger.trainings == {"full": 1}


def test_too_few_clean_images_are_refused_before_and_while_it_runs(small_lab, banded):
    info = DatasetInfo(4, 16, 800, 100, None, 1)
    Asd().check(info, POISONING)
    with pytest.raises(Impossible, match="seeds 11 of each class, but 5% of the smallest class are 10 images"):
        Asd(seeds=11).check(info, POISONING)
    with pytest.raises(Impossible, match="of the smallest class are 1 images"):
        Asd().check(info._replace(class_counts=(770, 10, 10, 10)), POISONING)
    data, poison, _ = banded
    clean = clean_part(data, poison)
    with pytest.raises(Impossible, match="of one only"):
        Asd(**{**SHORT, "seeds": 40}).train(small_lab(data, clean=clean))


@pytest.mark.parametrize("wrong", ["seeds=0", "epochs=0", "every=0", "second=95", "batch=1", "share=1.0", "lr=0.0",
                                   "iterations=0", "add=-1", "meta_lr=0.0"])  # fmt: skip
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UsageError, match=r"asd:|mixmatch:"):
        registry.make("defenses", f"asd({wrong})")


def test_end_to_end_on_digits(tmp_path, fresh_registry):
    from benchbd.pipeline.run_cell import execute

    cell = testing.cell(dataset="digits(train=400, test=60)", model="resnet18(width=4)", attack="bn-g")
    defense = part_of(registry.make("defenses", "asd", **{**Asd.smoke, "seeds": 1}))
    record = execute(dataclasses.replace(cell, defense=defense).to_json(), output=tmp_path, device="cpu")
    assert (record["status"], record["error"]) == ("done", None)
    assert record["trainings"] == {"full": 1}
    assert record["notes"]["asd"]["seeds"] == 10
    assert [(pool["epoch"], pool["size"] >= pool["poisoned"] >= 0) for pool in record["notes"]["pools"]] == [
        (1, True),
        (2, True),
        (3, True),
    ]
