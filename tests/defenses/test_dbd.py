"""DBD: its losses, its stages at the real lab, what it believes, what it plans."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchbd import engine, testing
from benchbd.core.images import DatasetInfo
from benchbd.defenses._views import ViewSettings
from benchbd.defenses.dbd import Dbd, SelfSupervised, nt_xent
from benchbd.defenses.random_filter import RandomFilter
from benchbd.errors import Impossible, UsageError
from benchbd.lab.lab import Lab
from benchbd.plugins import registry
from benchbd.plugins.identity import part_of
from benchbd.storage.artifacts import Store
from benchbd.storage.checkpoint import Checkpoint

POISONING = SimpleNamespace(poisons=True)
N = 240
SHORT = {"ssl_epochs": 3, "ssl_batch": 60, "ssl_lr": 0.05, "linear_epochs": 3, "semi_epochs": 2, "iterations": 6,
         "semi_batch": 16, "linear_batch": 32}  # fmt: skip
pytestmark = pytest.mark.usefixtures("one_thread")


def plain_nt_xent(rows, temperature):
    """A view at a time, in plain Python."""
    count, losses = len(rows), []
    for i in range(count):
        cosine = [sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) / temperature for j in range(count)]
        other = (i + count // 2) % count
        losses.append(-math.log(math.exp(cosine[other]) / sum(math.exp(cosine[j]) for j in range(count) if j != i)))
    return sum(losses) / count


@pytest.mark.parametrize("pairs", [1, 2, 5])
@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_nt_xent_equals_a_plain_loop(pairs, temperature):
    rows = torch.nn.functional.normalize(torch.randn(2 * pairs, 6, generator=torch.Generator().manual_seed(pairs)))
    assert float(nt_xent(rows, temperature)) == pytest.approx(plain_nt_xent(rows.tolist(), temperature), rel=1e-5)


def test_nt_xent_is_least_for_pairs_that_agree_and_differ_from_the_rest():
    eye = torch.eye(4)
    agreeing, crossed = torch.cat([eye, eye]), torch.cat([eye, eye.roll(1, 0)])
    assert nt_xent(agreeing, 0.5) < nt_xent(torch.ones(8, 4) / 2, 0.5) < nt_xent(crossed, 0.5)


def test_the_first_stage_looks_at_no_label(small_lab, banded):
    data, _, _ = banded
    shuffled = data.replace(labels=data.labels[torch.randperm(N, generator=torch.Generator().manual_seed(0))])
    one, other = (
        small_lab(some).train(some, training_loop=SelfSupervised(0.5, 16, ViewSettings()), epochs=1, batch_size=60)
        for some in (data, shuffled)
    )
    assert one.key != other.key
    states = [model.module().state_dict() for model in (one, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.learning
def test_wrong_labels_are_not_believed_and_the_last_model_has_forgotten_them(small_lab, banded):
    data, poison, true = banded
    lab = small_lab(data)
    short = {**SHORT, "ssl_epochs": 15, "linear_epochs": 12, "lr": 0.01, "blur": 0.0, "crop_min": 0.8, "jitter": 0.0}
    short |= {"augment": ()}  # a class is the height of its band, which crops of such small images change
    # Not half: the classes here are of unequal ease, and the easiest half would be two of them.
    # A light weight: at 15 the guesses of a few images can pull the labelled ones along, in some CPUs' rounding.
    model = Dbd(**{**short, "semi_epochs": 8, "iterations": 15, "labelled": 0.85, "unlabelled_weight": 1.0}).train(lab)
    assert lab.suspicion.flagged.sum() == N * 15 // 100
    assert lab.suspicion.flagged[poison].all()
    assert lab.suspicion.scores[poison].mean() > 2 * lab.suspicion.scores[~poison].mean()
    said = lab.logits(model, data).argmax(1)
    assert (said[~poison] == true[~poison]).mean() > 0.9
    assert (said[poison] == 1).mean() < 0.2


def test_what_is_believed_is_the_half_with_the_lowest_losses_whatever_the_order(fake_lab):
    rng = np.random.default_rng(0)
    labels, losses = np.arange(400) % 4, rng.uniform(0, 1, 400)
    losses[:40] += 2
    order = rng.permutation(400)
    for misaligned in (False, True):
        lab = fake_lab(labels, order, losses=losses, poison=np.arange(40), misalign=misaligned)
        lab.losses = lambda trained, data, lab=lab: lab._look_up("losses", data)
        Dbd().train(lab)
        found = lab.truth <= lab.flagged
        assert found.all() != misaligned
        assert lab.flagged.sum() == 200
        ((name, epoch, believed),) = lab.pools
        assert (name, epoch) == ("labelled, after the linear stage", None)
        assert believed == set(range(400)) - lab.suspects()
        assert [len(call.ids) for call in lab.calls] == [400, 400, 400]  # nothing is left out, labels are


def test_the_second_stage_moves_the_head_alone_and_each_starts_from_the_one_before(small_lab, banded):
    data, _, _ = banded
    lab = small_lab(data)
    asked, real = [], Lab.train

    def watching(self, *args, **how):
        asked.append((how, real(self, *args, **how)))
        return asked[-1][1]

    lab.train = watching.__get__(lab)
    Dbd(**SHORT).train(lab)
    (_, first), (second_how, second), (third_how, third) = asked
    assert second_how["start"] is first
    assert third_how["start"] is second
    states = [trained.module().state_dict() for trained in (first, second, third)]
    weights = [name for name, _ in first.module().named_parameters()]
    moved = {name for name in weights if not torch.equal(states[0][name], states[1][name])}
    assert moved == {"net.head.weight", "net.head.bias"}
    assert all(not torch.equal(states[1][name], states[2][name]) for name in weights if "conv" in name)


def test_killed_between_epochs_of_any_stage_it_gives_the_same_model(small_lab, banded, tmp_path, monkeypatch):
    data, _, _ = banded
    whole = Dbd(**SHORT).train(small_lab(data, store=Store(tmp_path / "whole")))
    real = Checkpoint.save

    def killing(self, state):
        real(self, state)
        raise KeyboardInterrupt

    for _ in range(5):  # two saves in each of the first stages, one in the last
        lab = small_lab(data, checkpoint_every=0.0)
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoint, "save", killing)
            with pytest.raises(KeyboardInterrupt):
                Dbd(**SHORT).train(lab)
    lab = small_lab(data)
    again = Dbd(**SHORT).train(lab)
    one, other = whole.module().state_dict(), again.module().state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert lab._ledger.trainings == {"feature-model": 1, "fine-tune": 1, "full": 1}
    assert lab._ledger.computed == {"full": 1}
    assert lab._ledger.epochs == 3 + 3 + 2


def test_stages_are_shared_as_far_as_their_settings_are(small_lab, banded, monkeypatch):
    data, _, _ = banded
    Dbd(**SHORT).train(small_lab(data))
    calls, real = [], engine.fit_with_loop
    monkeypatch.setattr(engine, "fit_with_loop", lambda *args, **how: calls.append(args[0]) or real(*args, **how))
    for change, computed in (
        ({}, []),
        ({"semi_epochs": 1}, ["SemiSupervised"]),
        ({"labelled": 0.3}, ["SemiSupervised"]),
        ({"linear_epochs": 1}, ["LinearStage", "SemiSupervised"]),
        ({"temperature": 0.2}, ["SelfSupervised", "LinearStage", "SemiSupervised"]),
    ):
        calls.clear()
        lab = small_lab(data)
        changed = Dbd(**{**SHORT, **change})
        changed.train(lab)
        assert [type(training_loop).__name__ for training_loop in calls] == computed
        planned = set(changed.trainings(POISONING)) - set(Dbd(**SHORT).trainings(POISONING))
        assert len(planned) == len(computed)


def test_its_crops_are_its_own_where_the_base_recipe_has_none(small_lab, banded):
    data, _, _ = banded
    lab, asked, real = small_lab(data), [], Lab.train
    assert lab.recipe.augment == ()

    def watching(self, *args, **how):
        asked.append(how["augment"])
        return real(self, *args, **how)

    lab.train = watching.__get__(lab)
    Dbd(**SHORT).train(lab)
    assert asked == [(), ("crop4_reflect", "hflip"), ("crop4_reflect", "hflip")]
    with pytest.raises(UsageError, match="augmentation 'crop' is unknown"):
        registry.make("defenses", "dbd(augment=['crop'])")


def test_every_parameter_is_in_the_plan():
    usual = Dbd()
    for field in dataclasses.fields(Dbd):
        value = getattr(usual, field.name)
        if isinstance(value, tuple):
            changed = dataclasses.replace(usual, **{field.name: value[1:]})
        else:
            changed = dataclasses.replace(usual, **{field.name: value + 1 if isinstance(value, int) else value * 0.9})
        assert changed.trainings(POISONING)[-1] != usual.trainings(POISONING)[-1], field.name


def test_random_filter_drops_as_many_as_dbd_disbelieves(small_lab, banded):
    data, poison, _ = banded
    spec = "dbd(" + ", ".join(f"{k}={v}" for k, v in SHORT.items()) + ")"
    control = RandomFilter(of=spec)
    lab = small_lab(data, truth=poison)
    control.train(lab)
    assert lab.suspicion.flagged.sum() == N // 2
    assert lab._ledger.trainings == {"feature-model": 1, "fine-tune": 1, "full": 1}
    assert [t.kind for t in control.trainings(POISONING)] == ["feature-model", "fine-tune", "full"]


@pytest.mark.parametrize(
    "wrong",
    ["ssl_epochs=0", "semi_epochs=0", "ssl_batch=1", "lr=0.0", "alpha=-1.0", "labelled=1.0", "labelled=0.0",
     "crop_min=0.0", "jitter=2.0", "blur=-0.1", "iterations=0", "temperature=0.0", "projection=0"],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UsageError, match=r"dbd:|mixmatch:"):
        registry.make("defenses", f"dbd({wrong})")


def test_a_set_too_small_to_split_is_refused():
    Dbd().check(DatasetInfo(2, 8, 4, 4, None, 0), POISONING)
    with pytest.raises(Impossible, match=r"labelled 0\.5 of 3 images"):
        Dbd().check(DatasetInfo(2, 8, 3, 4, None, 0), POISONING)


def test_end_to_end_on_digits(tmp_path, fresh_registry):
    from benchbd.pipeline.run_cell import execute

    cell = testing.cell(dataset="digits(train=200, test=60)", model="resnet18(width=4)", attack="bn-g")
    defense = part_of(registry.make("defenses", "dbd", **{**Dbd.smoke, "ssl_epochs": 2}))
    record = execute(dataclasses.replace(cell, defense=defense).to_json(), output=tmp_path, device="cpu")
    assert (record["status"], record["error"]) == ("done", None)
    assert record["trainings"] == {"feature-model": 1, "fine-tune": 1, "full": 1}
    assert record["detection"]["flagged"] == 100
    assert len(record["notes"]["dbd"]["self_supervised_losses"]) == 2
    assert [point["name"] for point in record["notes"]["curve"]] == ["linear stage"]
    first, second = record["notes"]["pools"]
    assert (first["name"], first["epoch"], first["size"]) == ("labelled, after the linear stage", None, 100)
    # Of 20 poisoned samples, those that are not flagged are believed.
    assert record["poison"]["count"] == 20
    assert first["poisoned"] == record["detection"]["confusion"]["fn"]
    assert (second["name"], second["epoch"], second["size"]) == ("labelled, semi-supervised stage", 1, 100)
