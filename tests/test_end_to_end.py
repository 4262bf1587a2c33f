"""Whole rows on real images: every defense, counted; killed and resumed; and poison that must be found exactly."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from benchbd import testing
from benchbd.lab import lab as lab_module
from benchbd.pipeline.run_cell import execute
from benchbd.plan.cell import Cell
from benchbd.plan.trainings import shared_trainings
from benchbd.plugins import registry
from benchbd.storage import records

KILL_TARGET = Path(__file__).parent / "helpers" / "kill_target.py"
DATA, MODEL, ATTACKS = "digits(train=200,test=60)", "resnet18(width=4)", ("none", "bn-g", "blend")
QUICK = {"fine-pruning": "clean_frac=0.2", "random-filter": "of='lfd(teacher_epochs=1, teacher_tries=1)'"}
"""What small sets and short tests need beyond the plugins' own smoke parameters."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _quick(quick_disk, fresh_registry): ...


def specs() -> list[str]:
    """Every defense that needs no program of a user, with parameters under which it runs in seconds."""
    found = []
    for entry in registry.entries("defenses"):
        if entry.error or entry.file is None or entry.file.endswith("testing/tiny.py"):
            continue
        if registry.load("defenses", entry.name).runs_program:
            continue
        smoke = ", ".join(f"{k}={v!r}" for k, v in registry.load("defenses", entry.name).smoke.items())
        inside = ", ".join(filter(None, [smoke, QUICK.get(entry.name)]))
        found.append(f"{entry.name}({inside})" if inside else entry.name)
    return found


def cells_of(attacks=ATTACKS, defenses=None, **given) -> tuple[Cell, ...]:
    base = {"dataset": DATA, "model": MODEL, "epochs": 1, "batch_size": 50, **given}
    return tuple(testing.cell(**base, attack=a, defense=d) for a in attacks for d in defenses or specs())


def predicted(cells) -> Counter:
    return Counter(training.kind for _, training in shared_trainings(cells))


def computed(found) -> Counter:
    return sum((Counter(r["trainings_computed"]) for r in found), Counter())


def run(cells, output: Path) -> list[dict]:
    found = [execute(c.to_json(), output=output, device="cpu") for c in cells]
    assert [(r["label"], r["status"], r["error"]) for r in found if r["status"] != "done"] == []
    return [records.read_record(output, c.id) for c in cells]


pytestmark = pytest.mark.timeout(1200)
"""Twice as many defenses as the limit of a test was made for."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All rows, run once without a break: output folder, cells, records, and wall-clock by cell."""
    output = tmp_path_factory.mktemp("whole")
    cells = cells_of()
    return output, cells, run(cells, output)


def test_every_defense_comes_to_its_end_in_every_row(whole):
    _, cells, found = whole
    assert len(cells) == len(ATTACKS) * len(specs()) >= 21
    for record in found:
        assert 0 <= record["ca"] <= 1
        assert (record["asr"] is None) == (record["attack"] == "none")
        assert record["time"]["total"] > 0
        if record["attack"] != "none":
            assert record["poison"]["count"] == 20
    by_row = {}
    for record in found:
        by_row.setdefault(record["attack"], set()).add(record["artifacts"]["poisoned_set"])
    assert all(len(sets) == 1 for sets in by_row.values())
    oracle = {r["attack"]: r for r in found if r["defense"] == "oracle"}
    assert oracle["bn-g"]["detection"]["precision"] == oracle["bn-g"]["detection"]["recall"] == 1.0
    none = next(r for r in found if (r["attack"], r["defense"]) == ("none", "none"))
    assert oracle["none"]["artifacts"]["model"] == none["artifacts"]["model"]
    assert oracle["none"]["ca"] == none["ca"]
    for attack in ATTACKS[1:]:
        row = {r["defense"]: r for r in found if r["attack"] == attack}
        flagged = [row[d]["detection"]["flagged"] for d in ("lfd", "random-filter")]
        assert flagged[0] == flagged[1] > 0


def test_as_many_trainings_are_done_as_the_plan_says(whole):
    output, cells, found = whole
    undefended = {r["attack"]: r["artifacts"]["model"] for r in found if r["defense"] == "none"}
    # No plan knows this: AC that drops nothing trains the undefended model, and two rows may give NAB the same images.
    ac = [r for r in found if r["defense"] == "ac" and r["artifacts"]["model"] == undefended[r["attack"]]]
    nab = sum(2 - r["trainings_computed"].get("fine-tune", 0) for r in found if r["defense"] == "nab")
    assert 0 <= nab < len(ATTACKS)
    assert computed(found) + Counter({"full": len(ac), "fine-tune": nab}) == predicted(cells)
    metas = [json.loads(p.read_text()) for p in (output / "store" / "model").rglob("meta.json")]
    assert sum(meta["facts"]["epochs"] > 0 for meta in metas) == computed(found).total()
    for record, cell in zip(found, cells, strict=True):
        made = cell.components()
        assert Counter(record["trainings"]) == Counter(t.kind for t in made.defense.trainings(made.attack))


def test_a_row_shares_and_a_second_run_trains_nothing(whole):
    output, cells, found = whole
    row = [r for r in found if r["attack"] == "bn-g" and r["defense"] in ("none", "fine-pruning", "ac", "abl", "lfd")]
    assert len(row) == 5
    one = computed(row)
    assert one["full"] <= 4
    assert one["feature-model"] == one["teacher"] == 1
    again = run([c for c in cells if c.attack.name == "bn-g"], output)
    assert computed(again) == Counter()
    more = cells_of(("bn-g",), ["lfd(teacher_epochs=1, teacher_tries=1, beta=0.01)"])
    assert predicted((*cells, *more)) - predicted(cells) == Counter({"full": 1})
    assert computed(run(more, output)) == Counter({"full": 1})


# Killed and resumed ---------------------------------------------------------------------------------------------------

PASSING = ("time", "env", "peak_memory_bytes", "trainings_computed")
"""What may differ between two runs of a cell: what they took, where, and what was there already."""


def lasting(record: dict) -> dict:
    return {k: v for k, v in record.items() if k not in PASSING}


class Target:
    """Runs cells in processes that can be killed."""

    def __init__(self, output: Path, every: float) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(KILL_TARGET), str(output), str(every)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, env=environment, **pipes)
        assert self.read() == "ready"

    def read(self) -> str:
        return self.process.stdout.readline().strip()

    def run(self, cell: Cell, kill_after: float | None) -> bool:
        """Run a cell, killed after so many seconds; whether it was."""
        self.process.stdin.write(json.dumps({"cell": cell.to_json(), "kill_after": kill_after}) + "\n")
        self.process.stdin.flush()
        return self.read() == f"ended {signal.SIGKILL.value}"

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(10)


def test_cells_killed_at_random_moments_end_with_the_records_of_an_undisturbed_run(whole, tmp_path):
    output, cells, found = whole
    chosen = [(c, r) for c, r in zip(cells, found, strict=True) if c.attack.name == "blend"]
    want = {c.id: r for c, r in chosen}
    draw, kills = random.Random(11), 0
    target = Target(tmp_path, 0.02)  # checkpoints all the time, so that kills hit those too
    try:
        for cell, record in chosen:
            for _ in range(2):
                kills += target.run(cell, draw.uniform(0.05, 0.9) * record["time"]["own"])
            assert not target.run(cell, None)
    finally:
        target.close()
    assert kills >= len(chosen)  # most of them hit
    for cell, _ in chosen:
        assert lasting(records.read_record(tmp_path, cell.id)) == lasting(want[cell.id])
    left = tmp_path / "store"
    for key in {r["artifacts"]["model"] for r in want.values()}:
        one, two = (root / "model" / key[:2] / key / "arrays.safetensors" for root in (left, output / "store"))
        assert one.read_bytes() == two.read_bytes()
    assert list((left / "locks").iterdir()) == []
    assert not (left / "checkpoint").exists() or not list((left / "checkpoint").glob("*/*"))


# Planted poison -------------------------------------------------------------------------------------------------------

POISON = 24
ABL = "abl(turning_epochs=8, finetune_epochs=1, unlearn_epochs=1, ratio=0.1, lr=0.01)"
"""Gentle: at larger steps the ascent below gamma throws the easy samples about and the order is noise."""
LFD = "lfd(teachers=1, teacher_epochs=8, teacher='tiny-net', alpha=0.2)"


@pytest.fixture
def find(tmp_path, zoo):
    """Run a defense on planted poison and return what it detected."""
    zoo("planted")

    def go(defense: str, epochs: int = 1, **given) -> dict:
        base = {"dataset": "planted", "model": "tiny-net", "attack": "white", "epochs": epochs, "batch_size": 32}
        this = testing.cell(**base, defense=defense, **given)
        record = execute(this.to_json(), output=tmp_path, device="cpu")
        assert record["status"] == "done", record["error"]
        assert record["poison"]["count"] == POISON
        return record["detection"]

    return go


@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1])
def test_abl_isolates_exactly_the_planted_poison(find, seed):
    found = find(ABL, seed=seed)
    assert (found["recall"], found["precision"], found["auroc"]) == (1.0, 1.0, 1.0)


@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1])
def test_lfds_candidates_are_the_planted_poison_and_what_alpha_adds(find, seed):
    found = find(LFD, seed=seed)
    assert found["recall"] == found["auroc"] == 1.0
    assert found["flagged"] == 49  # floor(0.2 * 240) + 1
    assert found["precision"] == POISON / 49


@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1])
def test_ac_removes_exactly_the_planted_poison_from_its_class(find, seed):
    # 5 epochs: before it learns the noise by heart and features part there too
    found = find("ac(preset='per-class')", epochs=5, seed=seed)
    assert found["recall"] == 1.0
    assert found["flagged_per_class"][1] == POISON
    assert found["precision"] == POISON / found["flagged"]


@pytest.mark.learning
@pytest.mark.parametrize("defense", [ABL, LFD])
def test_a_misaligned_path_is_noticed(find, monkeypatch, defense):
    """The same tests over losses that belong to the next sample: what they find is no longer the poison."""
    real = lab_module.Lab.losses
    monkeypatch.setattr(lab_module.Lab, "losses", lambda self, trained, data: np.roll(real(self, trained, data), 1))
    found = find(defense)
    assert found["recall"] < 0.5
    assert found["auroc"] < 0.9
