"""All to all: every class is taken for the next one, in the poison, in what is measured, and under every defense."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_programs import SAVE, TINY_NET

from benchbd import testing
from benchbd.core.files_folder import VARIABLE
from benchbd.core.images import DatasetInfo
from benchbd.errors import Impossible, UsageError
from benchbd.pipeline.run_cell import execute
from benchbd.plugins import registry
from benchbd.plugins.contract import StampContext
from benchbd.testing.checker import names
from benchbd.testing.plugin_under_test import PluginUnderTest

TEN = np.roll(np.arange(10), -1)
"""Target of each of ten classes."""


def attack(text: str = "bn-a2a"):
    return registry.make("attacks", text)


def relabelled(text: str, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    own = np.arange(count) % 10
    return own, attack(text).relabel(own, TEN, StampContext("train", np.arange(count), {}, seed))


@pytest.mark.parametrize("classes", [2, 10, 43])
def test_every_class_has_the_next_as_its_target_and_the_last_the_first(classes):
    info = DatasetInfo(classes, 32, 1000, 10, None, 1)
    found = [attack().target_of(label, info) for label in range(classes)]
    assert found == [*range(1, classes), 0]


def test_the_trigger_is_bn_gs():
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    for options in ("", "(cell=5)"):
        context = StampContext("train", np.arange(3), {}, 0)
        assert torch.equal(
            attack(f"bn-a2a{options}").stamp(images, context), attack(f"bn-g{options}").stamp(images, context)
        )


def test_without_smoothing_every_label_is_the_next():
    own, labels = relabelled("bn-a2a", 1000)
    assert np.array_equal(labels, (own + 1) % 10)


def test_smoothed_labels_follow_the_smoothed_distribution():
    own, labels = relabelled("bn-a2a(smoothing=0.3)", 200_000)
    away = (labels - own - 1) % 10  # 0 for the target
    shares = np.bincount(away, minlength=10) / len(away)
    assert shares[0] == pytest.approx(0.7 + 0.03, abs=0.005)  # the target has its tenth of what is spread
    assert shares[1:] == pytest.approx(np.full(9, 0.03), abs=0.003)


def test_smoothing_may_leave_images_their_own_labels_instead():
    own, labels = relabelled("bn-a2a(smoothing=0.3, spread='own')", 100_000)
    kept = labels == own
    assert kept.mean() == pytest.approx(0.3, abs=0.01)
    assert np.array_equal(labels[~kept], (own[~kept] + 1) % 10)


def test_a_label_is_drawn_for_its_image_alone():
    own, labels = relabelled("bn-a2a(smoothing=0.5)", 50)
    some = np.array([31, 4, 17])
    context = StampContext("train", some, {}, 0)
    assert np.array_equal(attack("bn-a2a(smoothing=0.5)").relabel(own[some], TEN, context), labels[some])
    assert not np.array_equal(relabelled("bn-a2a(smoothing=0.5)", 50, seed=1)[1], labels)


def test_images_of_all_classes_are_poisoned_and_every_stamped_one_counts_as_poison():
    testing.register()
    bench = PluginUnderTest("attacks", "bn-a2a", smoothing=0.4, rate=0.5)
    (clean, info), poison = bench.clean, bench.poisons[0]
    own = clean.labels.numpy()[poison.indices]
    assert set(own) == {0, 1, 2, 3}
    assert poison.flags.all()
    assert poison.truth(info.train).sum() == poison.facts["count"] == 120
    astray = int((poison.labels != (own + 1) % 4).sum())
    assert 20 < astray < 60
    assert poison.facts["off_target"] == astray
    assert poison.facts["targets"] == [1, 2, 3, 0]
    assert poison.facts["target"] is poison.facts["share_of_target_class"] is None


def test_all_images_may_be_poisoned_whatever_the_pool():
    info = DatasetInfo(10, 32, 100, 10, (10,) * 10, 1)
    assert attack("bn-a2a(rate=1.0, pool='non-target')").budget(info) == (100, 100)
    assert attack("bn-a2a(rate=1.0)").budget(info) == (100, 100)


def test_what_means_nothing_is_refused():
    with pytest.raises(UsageError, match="target"):
        attack("bn-a2a(target=3)")
    for smoothing in ("1.0", "-0.1"):
        with pytest.raises(UsageError, match="smoothing"):
            attack(f"bn-a2a(smoothing={smoothing})")
    for cell in (0, 11):
        with pytest.raises(Impossible, match="does not fit"):
            attack(f"bn-a2a(cell={cell})").check(DatasetInfo(10, 32, 100, 10, None, 1))


@pytest.fixture
def quick(quick_disk, fresh_registry, one_thread):
    testing.register()


@pytest.mark.learning
def test_success_is_the_share_of_all_test_images_taken_for_the_next_class(tmp_path, quick):
    """Out of the stored weights, with plain torch and none of the evaluator."""
    from safetensors.torch import load_file

    this = testing.cell(attack="bn-a2a(rate=0.5, cell=4)", epochs=12, batch_size=16, augment=[], lr=5e-3)
    record = execute(this.to_json(), output=tmp_path, device="cpu")
    assert record["status"] == "done", record["error"]
    key = record["artifacts"]["model"]
    weights = load_file(tmp_path / "store" / "model" / key[:2] / key / "arrays.safetensors")
    net = registry.make("models", "tiny-net").build(4, 32)
    net.load_state_dict({name[4:]: tensor for name, tensor in weights.items() if name.startswith("net.")})
    net.eval()
    test = registry.make("datasets", "tiny").load("test", None)
    stamped = test.images.clone()
    grid = torch.tensor([[0, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=torch.uint8)
    stamped[:, :, 20:, 20:] = grid.repeat_interleave(4, 0).repeat_interleave(4, 1)
    with torch.no_grad():
        taken = net.head(net.features((stamped.float() / 255 - 0.5) / 0.5)).argmax(1)
    assert record["asr"] == pytest.approx((taken == (test.labels + 1) % 4).double().mean().item(), abs=1e-12)
    assert record["ra"] == pytest.approx((taken == test.labels).double().mean().item(), abs=1e-12)
    assert record["notes"]["triggered_test_images"] == 60
    assert record["asr"] > 0.4  # it learnt some of it, so that agreement means something


@pytest.mark.parametrize("defense", [name for name in names("defenses") if not name.startswith("tiny")])
def test_every_defense_works_on_it(tmp_path, quick, defense, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "train.py").write_text(TINY_NET + SAVE)
    usual = {"random-filter": {"of": "tiny-filter"}, "command": {"run": "python train.py", "files": ["train.py"]}}
    given = {**registry.load("defenses", defense).smoke, **usual.get(defense, {})}
    inner = ", ".join(f"{key}={value!r}" for key, value in given.items())
    this = testing.cell(attack="bn-a2a(smoothing=0.2)", defense=f"{defense}({inner})", epochs=1)
    record = execute(this.to_json(), output=tmp_path, device="cpu")
    assert (record["status"], record["error"]) == ("done", None)
    assert 0 <= record["asr"] <= 1
    assert record["asr"] + record["ra"] <= 1
    if record["detection"] is not None:
        assert sum(record["detection"]["poison_per_class"]) == record["poison"]["count"]
