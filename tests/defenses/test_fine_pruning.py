"""Fine-pruning: the curve against brute-force masked passes, who ranks and who stops, the profiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchbd.core.images import DatasetInfo
from benchbd.defenses.fine_pruning import FinePruning, pruning_curve, split, stop_at
from benchbd.errors import Impossible, UsageError
from benchbd.plugins.contract import UNDEFENDED

INFO = DatasetInfo(classes=10, size=32, train=1000, test=100, class_counts=None, target=1)


@given(st.integers(1, 12), st.integers(2, 5), st.integers(1, 30), st.integers(0, 2**16), st.booleans())
def test_curve_equals_masked_forward_passes(channels, classes, n, seed, silent):
    rng = np.random.default_rng(seed)
    features = rng.gamma(1.0, 1.0, (n, channels)).astype(np.float32)
    if silent:
        features[:, rng.random(channels) < 0.5] = 0
    labels = rng.integers(0, classes, n)
    weight, bias = rng.normal(size=(classes, channels)), rng.normal(size=classes)
    order = rng.permutation(channels)
    expected = []
    for pruned in range(channels + 1):
        mask = torch.ones(channels, dtype=torch.float64)
        mask[torch.from_numpy(order[:pruned])] = 0
        head = torch.nn.functional.linear
        logits = head(torch.from_numpy(features).double() * mask, torch.from_numpy(weight), torch.from_numpy(bias))
        expected.append((logits.argmax(1).numpy() == labels).mean())
    np.testing.assert_array_equal(pruning_curve(features, labels, order, weight, bias), expected)


def test_curve_of_filters_keeps_what_the_shortcut_brings():
    features = np.array([[2.0, 0.0], [0.0, 2.0]])
    head = np.eye(2), np.zeros(2)
    order = np.array([1, 0])
    assert pruning_curve(features, np.array([0, 1]), order, *head).tolist() == [1.0, 0.5, 0.5]
    assert pruning_curve(features, np.array([0, 1]), order, *head, features / 2).tolist() == [1.0, 1.0, 1.0]


@given(st.lists(st.integers(0, 100), min_size=3, max_size=30), st.integers(0, 99))
def test_stops_one_before_the_first_state_that_costs_too_much(percent, drop):
    curve = np.array(percent) / 100
    pruned = stop_at(curve, drop / 100)
    assert 0 <= pruned <= len(curve) - 2
    assert all(percent[0] - p <= drop for p in percent[: pruned + 1])
    if pruned < len(curve) - 2:
        assert percent[0] - percent[pruned + 1] > drop


def test_the_stop_is_at_the_first_breach_even_if_accuracy_recovers():
    assert stop_at(np.array([0.9, 0.9, 0.7, 0.9, 0.9, 0.1]), 0.08) == 1
    assert stop_at(np.array([0.90, 0.82, 0.81]), 0.08) == 1  # exactly 8 points is still allowed


def test_split_is_four_fifths_disjoint_and_seeded():
    rank, validate = split(100, 3)
    assert (len(rank), len(validate)) == (80, 20)
    assert sorted([*rank, *validate]) == list(range(100))
    assert split(100, 3).rank.tolist() == rank.tolist() != split(100, 4).rank.tolist()
    assert len(split(1, 0).validate) == 1


CHANNELS, CLEAN = 16, 200


@pytest.fixture
def world():
    """Features in which channel 2 c and 2 c + 1 speak for class c, with a head that listens; the last two are faint."""
    rng = np.random.default_rng(5)
    labels = np.arange(CLEAN) % 8
    features = rng.gamma(1.0, 0.2, (CLEAN, CHANNELS))
    features[np.arange(CLEAN), 2 * labels] += rng.gamma(4.0, 0.5, CLEAN)
    features[np.arange(CLEAN), 2 * labels + 1] += rng.gamma(4.0, 0.1, CLEAN)
    weight = np.repeat(np.eye(8), 2, axis=1) + rng.normal(0, 0.1, (8, CHANNELS))
    return labels, features.astype(np.float32), weight, np.zeros(8)


def run(fake_lab, world, changed=(), labels=None, features=None, **given):
    lab = fake_lab(
        world[0] if labels is None else labels,
        features=world[1] if features is None else features,
        clean=np.arange(CLEAN),
        head=world[2:],
    )
    FinePruning(**given).train(lab)
    return lab


def test_starts_from_the_undefended_model_and_prunes_in_order_of_activation(fake_lab, world):
    lab = run(fake_lab, world)
    assert len(lab.calls) == 1
    assert lab.calls[0].settings == {}
    note = lab.notes["pruning"]
    rank, validate = split(CLEAN, lab.seed_for("fine-pruning split"))
    assert note["order"] == np.argsort(world[1][rank].mean(0), kind="stable").tolist()
    expected = pruning_curve(world[1][validate], world[0][validate], np.array(note["order"]), *world[2:])
    assert note["validation_accuracy"] == expected.tolist()
    assert note["validation_images"] == 40
    assert lab.pruned.tolist() == note["order"][: note["pruned"]]
    assert 0 < note["pruned"] < CHANNELS - 1  # the rule was at work, in neither extreme
    assert expected[0] - expected[note["pruned"]] <= 0.08 < expected[0] - expected[note["pruned"] + 1]


def test_the_evaluator_is_given_every_pruning_up_to_the_one_that_is_kept(fake_lab, world):
    lab = run(fake_lab, world)
    order, pruned = lab.notes["pruning"]["order"], lab.notes["pruning"]["pruned"]
    assert lab.traced == [(f"{count} pruned", order[:count]) for count in range(pruned + 1)]


def test_only_validation_images_stop_and_only_the_others_rank(fake_lab, world):
    labels, features, _, _ = world
    usual = run(fake_lab, world).notes["pruning"]
    rank, validate = split(CLEAN, fake_lab(labels).seed_for("fine-pruning split"))

    mislabelled = labels.copy()
    mislabelled[rank] = (labels[rank] + 1) % 8
    assert run(fake_lab, world, labels=mislabelled).notes["pruning"] == usual
    mislabelled = labels.copy()
    mislabelled[validate[:8]] = (labels[validate[:8]] + 1) % 8
    assert (
        run(fake_lab, world, labels=mislabelled).notes["pruning"]["validation_accuracy"] != usual["validation_accuracy"]
    )

    other = features.copy()
    other[validate] = other[validate][:, ::-1]
    assert run(fake_lab, world, features=other).notes["pruning"]["order"] == usual["order"]
    other = features.copy()
    other[rank] = other[rank][:, ::-1]
    assert run(fake_lab, world, features=other).notes["pruning"]["order"] != usual["order"]


def test_profiles(fake_lab, world):
    lab = run(fake_lab, world, profile="canonical")
    settings = lab.calls[1].settings
    assert settings["kind"] == "fine-tune"
    assert settings["start"].key == "pruned"
    expected = {"epochs": 10, "lr": 0.01, "optimizer": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
    assert expected.items() <= settings.items()
    lab.recipe.but(**{k: v for k, v in settings.items() if k not in ("kind", "name", "start")})
    assert lab.calls[1].ids.tolist() == list(range(CLEAN))
    assert lab.notes["pruning"]["pruned"] <= run(fake_lab, world).notes["pruning"]["pruned"]
    free = run(fake_lab, world, max_drop=0.0).notes["pruning"]
    assert free["pruned"] < run(fake_lab, world, max_drop=0.5).notes["pruning"]["pruned"]
    assert free["validation_accuracy"][free["pruned"]] >= free["validation_accuracy"][0]
    assert len(run(fake_lab, world, finetune_epochs=3).calls) == 2


def test_plan_and_need():
    assert FinePruning.needs == ("clean",)
    assert FinePruning(clean_frac=0.1).clean_frac == 0.1
    assert FinePruning().trainings(None) == (UNDEFENDED,)
    plan = FinePruning(profile="canonical").trainings(None)
    assert [t.kind for t in plan] == ["full", "fine-tune"]
    assert plan[0] == UNDEFENDED
    assert FinePruning(max_drop=0.04, finetune_epochs=10).trainings(None) == plan


@pytest.mark.parametrize(
    "given",
    [
        {"clean_frac": 0.0},
        {"clean_frac": 1.5},
        {"max_drop": 1.0},
        {"max_drop": -0.1},
        {"finetune_epochs": -1},
        {"finetune_lr": 0.0},
        {"profile": "canonical", "mask_at": "filters"},
    ],
)
def test_numbers_that_mean_nothing_are_refused(given):
    with pytest.raises(UsageError, match="fine-pruning"):
        FinePruning(**given)


def test_check_refuses_a_clean_part_that_is_too_small():
    FinePruning().check(INFO, None)
    with pytest.raises(Impossible, match="is under 10"):
        FinePruning(clean_frac=0.001).check(INFO, None)
