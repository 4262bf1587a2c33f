"""A poisoned set from a file as the attack of a cell: the same numbers as the attack that made it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchbd import testing
from benchbd.core.devices import compute_device
from benchbd.core.poisoned_set import UNKNOWN, TriggeredTest
from benchbd.core.poisoned_set_file import PoisonedSetFile, write_set
from benchbd.errors import Impossible, UsageError
from benchbd.exchange.outgoing import poisoned_set
from benchbd.pipeline.poison import Poisoner
from benchbd.pipeline.run_cell import _clean_part, execute
from benchbd.plan import matrix, matrix_file
from benchbd.plan.absent_files import AbsentFiles
from benchbd.plugins import registry
from benchbd.storage.artifacts import Store
from benchbd.storage.record_schema import fault
from benchbd.storage.staleness import InputFiles

SAME = ("ca", "asr", "ra", "clean_asr", "asr_all", "ca_non_target", "triggered", "detection", "poison")


def poisoner_of(tmp_path, **parts):
    cell, store = testing.cell(**parts), Store(tmp_path / "store")
    return Poisoner(cell, cell.components(), store, compute_device("cpu"), lambda event: None, str(tmp_path))


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The set of tiny-patch on the tiny set, in ``poison.npz`` below the data folder."""
    monkeypatch.setenv("BENCHBD_DATA", str(tmp_path))
    given = poisoned_set(poisoner_of(tmp_path, attack="tiny-patch"))
    write_set(given, tmp_path / "poison.npz")
    return given


def run(tmp_path, **parts):
    output = tmp_path / parts.pop("output", "out")
    record = execute(testing.cell(**parts).to_json(), output=output, data_root=str(tmp_path), device="cpu")
    assert fault(record) is None
    return record


def rewritten(tmp_path, given, **changes):
    write_set(dataclasses.replace(given, **changes), tmp_path / "poison.npz")


@pytest.mark.parametrize("defense", ["none", "oracle", "ac", "random-filter(of='ac')"])
def test_cells_give_the_numbers_of_the_attack_that_made_the_file(defense, made, tmp_path):
    one, two = (run(tmp_path, attack=a, defense=defense, output=a) for a in ("tiny-patch", "imported"))
    assert (one["status"], two["status"]) == ("done", "done")
    assert {name: one[name] for name in SAME} == {name: two[name] for name in SAME}
    assert one["artifacts"]["model"] == two["artifacts"]["model"]
    if defense == "oracle":
        assert (two["detection"]["precision"], two["detection"]["recall"]) == (1.0, 1.0)
        assert two["detection"]["flagged"] == int(made.poison.sum())


def test_without_triggered_images_there_is_no_asr_and_the_record_says_why(made, tmp_path):
    rewritten(tmp_path, made, triggered=None)
    record = run(tmp_path, attack="imported", defense="oracle")
    assert (record["status"], record["asr"], record["ra"]) == ("done", None, None)
    assert record["ca"] is not None
    assert record["detection"]["auroc"] == 1.0
    assert record["notes"]["no_asr"] == "the file of the poisoned set has no triggered test images"


def test_triggered_images_of_the_target_class_give_no_asr(made, tmp_path):
    mine = made.triggered.true_labels == made.triggered.targets
    assert mine.any()
    rewritten(tmp_path, made, triggered=TriggeredTest(*(array[mine] for array in made.triggered)))
    record = run(tmp_path, attack="imported")
    assert (record["status"], record["asr"], record["ra"]) == ("done", None, None)
    assert "all triggered test images" in record["notes"]["no_asr"]


def test_originals_without_true_labels_do_not_make_a_clean_data_set(made, tmp_path):
    unknown = np.where(made.poison, UNKNOWN, made.true_labels)
    rewritten(tmp_path, made, true_labels=unknown)
    data = registry.make("datasets", "imported")
    assert data.info().poisoned
    images, labels = data.load("train", str(tmp_path))
    np.testing.assert_array_equal(images.numpy(), made.images)
    np.testing.assert_array_equal(labels.numpy()[made.poison], made.labels[made.poison])


def test_the_data_set_of_the_file_alone(made, tmp_path):
    rewritten(tmp_path, made, originals=None, test=made.test)
    alone = {"dataset": "imported", "attack": "imported"}
    record = run(tmp_path, **alone, defense="none")
    assert (record["status"], record["error"]) == ("done", None)
    assert "unchanged" not in record["poison"]
    usual = run(tmp_path, attack="tiny-patch", output="usual")
    assert (record["poison"]["count"], record["triggered"]) != (0, None)
    assert record["triggered"]["images"] == usual["triggered"]["images"]
    poisoner = poisoner_of(tmp_path, dataset="imported", attack="tiny-patch")
    with pytest.raises(Impossible, match="poisoned already"):
        poisoner.poison(*poisoner.train_set())


def test_with_originals_the_data_set_is_the_clean_one(made, tmp_path):
    data = registry.make("datasets", "imported")
    usual = testing.cell().components().dataset
    for part in ("train", "test"):
        for mine, theirs in zip(data.load(part, str(tmp_path)), usual.load(part, None), strict=True):
            assert (mine == theirs).all()
    assert not data.info().poisoned


def test_clean_images_for_a_defense_are_never_poisoned_ones(made, tmp_path):
    rewritten(tmp_path, made, originals=None)
    parts = {"dataset": "imported", "attack": "imported", "defense": "fine-pruning(clean_frac=1.0)"}
    poisoner = poisoner_of(tmp_path, **parts)
    clean, info = poisoner.train_set()
    poison = poisoner.poison(clean, info)
    assert info.poisoned
    handed = _clean_part(clean, poison, poisoner.components, 0, info.poisoned)
    assert len(handed) == len(clean) - len(poison.indices)


def test_a_changed_file_makes_the_record_stale(made, tmp_path):
    record = run(tmp_path, attack="imported")
    cell = testing.cell(attack="imported")
    assert InputFiles(str(tmp_path)).changed(cell, record) == []
    shown = made.triggered._replace(images=255 - made.triggered.images)
    rewritten(tmp_path, made, triggered=shown)
    assert InputFiles(str(tmp_path)).changed(cell, record) == ["poison of imported"]


def test_a_file_of_another_data_set_is_refused(made, tmp_path):
    images = made.images.copy()
    images[np.flatnonzero(~made.poison)[3]] ^= 1
    rewritten(tmp_path, made, images=images)
    record = run(tmp_path, attack="imported")
    assert record["status"] == "failed"
    assert "1 of" in record["error"]
    assert "clean training images differ from the data set's" in record["error"]


PLAN = "{name: x, dataset: digits, model: resnet18, attacks: [none, imported], defenses: [none]}"


def test_a_plan_skips_what_does_not_fit_and_refuses_a_missing_file(made, tmp_path):
    plan = matrix.resolve(matrix_file.parse_yaml(PLAN), "x")
    assert [skip.cell.attack.name for skip in plan.skipped] == ["imported"]
    assert "but the data set has" in plan.skipped[0].reason
    (tmp_path / "poison.npz").unlink()
    with pytest.raises(UsageError, match=r"there is no file .*poison\.npz; benchbd import writes it"):
        matrix.resolve(matrix_file.parse_yaml(PLAN), "x")
    absent = AbsentFiles()
    assert len(matrix.resolve(matrix_file.parse_yaml(PLAN), "x", absent=absent).cells) == 2
    assert len(absent.lines()) == 1


@pytest.mark.parametrize("body", [b"", b"PK\x03\x04junk", b"\x80\x04\x95"])
def test_another_file_is_refused_in_one_line(body, made, tmp_path):
    (tmp_path / "poison.npz").write_bytes(body)
    with pytest.raises(UsageError, match=r"poison\.npz is not a poisoned set that benchbd import wrote") as caught:
        PoisonedSetFile(tmp_path / "poison.npz")
    assert "\n" not in str(caught.value)


def test_a_parameter_of_other_attacks_is_refused():
    with pytest.raises(UsageError, match="rate"):
        registry.make("attacks", "imported(rate=0.2)")
    with pytest.raises(UsageError, match="below the data folder"):
        registry.make("attacks", "imported(file='../x.npz')")
