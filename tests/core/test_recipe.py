"""Recipes: schedules against their formulas, presets, and identities that keep the form they always had."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from benchbd.core.presets import ABOUT, PRESETS
from benchbd.core.recipe import BELONGS, YOUNGER, Recipe, merged, preset_spec
from benchbd.errors import UsageError

FIRST = (
    "epochs", "batch_size", "optimizer", "lr", "momentum", "nesterov", "weight_decay", "schedule", "horizon",
    "milestones", "decay", "augment", "bn",
)  # fmt: skip


# -- the identity


def test_the_identity_of_an_old_recipe_has_the_old_entries_and_no_others():
    assert tuple(Recipe().spec()) == FIRST
    assert tuple(Recipe(optimizer="sgd", schedule="steps", milestones=(3,)).decisive()) == FIRST


@pytest.mark.parametrize(
    ("entry", "value"),
    [("ema", 0.9), ("clip_norm", 1.0), ("bias_lr", 2.0), ("label_smoothing", 0.1), ("warmup", 1.0), ("peak", 0.5),
     ("lr_start", 0.1), ("lr_end", 0.1), ("schedule_per", "step")],
)  # fmt: skip
def test_a_younger_entry_is_in_the_identity_once_it_differs_from_its_default(entry, value):
    changed = Recipe(**{entry: value})
    assert changed.spec() == {**Recipe().spec(), entry: value}
    assert changed.decisive() == {**Recipe().decisive(), entry: value}
    assert Recipe.parse(changed.spec()) == changed
    assert Recipe(**{entry: YOUNGER[entry]}).spec() == Recipe().spec()


# -- presets


def test_presets_are_what_their_sources_say():
    paper, bench = Recipe.parse({"preset": "paper"}), Recipe.parse({"preset": "backdoorbench"})
    assert paper == Recipe()
    assert (bench.optimizer, bench.lr, bench.momentum, bench.weight_decay) == ("sgd", 0.01, 0.9, 5e-4)
    assert (bench.schedule, bench.epochs, bench.batch_size) == ("cosine", 100, 128)
    long = Recipe.parse({"preset": "sgd-long"})
    assert (long.optimizer, long.lr, long.epochs, long.schedule) == ("sgd", 0.1, 200, "cosine")
    fast = Recipe.parse({"preset": "fast"})
    assert fast.schedule == "onecycle"
    assert fast.ema > 0
    assert set(fast.augment) == {"translate2", "flip_alternate"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_entries_written_out(name):
    assert preset_spec(name) == Recipe.parse(PRESETS[name]).spec()
    assert Recipe.parse({"preset": name, "epochs": 3}) == Recipe.parse({**PRESETS[name], "epochs": 3})


def test_a_preset_replaces_what_was_given_before_it_and_yields_to_what_comes_after():
    assert merged({"lr": 1.0, "epochs": 5}, {"epochs": 6}) == {"lr": 1.0, "epochs": 6}
    assert merged({"lr": 1.0}, {"preset": "fast", "epochs": 2}, {"epochs": 3}) == {"preset": "fast", "epochs": 3}
    assert Recipe(lr=5.0).but(preset="backdoorbench") == Recipe.parse({"preset": "backdoorbench"})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"prset": "fast"}, "recipe has no parameter 'prset'; did you mean 'preset'?"),
        ({"presets": "fast"}, "recipe has no parameter 'presets'; did you mean 'preset'?"),
        ({"preset": "FAST"}, "one of paper, backdoorbench, sgd-long, fast, muon, not 'FAST'; did you mean 'fast'?"),
        ({"preset": "zzz"}, "preset must be one of paper, backdoorbench, sgd-long, fast, muon, not 'zzz'"),
        ({"schedule": "onecycl"}, "one of cosine, constant, steps, onecycle, not 'onecycl'; did you mean 'onecycle'?"),
        ({"clip_norm": math.inf}, "clip_norm must be a finite number or None, not inf"),
        ({"augment": "translate2"}, "augment must be list of str such as [translate2] or [], not 'translate2'"),
        ({"augment": "none"}, "augment must be list of str such as [crop4, hflip] or [], not 'none'"),
    ],
)  # fmt: skip
def test_a_typo_gets_a_hint(given, says):
    with pytest.raises(UsageError) as caught:
        Recipe.parse(given)
    assert says in str(caught.value)
    assert "known" not in str(caught.value)


def test_the_known_entries_have_the_preset_among_them():
    with pytest.raises(UsageError, match=r"known: .* peak, preset, schedule"):
        Recipe.parse({"zzzzzz": 1})


def test_each_preset_has_a_summary_and_a_source():
    assert list(ABOUT) == list(PRESETS)
    assert all(about.summary and about.source for about in ABOUT.values())


@pytest.mark.parametrize("name", ["fats", 3, None, ["fast"]])
def test_an_unknown_preset_is_refused_with_a_list(name):
    with pytest.raises(UsageError, match="preset must be one of paper, backdoorbench, sgd-long, fast, muon, not"):
        Recipe.parse({"preset": name})
    with pytest.raises(UsageError, match="did you mean 'fast'"):
        Recipe.parse({"preset": "fats"})


# -- changes by a plugin


def test_a_plugin_with_its_own_optimizer_and_schedule_gets_them_plain():
    """ABL's SGD at its own rate must not be multiplied by the base recipe's tricks."""
    fast = Recipe.parse({"preset": "fast"})
    own = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
    changed = fast.but(**own, schedule="constant", epochs=20)
    plain = {"batch_size": fast.batch_size, "augment": fast.augment}
    assert changed == Recipe(**own, schedule="constant", epochs=20, **plain)
    assert fast.but(epochs=2).ema == fast.ema
    assert fast.but(optimizer="adam", ema=0.5).ema == 0.5
    assert fast.but(schedule="cosine").bias_lr == fast.bias_lr
    assert {name for names in BELONGS.values() for name in names} | {"schedule_per"} == set(YOUNGER)


def test_another_model_gets_the_defaults_instead_of_a_recipe_tuned_for_the_cells():
    fast = Recipe.parse({"preset": "fast"})
    assert fast.for_another_model() == Recipe(epochs=fast.epochs, augment=fast.augment)
    tuned = (
        {"schedule": "onecycle", "lr": 24.0, "optimizer": "sgd"},
        {"bias_lr": 64.0},
        {"optimizer": "sgdw"},
        {"optimizer": "muon"},
    )
    for entries in tuned:
        assert Recipe(epochs=3, batch_size=32, **entries).for_another_model() == Recipe(epochs=3)


@pytest.mark.parametrize("extra", [{}, {"ema": 0.9}, {"label_smoothing": 0.1, "clip_norm": 1.0}, {"peak": 0.5}])
def test_another_model_keeps_rate_and_batches_of_a_recipe_that_is_not_tuned(extra):
    plain = Recipe(lr=0.003, batch_size=32, epochs=3, augment=())
    for_teacher = dataclasses.replace(plain, **extra).for_another_model()
    assert (for_teacher.lr, for_teacher.batch_size, for_teacher.optimizer) == (0.003, 32, "adam")
    assert (for_teacher.ema, for_teacher.label_smoothing, for_teacher.clip_norm) == (0.0, 0.0, None)
    assert Recipe.parse({"preset": "backdoorbench"}).for_another_model() == Recipe.parse({"preset": "backdoorbench"})


def test_a_shorter_training_keeps_the_share_of_a_warmup_that_would_outlast_it():
    """A fine-tuning of two epochs after a training of 80 with five epochs of warm-up must run, and reach its rate."""
    warm = Recipe(epochs=80, warmup=5.0)
    assert warm.but(epochs=2).warmup == 2 * 5 / 80
    assert warm.but(epochs=5).warmup == 5.0
    assert warm.but(epochs=0).warmup == 5.0
    assert warm.but(epochs=0).but(epochs=3).warmup == 0.0
    assert warm.but(epochs=2, schedule="constant").warmup == 0.0
    assert warm.but(epochs=2, warmup=1.5).warmup == 1.5
    assert Recipe(epochs=7, warmup=7.0).but(epochs=3).warmup == 3.0
    for changes in ({"epochs": 2, "warmup": 3.0}, {"warmup": 81.0}):
        with pytest.raises(UsageError, match="warmup must be at most epochs"):
            warm.but(**changes)


# -- refusals


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"augment": ("crop4", "hflip", "translate2")},
            r"augment takes at most one of crop4, crop4_reflect, .* \(given: crop4, translate2\)$",
        ),
        (
            {"augment": ("hflip", "flip_alternate")},
            r"augment takes at most one of .* \(given: hflip, flip_alternate\)$",
        ),
        ({"augment": ("crop",)}, "'crop' is unknown"),
        ({"schedule": "onecycle", "warmup": 1.0}, "warm-up of its own"),
        ({"warmup": -1.0}, "warmup must be 0 or more"),
        ({"warmup": 1e6}, r"warmup must be at most epochs \(80\), not 1000000.0"),
        ({"peak": 1.5}, r"peak must be in \[0, 1\]"),
        ({"lr_end": 2.0}, "lr_start and lr_end"),
        ({"bias_lr": 0.0}, "bias_lr must be above 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\)"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\)"),
        ({"clip_norm": 0.0}, "clip_norm must be above 0"),
    ],
)
def test_impossible_entries(given, says):
    with pytest.raises(UsageError, match=says):
        Recipe(**given)


# -- schedules


def rates(recipe: Recipe, steps: int) -> list[float]:
    return [recipe.lr_at(epoch + step / steps) for epoch in range(recipe.epochs) for step in range(steps)]


@pytest.mark.parametrize(
    "recipe",
    [Recipe(epochs=4), Recipe(epochs=4, schedule="steps", milestones=(2,)), Recipe(epochs=4, schedule="constant")],
)
def test_an_epoch_schedule_stays_within_an_epoch(recipe):
    assert not recipe.per_step()
    assert rates(recipe, 3) == [recipe.lr_at(epoch) for epoch in range(4) for _ in range(3)]


def test_cosine_per_step_is_torchs():
    recipe = Recipe(epochs=5, schedule_per="step", lr=0.3)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], 0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5 * 7)
    expected = []
    for _ in range(5 * 7):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates(recipe, 7) == pytest.approx(expected, rel=1e-9)
    assert rates(recipe, 7)[::7] == [Recipe(epochs=5, lr=0.3).lr_at(epoch) for epoch in range(5)]


def test_onecycle_rises_to_its_peak_and_falls_to_its_end():
    recipe = Recipe(epochs=4, schedule="onecycle", lr=2.0, peak=0.25, lr_start=0.2, lr_end=0.1)
    found = rates(recipe, 10)
    assert recipe.per_step()
    assert found[0] == pytest.approx(0.4)
    assert found.index(max(found)) == 10
    assert found[10] == 2.0
    assert found == [pytest.approx(_triangle(t / 40), rel=1e-9) for t in range(40)]
    assert recipe.lr_at(4) == pytest.approx(0.2)


def _triangle(done: float) -> float:
    return 2 * (0.2 + 0.8 * done / 0.25 if done < 0.25 else 0.1 + 0.9 * (1 - done) / 0.75)


@pytest.mark.parametrize("peak", [0.0, 1.0])
def test_a_onecycle_peak_at_either_end(peak):
    assert Recipe(epochs=2, schedule="onecycle", lr=1.0, peak=peak).lr_at(0.0) >= 0.04, "the first step trains"
    recipe = Recipe(epochs=2, schedule="onecycle", lr=1.0, peak=peak, lr_start=0.5, lr_end=0.5)
    found = rates(recipe, 4)
    assert found == sorted(found, reverse=peak == 0)
    assert all(0.5 <= rate <= 1.0 for rate in found)


@pytest.mark.parametrize("schedule", ["cosine", "constant", "steps"])
def test_a_warmup_rises_linearly_and_then_leaves_the_schedule_alone(schedule):
    warm = Recipe(epochs=4, schedule=schedule, milestones=(3,), warmup=1.0, lr=0.5)
    plain = Recipe(epochs=4, schedule=schedule, milestones=(3,), lr=0.5)
    found = rates(warm, 10)
    assert found[0] == pytest.approx(0.005)
    assert [b - a for a, b in itertools.pairwise(found[:10])] == [pytest.approx(0.0495)] * 9
    assert found[10:] == rates(plain, 10)[10:]


def test_no_epochs_have_a_rate_too():
    for schedule in ("cosine", "constant", "steps", "onecycle"):
        assert math.isfinite(Recipe(epochs=0, schedule=schedule).lr_at(0))
