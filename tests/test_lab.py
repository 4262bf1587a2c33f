"""The lab: stages are computed once, under keys that change with all that matters, and aligned with their samples."""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchbd import engine, registry, stages, testing
from benchbd.cell import part_of
from benchbd.components import Normalisation
from benchbd.errors import BenchbdError, Diverged, UsageError
from benchbd.lab import Lab, Ledger, NetworkPlan, TrainSet
from benchbd.poison import clean_set
from benchbd.recipe import Recipe
from benchbd.stages import Checkpoint, spelled
from benchbd.store import Store

GREY = Normalisation((0.5,) * 3, (0.5,) * 3)


@pytest.fixture(autouse=True)
def _quick(monkeypatch, fresh_registry):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    testing.register()
    yield
    torch.set_num_threads(before)


def tiny(count: int = 64) -> TrainSet:
    made = registry.make("datasets", "tiny", train=count, size=16)
    return clean_set(part_of(made), made.load("train", None))


@pytest.fixture
def open_lab(tmp_path: Path):
    """A new lab over one store, as another cell of the row would get it: ``open_lab(data=..., truth=..., ...)``."""

    def build(data: TrainSet | None = None, *, where: str = "store", model: str = "tiny-net", **given) -> Lab:
        made = registry.make("models", model)
        recipe = Recipe.parse({"epochs": 2, "batch_size": 16, **given.pop("recipe", {})})
        base = {
            "store": Store(tmp_path / where),
            "network": NetworkPlan(made, part_of(made), given.pop("classes", 4), 16, given.pop("normalisation", GREY)),
            "recipe": recipe,
            "seed": 0,
            "device": torch.device("cpu"),
            "ledger": Ledger(),
            "on_event": lambda event: None,
        }
        return Lab(data or tiny(), **{**base, **given})

    return build


@pytest.fixture
def fits(monkeypatch):
    """How often the engine really trains."""
    calls = []
    real = engine.fit

    def counting(*args, **kwargs):
        calls.append(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(engine, "fit", counting)
    return calls


@pytest.fixture
def no_training(monkeypatch):
    """Trainings that end at once, for tests that only look at keys."""
    monkeypatch.setattr(engine, "fit", lambda *args, **kwargs: engine.Fit([], 0.0, 0))


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


# Memoisation ----------------------------------------------------------------------------------------------------------


def test_what_was_trained_is_not_trained_again(open_lab, fits):
    first = open_lab().train(tiny())
    assert len(fits) == 1
    lab = open_lab()
    again = lab.train(tiny(), name="other name", what="teacher")
    assert len(fits) == 1
    assert again.key == first.key
    assert again.epoch_losses == first.epoch_losses
    assert len(again.epoch_losses) == again.epochs == 2
    one, two = first.module().state_dict(), again.module().state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert lab._ledger.trainings == {"teacher": 1}
    assert lab._ledger.computed == {}
    for _ in range(2):
        lab.losses(again, lab.poisoned)
        lab.features(again, lab.poisoned)
        lab.logits(again, lab.poisoned)
    assert open_lab(where="elsewhere").train(tiny()).key == first.key
    assert len(fits) == 2


def test_a_row_of_defenses_shares_the_undefended_model(open_lab, fits):
    truth = np.zeros(64, bool)
    none = registry.make("defenses", "none").train(open_lab())
    oracle = registry.make("defenses", "oracle").train(open_lab(truth=truth))
    assert oracle.key == none.key  # nothing is poisoned, so the oracle keeps every sample
    assert len(fits) == 1
    truth[5] = True
    assert registry.make("defenses", "oracle").train(open_lab(truth=truth)).key != none.key
    assert len(fits) == 2


def _other(field: dataclasses.Field, value):
    """Another value of a recipe's entry."""
    options = {"optimizer": "sgd", "schedule": "steps", "bn": "eval", "augment": ("hflip",), "horizon": 7}
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
    keys = {open_lab().train(tiny()).key}
    with monkeypatch.context() as patch:
        patch.setattr(stages, "CODE_VERSION", stages.CODE_VERSION + 1)
        keys.add(open_lab().train(tiny()).key)
    lab = open_lab()
    lab.precision_for = lambda plan: engine.Precision("cuda-bf16")
    keys.add(lab.train(tiny()).key)
    assert len(keys) == 3


def test_what_does_not_matter_is_not_in_the_key(open_lab, no_training):
    lab = open_lab()
    key = lab.train(lab.poisoned).key
    assert lab.train(lab.poisoned, name="x", what="fine-tune").key == key
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


def test_passes_depend_on_model_data_and_kind(open_lab):
    lab = open_lab()
    trained, other = lab.train(lab.poisoned, epochs=0), lab.train(lab.poisoned, epochs=0, repeat=1)
    half = lab.poisoned.subset(np.arange(32))
    lab.losses(trained, lab.poisoned)
    lab.losses(other, lab.poisoned)
    lab.losses(trained, half)
    lab.features(trained, lab.poisoned)
    lab.logits(trained, lab.poisoned)
    kept = lab._ledger.artifacts
    assert set(kept) == {"train", "train 2", "losses", "losses 2", "losses 3", "features", "logits"}
    assert len(set(kept.values())) == len(kept)


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
            keys.append(spelled(module.Mine(), "loss"))
        finally:
            del sys.modules[spec.name]
    assert keys[0] == keys[2]
    assert keys[0]["code"] != keys[1]["code"]


# Sets -----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 63), max_size=80), st.lists(st.integers(0, 63), max_size=80))
@settings(max_examples=60, deadline=None)
def test_a_subset_keeps_the_order_given_and_has_a_key_of_its_own(one, two):
    testing.register()
    data = tiny()
    part = data.subset(one)
    assert len(part) == len(one)
    assert torch.equal(part.images, data.images[one])
    assert part.labels.tolist() == [int(data.labels[i]) for i in one]
    assert (part.key == data.subset(two).key) == (one == two)
    assert (part.key == data.key) == (one == list(range(64)))


@given(st.lists(st.booleans(), min_size=64, max_size=64))
@settings(max_examples=20, deadline=None)
def test_a_mask_means_its_positions(mask):
    testing.register()
    data = tiny()
    assert data.subset(np.array(mask)).key == data.subset(np.flatnonzero(mask)).key
    assert data.subset(torch.tensor(mask)).labels.tolist() == data.labels[torch.tensor(mask)].tolist()


@pytest.mark.parametrize(
    "indices", [[64], [-1], [0.5], np.ones(63, bool), np.zeros((2, 2), int), ["a"], 3, np.array([[True] * 64])], ids=str
)
def test_subsets_that_name_no_samples_are_refused(indices):
    testing.register()
    with pytest.raises(UsageError, match="subset: ") as caught:
        tiny().subset(indices)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.labels.__setitem__(3, (data.labels[3] + 1) % 4),
        lambda data: data.labels.numpy().__setitem__(3, (data.labels[3] + 1) % 4),
        lambda data: data.images.fill_(0),
        lambda data: data.images.numpy().fill(0),
    ],
)
def test_a_set_changed_in_place_is_noticed(open_lab, fits, spoil):
    """What is trained on it would be stored under the key of the set as it was, and served to other cells."""
    lab = open_lab()
    trained = lab.train(lab.poisoned)
    spoil(lab.poisoned)
    for act in (
        lambda: lab.train(lab.poisoned),
        lambda: lab.train(lab.poisoned, epochs=1),
        lambda: lab.losses(trained, lab.poisoned),
        lambda: lab.stage("mine", {}, lambda: {"a": np.zeros(1)}),
    ):
        with pytest.raises(UsageError, match="changed in place"):
            act()
    assert len(fits) == 1


def test_replaced_labels_make_another_set_and_leave_the_first_alone():
    testing.register()
    data = tiny()
    before = data.labels.clone()
    other = data.replace(labels=data.labels.flip(0))
    assert other.key != data.key
    assert other.key == data.replace(labels=data.labels.flip(0).clone()).key
    assert torch.equal(data.labels, before)
    data.check()


@pytest.mark.parametrize("what", ["images", "labels", "lengths"])
def test_sets_of_other_types_are_refused(what):
    images, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    given = {"images": (images.float(), labels), "labels": (images, labels.int()), "lengths": (images, labels[:3])}
    with pytest.raises(UsageError, match="takes images uint8"):
        TrainSet(*given[what], "ab" * 32)


# Alignment ------------------------------------------------------------------------------------------------------------


def numbered(count: int) -> TrainSet:
    """Images that say which they are: every pixel of image i has value i."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16).contiguous()
    return TrainSet(images, (torch.arange(count) * 7 + 3) % 4, "cd" * 32)


SEEN: list[tuple[str, torch.Tensor]] = []


@dataclasses.dataclass(frozen=True)
class Look:
    """Writes down which images come in a batch, with their labels."""

    def __call__(self, net, x01, labels):
        SEEN.append(("images", (x01[:, 0, 0, 0] * 255).round().long()))
        SEEN.append(("labels", labels.clone()))
        return x01


@dataclasses.dataclass(frozen=True)
class Weigh:
    """Writes down the weights that come with a batch."""

    def __call__(self, losses, weights):
        SEEN.append(("weights", weights.clone()))
        return (losses * weights).mean()


@pytest.mark.parametrize(
    "part", [np.arange(100), np.random.RandomState(3).permutation(100)[:77]], ids=["all", "subset"]
)
def test_labels_and_weights_travel_with_their_images(open_lab, part):
    SEEN.clear()
    lab = open_lab(numbered(100).subset(part))
    weights = part.astype(np.float32) / 100  # image i weighs i / 100, wherever it stands
    lab.train(lab.poisoned, weights=weights, loss=Weigh(), perturb=Look(), augment=(), epochs=3)
    seen = {name: torch.cat([t for n, t in SEEN if n == name]) for name in ("images", "labels", "weights")}
    assert len(seen["images"]) == 3 * len(part)
    assert torch.equal(seen["labels"], (seen["images"] * 7 + 3) % 4)
    assert torch.equal(seen["weights"], seen["images"].float() / 100)
    for epoch in seen["images"].view(3, -1):
        assert sorted(epoch.tolist()) == sorted(part.tolist())
        assert epoch.tolist() != part.tolist()  # shuffled: alignment is not for free


def test_losses_features_and_logits_are_in_the_order_of_the_set(open_lab):
    lab = open_lab()
    trained = lab.train(lab.poisoned)
    order = np.random.RandomState(1).permutation(64)[:50]
    part = lab.poisoned.subset(order)
    net = trained.module()
    with torch.no_grad():
        x01 = lab.poisoned.images.float() / 255
        logits = torch.cat([net(x[None]) for x in x01])
        losses = torch.nn.functional.cross_entropy(logits, lab.poisoned.labels, reduction="none")
        features = torch.cat([net.features(x[None]) for x in x01])
    for got, want in (
        (lab.logits(trained, part), logits),
        (lab.losses(trained, part), losses),
        (lab.features(trained, part), features),
    ):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want.numpy()[order], rtol=1e-4, atol=1e-5)
    weight, bias = trained.head()
    np.testing.assert_allclose(
        lab.features(trained, part) @ weight.T + bias, lab.logits(trained, part), rtol=1e-4, atol=1e-4
    )


# Resuming -------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process dies here."""


@dataclasses.dataclass(frozen=True)
class Slow:
    """A loss whose steps take a while."""

    def __call__(self, losses, weights):
        time.sleep(0.01)
        return (losses * weights).mean()


def killing(real, saves: int):
    """``Checkpoint.save`` that kills after so many saves."""
    count = []

    def save(self, state):
        real(self, state)
        count.append(1)
        if len(count) == saves:
            raise Killed

    return save


def state_of(trained) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in trained.module().state_dict().items()}


@pytest.mark.parametrize("saves", [1, 5, 8])
def test_a_killed_training_goes_on_to_the_same_bits_and_its_seconds_add_up(open_lab, monkeypatch, saves):
    whole = open_lab(where="whole").train(tiny(), epochs=3, loss=Slow())
    real = Checkpoint.save
    monkeypatch.setattr(Checkpoint, "save", killing(real, saves))
    lab = open_lab(checkpoint_every=0.0)
    with pytest.raises(Killed):
        lab.train(lab.poisoned, epochs=3, loss=Slow())
    store = lab._store
    saved = store.get("checkpoint", whole.key)
    before = float(saved.arrays["seconds"])
    assert before >= 0.01 * saves
    assert store.get("model", whole.key) is None

    monkeypatch.setattr(Checkpoint, "save", real)
    began = time.perf_counter()
    lab = open_lab()
    resumed = lab.train(lab.poisoned, epochs=3, loss=Slow())
    wall = time.perf_counter() - began
    assert resumed.key == whole.key
    assert resumed.epoch_losses == whole.epoch_losses
    assert state_of(resumed) == state_of(whole)
    assert before < lab._ledger.stages["train"] <= before + wall
    assert store.get("checkpoint", whole.key) is None
    assert list((store.root / "locks").iterdir()) == []


def test_a_kill_while_the_finished_weights_are_stored_costs_little(open_lab, monkeypatch):
    """The checkpoint must be there until they are."""
    lab = open_lab(checkpoint_every=0.0)
    real = Store.put

    def put(self, kind, key, arrays, facts):
        if kind == "model":
            raise Killed
        return real(self, kind, key, arrays, facts)

    monkeypatch.setattr(Store, "put", put)
    with pytest.raises(Killed):
        lab.train(lab.poisoned)
    key = next(p.name for p in (lab._store.root / "checkpoint").glob("*/*"))
    assert lab._store.get("checkpoint", key) is not None
    monkeypatch.setattr(Store, "put", real)
    assert lab.train(lab.poisoned).key == key


def test_a_damaged_checkpoint_starts_the_training_over(open_lab, monkeypatch):
    whole = open_lab(where="whole").train(tiny())
    lines = []
    lab = open_lab(checkpoint_every=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", killing(Checkpoint.save, 3))
        with pytest.raises(Killed):
            lab.train(lab.poisoned)
    store = Store(lab._store.root, lines.append)
    (store.path("checkpoint", whole.key) / "arrays.safetensors").write_bytes(b"short")
    again = open_lab(store=store).train(tiny())
    assert state_of(again) == state_of(whole)
    assert len(lines) == 1
    assert lines[0].startswith("artifact checkpoint/")


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(open_lab, monkeypatch):
    lines = []
    real = Store.put

    def put(self, kind, key, arrays, facts):
        if kind == "checkpoint":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, kind, key, arrays, facts)

    monkeypatch.setattr(Store, "put", put)
    lab = open_lab(checkpoint_every=0.0)
    lab._store.say = lines.append
    assert lab.train(lab.poisoned, epochs=1).epochs == 1
    assert lines
    assert all("no checkpoint was saved" in line for line in lines)


def test_a_diverged_training_leaves_nothing(open_lab):
    lab = open_lab(checkpoint_every=0.0)
    with pytest.raises(Diverged, match=r"^probe: (loss is|weights are) not finite (in|after) epoch \d of 3$"):
        lab.train(lab.poisoned, name="probe", optimizer="sgd", lr=1e30, epochs=3, augment=())
    assert lab.broken_off["stage"] == "probe"
    assert 1 <= len(lab.broken_off["epoch_losses"]) <= 3
    assert [p for p in lab._store.root.rglob("*") if p.is_file()] == []
    assert lab._ledger.trainings == {}


# Costs ----------------------------------------------------------------------------------------------------------------


def test_a_stage_costs_the_same_whether_computed_or_found(open_lab):
    ledgers = []
    for _ in range(2):
        lab = open_lab()
        trained = lab.train(lab.poisoned, what="teacher", name="teacher")
        lab.losses(trained, lab.poisoned)
        lab.train(lab.poisoned)  # the same training under another name: paid once in a cell
        ledgers.append(lab._ledger)
    one, two = ledgers
    assert one.stages == two.stages
    assert one.stages.keys() == {"teacher", "losses"}
    assert one.epochs == two.epochs == 2
    assert one.trainings == two.trainings == {"teacher": 1}
    assert (one.computed, two.computed) == ({"teacher": 1}, {})


def test_stages_within_a_stage_are_charged_once_and_also_to_those_who_find_the_outer(open_lab):
    def work(lab):
        def compute():
            time.sleep(0.05)
            return {"a": lab.losses(lab.train(lab.poisoned, loss=Slow()), lab.poisoned)}

        return lab.stage("mine", {"n": 1}, compute)["a"]

    one, two, three = open_lab(), open_lab(), open_lab()
    began = time.perf_counter()
    first = work(one)
    wall = time.perf_counter() - began
    assert np.array_equal(first, work(two))
    assert one._ledger.stages == two._ledger.stages
    assert one._ledger.stages.keys() == {"mine", "train", "losses"}
    assert one._ledger.stages["mine"] >= 0.05
    assert one._ledger.stages["train"] >= 0.08  # eight slow steps
    assert sum(one._ledger.stages.values()) <= one._ledger.inside <= wall  # so the outer leaves the inner ones out
    assert two._ledger.trainings == {"full": 1}
    assert two._ledger.computed == {}
    three.train(three.poisoned, loss=Slow())
    work(three)  # its parts were known before the whole
    assert three._ledger.stages == one._ledger.stages


def test_waiting_for_another_worker_is_told_and_not_charged(open_lab):
    events = []
    lab = open_lab(on_event=events.append)
    with_key = open_lab(where="elsewhere").train(tiny()).key
    held, go = threading.Event(), threading.Event()

    def hold():
        with Store(lab._store.root).lock(f"model-{with_key}"):
            held.set()
            go.wait(10)
            time.sleep(0.2)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(10)
    lab._on_event = lambda event: (events.append(event), go.set() if event["event"] == "waiting" else None)
    lab.train(lab.poisoned)
    other.join()
    assert [e["stage"] for e in events if e["event"] == "waiting"] == ["train"]
    assert lab._ledger.waited >= 0.2
    assert lab._ledger.inside >= lab._ledger.waited + lab._ledger.stages["train"]


def test_progress_names_the_stage(open_lab):
    events = []
    lab = open_lab(on_event=events.append)
    lab.train(lab.poisoned, name="teacher")
    told = [e for e in events if e["event"] == "progress"]
    assert {e["stage"] for e in told} == {"teacher"}
    assert [e["epoch"] for e in told if "loss" in e] == [1, 2]


# Free-form stages -----------------------------------------------------------------------------------------------------


def test_a_stage_is_found_again_only_by_the_same_plugin_on_the_same_data(open_lab):
    calls = []

    def work(name="mine", params=None, data=None, **given):
        lab = open_lab(data, owner=given.pop("owner", ["defenses", "x", 1, "source"]), **given)
        lab.stage(name, params or {"n": 1}, lambda: calls.append(1) or {"a": np.zeros(1)})
        return len(calls)

    assert work() == 1
    assert work() == 1
    others = [
        {"name": "yours"},
        {"params": {"n": 2}},
        {"data": tiny().subset(np.arange(60))},
        {"owner": ["defenses", "y", 1, "source"]},
        {"owner": ["defenses", "x", 2, "source"]},
        {"owner": ["defenses", "x", 1, "edited"]},
        {"seed": 1},
        {"model": "tiny-net(width=4)"},
        {"recipe": {"epochs": 9}},
    ]
    for number, other in enumerate(others, 2):
        assert work(**other) == number, other


# Pruning --------------------------------------------------------------------------------------------------------------


def test_pruning_silences_channels_and_leaves_weights(open_lab):
    lab = open_lab()
    trained = lab.train(lab.poisoned)
    pruned = lab.prune(trained, [5, 2, 5])
    assert pruned.key == lab.prune(trained, np.isin(np.arange(64), [2, 5])).key
    assert pruned.key != lab.prune(trained, [2]).key
    features, before = lab.features(pruned, lab.poisoned), lab.features(trained, lab.poisoned)
    assert not features[:, [2, 5]].any()
    assert before[:, [2, 5]].any()
    rest = np.delete(np.arange(64), [2, 5])
    assert np.array_equal(features[:, rest], before[:, rest])
    one, two = trained.module().state_dict(), pruned.module().state_dict()
    assert [k for k in one if not torch.equal(one[k], two[k])] == ["channel_mask"]
    assert lab.prune(trained, []) is trained
    assert lab._ledger.trainings == {"full": 1}
    tuned = lab.train(lab.poisoned, start=pruned, epochs=1)
    assert not lab.features(tuned, lab.poisoned)[:, [2, 5]].any()


# What may not be asked for --------------------------------------------------------------------------------------------

WRONG = {
    "nothing to train on": lambda lab, t: lab.train(lab.poisoned.subset([])),
    "unknown entry": lambda lab, t: lab.train(lab.poisoned, epoch=3),
    "entry of another type": lambda lab, t: lab.train(lab.poisoned, epochs="three"),
    "impossible entry": lambda lab, t: lab.train(lab.poisoned, epochs=-1),
    "unknown kind": lambda lab, t: lab.train(lab.poisoned, what="student"),
    "unknown model": lambda lab, t: lab.train(lab.poisoned, model="resnet-1000"),
    "weights of another length": lambda lab, t: lab.train(lab.poisoned, weights=np.ones(63)),
    "start of another model": lambda lab, t: lab.train(lab.poisoned, start=t, model="tiny-net(width=4)"),
    "channel out of range": lambda lab, t: lab.prune(t, [64]),
    "channel mask too short": lambda lab, t: lab.prune(t, np.ones(3, bool)),
    "scores of another length": lambda lab, t: lab.suspect(np.zeros(63)),
    "flagged out of range": lambda lab, t: lab.suspect(np.zeros(64), [64]),
    "flagged negative": lambda lab, t: lab.suspect(np.zeros(64), [-1]),
    "flagged mask too long": lambda lab, t: lab.suspect(np.zeros(64), np.ones(65, bool)),
    "flagged as 0 and 1": lambda lab, t: lab.suspect(np.zeros(64), np.zeros(64, int)),
    "flagged as floats": lambda lab, t: lab.suspect(np.zeros(64), np.zeros(64)),
    "losses of another length": lambda lab, t: lab.suspect(np.zeros(64), None, np.zeros(63)),
    "traced channel out of range": lambda lab, t: lab.trace("x", t, [64]),
    "more traced than may be": lambda lab, t: [lab.trace("x", t) for _ in range(stages.MOST_TRACED + 1)],
    "note of arrays": lambda lab, t: lab.note("x", np.zeros(3)),
    "stage of arrays": lambda lab, t: lab.stage("x", {"a": np.zeros(3)}, dict),
    "stage of objects": lambda lab, t: lab.stage("x", {}, lambda: {"a": np.array([None])}),
    "clean images": lambda lab, t: lab.clean,
    "truth": lambda lab, t: lab.truth,
    "another's flags": lambda lab, t: lab.flagged_by("tiny-filter"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_makes_no_sense_is_refused_in_one_line(open_lab, name):
    lab = open_lab()
    trained = lab.train(lab.poisoned, epochs=0)
    with pytest.raises(UsageError) as caught:
        WRONG[name](lab, trained)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) > 20


def test_numbers_that_are_not_finite_end_as_diverged(open_lab, fits):
    lab = open_lab()
    with pytest.raises(Diverged, match="1 of 64 weights"):
        lab.train(lab.poisoned, weights=np.r_[np.ones(63), np.nan])
    with pytest.raises(Diverged, match="2 of 64 scores"):
        lab.suspect(np.r_[np.ones(62), np.nan, np.inf])
    assert fits == []
    assert lab.suspicion is None


def test_suspicion_is_kept_as_scores_and_a_mask(open_lab):
    lab = open_lab()
    scores = np.arange(64, dtype=np.float32)
    for flagged in ([3, 60], torch.tensor([60, 3]), np.isin(np.arange(64), [3, 60])):
        lab.suspect(torch.from_numpy(scores), flagged)
        assert np.flatnonzero(lab.suspicion.flagged).tolist() == [3, 60]
    lab.suspect(scores)
    assert lab.suspicion.flagged is None
    scores[:] = 0  # the lab keeps its own
    assert lab.suspicion.scores[5] == 5
    lab.suspect(scores, [])
    assert not lab.suspicion.flagged.any()


def test_the_last_losses_of_the_whole_set_stand_beside_a_suspicion(open_lab):
    lab = open_lab()
    one, two = (lab.train(lab.poisoned, epochs=0, repeat=r) for r in (0, 1))
    lab.suspect(np.zeros(64))
    assert lab.suspicion.losses is None
    lab.losses(one, lab.poisoned)
    second = lab.losses(two, lab.poisoned)
    lab.losses(one, lab.poisoned.subset(np.arange(63)))
    want = second.astype(np.float64)
    second[:] = 0  # the lab keeps its own
    lab.suspect(np.zeros(64))
    assert np.array_equal(lab.suspicion.losses, want)
    lab.suspect(np.zeros(64), losses=torch.ones(64))
    assert lab.suspicion.losses.tolist() == [1.0] * 64


def test_traced_networks_are_kept_in_order_with_what_is_masked(open_lab):
    lab = open_lab()
    trained = lab.train(lab.poisoned, epochs=0, name="start", trace=True)
    lab.trace("pruned", trained, np.isin(np.arange(64), [7, 2]))
    lab.train(lab.poisoned, epochs=0, repeat=1)
    assert [(t.name, t.trained.key, t.channels.tolist()) for t in lab.traced] == [
        ("start", trained.key, []),
        ("pruned", trained.key, [2, 7]),
    ]
    assert lab._ledger.artifacts.keys() == {"start", "train"}  # tracing is no stage


def test_notes_are_kept_as_they_were(open_lab):
    lab = open_lab()
    curve = [1, 2]
    lab.note("curve", {"x": curve, "pair": (1, 2)})
    curve.append(3)
    assert lab.notes == {"curve": {"x": [1, 2], "pair": [1, 2]}}


def test_flags_of_another_defense_are_counted_without_its_student(open_lab, fits):
    lab = open_lab(truth=np.zeros(64, bool))
    assert lab.flagged_by("tiny-filter(fraction=0.25)") == 16
    assert [call["loss"] for call in fits] == [None]  # the probe alone
    assert lab._ledger.trainings == {"teacher": 1}
    assert lab.suspicion is None
    named = open_lab()
    registry.make("defenses", "tiny-filter", fraction=0.25).train(named)
    assert named.suspicion.flagged.sum() == 16
    assert len(fits) == 2
    with pytest.raises(UsageError, match="flags no samples"):
        lab.flagged_by("none")
    with pytest.raises(UsageError, match="needs clean images"):
        lab.flagged_by("fine-pruning")
    with pytest.raises(BenchbdError, match="did you mean"):
        lab.flagged_by("tiny-filtre")


def test_seeds_of_purposes_differ_and_are_stable(open_lab):
    assert open_lab().seed_for("a") == open_lab().seed_for("a")
    assert len({open_lab(seed=s).seed_for(p) for s in range(3) for p in "abc"}) == 9
