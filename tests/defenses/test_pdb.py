"""PDB: the defensive samples, their views against Pillow, the recipe, and what happens to test images."""

from __future__ import annotations

import contextlib
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from recording_net import Recorder

from benchbd import Patch, TestTransform, registry, testing
from benchbd.core.images import DatasetInfo
from benchbd.defenses._rotation import rotated
from benchbd.defenses.pdb import Defensive, Pdb, cropped, defensive_views
from benchbd.errors import Impossible, UsageError
from benchbd.pipeline.run_cell import execute

INFO = DatasetInfo(classes=10, size=32, train=1000, test=100, class_counts=None, target=1)


def noise(count=12, size=16):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_rotation_is_pillows():
    x, degrees = noise(), torch.linspace(-10, 10, 12)
    same = 0.0
    for image, angle, ours in zip(x.numpy(), degrees.tolist(), rotated(x, degrees).numpy(), strict=True):
        theirs = [np.asarray(Image.fromarray(plane, "F").rotate(angle)) for plane in image]
        same += (ours == np.stack(theirs)).mean() / 12
    assert same > 0.98  # nearest pixels may differ where two are as near
    assert torch.equal(rotated(x, torch.zeros(12)), x)


def test_crops_are_those_of_the_padded_image():
    x, top, left = noise(), torch.arange(12) % 9, torch.arange(12) // 2
    for image, row, column, found in zip(x, top, left, cropped(x, top, left), strict=True):
        wanted = np.pad(image.numpy(), ((0, 0), (4, 4), (4, 4)))[:, row : row + 16, column : column + 16]
        np.testing.assert_array_equal(found.numpy(), wanted)


def test_as_many_views_are_dimmed_as_published():
    """A flat image shows the factor in its middle: 1 for 80 %, else uniform in [0.5, 1]; pixels at 2 stay above 1."""
    x = torch.full((4000, 3, 16, 16), 2.0)
    middle = defensive_views(x, 3)[:, 0, 8, 8] / 2
    dimmed = middle[middle < 1]
    assert 0.17 < len(dimmed) / 4000 < 0.23
    assert dimmed.min() >= 0.5
    assert dimmed.mean().item() == pytest.approx(0.75, abs=0.03)
    assert torch.equal(defensive_views(x[:50], 3), defensive_views(x[:50], 3))


def test_half_of_the_views_are_mirrored_and_half_rotated():
    x = torch.zeros(4000, 3, 16, 16)
    x[:, :, :, 8:] = 1.0
    views = defensive_views(x, 5)
    mirrored = (views[:, 0, 8, 4] > views[:, 0, 8, 12]).float().mean().item()
    assert 0.46 < mirrored < 0.54
    # An upright edge stays upright unless the view is rotated by enough to move it by a pixel within 8 rows.
    edge = (views[:, 0, 5:12] > 0).float()
    straight = (edge == edge[:, :1]).all(2).all(1).float().mean().item()
    assert 0.5 < straight < 0.85


def test_the_set_has_five_stamped_copies_with_shifted_labels(fake_lab):
    lab = fake_lab(np.arange(30) % 3, clean=np.array([4, 8, 9]))
    changed, sets = [], []
    plain = lab.train
    lab.train = lambda data, **settings: sets.append(data) or plain(data, **settings)
    lab.with_test_transform = lambda trained, transform: changed.append(transform) or trained
    Pdb(side=2).train(lab)
    (data,), (call,) = sets, lab.calls
    assert data.labels.tolist() == [*(np.arange(30) % 3), *[(4 + 1) % 3, (8 + 1) % 3, (9 + 1) % 3] * 5]
    assert call.ids.tolist() == [*range(30), *[4, 8, 9] * 5]
    stamp = Patch(0, 0, 2, 2, (2.0, 2.0, 2.0))
    assert call.settings["training_loop"] == Defensive(stamp, 15)
    recipe = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4, "epochs": 100}
    assert (recipe | {"schedule": "cosine", "batch_size": 256}).items() <= call.settings.items()
    assert changed == [TestTransform(stamp, (1, 2, 0))]
    assert lab.notes["pdb"] == {"clean_images": 3, "defensive_samples": 15}


def test_only_defensive_samples_are_stamped_and_before_their_views():
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    net, losses = Recorder(3), []
    order = torch.tensor([6, 1, 7, 0])
    loop = SimpleNamespace(
        net=net, images=images, labels=torch.zeros(8, dtype=torch.int64), autocast=contextlib.nullcontext,
        batches=lambda: [torch.stack([order, *[torch.zeros(4, dtype=torch.int64)] * 3], 1)], step=losses.append,
        views=lambda rows: images[rows[:, 0]].float() / 255, seed_for=lambda *purpose: 17,
    )  # fmt: skip
    Defensive(Patch(0, 0, 7, 7, (2.0, 2.0, 2.0)), 2).epoch(loop)
    (seen,) = net.seen
    assert torch.equal(seen[[1, 3]], images[[1, 0]].float() / 255)
    stamped = images[[6, 7]].float() / 255
    stamped[:, :, :7, :7] = 2.0
    assert torch.equal(seen[[0, 2]], defensive_views(stamped, 17))
    assert len(losses) == 1


@pytest.mark.learning
@pytest.mark.usefixtures("one_thread", "fresh_registry")
def test_it_learns_both_meanings(small_lab, banded, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    data, poison, true = banded
    clean = np.flatnonzero(~poison)[:60]
    lab = small_lab(data, clean=data.subset(clean))
    model = Pdb(epochs=12, batch=32, lr=0.05, side=5).train(lab)
    assert lab._ledger.trainings == {"full": 1}
    right = lab.logits(model, data).argmax(1) == true
    assert right[~poison].mean() > 0.6  # chance is 0.25
    ((name, plain, _),) = lab.traced
    assert name == "without the stamp"
    assert (lab.logits(plain, data).argmax(1) == true)[~poison].mean() > 0.6


@pytest.mark.usefixtures("one_thread", "fresh_registry")
def test_a_record_says_what_happens_to_test_images(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    cell = testing.cell(dataset="tiny(train=80,test=20)", attack="tiny-patch", defense="pdb(epochs=1)", epochs=1)
    record = execute(cell.to_json(), output=tmp_path, device="cpu")
    assert record["status"] == "done", record["error"]
    assert record["trainings"] == {"full": 1}
    assert record["needs"] == ["clean"]
    assert record["test_transform"] == {
        "stamp": {"top": 0, "left": 0, "height": 7, "width": 7, "value": [2.0, 2.0, 2.0]},
        "label_map": [1, 2, 3, 0],
    }
    assert [point["name"] for point in record["notes"]["curve"]] == ["without the stamp"]


@pytest.mark.parametrize("how", ["clean_frac=0.0", "side=0", "epochs=0", "batch=1", "lr=0.0"])
def test_numbers_that_mean_nothing_are_refused(how):
    with pytest.raises(UsageError, match="pdb: "):
        registry.make("defenses", f"pdb({how})")


def test_what_fits_no_image_or_class_is_impossible():
    for made, said in ((Pdb(side=33), "does not fit"), (Pdb(shift=10), "changes no label")):
        with pytest.raises(Impossible, match=said):
            made.check(INFO, None)
    assert Pdb(clean_frac=0.2).clean_fraction() == 0.2
