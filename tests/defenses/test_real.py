"""The defenses at the real lab: trained networks, shuffled batches, artifacts, counts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchbd.core.recipe import Recipe
from benchbd.defenses.ac import flat_maps
from benchbd.defenses.fine_pruning import FinePruning, split
from benchbd.defenses.lfd import Lfd, Weighing
from benchbd.errors import Diverged, Impossible
from benchbd.lab.lab import Lab
from benchbd.plugins import registry
from benchbd.plugins.train_set import TrainSet

N, CLASSES, SIZE = 240, 4, 16
POISONING = SimpleNamespace(poisons=True)
ABL = "abl(turning_epochs=3, finetune_epochs=2, unlearn_epochs=2, ratio=0.05, lr=0.01)"
pytestmark = pytest.mark.usefixtures("one_thread")
ROW = ["none", "fine-pruning", "ac(preset='per-class')", ABL, "lfd(teacher_epochs=2, teacher_tries=1)"]


def planted(order=None):
    """Noise under random labels, which cannot be learnt, and one white image in ten under label 1, which can."""
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (N, 3, SIZE, SIZE), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, N)
    poison = np.arange(N) < N // 10
    images[poison], labels[poison] = 255, 1
    order = np.random.default_rng(9).permutation(N) if order is None else order
    data = TrainSet(torch.from_numpy(images[order]), torch.from_numpy(labels[order]), "ab" * 32)
    return data, poison[order]


@pytest.fixture
def open_lab(lab_over):
    def build(data, truth=None, clean=None, seed=0, model="resnet-s2(width=4)", **recipe):
        used = Recipe(**{"epochs": 3, "batch_size": 32, **recipe})
        return lab_over(data, used, model, clean=clean, truth=truth, seed=seed)

    return build


def run(text, lab):
    defense = registry.make("defenses", text)
    return defense.train(lab)


def check_lfd(lab, truth):
    run("lfd(teachers=1, teacher_epochs=3, teacher='resnet-s2(width=4)', alpha=0.2)", lab)
    assert lab.suspicion.flagged[truth].all()
    assert lab.suspicion.scores[truth].min() > lab.suspicion.scores[~truth].max()


def check_abl(lab, truth):
    run(ABL, lab)
    assert lab.suspicion.flagged.sum() == len(truth) // 20
    assert truth[lab.suspicion.flagged].all()


def check_ac(lab, truth, dims=10):
    run(f"ac(preset='per-class', dims={dims})", lab)
    assert lab.suspicion.flagged[truth].all()
    assert lab.notes["ac"]["removed_per_class"][1] <= 1.2 * truth.sum()


@pytest.mark.learning
@pytest.mark.parametrize("part", [slice(None), slice(20, 220)], ids=["whole", "subset"])
def test_planted_poison_is_found_by_trained_networks_and_missed_by_a_lab_off_by_one(open_lab, part, monkeypatch):
    data, truth = planted()
    data, truth = data.subset(np.arange(N)[part]), truth[part]
    check_lfd(open_lab(data), truth)
    check_abl(open_lab(data), truth)
    check_ac(open_lab(data, epochs=4), truth)

    def off_by_one(method):
        return lambda *args: np.roll(method(*args), 1, axis=0)

    # The same trained networks, their results handed out one sample late: every check must notice.
    monkeypatch.setattr(Lab, "losses", off_by_one(Lab.losses))
    monkeypatch.setattr(Lab, "features", off_by_one(Lab.features))
    with pytest.raises(AssertionError):
        check_lfd(open_lab(data), truth)
    with pytest.raises(AssertionError):
        check_abl(open_lab(data), truth)
    with pytest.raises(AssertionError):
        check_ac(open_lab(data, epochs=4), truth, dims=9)  # other clusters than the stored ones


@pytest.mark.learning
def test_unlearning_raises_the_loss_of_what_was_isolated(open_lab):
    data, truth = planted()
    lab = open_lab(data)
    kept = run(ABL.replace("unlearn_epochs=2", "unlearn_epochs=0"), lab)
    unlearned = run(ABL.replace("unlearn_epochs=2", "unlearn_epochs=20, unlearn_lr=0.01"), lab)
    before, after = (lab.losses(model, data)[truth].mean() for model in (kept, unlearned))
    assert after > before + 1.0


@pytest.mark.learning
@pytest.mark.parametrize("unlearn_lr", ["1.0e+30", "300.0"])
def test_a_runaway_ascent_is_diverged_with_its_epoch(open_lab, unlearn_lr):
    data, _ = planted()
    with pytest.raises(Diverged, match=r"epoch \d+ of 6"):
        run(ABL.replace("unlearn_epochs=2", f"unlearn_epochs=6, unlearn_lr={unlearn_lr}"), open_lab(data))


@pytest.mark.learning
def test_pruning_curve_equals_passes_of_really_pruned_networks(open_lab):
    data, _ = planted()
    blocks = torch.arange(N) % CLASSES  # learnable clean images: the class says which quarter is bright
    bright = data.images // 4
    for label in range(CLASSES):
        row, column = divmod(label, 2)
        bright[blocks == label, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 120
    clean = TrainSet(bright, blocks, "cd" * 32)
    lab = open_lab(clean, clean=clean, epochs=4, augment=())
    pruned_model = FinePruning(max_drop=0.2).train(lab)
    note = lab.notes["pruning"]
    assert note["validation_accuracy"][0] > 0.6  # it learnt something, so there is something to lose
    order = np.array(note["order"])
    undefended = lab.train(lab.poisoned)
    validate = split(N, lab.seed_for("fine-pruning split")).validate
    part = clean.subset(validate)
    for k in range(0, len(order) + 1):
        logits = lab.logits(lab.prune(undefended, order[:k]), part)
        assert (logits.argmax(1) == part.labels.numpy()).mean() == note["validation_accuracy"][k]
    silent = lab.features(pruned_model, part)[:, order[: note["pruned"]]]
    assert 0 < note["pruned"] < len(order)
    assert not silent.any()


@pytest.mark.parametrize("model", ["resnet-s2(width=4)", "resnet-s(stem=8)", "mobilenetv2-s"])
def test_filters_set_to_zero_silence_a_channel_but_for_the_shortcut(open_lab, model):
    data, _ = planted()
    lab = open_lab(data, model=model, epochs=1)
    trained = lab.train(data)
    whole = lab.features(trained, data)
    chosen = np.argsort(whole.mean(0))[-2:]
    bare = lab.features(lab.prune(trained, chosen, at="filters"), data)
    others = np.setdiff1d(np.arange(whole.shape[1]), chosen)
    np.testing.assert_array_equal(bare[:, others], whole[:, others])
    assert bare[:, chosen].any() == model.startswith("resnet")
    assert not np.array_equal(bare[:, chosen], whole[:, chosen])
    assert not lab.features(lab.prune(trained, chosen), data)[:, chosen].any()


def test_the_curve_of_filters_equals_passes_of_networks_without_them(open_lab):
    data, _ = planted()
    lab = open_lab(data, clean=data, epochs=3, augment=())
    FinePruning(mask_at="filters", max_drop=0.5).train(lab)
    note = lab.notes["pruning"]
    part = data.subset(split(N, lab.seed_for("fine-pruning split")).validate)
    undefended = lab.train(lab.poisoned)
    for k in range(0, note["channels"] + 1, 3):
        logits = lab.logits(lab.prune(undefended, note["order"][:k], at="filters"), part)
        assert (logits.argmax(1) == part.labels.numpy()).mean() == pytest.approx(note["validation_accuracy"][k])


def test_a_network_without_a_last_convolution_is_skipped_for_filters(open_lab):
    data, _ = planted()
    lab = open_lab(data, clean=data, model="lenet-s", epochs=1)
    with pytest.raises(Impossible, match="mask the output instead"):
        FinePruning(mask_at="filters").train(lab)


def test_a_student_is_weighed_anew_each_epoch_by_the_views_it_sees(open_lab):
    data, _ = planted()
    kwargs = {"teacher_epochs": 2, "teacher": "resnet-s2(width=2)", "teacher_tries": 1}
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Watch:
        inner: Weighing

        def __call__(self, losses):
            seen.append(losses.copy())
            return self.inner(losses)

    lab = open_lab(data, epochs=3, augment=("hflip",))
    teacher = lab.train(data, kind="teacher", name="teacher", model="resnet-s2(width=2)", epochs=2, augment=())
    weight_fn = Watch(Weighing(0.15, 1e-3, "weighted", "threshold", "range", "max", "batch", "signs"))
    lab.train(data, scorer=teacher, weight_fn=weight_fn)
    assert len(seen) == 3
    plain = lab.losses(teacher, data)
    mirrored = lab.losses(teacher, data.replace(images=data.images.flip(3)))
    for losses in seen:
        close = np.isclose(losses, plain, rtol=1e-4, atol=1e-5), np.isclose(losses, mirrored, rtol=1e-4, atol=1e-5)
        assert (close[0] | close[1]).all()  # in the order of the set, each the image's or its mirror's
        assert 0.3 < close[0].mean() < 0.7
    assert not np.array_equal(seen[0], seen[1])

    static, anew = open_lab(data, augment=()), open_lab(data, augment=())
    one, other = (Lfd(**kwargs, recompute=how) for how in ("never", "epoch"))
    first, second = one.train(static), other.train(anew)  # without augmentation the views are the images
    assert first.key != second.key
    for name, values in first._state.items():
        np.testing.assert_allclose(second._state[name], values, rtol=1e-3, atol=1e-4)


def test_fine_tuning_leaves_pruned_channels_silent(open_lab):
    data, _ = planted()
    lab = open_lab(data, clean=data.subset(np.arange(60)))
    model = run("fine-pruning(profile='canonical', max_drop=0.9, finetune_epochs=1)", lab)
    pruned = lab.notes["pruning"]["order"][: lab.notes["pruning"]["pruned"]]
    assert len(pruned) > 0
    assert not lab.features(model, data)[:, pruned].any()


def test_flat_maps_pool_to_the_features(open_lab):
    data, _ = planted()
    lab = open_lab(data)
    model = lab.train(data, epochs=1)
    maps = flat_maps(lab, model, data)
    features = lab.features(model, data)
    assert maps.shape == (N, features.shape[1] * 4)
    np.testing.assert_allclose(maps.reshape(N, -1, 4).mean(2), features, rtol=1e-4, atol=1e-5)
    run("ac(features='map')", lab)
    assert lab.suspicion.flagged.any()


def test_a_row_trains_what_its_plan_says_and_shares_the_rest(open_lab):
    data, truth = planted()
    clean = data.subset(np.arange(60))

    def cost(*texts):
        """Trainings computed now, and those that the plan names beyond what is in ``planned`` already."""
        computed, named = Counter(), Counter()
        for text in texts:
            lab = open_lab(data, truth=truth, clean=clean)
            run(text, lab)
            computed.update(lab._ledger.computed)
            asked = registry.make("defenses", text).trainings(POISONING)
            assert Counter(t.kind for t in asked) == lab._ledger.trainings, text
            named.update(t.kind for t in set(asked) - planned)
            planned.update(asked)
        assert computed == named
        return dict(computed)

    planned = set()
    assert cost(*ROW) == {"full": 4, "feature-model": 1, "teacher": 1, "fine-tune": 2}
    assert cost(*ROW) == {}
    assert cost("lfd(teacher_epochs=2, teacher_tries=1, beta=0.01)") == {"full": 1}
    assert cost("ac(preset='trojanzoo', scope='label', min_silhouette=-1.0)") == {"full": 1}
    assert cost("random-filter(of='lfd(teacher_epochs=2, teacher_tries=1)')", "oracle") == {"full": 2}
    assert cost("fine-pruning(profile='canonical', finetune_epochs=1)") == {"fine-tune": 1}


def test_random_filter_drops_as_many_as_the_named_defense(open_lab):
    data, truth = planted()
    short = ABL.replace("turning_epochs=3", "turning_epochs=1")
    for of in ("lfd(teacher_epochs=1, alpha=0.3)", "ac", short):
        named = open_lab(data, epochs=1)
        run(of, named)
        control = open_lab(data, truth=truth, epochs=1)
        registry.make("defenses", "random-filter", of=of).train(control)
        assert control.suspicion.flagged.sum() == named.suspicion.flagged.sum() > 0
        assert (control.suspicion.flagged != named.suspicion.flagged).any()
