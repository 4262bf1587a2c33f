"""A training's key changes with all that matters, and with nothing else."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab_inputs import tiny

from benchbd import engine
from benchbd.core.images import Normalisation
from benchbd.core.numerics import Numerics
from benchbd.core.recipe import Recipe
from benchbd.errors import UsageError
from benchbd.lab import keys
from benchbd.lab.keys import cache_key_form


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A loss with a parameter."""

    by: float = 1.0
    table: np.ndarray | None = None

    def __call__(self, losses, weights):
        return (losses * weights).mean() * self.by


@dataclasses.dataclass(frozen=True)
class Scaled2(Scaled):
    """The same fields under another name."""


@dataclasses.dataclass(frozen=True)
class Shifted:
    """A perturbation."""

    by: float = 0.1

    def __call__(self, net, x01, labels):
        return (x01 + self.by).clamp(0, 1)


def _other(field: dataclasses.Field, value):
    """Another value of a recipe's entry."""
    options = {"optimizer": "sgd", "schedule": "steps", "bn": "eval", "augment": ("hflip",), "horizon": 7}
    options |= {"schedule_per": "step", "clip_norm": 1.0}
    if field.name in options:
        return options[field.name]
    if field.name == "milestones":
        return (1,)
    return (not value) if isinstance(value, bool) else value + 1 if isinstance(value, int) else value / 2 + 0.25


@pytest.mark.parametrize("field", dataclasses.fields(Recipe), ids=lambda f: f.name)
def test_every_entry_of_the_recipe_is_in_the_key(open_lab, no_training, field):
    lab = open_lab()
    changes = {field.name: _other(field, getattr(lab.recipe, field.name))}
    key = lab.train(lab.poisoned).key
    assert lab.train(lab.poisoned, **changes).key != key
    assert open_lab(recipe=changes).train(lab.poisoned).key != key


CHANGES = {
    "data": lambda lab: {"data": lab.poisoned.subset(np.arange(63))},
    "order": lambda lab: {"data": lab.poisoned.subset(np.arange(64)[::-1])},
    "labels": lambda lab: {"data": lab.poisoned.replace(labels=lab.poisoned.labels.flip(0))},
    "images": lambda lab: {"data": lab.poisoned.replace(images=lab.poisoned.images.flip(0))},
    "weights": lambda lab: {"weights": np.full(64, 0.5)},
    "other weights": lambda lab: {"weights": np.arange(64)},
    "loss": lambda lab: {"loss": Scaled()},
    "loss field": lambda lab: {"loss": Scaled(2.0)},
    "loss class": lambda lab: {"loss": Scaled2()},
    "loss table": lambda lab: {"loss": Scaled(table=np.arange(5000))},
    "loss table's middle": lambda lab: {"loss": Scaled(table=np.where(np.arange(5000) == 2500, 0, np.arange(5000)))},
    "endless loss": lambda lab: {"loss": Scaled(float("inf"))},
    "perturb": lambda lab: {"perturb": Shifted()},
    "perturb field": lambda lab: {"perturb": Shifted(0.2)},
    "start": lambda lab: {"start": lab.train(lab.poisoned)},
    "other start": lambda lab: {"start": lab.train(lab.poisoned, repeat=5)},
    "repeat": lambda lab: {"repeat": 1},
    "model": lambda lab: {"model": "tiny-net(width=4)"},
    "other model": lambda lab: {"model": "lenet-s"},
}


def test_every_input_of_a_training_is_in_its_key(open_lab, no_training):
    lab = open_lab()
    keys = {"plain": lab.train(lab.poisoned).key}
    for name, change in CHANGES.items():
        keys[name] = lab.train(**{"data": lab.poisoned, **change(lab)}).key
        assert lab.train(**{"data": lab.poisoned, **change(lab)}).key == keys[name], name
    assert len(set(keys.values())) == len(keys), keys


@pytest.mark.parametrize(
    "given",
    [
        {"seed": 1},
        {"classes": 5},
        {"normalisation": Normalisation((0.5, 0.5, 0.4), (0.5,) * 3)},
        {"normalisation": Normalisation((0.5,) * 3, (0.5, 0.5, 0.4))},
        {"model": "tiny-net(width=4)"},
    ],
    ids=str,
)
def test_what_the_row_gives_is_in_the_key(open_lab, no_training, given):
    assert open_lab(**given).train(tiny()).key != open_lab().train(tiny()).key


def test_precision_and_code_version_are_in_the_key(open_lab, no_training, monkeypatch):
    found = {open_lab().train(tiny()).key}
    with monkeypatch.context() as patch:
        patch.setattr(keys, "CODE_VERSION", keys.CODE_VERSION + 1)
        found.add(open_lab().train(tiny()).key)
    lab = open_lab()
    lab.precision_for = lambda plan: engine.Precision("cuda-bf16")
    found.add(lab.train(tiny()).key)
    assert len(found) == 3


def _keys_of_all_stages(lab) -> dict[str, str]:
    """The keys of a training, a pass, a plugin's own stage and a pack."""
    trained = lab.train(lab.poisoned)
    lab.features(trained, lab.poisoned)
    lab.stage("mine", {"a": 1}, lambda: {"a": np.zeros(1)})
    lab.train_packed(lab.poisoned, repeats=[0], model="resnet-s", augment=())
    return dict(lab._ledger.artifacts)


def test_numerics_are_in_the_key_of_everything_they_change(open_lab, no_training, monkeypatch):
    monkeypatch.setattr(engine.precision, "cpu_multiplies_bf16", lambda: False)
    engine.precision._choose.cache_clear()
    found = {
        name: _keys_of_all_stages(open_lab(numerics=Numerics(*given)))
        for name, given in {
            "auto": (),
            "fp32": ("fp32",),
            "strict": ("strict",),
            "bf16": ("bf16",),
            "threads": ("auto", 2),
            "both": ("bf16", 2),
        }.items()
    }
    engine.precision._choose.cache_clear()
    assert found["fp32"] == found["strict"] == found["auto"], "one class, one key"
    for one, other in itertools.combinations(("auto", "bf16", "threads", "both"), 2):
        assert not found[one].items() & found[other].items(), (one, other)


def test_plugin_stages_of_one_thread_in_the_usual_class_keep_their_keys():
    fp32, bf16 = (engine.choose_precision(torch.device("cpu"), wish) for wish in ("fp32", "bf16"))
    assert [keys.stage_device(p, 1) for p in (fp32, bf16, engine.Precision("cuda-bf16"))] == ["cpu", "cpu-bf16", "cuda"]
    assert keys.stage_device(engine.Precision("cuda-bf16-strict"), 4) == "cuda-bf16-strict-t4"
    assert keys.stage_device(engine.choose_precision(torch.device("cpu"), "fp32", 4), 4) == "cpu-fp32-t4"
    assert [keys.pass_device(torch.device(d), t) for d in ("cpu", "cuda") for t in (1, 4)] == [
        "cpu",
        "cpu-t4",
        "cuda",
        "cuda",
    ]


def test_what_does_not_matter_is_not_in_the_key(open_lab, no_training):
    lab = open_lab()
    key = lab.train(lab.poisoned).key
    assert lab.train(lab.poisoned, name="x", kind="fine-tune").key == key
    assert lab.train(lab.poisoned, model="tiny-net").key == key
    assert lab.train(lab.poisoned, epochs=2, augment=["crop4", "hflip"]).key == key
    assert lab.train(lab.poisoned, horizon=2).key == key  # what a cosine's horizon is anyway
    assert lab.train(lab.poisoned, epochs=np.int64(2)).key == key
    assert lab.train(lab.poisoned.subset(np.arange(64))).key == key
    other = open_lab(checkpoint_every=1.0, owner=["x"], truth=np.zeros(64, bool), on_event=lambda event: None)
    assert other.train(tiny()).key == key


@given(
    st.lists(st.floats(-2, 2, width=32), min_size=64, max_size=64),
    st.lists(st.floats(-2, 2, width=32), min_size=64, max_size=64),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_weights_have_one_key_exactly_if_they_are_equal(open_lab, no_training, one, two):
    lab = open_lab()
    keys = [lab.train(lab.poisoned, weights=np.array(w, np.float32)).key for w in (one, two, one)]
    same = np.array(one, np.float32).tobytes() == np.array(two, np.float32).tobytes()
    assert keys[0] == keys[2]
    assert (keys[0] == keys[1]) == same
    assert lab.train(lab.poisoned, weights=torch.tensor(one)).key == keys[0]


@pytest.mark.parametrize(
    "bad",
    [lambda losses, weights: losses.mean(), torch.nn.functional.cross_entropy, Scaled, object()],
    ids=["lambda", "function", "class", "object"],
)
def test_losses_that_cannot_be_told_apart_are_refused(open_lab, fits, bad):
    """A function's repr is an address: the next process may find another function's model under it."""
    lab = open_lab()
    for kind in ("loss", "perturb"):
        with pytest.raises(UsageError, match="must be a frozen dataclass"):
            lab.train(lab.poisoned, **{kind: bad})
    assert fits == []


def test_changed_code_of_a_loss_is_another_loss(tmp_path):
    """Or a developer would be shown yesterday's results under today's code."""
    keys = []
    for number, body in enumerate(("losses.mean()", "losses.sum()", "losses.mean()")):
        path = tmp_path / f"loss_{number}.py"
        path.write_text(
            "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass Mine:\n    by: float = 1.0\n"
            f"    def __call__(self, losses, weights):\n        return {body}\n"
        )
        spec = importlib.util.spec_from_file_location(f"loss_{number}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
            keys.append(cache_key_form(module.Mine(), "loss"))
        finally:
            del sys.modules[spec.name]
    assert keys[0] == keys[2]
    assert keys[0]["code"] != keys[1]["code"]


def test_seeds_of_purposes_differ_and_are_stable(open_lab):
    assert open_lab().seed_for("a") == open_lab().seed_for("a")
    assert len({open_lab(seed=s).seed_for(p) for s in range(3) for p in "abc"}) == 9


@dataclasses.dataclass(frozen=True)
class Holds:
    """A loss or a perturbation with another in its fields."""

    inner: tuple = ()


@dataclasses.dataclass(frozen=True)
class Shipped(Holds):
    """Stands for one of a built-in plugin."""

    __module__ = "benchbd.defenses.mine"


@pytest.mark.parametrize("field", ["loss", "perturb"])
def test_code_around_a_users_loss_is_in_the_key(open_lab, no_training, field):
    """A helper or a constant of the plugin's module is not in the source of the class."""
    one, other = (open_lab(owner=["defenses", "mine", 1, code]) for code in ("code:1", "code:2"))

    def differ(given) -> bool:
        return len({lab.train(lab.poisoned, **{field: given}).key for lab in (one, other)}) > 1

    assert differ(Holds())
    assert differ(Shipped((Holds(),)))
    assert not differ(Shipped())
    assert not differ(None)


def test_what_a_defense_declares_to_need_is_in_the_key_of_its_own_stages(open_lab):
    truth = np.arange(64) < 9
    labs = [
        open_lab(),
        *(open_lab(clean=tiny().subset(np.arange(count))) for count in (10, 20)),
        *(open_lab(truth=mask) for mask in (truth, ~truth)),
    ]
    found = [lab.stage("mine", {}, lambda i=i: {"n": np.array([i])})["n"].item() for i, lab in enumerate(labs)]
    assert found == [0, 1, 2, 3, 4]
