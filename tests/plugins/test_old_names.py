"""A plugin written against the interface of 0.1 still runs, and each old name says what to write instead."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings

import pytest

from benchbd import deprecated, testing
from benchbd.core import params as core_params
from benchbd.pipeline.run_cell import execute
from benchbd.plan.shared_work import shared_work_of
from benchbd.plan.trainings import attack_trainings, shared_trainings
from benchbd.plugins import registry
from benchbd.plugins.contract import UNDEFENDED, Training

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")

CAUTIOUS = '''
"""cautious: a defense. The first example of docs/plugins.md in release 0.1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchbd import Attack, Defense, Lab, Training, UsageError, defense

if TYPE_CHECKING:
    from benchbd import Trained


@defense("cautious", version=1)
class Cautious(Defense):
    """Drop the samples that two short trainings both find easy, train on the rest."""

    fraction: float = 0.15
    """Share of the training set to drop, in [0, 1)."""
    probe_epochs: int = 2
    """Epochs of each short training."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.fraction < 1.0:
            raise UsageError(f"cautious: fraction is a share in [0, 1), not {self.fraction:g}")

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """What a cell trains, so that plans can count it."""
        probes = [Training("fine-tune", ("cautious", self.probe_epochs, turn)) for turn in range(2)]
        return (*probes, Training("full", ("cautious", self.probe_epochs, self.fraction)))

    def train(self, lab: Lab) -> Trained:
        """Probe twice, drop what is easy for both, train."""
        hardest = np.zeros(len(lab.poisoned), np.float32)
        for turn in range(2):
            probe = lab.train(
                lab.poisoned, what="fine-tune", name="probe", epochs=self.probe_epochs, augment=(), repeat=turn
            )
            hardest = np.maximum(hardest, lab.losses(probe, lab.poisoned))
        order = np.argsort(hardest, kind="stable")
        dropped, kept = np.split(order, [int(self.fraction * len(order))])
        lab.suspect(-hardest, dropped)
        return lab.train(lab.poisoned.subset(np.sort(kept)))
'''
AGREEING = '''
"""agreeing: a defense. The second example of docs/plugins.md in release 0.1, with every name of its table."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from benchbd import Attack, Defense, Lab, Training, defense
from benchbd.engine import Run

if TYPE_CHECKING:
    from benchbd import Trained


@dataclasses.dataclass(frozen=True)
class TwoViews:
    """Cross-entropy, and two views of an image are to be told alike."""

    weight: float

    def prepare(self, net):
        from torch import nn

        return nn.Linear(3, 3)

    def epoch(self, run: Run) -> None:
        """Every image once."""
        from torch.nn import functional as F

        assert run.beside.weight.shape == (3, 3)
        assert run.number in (0, 1)
        for step, rows in enumerate(run.batches()):
            positions = rows[:, 0]
            with run.autocast():
                one, two = run.net(run.views(rows)), run.net(run.views(run.rows(positions, step)))
            apart = (one.softmax(1) - two.softmax(1)).square().sum(1).mean()
            run.step(F.cross_entropy(one, run.labels[positions]) + self.weight * apart)


@defense("agreeing", version=1)
class Agreeing(Defense):
    """Train so that two views of an image are told alike."""

    weight: float = 1.0
    """Of the disagreement."""

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """What a cell trains, so that plans can count it."""
        return (Training("full", ("agreeing", self.weight)),)

    def train(self, lab: Lab) -> Trained:
        """One training."""
        return lab.train(lab.poisoned, routine=TwoViews(self.weight))
'''
STRIPED = '''
"""striped: an attack, and a defense that is handed as many clean images as a parameter says."""

from __future__ import annotations

import numpy as np

from benchbd import registry
from benchbd.components import Attack, Defense, Stamp, attack, defense
from benchbd.errors import UsageError
from benchbd.seeding import seed_for


@attack("striped", version=1)
class Striped(Attack):
    """A drawn stripe, after a model that nobody uses."""

    smooth_epochs: int | None = 1
    """Epochs of the surrogate."""
    smooth_by: float = 0.5
    """Of no use."""

    def trains(self) -> tuple[str, ...]:
        """What it trains."""
        return ("surrogate", "smooth-surrogate", "weak-teacher", "stripe-first", "stripe-last")

    def prepare(self, shop) -> dict[str, np.ndarray]:
        """Draw the stripe."""
        trained = shop.surrogate()
        drawn = np.random.default_rng(seed_for(shop.seed, "stripe")).integers(0, 256, (3, 1, shop.size), dtype=np.uint8)
        return {"stripe": drawn, "bias": trained.head()[1]}

    def stamp(self, images, how: Stamp):
        """Write the stripe."""
        import torch

        out = images.clone()
        out[:, :, :1] = torch.from_numpy(how.trigger["stripe"])
        return out


@defense("handed", version=1)
class Handed(Defense):
    """Trains on the clean images."""

    needs = ("clean",)
    clean_frac: float = 0.25
    """Share of clean images."""

    def train(self, lab):
        """One training, of the clean images."""
        lab.note("clean", len(lab.clean))
        return lab.train(lab.clean)
'''


@pytest.fixture(autouse=True)
def _all_is_said_again(monkeypatch, one_thread, fresh_registry):
    monkeypatch.setattr(deprecated, "_shown", set())
    for name in deprecated._MOVED:
        monkeypatch.delitem(sys.modules, name, raising=False)
        parent, _, child = name.rpartition(".")
        monkeypatch.delitem(vars(importlib.import_module(parent)), child, raising=False)


def load(tmp_path, text: str) -> list[str]:
    """Register a plugin file; the warnings that this brings up."""
    file = tmp_path / "old.py"
    file.write_text(text)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        registry.add_plugin_file(str(file))
    assert all(w.filename == str(file) for w in seen if w.category is FutureWarning), "the plugin's line is named"
    return [str(w.message).partition(";")[0] for w in seen if w.category is FutureWarning]


def run(tmp_path, **specs: str) -> tuple[dict, list[str]]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        cell = testing.cell(dataset="tiny(train=80,test=40,size=16)", **specs)
        record = execute(cell.to_json(), output=tmp_path / "out", device="cpu")
    assert (record["status"], record["error"]) == ("done", None)
    return record, [str(w.message).partition(";")[0] for w in seen if w.category is FutureWarning]


def test_the_first_example_of_old_runs(tmp_path):
    assert load(tmp_path, CAUTIOUS) == []
    record, said = run(tmp_path, attack="tiny-patch", defense="cautious")
    assert record["trainings"] == {"fine-tune": 2, "full": 1}
    assert any("what" in line and "kind" in line for line in said)


def test_the_second_example_of_old_runs(tmp_path):
    assert load(tmp_path, AGREEING) == ["benchbd.engine.Run is now benchbd.engine.LoopContext"]
    record, said = run(tmp_path, attack="tiny-patch", defense="agreeing")
    assert record["trainings"] == {"full": 1}
    assert "LoopContext.number is now LoopContext.epoch" in said
    assert "LoopContext.beside is now LoopContext.extra_module" in said
    assert any("routine" in line and "training_loop" in line for line in said)


def test_an_attack_of_old_runs(tmp_path):
    assert load(tmp_path, STRIPED) == [
        "benchbd.components is now benchbd",
        "benchbd.components.Stamp is now benchbd.StampContext",
        "benchbd.seeding is now benchbd.core.seeding",
        "Striped.trains is now Attack.trainings, which returns Training objects",
        "Handed must return clean_frac from clean_fraction()",
    ]
    record, said = run(tmp_path, attack="striped", defense="handed")
    assert said == []
    assert record["notes"]["clean"] == 20
    assert record["trainings_computed"] == {"full": 2}


def test_what_an_attack_of_old_trains_is_counted_and_shared_as_before(tmp_path):
    load(tmp_path, STRIPED)
    clean, one, other = (
        testing.cell(attack=attack, epochs=5) for attack in ("none", "striped", "striped(smooth_by=0.5, rate=0.2)")
    )
    kinds = [(training.kind, training.recipe) for training in attack_trainings(one)]
    assert kinds == [("full", ()), ("full", (("epochs", 1),)), ("teacher", ()), ("loop", ()), ("loop", ())]
    assert [key for key, cells in shared_trainings([one, clean]).items() if len(cells) > 1] == []
    common = shared_trainings([one, other])
    assert len([key for key, cells in common.items() if cells == [one, other] and key[1] == UNDEFENDED]) == 1
    shared = shared_work_of([one, other])
    common = shared[one.id].heavy & shared[other.id].heavy
    assert sorted(key[0] for key in common) == ["loop", "training", "training", "trigger"]
    same = testing.cell(attack="striped(smooth_epochs=None)", epochs=1)
    assert len({key for key in shared_trainings([one, same]) if key[1].kind == "full"}) == 5


def test_training_answers_to_what():
    with pytest.warns(FutureWarning, match=r"Training\(what=...\) is now Training\(kind=...\)"):
        made = Training(what="teacher", shared=("x",))
    with pytest.warns(FutureWarning, match="Training.what is now Training.kind"):
        assert made.what == "teacher"
    assert made == Training("teacher", ("x",))


OLD = {
    "from benchbd import Stamp, Trained": ["StampContext", "TrainedModel"],
    "from benchbd.engine import Run, Routine": ["LoopContext", "TrainingLoop"],
    "from benchbd.engine import Reweigh, Weigh, fit_by": ["PerEpochWeights", "WeightFunction", "fit_with_loop"],
    "from benchbd.engine.routine import Run, Routine, fit_by": ["LoopContext", "TrainingLoop", "fit_with_loop"],
    "from benchbd.engine.reweigh import Reweigh, Weigh": ["PerEpochWeights", "WeightFunction"],
    "from benchbd.components import Attack, Defense, Stamp, Training, attack, share_of": ["StampContext"],
    "from benchbd.components import BUDGET, Component, DatasetInfo, Images, Normalisation": [
        "components is now benchbd;"
    ],
    "from benchbd.lab import Lab, Trained, TrainSet": ["benchbd.Lab", "benchbd.TrainedModel", "benchbd.TrainSet"],
    "from benchbd.trained import Trained, TrainSet": ["benchbd.TrainedModel"],
    "from benchbd.workshop import Workshop": ["benchbd.workshop is now benchbd;"],
    "from benchbd.recipe import Recipe": ["benchbd.core.recipe"],
    "from benchbd.seeding import seed_for": ["benchbd.core.seeding"],
    "from benchbd.registry import make": ["benchbd.plugins.registry"],
    "from benchbd import params, registry": ["benchbd.core.params"],
    "import benchbd.params": ["benchbd.core.params"],
    "from benchbd.run.remote import run_file": ["benchbd.run.cluster.remote"],
    "from benchbd.testing import Bench": ["PluginUnderTest"],
}


@pytest.mark.parametrize("line", OLD)
def test_each_old_name_says_what_to_write_instead(line):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        exec(line, {})
        exec(line, {})
    said = [str(w.message) for w in seen if w.category is FutureWarning]
    for new in OLD[line]:
        assert sum(new in text for text in said) >= 1, said
    assert len(said) == len(set(said)), "shown once"
    assert not any("\n" in text for text in said)


def test_modules_that_only_moved_are_the_very_same():
    with pytest.warns(FutureWarning):
        from benchbd import params
    assert params is core_params


@pytest.mark.parametrize(
    "line", ["from benchbd import Nothing", "import benchbd.nothing", "from benchbd.engine import X"]
)
def test_other_names_are_unknown(line):
    with pytest.raises(ImportError):
        exec(line, {})
    with pytest.warns(FutureWarning), pytest.raises(ImportError):
        exec("from benchbd.components import Nothing", {})


def test_a_user_sees_the_warning_and_listing_costs_nothing(tmp_path):
    (tmp_path / "old.py").write_text(STRIPED)
    code = "import sys, benchbd.cli; sys.exit(benchbd.cli.main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "describe", "striped", "--plugin", "old.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "benchbd.components.Stamp is now benchbd.StampContext" in done.stderr
    assert done.stderr.count("FutureWarning") == 5
    code = "import sys, benchbd; print(sorted(m for m in ('torch', 'numpy', 'importlib.util') if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "torch" not in done.stdout
    assert "numpy" not in done.stdout
