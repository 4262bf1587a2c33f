"""A model with a test transform: all its passes apply it, the store keeps it, and nothing builds on it."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch

from benchbd import Patch, TestTransform, UsageError
from benchbd.core.images import Images
from benchbd.core.recipe import Recipe
from benchbd.errors import Misused
from benchbd.pipeline.evaluate import accuracy, curve
from benchbd.plugins.train_set import TrainSet
from benchbd.plugins.trained import CurvePoint

STAMP = Patch(2, 3, 5, 4, (1.5, 0.25, -0.5))
MAP = (2, 0, 3, 1)
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_registry", "quick_disk")


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (24, 3, 16, 16), dtype=np.uint8))
    return TrainSet(images, torch.from_numpy(np.arange(24) % 4), "some")


@pytest.fixture
def lab(lab_over, data):
    return lab_over(data, Recipe(epochs=1, batch_size=8, augment=()))


def by_hand(model, images, stamp=STAMP, label_map=MAP):
    """Logits of stamped images, with outputs in the order of the classes."""
    x = images.numpy().astype(np.float32) / np.float32(255)
    if stamp is not None:
        for colour in range(3):
            x[:, colour, stamp.top : stamp.top + stamp.height, stamp.left : stamp.left + stamp.width] = stamp.value[
                colour
            ]
    with torch.no_grad():
        logits = model.module()(torch.from_numpy(x)).numpy()
    return logits if label_map is None else np.stack([logits[:, output] for output in label_map], 1)


def test_every_pass_sees_stamped_images_and_renamed_outputs(lab, data):
    model = lab.train(data)
    changed = lab.with_test_transform(model, TestTransform(STAMP, MAP))
    wanted = by_hand(model, data.images)
    np.testing.assert_allclose(lab.logits(changed, data), wanted, rtol=1e-4, atol=1e-5)
    assert np.abs(lab.logits(model, data) - wanted).max() > 0.01
    shifted = wanted - wanted.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(24), data.labels.numpy()]
    np.testing.assert_allclose(lab.losses(changed, data), losses, rtol=1e-3, atol=1e-4)
    weight, bias = changed.head()
    np.testing.assert_allclose(lab.features(changed, data) @ weight.T + bias, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("stamp", "label_map"), [(STAMP, None), (None, MAP), (STAMP, MAP)])
def test_ca_asr_and_ra_are_those_of_the_changed_images(lab, data, stamp, label_map):
    model = lab.train(data)
    changed = lab.with_test_transform(model, TestTransform(stamp, label_map))
    triggered = torch.flip(data.images[:12], (3,)), data.labels[:12]
    found = accuracy(changed, Images(data.images, data.labels), triggered, 1, CPU, np.arange(12))
    clean, marked = (by_hand(model, images, stamp, label_map).argmax(1) for images in (data.images, triggered[0]))
    assert found.ca == pytest.approx((clean == data.labels.numpy()).mean())
    assert found.asr == pytest.approx((marked == 1).mean())
    assert found.ra == pytest.approx((marked == triggered[1].numpy()).mean())
    assert found.clean_asr == pytest.approx((clean[:12] == 1).mean())
    (point,) = curve(
        [CurvePoint("all", changed, np.zeros(0, np.int64))], Images(data.images, data.labels), triggered, 1, CPU
    )
    assert (point["ca"], point["asr"], point["ra"]) == pytest.approx((found.ca, found.asr, found.ra))


def test_the_store_keeps_it_under_a_key_of_its_own(lab, data):
    model = lab.train(data)
    one, two = (lab.with_test_transform(model, TestTransform(stamp, MAP)) for stamp in (STAMP, None))
    assert len({model.key, one.key, two.key}) == 3
    assert lab.with_test_transform(model, TestTransform(STAMP, MAP)).key == one.key
    kept = lab._store.get("model", one.key)
    assert kept.meta["test_transform"] == json.loads(json.dumps(TestTransform(STAMP, MAP).spec()))
    assert all((kept.arrays[name] == value).all() for name, value in model._state.items())


def test_a_copy_and_a_pickle_keep_it(lab, data):
    changed = lab.with_test_transform(lab.train(data), TestTransform(STAMP, MAP))
    assert copy.deepcopy(changed).test_transform == changed.test_transform
    assert pickle.loads(pickle.dumps(changed)).test_transform == changed.test_transform
    with pytest.raises(Misused, match="cannot be assigned"):
        changed.test_transform = None


def test_nothing_is_built_on_a_changed_model(lab, data):
    model = lab.train(data)
    assert model.test_transform is None
    changed = lab.with_test_transform(model, TestTransform(STAMP))
    for act in (
        lambda: lab.train(data, start=changed),
        lambda: lab.prune(changed, [0]),
        lambda: lab.with_test_transform(changed, TestTransform(STAMP)),
    ):
        with pytest.raises(UsageError, match="has a test transform, which comes last"):
            act()
    with pytest.raises(UsageError, match="is not a TestTransform"):
        lab.with_test_transform(model, STAMP)
    with pytest.raises(UsageError, match="does not fit"):
        lab.with_test_transform(model, TestTransform(Patch(10, 10, 7, 7, (0, 0, 0))))
