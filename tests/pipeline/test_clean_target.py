"""The probe compares poisoned samples with the clean ones that carry the target's label, or says why it cannot."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchbd import testing
from benchbd.pipeline.evaluate import losses_by_epoch
from benchbd.pipeline.poison_facts import clean_target
from benchbd.pipeline.run_cell import execute
from benchbd.plan.probe import Probe

LABELS = np.array([0, 1, 1, 1, 1, 1, 2, 2])
TRUTH = np.array([0, 0, 0, 1, 1, 1, 0, 0], bool)
"""Three of five samples with the target's label 1 are poisoned."""
EPOCHS = [
    np.array([2.0, 1.0, 0.5, 0.5, 0.75, 1.5, 3.0, 4.0], np.float32),  # clean 10.5 / 5 = 2.1, of the label 0.75
    np.array([0.5, 1.0, 3.0, 0.7, 1.5, 2.5, 0.25, 0.25], np.float32),  # clean 5 / 5 = 1, of the label 2
]


def test_means_and_counts_are_those_of_a_set_counted_by_hand() -> None:
    of_target = clean_target({"count": 3, "target": 1}, TRUTH, LABELS)
    assert list(np.flatnonzero(of_target)) == [1, 2]
    assert losses_by_epoch(EPOCHS, TRUTH, of_target) == {
        "epochs": [1, 2],
        "clean_mean": [2.1, 1.0],
        "poison_mean": [0.91667, 1.5667],
        "poison_over_clean_mean": [0, 2],
        "clean_target_mean": [0.75, 2.0],
        "poison_over_clean_target_mean": [1, 1],  # 1.5, and not 0.75, which is equal; 2.5
        "clean_target_count": 2,
    }


@pytest.mark.parametrize(
    ("facts", "truth", "reason"),
    [
        ({}, np.zeros(8, bool), "there is no attack"),
        ({"target": None, "targets": [1, 2, 0]}, TRUTH, "the attack has no single target"),
        ({"target": 1}, LABELS == 1, "every sample with the target's label is poisoned"),
    ],
)
def test_the_reason_stands_in_place_of_numbers(facts: dict[str, Any], truth: np.ndarray, reason: str) -> None:
    found = losses_by_epoch(EPOCHS, truth, clean_target(facts, truth, LABELS))
    assert found["no_clean_target"] == reason
    assert found["clean_mean"] == [pytest.approx(values[~truth].mean(), rel=1e-4) for values in EPOCHS]
    assert not [name for name in found if name.startswith("clean_target") or "over_clean_target" in name]


def probe_of(attack: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A short cell's ``notes.probe`` and ``poison``."""
    made = testing.cell(dataset="tiny(train=80,test=20,size=16)", attack=attack, epochs=1)
    this = dataclasses.replace(made, probe=Probe.parse({"losses": True}, 1).spec())
    record = execute(this.to_json(), output=folder, device="cpu")
    assert record["status"] == "done", record["error"]
    return record["notes"]["probe"], record["poison"]


def test_a_clean_label_attack_leaves_the_target_classs_other_samples(tmp_path: Path) -> None:
    found, poison = probe_of("sig(rate=0.5)", tmp_path)
    of_class = round(poison["count"] / poison["share_of_target_class"])
    assert found["clean_target_count"] == of_class - poison["count"] > 0
    assert len(found["clean_target_mean"]) == len(found["poison_over_clean_target_mean"]) == 1


def test_a_clean_label_attack_on_the_whole_class_leaves_none(tmp_path: Path) -> None:
    found, _ = probe_of("sig(rate=1.0)", tmp_path)
    assert found["no_clean_target"] == "every sample with the target's label is poisoned"


def test_an_all_to_all_attack_has_no_such_samples(tmp_path: Path) -> None:
    found, poison = probe_of("bn-a2a", tmp_path)
    assert (found["no_clean_target"], poison["target"]) == ("the attack has no single target", None)
