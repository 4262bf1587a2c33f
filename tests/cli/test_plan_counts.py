"""What ``benchbd plan --json`` foretells, held to what ``benchbd run`` then computes: whole commands on real digits."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from benchbd.cli import main
from benchbd.plan import matrix
from benchbd.storage import records

MATRIX = """
name: counts
dataset: digits(train=200, test=60)
model: lenet-s
recipe: {epochs: 1, batch_size: 50}
attacks: ATTACKS
defenses: DEFENSES
"""
ABL = "{abl: {turning_epochs: 1, finetune_epochs: 1, unlearn_epochs: 1}}"
LFD = "{lfd: {teacher_epochs: 1, teacher_tries: 1}}"
ROW = (
    f"[none, {{fine-pruning: {{clean_frac: 0.2}}}}, {{ac: {{preset: per-class}}}}, {ABL}, {LFD}, oracle, random-filter]"
)
CL = "{cl: {steps: 1, robust_steps: 1}}"
CL_STANDARD = "{cl: {steps: 1, surrogate: standard}}"
DYNAMIC = "{dynamic: {mask_epochs: 1, joint_epochs: 1, width: 4, stages: 2, batch: 50}}"
TJ = "{tj-sq: {iterations: 2}}"
ADAPTIVE = "{lfd-adaptive: {alphas: [[0.2, 0.1]], of: 'lfd(teachers=1, teacher_epochs=1, teacher_tries=1)'}}"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick_disk: None, fresh_registry: None) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.chdir(tmp_path)


class Folder:
    """Runs and plans a matrix in one results folder; ``write`` changes the matrix."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.seen: dict[str, float] = {}

    def write(self, attacks: str, defenses: str) -> None:
        Path("m.yaml").write_text(MATRIX.replace("ATTACKS", attacks).replace("DEFENSES", defenses))

    def plan(self, *words: str) -> Counter[str]:
        self.capsys.readouterr()
        assert main(["plan", "m.yaml", "--output", "out", "--json", *words]) == 0
        return Counter(json.loads(self.capsys.readouterr().out)["trainings"])

    def run(self, *words: str) -> Counter[str]:
        """Run, and add up what the records written by it say was computed."""
        command = ["run", "m.yaml", "--output", "out", "--executor", "inline", "--device", "cpu", "--display", "none"]
        assert main([*command, *words]) == 0
        computed: Counter[str] = Counter()
        for path in Path("out/records").glob("*.json"):
            if self.seen.get(path.name) != path.stat().st_mtime_ns:
                self.seen[path.name] = path.stat().st_mtime_ns
                record = records.read_record(Path("out"), path.stem)
                assert record is not None
                assert (record["status"], record["error"]) == ("done", None)
                computed += Counter(record["trainings_computed"])
        return computed

    def foretold(self, *words: str) -> Counter[str]:
        """What a run computed, after seeing that the plan had said so, and that nothing is left."""
        said = self.plan(*words)
        assert self.run(*words) == said
        assert self.plan(*words) == Counter()
        return said


@pytest.fixture
def folder(capsys: pytest.CaptureFixture[str]) -> Folder:
    return Folder(capsys)


def test_a_row_before_and_after_its_run_and_with_another_beta(folder: Folder) -> None:
    folder.write("[bn-g]", ROW)
    assert folder.foretold() == {"full": 6, "feature-model": 1, "teacher": 1, "fine-tune": 2}
    assert folder.run() == Counter()
    folder.write("[bn-g]", "[none, {lfd: {teacher_epochs: 1, teacher_tries: 1, beta: [0.001, 0.01]}}]")
    assert folder.foretold() == {"full": 1}
    assert folder.foretold("--set", "lfd.beta=0.1") == {"full": 1}, "the first beta is not in this plan"
    assert folder.foretold("--set", "lfd.teacher_epochs=2") == {"full": 2, "teacher": 1}


def test_everything_done_but_fine_pruning_and_a_second_beta(folder: Folder) -> None:
    folder.write("[bn-g]", ROW)
    folder.foretold("--exclude", "defense=fine-pruning*")
    folder.write(
        "[bn-g]",
        ROW.replace(LFD, f"{LFD[:-2]}, beta: [0.001, 0.01]}}}}").replace(", random-filter", ""),
    )
    assert folder.foretold() == {"full": 1}


def test_what_was_cleaned_away_is_trained_again_where_it_is_wanted(folder: Folder) -> None:
    folder.write(f"[{TJ}]", f"[none, {LFD}]")
    assert folder.foretold() == {"full": 3, "teacher": 1}
    assert main(["clean", "--artifacts", "--yes", "--output", "out"]) == 0
    assert folder.plan() == Counter()
    assert folder.foretold("--set", "lfd.beta=0.5") == {"full": 2, "teacher": 1}, (
        "none is done: its model is not missed"
    )


@pytest.mark.parametrize(
    ("attacks", "first", "then"),
    [
        (f"[none, {TJ}]", 3, 3),  # the surrogate is not the none cell's model
        (f"[{CL}, {CL_STANDARD}, {TJ}]", 5, 5),  # two surrogates, and one model for each row
        (f"[{CL_STANDARD}]", 2, 2),  # a surrogate that no other attack here shares
        (f"[{CL.replace('steps: 1,', 'steps: 1, trigger_seed: 0,')}]", 2, 1),  # its surrogate serves all seeds
        (f"[{DYNAMIC}]", 1, 1),
        (f"[none, {DYNAMIC}, {CL}]", 4, 4),
    ],
)
@pytest.mark.filterwarnings("ignore:dynamic")
def test_what_attacks_train_first(folder: Folder, attacks: str, first: int, then: int) -> None:
    """In one seed, then in another, which has its own rows and its own surrogates."""
    folder.write(attacks, "none")
    assert folder.foretold() == {"full": first}
    assert folder.foretold("--seeds", "0-1") == {"full": then}


def test_the_teachers_of_an_attack_on_lfd_are_counted_and_shared_by_no_other_seed_or_rate(folder: Folder) -> None:
    folder.write(f"[{ADAPTIVE}]", f"[none, {LFD}]")
    assert folder.foretold() == {"full": 2, "teacher": 3 + 1}
    assert folder.foretold("--seeds", "0-1") == {"full": 2, "teacher": 3 + 1}
    assert folder.foretold("--set", "lfd-adaptive.rate=0.2") == {"full": 2, "teacher": 3 + 1}
    # Neither of the blends above: the attack may have chosen that one, and the poison would be the same.
    folder.write("[{lfd-adaptive: {alpha: 0.3, verify: false}}]", f"[none, {LFD}]")
    assert folder.foretold() == {"full": 2, "teacher": 1}


def test_the_retries_of_an_attacks_single_teachers_are_foretold(folder: Folder, capsys: Any) -> None:
    """Three trials of the attack and the teacher of the defense, each with two more tries."""
    patient = ADAPTIVE.replace(", teacher_tries=1", "")
    folder.write(f"[{patient}]", "[{lfd: {teachers: 1, teacher_epochs: 1}}]")
    folder.plan()
    assert main(["plan", "m.yaml", "--output", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["retries"] == {"teacher": 8}


@pytest.mark.filterwarnings("ignore:dynamic")
def test_variants_of_an_attack_share_what_they_can(folder: Folder) -> None:
    folder.write(f"[{CL}, {DYNAMIC}]", "none")
    assert folder.foretold() == {"full": 3}
    variants = [
        CL.replace("steps: 1,", "steps: 2, rate: 0.5,"),
        CL.replace("robust_steps: 1", "robust_steps: 1, robust_epochs: 1, rate: 0.6"),
        CL.replace("robust_steps: 1", "robust_steps: 2"),  # a surrogate of its own
        CL.replace("steps: 1,", "steps: 1, trigger_seed: 1,"),  # and this one, too
        DYNAMIC.replace("joint_epochs: 1", "joint_epochs: 2, rate: 0.05"),
    ]
    folder.write(f"[{', '.join(variants)}]", "none")
    assert folder.foretold() == {"full": len(variants) + 2}


def test_a_bare_random_filter_shares_the_teacher_of_its_row(folder: Folder) -> None:
    folder.write("[bn-g]", f"[{LFD}, random-filter]")
    assert folder.foretold() == {"full": 2, "teacher": 1}
    found = [records.read_record(Path("out"), c.id) for c in matrix.load("m.yaml").cells]
    of = [record["params"]["defense"].get("of") for record in found if record]
    assert of == [None, "lfd(teacher_epochs=1, teacher_tries=1)"]
    flagged: list[int] = [record["detection"]["flagged"] for record in found if record]
    assert flagged[0] == flagged[1]
