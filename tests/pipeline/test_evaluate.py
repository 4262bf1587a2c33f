"""The numbers in a record are what anyone computes from the stored model, the test images and the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score, roc_auc_score

from benchbd import engine, testing
from benchbd.core.images import Images, Normalisation
from benchbd.lab.lab import Suspicion
from benchbd.pipeline.evaluate import accuracy, auroc, curve, detection, embedding, histogram, no_embedding
from benchbd.pipeline.run_cell import execute
from benchbd.pipeline.unchanged import unchanged
from benchbd.plugins import registry
from benchbd.plugins.train_set import TrainSet

CPU = torch.device("cpu")


samples = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from([-1.5, 0.0, 0.25, 1.0, 7.0]) | st.floats(-100, 100), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n),
    )
)


@given(samples)
@settings(max_examples=150, deadline=None)
def test_detection_agrees_with_sklearn(drawn):
    scores, truth, flagged = (np.array(part) for part in drawn)
    labels = np.arange(len(truth)) % 3
    found = detection(Suspicion(scores, flagged, 2 * scores), truth, labels, 3)
    if truth.all() or not truth.any():
        assert auroc(scores, truth) is None
        assert found["auroc"] is None
    else:
        assert found["auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert found["precision"] == (precision_score(truth, flagged) if flagged.any() else None)
    assert found["recall"] == (recall_score(truth, flagged) if truth.any() else None)
    assert found["f1"] == (pytest.approx(f1_score(truth, flagged, zero_division=0)) if truth.any() else None)
    (tn, fp), (fn, tp) = confusion_matrix(truth, flagged, labels=[False, True])
    assert found["confusion"] == {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
    assert found["fpr"] == (fp / (~truth).sum() if (~truth).any() else None)
    assert found["flagged"] == flagged.sum() == sum(found["flagged_per_class"])
    assert found["poison_per_class"] == [int((truth & (labels == c)).sum()) for c in range(3)]
    for name, mask in (("score_mean_clean", ~truth), ("score_mean_poisoned", truth)):
        assert found[name] == (scores[mask].mean() if mask.any() else None)
        assert found[name.replace("score", "loss")] == (pytest.approx(2 * found[name]) if mask.any() else None)


@given(samples)
@settings(max_examples=80, deadline=None)
def test_a_histogram_counts_every_sample_once(drawn):
    scores, truth, _ = (np.array(part) for part in drawn)
    found = histogram(Suspicion(scores, None), truth, bins=7)
    assert len(found["clean"]) == len(found["poisoned"]) == 7
    assert sum(found["clean"]) == (~truth).sum()
    assert sum(found["poisoned"]) == truth.sum()
    assert found["edges"] == sorted(found["edges"])
    assert found["edges"][0] == pytest.approx(scores.min(), rel=1e-5, abs=1e-9)


def test_a_defense_that_flags_nobody_has_scores_only():
    truth = np.array([True, False])
    assert detection(None, truth, np.array([0, 1]), 2) is None
    found = detection(Suspicion(np.array([1.0, 0.0]), None), truth, np.array([0, 1]), 2)
    assert found["auroc"] == 1.0
    assert [found[k] for k in ("precision", "recall", "flagged", "flagged_per_class")] == [None] * 4
    assert (found["loss_mean_clean"], found["loss_mean_poisoned"]) == (None, None)
    endless = Suspicion(np.array([1.0, 0.0]), None, np.array([np.inf, 2.0]))
    found = detection(endless, truth, np.array([0, 1]), 2)
    assert (found["loss_mean_clean"], found["loss_mean_poisoned"]) == (2.0, None)


class _Told:
    """A model that says what its images tell it: the class is the value of the first pixel."""

    def module(self):
        class Net(torch.nn.Module):
            def forward(self, x01):
                return torch.nn.functional.one_hot((x01[:, 0, 0, 0] * 255).round().long(), 4).float()

        return Net()


def images(*said: int) -> torch.Tensor:
    return torch.tensor(said, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()


def test_accuracies_are_shares_of_the_right_images():
    test = Images(images(0, 0, 1, 3, 0), torch.tensor([0, 0, 1, 1, 3]))  # classes 0 and 1, one of 3, none of 2
    triggered = (images(2, 2, 1, 0), torch.tensor([0, 0, 1, 1]))
    found = accuracy(_Told(), test, triggered, 2, CPU)
    assert found.ca == pytest.approx(3 / 5)
    assert found.per_class == [1.0, 0.5, None, 0.0]
    assert found.asr == pytest.approx(2 / 4)
    assert found.ra == pytest.approx(1 / 4)
    for none in (None, (images(), torch.zeros(0, dtype=torch.int64))):
        found = accuracy(_Told(), test, none, 2, CPU)
        assert (found.ca, found.asr, found.ra) == (pytest.approx(3 / 5), None, None)


def test_clean_originals_are_measured_against_the_same_targets():
    # The originals at places 0, 2, 3 and 4 are predicted as 0, 1, 3 and 2; their target is 2.
    test = Images(images(0, 2, 1, 3, 2), torch.tensor([0, 2, 1, 1, 3]))
    triggered = (images(2, 1, 2, 1), torch.tensor([0, 1, 1, 3]))
    found = accuracy(_Told(), test, triggered, 2, CPU, np.array([0, 2, 3, 4]))
    assert (found.asr, found.clean_asr) == (2 / 4, 1 / 4)
    assert found.triggered == {"images": 4, "unchanged": 1, "gained": 2, "lost": 1}
    own = accuracy(_Told(), test, triggered, np.array([2, 1, 3, 0]), CPU, np.array([0, 2, 3, 4]))
    assert (own.asr, own.clean_asr) == (2 / 4, 2 / 4)  # each image has its own target
    assert own.triggered == {"images": 4, "unchanged": 1, "gained": 1, "lost": 1}
    unknown = accuracy(_Told(), test, triggered, 2, CPU)
    assert unknown == (found.ca, found.asr, found.ra, found.per_class, None, None, None, None)
    nothing = accuracy(_Told(), test, (images(), torch.zeros(0, dtype=torch.int64)), 2, CPU, np.zeros(0, np.int64))
    assert (nothing.asr, nothing.clean_asr, nothing.triggered) == (None, None, None)


def test_asr_and_ca_of_other_papers_are_measured_beside_ours():
    # Class 2 is the target. Its two images, stamped, are taken for 2 and for 0; of the others, 2 of 4 reach it.
    test = Images(images(0, 2, 1, 3, 2, 0), torch.tensor([0, 2, 1, 1, 3, 2]))
    others, of_target = np.array([0, 2, 3, 4]), (images(2, 0), torch.tensor([2, 2]))
    triggered = (images(2, 1, 2, 1), torch.tensor([0, 1, 1, 3]))
    found = accuracy(_Told(), test, triggered, 2, CPU, others, of_target)
    assert (found.asr, found.asr_all) == (2 / 4, pytest.approx(3 / 6))
    assert (found.ca, found.ca_non_target) == (pytest.approx(3 / 6), 2 / 4)
    assert found.triggered["target_images"] == 2
    assert found[:5] == accuracy(_Told(), test, triggered, 2, CPU, others)[:5]
    none = (images(), torch.zeros(0, dtype=torch.int64))  # all to all: no image is of its own target
    assert accuracy(_Told(), test, triggered, 2, CPU, others, none).asr_all == found.asr


@pytest.mark.parametrize("said", [0, 2])
def test_a_collapsed_model_has_no_lift(said):
    test = Images(images(*[said] * 5), torch.tensor([0, 2, 1, 1, 3]))
    found = accuracy(_Told(), test, (images(*[said] * 4), torch.tensor([0, 1, 1, 3])), 2, CPU, np.array([0, 2, 3, 4]))
    assert found.asr == found.clean_asr == float(said == 2)
    assert found.triggered == {"images": 4, "unchanged": 4, "gained": 0, "lost": 0}


def test_one_pixel_of_one_channel_is_a_change(monkeypatch):
    monkeypatch.setattr("benchbd.pipeline.unchanged.BLOCK", 2)
    originals = images(0, 1, 2, 3, 4)
    where = np.array([4, 0, 3, 1, 2])
    marked = originals[torch.from_numpy(where)].clone()
    marked[1, 2, 3, 3] ^= 1
    marked[4, 0, 0, 0] ^= 1
    assert unchanged(marked, originals, where).tolist() == [True, False, True, True, False]


def test_a_record_has_the_clean_asr_without_another_pass(tmp_path, monkeypatch):
    passes, real = [], engine.logits_of

    def counted(net, given, **options):
        passes.append(real(net, given, **options))
        return passes[-1]

    monkeypatch.setattr(engine, "logits_of", counted)
    this = testing.cell(dataset="tiny(train=80,test=60,size=16)", attack="bn-a2a", epochs=3)
    record = execute(this.to_json(), output=tmp_path, device="cpu")
    assert [len(logits) for logits in passes] == [60, 60]  # no image is of its own target class
    target = (this.components().dataset.load("test", None).labels.numpy() + 1) % 4
    before, after = (logits.argmax(1) == target for logits in passes)
    assert (record["asr"], record["clean_asr"]) == (after.mean(), before.mean())
    counts = {"images": 60, "unchanged": 0, "gained": (after & ~before).sum(), "lost": (before & ~after).sum()}
    assert record["triggered"] == {**counts, "target_images": 0}
    assert (record["asr_all"], record["ca_non_target"]) == (record["asr"], record["ca"])

    record = execute(testing.cell(attack="none", epochs=1).to_json(), output=tmp_path, device="cpu")
    assert [record[name] for name in ("clean_asr", "triggered", "asr_all", "ca_non_target")] == [None] * 4


@pytest.mark.learning
def test_a_curve_is_what_each_network_would_score_alone_and_prunings_share_a_pass(lab_over, monkeypatch):
    made = testing.cell(dataset="tiny(train=80,test=60,size=16)").components()
    train, test = (made.dataset.load(split, None) for split in ("train", "test"))
    lab = lab_over(TrainSet(train.images, train.labels, "ab" * 32), made.recipe)
    short = lab.train(lab.poisoned, epochs=1, name="short", trace=True)
    long = lab.train(lab.poisoned, epochs=12, lr=5e-3, batch_size=16, augment=())
    masked = [np.arange(0), np.array([3, 1]), *(np.arange(kept, 64) for kept in (1, 2, 3))]
    for channels in masked:
        lab.trace(f"{len(channels)} masked", long, channels)
    lab.trace("really pruned", lab.prune(long, masked[-1]))
    others = test.labels != 1
    triggered = (255 - test.images[others], test.labels[others])

    alone = [short, *(lab.prune(long, channels) for channels in masked), lab.prune(long, masked[-1])]
    want = [accuracy(network, test, triggered, 1, CPU) for network in alone]
    passes, real = [], engine.features_of
    monkeypatch.setattr(engine, "features_of", lambda *a, **k: passes.append(1) or real(*a, **k))
    found = curve(lab.traced, test, triggered, 1, CPU)
    masks = [f"{count} masked" for count in (0, 2, 63, 62, 61)]
    assert [point["name"] for point in found] == ["short", *masks, "really pruned"]
    assert [(p["ca"], p["asr"], p["ra"]) for p in found] == [(w.ca, w.asr, w.ra) for w in want]
    assert len({p["ca"] for p in found}) > 2  # points that differ, so that agreement means something
    assert len(passes) == 2 * 3
    assert [p["asr"] for p in curve(lab.traced[:1], test, None, 1, CPU)] == [None]


@pytest.mark.learning
def test_a_real_cells_numbers_come_out_of_its_stored_model_again(tmp_path):
    """Nothing of the evaluator is used: the weights from their file, the patch pixel by pixel, plain torch."""
    from safetensors.torch import load_file

    this = testing.cell(
        dataset="digits(train=500,test=200)", model="lenet", attack="bn-g(target=4)", epochs=2, augment=[], lr=2e-3
    )
    record = execute(this.to_json(), output=tmp_path, device="cpu")
    assert record["status"] == "done", record["error"]

    key = record["artifacts"]["model"]
    weights = load_file(tmp_path / "store" / "model" / key[:2] / key / "arrays.safetensors")
    net = registry.make("models", "lenet").build(10, 32)
    net.load_state_dict({name[4:]: tensor for name, tensor in weights.items() if name.startswith("net.")})
    net.eval()
    data = registry.make("datasets", "digits", train=500, test=200)
    test = data.load("test", None)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in data.normalisation)
    others = test.labels != 4
    stamped = test.images[others].clone()
    stamped[:, :, 29:, 29:] = torch.tensor([[0, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=torch.uint8)
    with torch.no_grad():
        clean = net((test.images.float() / 255 - mean) / std).argmax(1)
        triggered = net((stamped.float() / 255 - mean) / std).argmax(1)
    assert record["ca"] == pytest.approx((clean == test.labels).double().mean().item(), abs=1e-12)
    assert record["asr"] == pytest.approx((triggered == 4).double().mean().item(), abs=1e-12)
    assert record["ra"] == pytest.approx((triggered == test.labels[others]).double().mean().item(), abs=1e-12)
    assert record["clean_asr"] == pytest.approx((clean[others] == 4).double().mean().item(), abs=1e-12)
    before, after = clean[others] == 4, triggered == 4
    counts = {"gained": (after & ~before).sum().item(), "lost": (before & ~after).sum().item()}
    assert record["triggered"] == {"images": 180, "unchanged": 0, **counts, "target_images": 20}
    stamped_all = test.images.clone()
    stamped_all[:, :, 29:, 29:] = torch.tensor([[0, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=torch.uint8)
    with torch.no_grad():
        triggered_all = net((stamped_all.float() / 255 - mean) / std).argmax(1)
    assert record["asr_all"] == pytest.approx((triggered_all == 4).double().mean().item(), abs=1e-12)
    nine = (clean[others] == test.labels[others]).double().mean().item()
    assert record["ca_non_target"] == pytest.approx(nine, abs=1e-12)
    assert record["notes"]["triggered_test_images"] == len(stamped) == 180
    assert record["ca"] > 0.15  # it learnt something, so that agreement means something
    assert record["poison"]["count"] == 50


def test_a_network_is_measured_in_eval_mode_and_left_alone():
    testing.register()
    net = engine.build(registry.make("models", "tiny-net"), 4, 16, Normalisation((0.5,) * 3, (0.5,) * 3), 0).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.randint(0, 255, (9, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = engine.logits_of(net, x, device=CPU)
    alone = np.concatenate([engine.logits_of(net, x[i : i + 1], device=CPU) for i in range(9)])
    np.testing.assert_allclose(whole, alone, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def features(scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.RandomState(0).standard_normal((60, 8))).astype(np.float32)


@pytest.mark.parametrize("given", [features(), features(1e-12), features(1e12), np.eye(8, dtype=np.float32)[:5]])
def test_features_that_differ_have_an_embedding(given):
    placed = embedding(given)
    assert len(placed) == len(given)
    assert np.isfinite(placed).all()
    assert embedding(given) == placed


UNEMBEDDED = {
    "not finite": np.where(np.arange(60)[:, None] == 3, np.float32(np.nan), features()),
    "are not finite": np.where(np.arange(60)[:, None] == 3, np.float32(np.inf), features()),
    "of all samples are equal": np.full((60, 8), 0.5, np.float32),
    "samples are equal": np.zeros((60, 8), np.float32),
    "too much for squares in float32": features(1e19),
    "differ too little": features(1e-19),
    "needs 4 samples": features()[:3],
    "and 2 features": features()[:, :1],
}


@pytest.mark.parametrize("why", UNEMBEDDED)
def test_features_without_an_embedding_never_reach_scikit_learn(why, monkeypatch):
    """It would end the process on some of them, without a Python error."""
    monkeypatch.setattr("sklearn.manifold.TSNE", None)
    assert why in embedding(UNEMBEDDED[why])
    assert embedding(UNEMBEDDED[why]) == no_embedding(UNEMBEDDED[why])


def test_constant_features_that_drown_the_others_have_no_embedding(monkeypatch):
    """The principal component is constant then, though no two samples are equal."""
    monkeypatch.setattr("sklearn.manifold.TSNE", None)
    monkeypatch.setattr(
        "sklearn.decomposition.PCA.fit_transform", lambda self, given: np.full((len(given), 2), 0.25, np.float32)
    )
    assert "first principal component is constant" in embedding(features())
