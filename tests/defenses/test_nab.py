"""NAB: which samples get a stamp and another label, the three trainings' settings, the stamp on every test image."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recording_net import Recorder

from benchbd import Patch, TestTransform, registry, testing
from benchbd.core.images import DatasetInfo
from benchbd.defenses.abl import Flooding
from benchbd.defenses.nab import Nab, Stamped
from benchbd.errors import Impossible, UsageError
from benchbd.pipeline.run_cell import execute

INFO = DatasetInfo(classes=10, size=32, train=1000, test=100, class_counts=None, target=1)


@pytest.fixture
def lab(fake_lab):
    """40 samples of four classes; the guessed label is the number of the sample over ten."""
    labels = np.arange(40) % 4
    guesses = np.eye(4)[np.arange(40) // 10]
    losses = np.random.default_rng(0).permutation(40).astype(float)
    lab = fake_lab(labels, losses=losses, logits=guesses, clean=np.arange(8))
    plain = lab.train

    def train(data, **settings):
        trained = plain(data, **settings)
        lab.calls[-1].labels = data.labels.numpy()
        trained.module = lambda: SimpleNamespace(mean=torch.tensor([0.25, 0.5, 0.75]).view(1, 3, 1, 1))
        return trained

    lab.train, lab.changed = train, []
    lab.with_test_transform = lambda trained, transform: lab.changed.append((trained.key, transform)) or trained
    return lab


def test_suspects_get_the_guessed_label_and_a_stamp_if_it_differs(lab):
    Nab(ratio=0.25).train(lab)
    losses = lab._given["losses"]
    isolated = set(np.argsort(losses)[:10].tolist())
    assert lab.suspects() == isolated
    final = lab.calls[-1]
    given, guessed = np.arange(40) % 4, np.arange(40) // 10
    for sample in range(40):
        label, stamped = final.labels[sample], final.settings["training_loop"].which[sample]
        assert label == (guessed[sample] if sample in isolated else given[sample])
        assert stamped == (sample in isolated and guessed[sample] != given[sample])
    assert lab.notes["nab"]["relabelled"] == final.settings["training_loop"].which.sum() > 0


def test_the_three_trainings_are_those_of_the_authors_code(lab):
    Nab(ratio=0.25).train(lab)
    isolation, guesser, final = lab.calls
    sgd = {"optimizer": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4, "batch_size": 64}
    for call in lab.calls:
        assert sgd.items() <= call.settings.items()
    recipes = [
        lab.recipe.but(**{k: v for k, v in call.settings.items() if k in type(lab.recipe).__dataclass_fields__})
        for call in lab.calls
    ]
    assert [recipe.epochs for recipe in recipes] == [20, 100, 100]
    assert isolation.settings["loss"] == Flooding(0.5)
    assert recipes[0].augment == ()
    for epoch in (0, 7, 19):
        assert recipes[0].lr_at(epoch) == pytest.approx(0.1 * 0.5 * (1 + np.cos(np.pi * epoch / 100)))
        assert recipes[2].lr_at(epoch) == pytest.approx(0.1 * 0.5 * (1 + np.cos(np.pi * epoch / 105)))
    assert [recipes[1].lr_at(epoch) for epoch in (0, 20, 60)] == pytest.approx([0.01, 0.001, 0.0001])
    assert guesser.ids.tolist() == list(range(8))
    assert len(final.ids) == 40


def test_each_network_has_initial_weights_and_a_batch_order_of_its_own(lab):
    Nab(ratio=0.25).train(lab)
    assert len({call.settings.get("repeat", 0) for call in lab.calls}) == 3


@pytest.mark.parametrize(("epochs", "rates"), [(1, [0.01]), (2, [0.01, 0.0001]), (3, [0.01, 0.001, 0.0001])])
def test_short_trainings_of_the_guesser_start_at_the_full_rate(lab, epochs, rates):
    Nab(ratio=0.25, label_epochs=epochs).train(lab)
    given = {k: v for k, v in lab.calls[1].settings.items() if k in type(lab.recipe).__dataclass_fields__}
    assert [lab.recipe.but(**given).lr_at(epoch) for epoch in range(epochs)] == pytest.approx(rates)


def test_labels_are_guessed_on_stamped_images_and_so_is_every_test_image(lab):
    Nab().train(lab)
    stamp = TestTransform(Patch(0, 0, 2, 2, (0.25, 0.5, 0.75)))  # the means, which normalisation turns into zeros
    assert lab.changed == [("trained 2", stamp), ("trained 3", stamp)]
    assert lab.traced == [("without the stamp", [])]


def test_the_loop_stamps_after_the_augmentation():
    import contextlib

    images = torch.full((6, 3, 5, 5), 100, dtype=torch.uint8)
    which = np.array([True, False, False, True, False, False])
    net, losses = Recorder(4), []
    loop = SimpleNamespace(
        net=net, device=torch.device("cpu"), labels=torch.zeros(6, dtype=torch.int64), autocast=contextlib.nullcontext,
        batches=lambda: [torch.tensor([[3, 0, 0, 0], [1, 0, 0, 0]]), torch.tensor([[0, 0, 0, 0], [5, 0, 0, 0]])],
        views=lambda rows: images[rows[:, 0]].float() / 255, step=losses.append,
    )  # fmt: skip
    Stamped(Patch(0, 0, 2, 2, (0.0, 0.5, 1.0)), which).epoch(loop)
    for batch in net.seen:
        assert (batch[0, :, :2, :2] == torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1)).all()
        assert (batch[0, :, 2:] == 100 / 255).all()
        assert (batch[1] == 100 / 255).all()
    assert [loss.item() for loss in losses] == pytest.approx([np.log(4)] * 2)


@pytest.mark.learning
@pytest.mark.usefixtures("one_thread", "fresh_registry")
def test_a_cell_learns_and_says_what_it_does(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    spec = "nab(isolation_epochs=2, label_epochs=20, epochs=6, clean_frac=0.2, batch=16, lr=0.05)"
    cell = testing.cell(dataset="tiny(train=160,test=40,size=16)", attack="tiny-patch", defense=spec, augment=[])
    record = execute(cell.to_json(), output=tmp_path, device="cpu")
    assert record["status"] == "done", record["error"]
    assert record["trainings"] == {"fine-tune": 2, "full": 1}
    assert record["needs"] == ["clean"]
    assert record["test_transform"]["stamp"]["value"] == [0.5, 0.5, 0.5]
    assert record["test_transform"]["label_map"] is None
    assert record["detection"]["flagged"] == 8
    assert record["ca"] > 0.6  # chance is 0.25


def test_predicted_sharing():
    def plan(**given):
        return Nab(**given).trainings(None)

    assert plan(ratio=0.1)[:2] == plan()[:2]
    assert plan(ratio=0.1)[2] != plan()[2]
    assert plan(clean_frac=0.1)[0] == plan()[0]
    assert plan(clean_frac=0.1)[1] != plan()[1]
    assert Nab(clean_frac=0.2).clean_fraction() == 0.2


@pytest.mark.parametrize("how", ["ratio=0.0", "ratio=1.0", "clean_frac=0.0", "epochs=0", "batch=1", "lr=0.0"])
def test_numbers_that_mean_nothing_are_refused(how):
    with pytest.raises(UsageError, match="nab: "):
        registry.make("defenses", f"nab({how})")
    with pytest.raises(Impossible, match="isolates none"):
        Nab(ratio=0.0005).check(INFO, None)
