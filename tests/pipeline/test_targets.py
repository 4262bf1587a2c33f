"""What an attack says of its targets holds for the draw, the labels, what is measured, and the record."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchbd import testing
from benchbd.core.images import DatasetInfo, Images
from benchbd.errors import UsageError
from benchbd.pipeline.evaluate import accuracy, curve
from benchbd.pipeline.poison import Poisoner, apply
from benchbd.pipeline.preview import show
from benchbd.pipeline.run_cell import execute
from benchbd.pipeline.selection import select_poison, targets
from benchbd.plan.shared_work import shared_work_of
from benchbd.plugins import registry
from benchbd.plugins.train_set import TrainSet
from benchbd.storage.artifacts import Store

PLUGINS = '''
    class Corner(Attack):
        def stamp(self, images, how):
            out = images.clone()
            out[:, :, :4, :4] = 255
            return out

    @attack("pairs", version=1)
    class Pairs(Corner):
        """Swaps classes 0 and 1; the others are to be taken for what they are."""
        def target_of(self, label, info):
            return {0: 1, 1: 0}.get(label, label)

    @attack("pairs-clean", version=1)
    class PairsClean(Pairs):
        """Poisons classes that are to be taken for what they are."""
        clean_label = True
        rate: float = 0.5
        rate_of: str = "class"

    @attack("nowhere", version=1)
    class Nowhere(Corner):
        """Sends images to a class that is none."""
        def target_of(self, label, info):
            return label + 1

    @attack("astray", version=1)
    class Astray(Corner):
        """Labels poison with what is no class, or no label."""
        how: str = "class"
        def relabel(self, labels, targets, how):
            wrong = {"class": labels * 0 + 9, "type": labels * 1.0, "count": labels[1:], "none": None}
            return wrong[self.how]

    @attack("half", version=1)
    class Half(Corner):
        """Leaves every third label alone."""
        prepared_from_budget = True
        def relabel(self, labels, targets, how):
            import numpy as np
            return np.where(how.indices % 3 == 0, labels, targets[labels])
        def prepare(self, workshop):
            return {}
        def trainings(self):
            return (Training("teacher", ("half", repr(self))),)

    @attack("mostly-astray", version=1)
    class MostlyAstray(Corner):
        """Labels nothing with its target."""
        def relabel(self, labels, targets, how):
            return (targets[labels] + 1) % len(targets)
'''
INFO = DatasetInfo(4, 16, 200, 40, (50,) * 4, 1)


@pytest.fixture(autouse=True)
def _pairs(plugin_file):
    registry.add_plugin_file(str(plugin_file(PLUGINS)))


@pytest.fixture
def poisoner(tmp_path):
    def build(attack: str, where: str = "store") -> Poisoner:
        this = testing.cell(attack=attack, dataset="tiny(train=200,test=40,size=16)")
        return Poisoner(this, this.components(), Store(tmp_path / where), torch.device("cpu"), lambda event: None, None)

    return build


def test_an_attack_has_one_target_unless_it_says_otherwise():
    assert targets(registry.make("attacks", "bn-g"), INFO).tolist() == [1, 1, 1, 1]
    assert targets(registry.make("attacks", "bn-g(target=3)"), INFO).tolist() == [3, 3, 3, 3]
    assert targets(registry.make("attacks", "pairs"), INFO).tolist() == [1, 0, 2, 3]


def test_the_pool_of_other_classes_is_of_images_to_be_taken_for_another():
    labels = np.arange(200) % 4
    part = testing.cell().dataset
    attack = registry.make("attacks", "pairs(pool='non-target', rate=0.5)")
    assert attack.budget(INFO) == (100, 100)
    assert set(labels[select_poison(attack, INFO, labels, 0, part)]) == {0, 1}
    attack = registry.make("attacks", "pairs-clean")
    assert attack.budget(INFO) == (50, 100)
    assert set(labels[select_poison(attack, INFO, labels, 0, part)]) == {2, 3}


def test_labels_records_and_pictures_follow_the_targets(poisoner):
    worker = poisoner("pairs(rate=0.4)")
    clean, info = worker.train_set()
    poison = worker.poison(clean, info)
    own = clean.labels.numpy()[poison.indices]
    assert np.array_equal(poison.labels, np.array([1, 0, 2, 3])[own])
    assert torch.equal(apply(clean, poison).labels[torch.from_numpy(poison.indices)], torch.from_numpy(poison.labels))
    known = {"count": 80, "share_of_set": 0.4, "share_of_target_class": None, "target": None, "targets": [1, 0, 2, 3]}
    assert poison.facts == known
    assert set(show(worker, 4).labels) == {
        "top left → top right", "top right → top left", "bottom left", "bottom right",
    }  # fmt: skip


def test_success_is_measured_on_images_that_are_to_be_taken_for_another_class(poisoner):
    worker = poisoner("pairs")
    clean, info = worker.train_set()
    test = worker.components.dataset.load("test", None)
    images, labels = worker.triggered(test, info, worker.poison(clean, info))
    assert set(labels.tolist()) == {0, 1}
    assert len(images) == len(labels) == int((test.labels < 2).sum())


def test_each_image_has_its_own_target_in_accuracies_and_curves(lab_over):
    made = testing.cell(dataset="tiny(train=80,test=60,size=16)").components()
    train, test = (made.dataset.load(split, None) for split in ("train", "test"))
    lab = lab_over(TrainSet(train.images, train.labels, "ab" * 32), made.recipe)
    trained = lab.train(lab.poisoned, epochs=6, lr=5e-3, batch_size=16, augment=())
    lab.trace("end", trained)
    taken = lab.logits(trained, TrainSet(test.images, test.labels, "cd" * 32)).argmax(1)
    wanted = (test.labels.numpy() + 1) % 4
    clean = Images(test.images, test.labels)
    found = accuracy(trained, clean, (test.images, test.labels), wanted, lab.device)
    assert found.asr == pytest.approx((taken == wanted).mean())
    assert found.ra == found.ca == pytest.approx((taken == test.labels.numpy()).mean())
    (point,) = curve(lab.traced, clean, (test.images, test.labels), wanted, lab.device)
    assert (point["asr"], point["ra"]) == (found.asr, found.ra)
    assert accuracy(trained, clean, (test.images, test.labels), taken, lab.device).asr == 1.0


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ("nowhere", r"target_of\(3\) is 4, but classes are 0\.\.3"),
        ("astray", r"relabel returned 9\.\.9, classes are 0\.\.3"),
        ("astray(how='type')", "relabel returned float64"),
        ("astray(how='count')", r"relabel returned int64 \(19,\), not an int64 array \(20,\)"),
        ("astray(how='none')", "relabel returned NoneType"),
    ],
)
def test_attacks_that_name_no_class_are_told_so_in_one_line(poisoner, attack, said):
    worker = poisoner(attack)
    with pytest.raises(UsageError, match=said) as caught:
        worker.poison(*worker.train_set())
    assert "\n" not in str(caught.value)


def test_poison_that_carries_another_label_than_its_target_is_counted(poisoner):
    worker = poisoner("half")
    clean, info = worker.train_set()
    poison = worker.poison(clean, info)
    astray = int((poison.labels != 1).sum())
    assert 0 < astray < 10
    assert poison.facts["off_target"] == astray
    assert poison.facts["target"] == 1


def test_the_contract_wants_poison_to_carry_its_target_more_often_than_not():
    assert testing.check("attacks", "half") == []
    wrong = testing.check("attacks", "mostly-astray")
    assert [line.partition("labels: ")[2] for line in wrong] == [
        "100% of the poisoned images do not have their target label"
    ]
    assert testing.check("attacks", "pairs") == []


def test_a_record_of_an_attack_with_several_targets_can_be_read_again(tmp_path):
    from benchbd.storage import records

    this = testing.cell(attack="pairs", dataset="tiny(train=80,test=40,size=16)")
    record = execute(this.to_json(), output=tmp_path, device="cpu")
    assert (record["status"], record["error"]) == ("done", None)
    again = records.read_record(tmp_path, this.id)
    assert again["poison"]["targets"] == [1, 0, 2, 3]
    assert again["notes"]["triggered_test_images"] == 20


def test_rates_wait_for_one_another_only_where_the_trigger_does_not_depend_on_them():
    def common(name: str) -> bool:
        cells = [testing.cell(attack=f"{name}(rate={rate})") for rate in (0.1, 0.2)]
        one, two = (shared_work_of(cells)[cell.id] for cell in cells)
        return any(key[0] == "trigger" for key in one.light | one.heavy & two.light | two.heavy)

    assert common("l2")
    assert not common("half")
