"""A defense cannot reach the truth, the test set or the trigger: a spy that searches all it is handed finds nothing."""

from __future__ import annotations

import dataclasses
import gc
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchbd import testing
from benchbd.errors import UsageError
from benchbd.pipeline import run_cell as module
from benchbd.pipeline.poison import Poisoner, apply
from benchbd.pipeline.run_cell import _clean_part, execute
from benchbd.plan.probe import Probe
from benchbd.plugins import registry
from benchbd.storage.artifacts import Store

DATA = "tiny(train=120,test=40,size=16)"


@pytest.fixture(autouse=True)
def _spies(zoo):
    zoo("spies")
    zoo("watched")


def write_secrets(path: Path, attack: str, scratch: Path) -> None:
    """Fingerprints of all that must not be found. The arrays themselves are gone when this returns."""
    spy = registry.load("defenses", "spy").train.__globals__
    whole, singly = spy["whole"], spy["singly"]
    this = testing.cell(dataset=DATA, attack=attack, defense="spy-clean")
    made = this.components()
    poisoner = Poisoner(this, made, Store(scratch), torch.device("cpu"), lambda event: None, None)
    clean, info = poisoner.train_set()
    poison = poisoner.poison(clean, info)
    poisoned = apply(clean, poison)
    test = made.dataset.load("test", None)
    triggered, left = poisoner.triggered(test, info, poison)
    truth = poison.truth(len(clean))
    part = _clean_part(clean, poison, made, 0)
    labels = [clean.labels.numpy(), clean.labels.numpy()[poison.indices], test.labels.numpy(), left.numpy()]
    assert (clean.labels != poisoned.labels).any()
    secrets = {
        "size": info.size,
        "count": len(clean),
        "whole": {
            "mask": [whole(truth), whole(~truth), whole(np.flatnonzero(truth)), whole(np.flatnonzero(~truth))],
            "labels": [whole(v) for v in labels],
            "trigger": [whole(v) for v in poison.trigger.values()],
            "clean part": [whole(part.images.numpy()), whole(part.labels.numpy())],
        },
        "images": {
            "test images": sorted(singly(test.images.numpy())),
            "triggered images": sorted(singly(triggered.numpy())),
            "originals of poison": sorted(singly(clean.images.numpy()[poison.indices])),
        },
        "words": [attack.partition("(")[0], poison.key, "trigger_seed"],
    }
    assert not singly(poisoned.images.numpy()) & {m for marks in secrets["images"].values() for m in marks}
    path.write_text(json.dumps(secrets))


@pytest.fixture
def spy(tmp_path):
    """Run a spy: ``spy("spy-clean", everywhere=True)`` and return its notes."""

    def run(name: str, *, attack: str = "watch-drawn", everywhere: bool = False, on_event=None, probe=None) -> dict:
        path = tmp_path / "secrets.json"
        write_secrets(path, attack, tmp_path / "scratch")
        gc.collect()
        defense = f"{name}(secrets={str(path)!r}, everywhere={everywhere})"
        this = dataclasses.replace(testing.cell(dataset=DATA, attack=attack, defense=defense), probe=probe)
        record = execute(this.to_json(), output=tmp_path / "out", device="cpu", on_event=on_event)
        assert record["status"] == "done", record["error"]
        assert record["notes"]["reach"]["arrays"] > 10
        assert record["notes"]["reach"]["stores"] >= 1
        return record["notes"]

    return run


class Executor:
    """What listens to a cell's events knows the cell, as a worker does."""

    def __init__(self, attack: str) -> None:
        self.order = {"attack": attack, "trigger_seed": 0}
        self.poison = None

    def hear(self, event: dict) -> None:
        self.last = event


@pytest.mark.parametrize("attack", ["watch-drawn", "watch-chosen", "watch-dirty"])
def test_a_defense_without_needs_finds_nothing(spy, attack):
    notes = spy("spy", attack=attack, on_event=Executor(attack).hear)
    assert notes["reach"]["found"] == []
    assert notes["words"] == []  # not even which attack it is


def test_a_probe_of_rates_hides_nothing_where_a_defense_can_look(spy):
    probe = Probe(losses=True, rates=True).spec()
    notes = spy("spy", everywhere=True, probe=probe)
    assert notes["rates_by_epoch"]["model"]["epochs"]
    assert notes["reach"]["found"] == notes["words"] == notes["memory"]["found"] == []


def test_clean_images_are_found_by_those_who_declare_them_and_nothing_else(spy):
    """Not even the clean originals of poisoned images, which would give the trigger away."""
    assert spy("spy-clean")["reach"]["found"] == ["clean part"]


def test_the_truth_is_found_by_controls_and_nothing_else(spy):
    assert spy("spy-truth")["reach"]["found"] == ["mask"]


@pytest.mark.parametrize(("name", "found"), [("spy", []), ("spy-truth", ["mask"]), ("spy-clean", ["clean part"])])
def test_nothing_of_it_is_in_memory_while_a_defense_runs(spy, name, found):
    in_bf16 = torch.ones(3, dtype=torch.bfloat16)  # as a training on a CPU with bf16 units leaves them behind
    notes = spy(name, everywhere=True)
    assert in_bf16.sum() == 3  # it lived until here
    assert notes["memory"]["knows the poisoned set"]  # so the search sees what is there
    assert notes["memory"]["found"] == found


def test_needs_that_are_not_declared_are_refused_with_what_to_say(tmp_path, plugin_file):
    for need in ("clean", "truth"):
        path = plugin_file(
            f"""
            @defense("greedy-{need}", version=1)
            class Greedy(Defense):
                \"\"\"Takes what it did not declare.\"\"\"
                def train(self, lab):
                    return lab.train(lab.poisoned.subset(lab.{need}))
            """,
            f"greedy_{need}.py",
        )
        registry.add_plugin_file(str(path))
        this = testing.cell(dataset=DATA, attack="watch-dirty", defense=f"greedy-{need}")
        record = execute(this.to_json(), output=tmp_path, device="cpu")
        assert record["status"] == "failed"
        assert f'needs = ("{need}",)' in record["error"]


# The spy itself: a search that finds nothing must be one that would have found something. -----------------------------


class Leaky:
    """Hides an array in one of many ways."""

    __slots__ = ("_slot",)


def _closure(secret):
    return lambda: secret


def _default(secret):
    def inner(a=secret):
        return a

    return inner


def _slot(secret):
    leaky = Leaky()
    leaky._slot = secret
    return leaky


def _bound(secret):
    holder = Executor("x")
    holder.poison = secret
    return holder.hear


HIDES = {
    "note": lambda secret: secret,
    "float copy": lambda secret: secret.astype(np.float32),
    "tensor": torch.from_numpy,
    "list": lambda secret: {"deep": [(secret.tolist(),)]},
    "set": lambda secret: {"deep": frozenset(np.flatnonzero(secret).tolist())},
    "closure": _closure,
    "default": _default,
    "slot": _slot,
    "bound method": _bound,
    "view": lambda secret: np.r_[secret, secret][: len(secret)],
}


@pytest.mark.parametrize("how", HIDES)
def test_the_spy_finds_what_is_hidden(how):
    spy = registry.load("defenses", "spy").train.__globals__
    mask = np.arange(120) % 9 == 0
    marks = [spy["whole"](v) for v in (mask, np.flatnonzero(mask))]
    search = spy["Search"]({"size": 16, "count": 120, "whole": {"mask": marks}, "images": {}, "words": []})
    holder = Executor("x")
    search.walk([holder, np.arange(120)])
    assert search.found == set()
    holder.poison = HIDES[how](mask)
    search = spy["Search"](search.secrets)
    search.walk([holder, np.arange(120)])
    assert search.found == {"mask"}


LEAKS = {
    "test images": lambda poisoner, clean, poison: poisoner.components.dataset.load("test", None),
    "triggered images": lambda poisoner, clean, poison: poisoner.triggered(
        poisoner.components.dataset.load("test", None), poisoner.components.dataset.info(), poison
    )[0],
    "originals of poison": lambda poisoner, clean, poison: clean.images.float() / 255,
    "labels": lambda poisoner, clean, poison: clean,
    "trigger": lambda poisoner, clean, poison: poison,
}


@pytest.mark.parametrize("what", LEAKS)
def test_the_spy_knows_each_secret_when_it_sees_it(spy, monkeypatch, what):
    real = module._open_lab

    def leaking(cell, made, poisoner, *more):
        lab = real(cell, made, poisoner, *more)
        clean, info = poisoner.train_set()
        lab.hidden = LEAKS[what](poisoner, clean, poisoner.poison(clean, info))
        return lab

    monkeypatch.setattr(module, "_open_lab", leaking)
    assert what in spy("spy")["reach"]["found"]


def test_the_spy_finds_the_poison_through_a_store_and_its_key(spy, monkeypatch):
    """Which is why the lab's store gives no poison, and the set's key is not the poison's."""
    real = module._open_lab

    def leaking(cell, made, poisoner, *more):
        lab = real(cell, made, poisoner, *more)
        lab._store = poisoner.store
        clean, info = poisoner.train_set()
        lab.hidden = f"the key is {poisoner.poison(clean, info).key}"
        return lab

    with monkeypatch.context() as patch:
        patch.setattr(module, "_open_lab", leaking)
        assert "mask" in spy("spy")["reach"]["found"]


PATHS = {
    "path": lambda root: root,
    "path of an artifact": lambda root: next((root / "array").glob("*/*/meta.json")),
    "results folder": lambda root: root.parent,
    "text": lambda root: {"said": [f"artifact {root}/model/ab is damaged"]},
    "store": lambda root: Store(root, kinds=("model", "array", "checkpoint")),
}


@pytest.mark.parametrize("how", PATHS)
def test_the_spy_finds_the_poison_through_the_way_to_its_folder(spy, monkeypatch, how):
    """Which is why the lab has none: another store can be opened wherever a path leads."""
    real = module._open_lab

    def leaking(cell, made, poisoner, *more):
        lab = real(cell, made, poisoner, *more)
        lab.losses(lab.train(lab.poisoned, epochs=0), lab.poisoned)
        lab.hidden = PATHS[how](poisoner.store.root)
        return lab

    monkeypatch.setattr(module, "_open_lab", leaking)
    assert {"mask", "trigger"} <= set(spy("spy")["reach"]["found"])


def test_the_spy_finds_what_stays_in_memory(spy, monkeypatch):
    real, kept = module._open_lab, []

    def keeping(cell, made, poisoner, *more):
        clean, info = poisoner.train_set()
        kept.append({"mine": poisoner.poison(clean, info)})
        return real(cell, made, poisoner, *more)

    monkeypatch.setattr(module, "_open_lab", keeping)
    assert {"mask", "trigger"} & set(spy("spy", everywhere=True)["memory"]["found"])


@pytest.mark.parametrize("kind", ["poison", "trigger", "triggered"])
def test_the_labs_shelf_gives_no_poison_and_nothing_once_the_cell_is_over(tmp_path, monkeypatch, kind):
    real, seen = module._open_lab, []

    def watching(*given):
        lab = real(*given)
        with pytest.raises(UsageError, match="out of bounds"):
            lab._store.get(kind, "ab" * 32)
        assert lab._store.get("model", "ab" * 32) is None
        seen.append(lab._store)
        return lab

    monkeypatch.setattr(module, "_open_lab", watching)
    this = testing.cell(dataset=DATA, attack="watch-drawn", epochs=0)
    record = execute(this.to_json(), output=tmp_path, device="cpu")
    assert record["status"] == "done", record["error"]
    assert not isinstance(seen[0], Store)
    with pytest.raises(KeyError):
        seen[0].get("model", "ab" * 32)
