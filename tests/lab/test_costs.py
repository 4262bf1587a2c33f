"""What stages cost is charged once to all who use them, waiting is not, and progress is told."""

from __future__ import annotations

import threading
import time

import numpy as np
from lab_inputs import Slow, tiny

from benchbd.storage.artifacts import Store


def test_a_stage_costs_the_same_whether_computed_or_found(open_lab):
    ledgers = []
    for _ in range(2):
        lab = open_lab()
        trained = lab.train(lab.poisoned, kind="teacher", name="teacher")
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
