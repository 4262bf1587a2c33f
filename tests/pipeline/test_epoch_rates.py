"""CA, ASR and RA by epoch: the numbers are right, nothing else changes, and the defense cannot see them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchbd import engine, testing
from benchbd.errors import RunStopped
from benchbd.pipeline import run_cell
from benchbd.pipeline.epoch_rates import KIND
from benchbd.pipeline.poison import Poisoner
from benchbd.pipeline.run_cell import execute
from benchbd.plan import matrix
from benchbd.plan.cell import Cell, identity
from benchbd.plan.probe import Probe, wanted_epochs
from benchbd.plugins import registry
from benchbd.storage import record_schema
from benchbd.storage.artifacts import Store
from benchbd.storage.record_schema import by_epoch

DATA = "tiny(train=60,test=40,size=16)"
EPOCHS = 3
EVERY = {"losses": False, "rates": True}
ENDINGS = """
    import dataclasses
    import gc
    import weakref
    import torch
    import torch.nn.functional as F
    from benchbd import Patch, TestTransform

    @dataclasses.dataclass(frozen=True)
    class Plain:
        def epoch(self, loop):
            for rows in loop.batches():
                loop.step(F.cross_entropy(loop.net(loop.views(rows)), loop.labels[rows[:, 0]]))

    EPOCHS = []

    @dataclasses.dataclass(frozen=True)
    class Once(Plain):
        def epoch(self, loop):
            EPOCHS.append(None)
            if len(EPOCHS) > 3:
                raise RuntimeError("used up")
            super().epoch(loop)

    @defense("ending", version=1)
    class Ending(Defense):
        \"\"\"Ends in one of several ways.\"\"\"
        how: str = "loop"
        other_architecture = True
        test_transform = True
        def train(self, lab):
            part = lab.poisoned.subset(range(40))
            if self.how == "stamped":
                stamp = Patch(0, 0, 8, 8, (0.5, 0.5, 0.5))
                return lab.with_test_transform(lab.train(lab.poisoned), TestTransform(stamp=stamp))
            if self.how == "two":
                lab.train(part, name="first")
                return lab.train(lab.poisoned, repeat=1)
            if self.how == "once":
                return lab.train(part, kind="teacher", name="teacher", training_loop=Once())
            if self.how == "adopted":
                return lab.adopt(lab.train(part).module().state_dict())
            if self.how == "packed":
                return lab.train_packed(part, repeats=[0, 1], model="resnet-s")[0]
            if self.how == "pruned":
                return lab.prune(lab.train(part), [0, 1])
            if self.how == "teacher":
                return lab.train(part, kind="teacher", name="teacher")
            if self.how == "dropped":
                images = weakref.ref(part.images)
                model = lab.train(part, kind="teacher", name="teacher")
                del part
                gc.collect()
                if images() is not None:
                    raise RuntimeError("the lab holds the images of a subset")
                return model
            if self.how == "fails":
                lab.train(part)
                torch.set_default_dtype(torch.float64)
                raise RuntimeError("no more")
            if self.how == "tuned":
                return lab.train(part, kind="fine-tune", start=lab.train(lab.poisoned), epochs=2)
            return lab.train(part, training_loop=Plain())
"""


@pytest.fixture(autouse=True)
def _ending(plugin_file: Callable[..., Path]) -> None:
    registry.add_plugin_file(str(plugin_file(ENDINGS, "ending.py")))


def cell(probe: dict[str, Any] | None = EVERY, defense: str = "none", **recipe: Any) -> Cell:
    quick = {"epochs": EPOCHS, "schedule": "constant", "batch_size": 10, "lr": 0.02}  # rates change by epoch
    given = {"dataset": DATA, "attack": "tiny-patch", **quick, **recipe}
    made = testing.cell(defense=defense, **given)
    spec = None if probe is None else Probe.parse(probe, made.recipe["epochs"]).spec()
    return dataclasses.replace(made, probe=spec)


def run(this: Cell, folder: Path, **given: Any) -> dict[str, Any]:
    record = execute(this.to_json(), output=folder, device="cpu", **given)
    assert record["status"] == "done", record["error"]
    found: dict[str, Any] = json.loads((folder / "records" / f"{this.id}.json").read_text())
    assert record_schema.fault(found, identity) is None
    return found


def rates(record: dict[str, Any], training: str = "model") -> dict[str, Any]:
    found: dict[str, Any] = record["notes"]["rates_by_epoch"][training]
    return found


def kept_weights(folder: Path) -> list[Path]:
    """Artifacts of probes that are not measured rates."""
    metas = (folder / "store" / KIND).rglob("meta.json")
    return [path for path in metas if "rates" not in json.loads(path.read_text())["facts"]]


def stored(folder: Path, kind: str = "model") -> dict[str, bytes]:
    return {p.parent.name: p.read_bytes() for p in (folder / "store" / kind).rglob("arrays.safetensors")}


def measured_plainly(this: Cell, folder: Path) -> tuple[float, float, float]:
    """CA, ASR and RA of the one model in a store, in plain torch."""
    made, store = this.components(), Store(folder / "store")
    poisoner = Poisoner(this, made, store, torch.device("cpu"), lambda event: None, None)
    clean, info = poisoner.train_set()
    poison = poisoner.poison(clean, info)
    test = made.dataset.load("test", None)
    images, labels = poisoner.triggered(test, info, poison)
    (key,) = stored(folder)
    net = engine.build(made.model, info.classes, info.size, made.dataset.normalisation, 0)
    net.load_state_dict({k: torch.from_numpy(v) for k, v in store.get("model", key).arrays.items()})
    with torch.inference_mode():
        clean_ones, marked = (net.eval()(each.float() / 255).argmax(1) for each in (test.images, images))
    target = made.attack.resolved_target(info)
    means = ((clean_ones == test.labels), (marked == target), (marked == labels))
    return tuple(float(mean.double().mean()) for mean in means)


@pytest.mark.parametrize("recipe", [{}, {"ema": 0.7}])
def test_rates_of_an_epoch_are_those_of_a_training_that_long(tmp_path: Path, recipe: dict[str, Any]) -> None:
    record = run(cell(**recipe), tmp_path / "a")
    told = rates(record)
    assert told["epochs"] == [1, 2, 3]
    for place, epochs in enumerate(told["epochs"]):
        made = cell(None, epochs=epochs, **recipe)
        run(made, tmp_path / f"{epochs}")
        found = measured_plainly(made, tmp_path / f"{epochs}")
        assert (told["ca"][place], told["asr"][place], told["ra"][place]) == pytest.approx(found, abs=1e-9)
    assert len({*zip(told["ca"], told["asr"], told["ra"], strict=True)}) == EPOCHS  # so that they can be told apart
    assert [told[name][-1] for name in ("ca", "asr", "ra")] == [record[name] for name in ("ca", "asr", "ra")]
    assert rates(record, "undefended") == told


def test_without_an_attack_there_is_ca_alone(tmp_path: Path) -> None:
    record = run(dataclasses.replace(cell(), attack=testing.cell().attack), tmp_path)
    told = rates(record)
    assert all(0 <= ca <= 1 for ca in told["ca"])  # after one epoch, it may be 0
    assert told["ca"][-1] == record["ca"]
    assert len(told["ca"]) == EPOCHS
    assert told["asr"] == told["ra"] == [None] * EPOCHS


@pytest.mark.parametrize("defense", ["none", "tiny-filter", "ending", "ending(how='tuned')", "ending(how='pruned')"])
def test_nothing_else_changes(tmp_path: Path, defense: str) -> None:
    plain = run(cell(None, defense), tmp_path / "plain")
    probed = run(cell(EVERY, defense), tmp_path / "probed")
    before, after = stored(tmp_path / "plain"), stored(tmp_path / "probed")
    assert before.items() <= after.items()  # the undefended model may be one more
    for key in ("ca", "asr", "ra", "artifacts", "epochs_trained", "trainings", "detection"):
        assert plain[key] == probed[key], key
    assert plain["notes"].items() <= probed["notes"].items()
    epochs = 2 if "tuned" in defense else EPOCHS
    assert rates(probed)["epochs"] == [*range(1, epochs + 1)]
    assert rates(probed).get("pruned", False) == ("pruned" in defense)
    assert rates(probed, "undefended")["epochs"] == [1, 2, 3]
    if "pruned" not in defense:
        assert [rates(probed)[name][-1] for name in ("ca", "asr", "ra")] == [probed[n] for n in ("ca", "asr", "ra")]
    assert kept_weights(tmp_path / "probed") == []


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("packed", "the model was trained in a pack, which is not watched by epoch"),
        ("adopted", "no training of the lab made the model's weights"),
        ("once", "the training could not be repeated to be watched: RuntimeError: used up"),
    ],
)
def test_a_model_that_no_training_made_by_epoch_has_a_reason(tmp_path: Path, how: str, said: str) -> None:
    record = run(cell(EVERY, f"ending(how={how!r})"), tmp_path)
    assert rates(record) == {"no_rates": said}
    assert rates(record, "undefended")["epochs"] == [1, 2, 3]
    assert kept_weights(tmp_path) == []


@pytest.mark.parametrize("before", [None, "none"])
def test_the_undefended_training_is_measured_with_the_cells_transform_too(tmp_path: Path, before: str | None) -> None:
    if before is not None:  # this cell measures the training without a transform, then removes the weights
        run(cell(EVERY, before), tmp_path)
    record = run(cell(EVERY, "ending(how='stamped')"), tmp_path)
    with_it, without = rates(record), rates(record, "undefended")
    assert with_it["epochs"] == without["epochs"] == [1, 2, 3]
    assert with_it != without
    assert [with_it[name][-1] for name in ("ca", "asr", "ra")] == [record[name] for name in ("ca", "asr", "ra")]
    assert kept_weights(tmp_path) == []


def test_images_of_a_subset_do_not_stay_in_memory(tmp_path: Path) -> None:
    dropped = run(cell(EVERY, "ending(how='dropped')"), tmp_path / "one")
    held = run(cell(EVERY, "ending(how='teacher')"), tmp_path / "other")
    assert rates(dropped) == rates(held)
    assert len(rates(dropped)["epochs"]) == EPOCHS


def test_every_nth_epoch_and_the_last(tmp_path: Path) -> None:
    assert wanted_epochs(4, 10) == [4, 8, 10]
    assert wanted_epochs(5, 10) == [5, 10]
    assert wanted_epochs(20, 10) == [10]
    both = [run(cell({**EVERY, "rates": n}), tmp_path / f"{n}") for n in (1, 2)]
    all_of, some = (rates(record) for record in both)
    assert some == {name: [values[1], values[2]] for name, values in all_of.items()}


@pytest.mark.parametrize("how", ["loop", "teacher"])
def test_a_model_that_was_stored_unwatched_is_trained_once_more(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = run(cell(EVERY, f"ending(how={how!r})"), tmp_path / "fresh")
    run(cell(None, f"ending(how={how!r})"), tmp_path / "used")
    before = stored(tmp_path / "used")
    later = run(cell(EVERY, f"ending(how={how!r})"), tmp_path / "used")
    assert rates(later) == rates(fresh)
    assert rates(later)["epochs"] == [1, 2, 3]
    assert before.items() <= stored(tmp_path / "used").items()
    assert later["trainings"] == fresh["trainings"]
    assert list((tmp_path / "used" / "store" / "checkpoint").rglob("meta.json")) == []
    for name in ("fit", "fit_with_loop"):
        monkeypatch.setattr(engine, name, lambda *args, **kwargs: pytest.fail("trained again"))
    assert rates(run(cell(EVERY, f"ending(how={how!r})"), tmp_path / "used")) == rates(fresh)
    run(cell(), tmp_path / "used")  # another defense of the row


def test_a_killed_training_leaves_no_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchbd.storage.checkpoint.Checkpoint.due", lambda self: True)
    this = cell(EVERY, "tiny-filter")
    whole = run(this, tmp_path / "whole")

    class Killed(RunStopped):
        pass

    def kill(event: dict[str, Any]) -> None:
        defends = event.get("stage") not in ("probe", "poison")
        if defends and event.get("event") == "progress" and event.get("epoch") == 2 and "loss" in event:
            raise Killed

    with pytest.raises(Killed):
        execute(this.to_json(), output=tmp_path / "out", device="cpu", on_event=kill)
    assert list((tmp_path / "out" / "store" / "checkpoint").rglob("meta.json"))
    real, calls = engine.fit, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(engine, "fit", counted)
    resumed = run(this, tmp_path / "out")
    assert resumed["notes"]["rates_by_epoch"] == whole["notes"]["rates_by_epoch"]
    assert len(calls) == 1  # the epochs before the kill were kept, so nothing is repeated
    assert kept_weights(tmp_path / "out") == []


def test_a_killed_run_leaves_no_weights_of_trainings_on_the_way(tmp_path: Path) -> None:
    class Killed(RunStopped):
        pass

    def kill(event: dict[str, Any]) -> None:
        if event.get("event") == "stage" and event.get("stage") == "train" and kept_weights(tmp_path):
            raise Killed

    this = cell(EVERY, "ending(how='two')")
    with pytest.raises(Killed):
        execute(this.to_json(), output=tmp_path, device="cpu", on_event=kill)
    assert kept_weights(tmp_path)
    run(this, tmp_path)
    assert kept_weights(tmp_path) == []


def test_a_failed_defense_leaves_no_weights_and_the_row_its_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = run(cell(), tmp_path / "fresh")
    try:
        failed = execute(cell(EVERY, "ending(how='fails')").to_json(), output=tmp_path, device="cpu")
    finally:
        torch.set_default_dtype(torch.float32)  # the defense had changed it, and the rates are right all the same
    assert (failed["status"], failed["error"]) == ("failed", "RuntimeError: no more")
    assert kept_weights(tmp_path) == []
    monkeypatch.setattr(engine, "fit", lambda *args, **kwargs: pytest.fail("trained again"))
    assert rates(run(cell(), tmp_path)) == rates(fresh)


def test_a_diverged_undefended_training_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = execute(cell(optimizer="sgd", lr=1e30).to_json(), output=tmp_path, device="cpu")
    assert record["status"] == "diverged"
    assert kept_weights(tmp_path) == []


def test_keeping_and_measuring_are_not_charged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    real = run_cell.ShownImages.accuracy
    put = Store.put

    def slow_put(self: Store, kind: str, *args: Any) -> str:
        time.sleep(0.3 * (kind == KIND))
        return put(self, kind, *args)

    def slow(self: Any, device: Any) -> Any:
        measure = real(self, device)
        return lambda model: (time.sleep(0.3), measure(model))[1]

    monkeypatch.setattr(Store, "put", slow_put)
    monkeypatch.setattr(run_cell.ShownImages, "accuracy", slow)
    run(cell(), tmp_path)  # the undefended training is measured
    spent = run(cell(EVERY, "ending(how='tuned')"), tmp_path)["time"]
    # Of the fine-tuning: one epoch kept, two measured, one artifact of rates. The charged time has none of it.
    assert spent["stages_not_charged"]["probe"] >= 0.3 * 4
    assert spent["total"] <= spent["own"] - 0.3 * 4
    assert spent["total"] == pytest.approx(sum(spent["stages"].values()))


# The defense cannot see it


def test_a_lab_gives_neither_weights_nor_rates(tmp_path: Path, plugin_file: Callable[..., Path]) -> None:
    path = plugin_file(
        """
        from pathlib import Path

        @defense("nosy-rates", version=1)
        class NosyRates(Defense):
            \"\"\"Asks all that it holds for the artifacts of a probe.\"\"\"
            kept: str = ""
            def train(self, lab):
                trained = lab.train(lab.poisoned)
                said = set()
                for key in Path(self.kept).read_text().split():
                    for look in (lab._store.get, lab._store.drop):
                        try:
                            look("probe", key)
                        except Exception as error:
                            said.add(str(error))
                        else:
                            raise AssertionError("the probe was given away")
                lab.note("refused", sorted(said))
                lab.note("keeper", [name for name in dir(lab._keep) if not name.startswith("__")])
                lab.note("gave", str(lab._keep(trained.key, 1, {})))
                return lab.train(lab.poisoned.subset(range(40)))
        """,
        "nosy_rates.py",
    )
    registry.add_plugin_file(str(path))
    run(cell(), tmp_path / "out")
    keys = [p.parent.name for p in (tmp_path / "out" / "store" / KIND).rglob("meta.json")]
    assert keys
    (tmp_path / "keys").write_text("\n".join(keys))
    notes = run(cell(EVERY, f"nosy-rates(kept={str(tmp_path / 'keys')!r})"), tmp_path / "out")["notes"]
    assert notes["refused"] == ["store: artifacts of kind 'probe' are out of bounds here"]
    assert notes["keeper"] == ["_number"]
    assert notes["gave"] == "None"


# In matrices and records


def test_old_probes_keep_their_identity_and_true_is_one() -> None:
    assert Probe.parse({"features": 2}, 3).spec() == {"losses": True, "features": 2, "samples": 2000}
    whole = {"dataset": "digits", "model": "lenet", "attacks": "bn-g", "defenses": "none", "recipe": {"epochs": 15}}
    plans = [matrix.resolve({**whole, "probe": {"rates": value}}, "m") for value in (True, 1, 5, False)]
    true, one, five, off = (plan.cells[0] for plan in plans)
    assert true.id == one.id != five.id
    assert (true.probe or {})["rates"] == 1
    assert off.id == matrix.resolve({**whole, "probe": {"losses": True}}, "m").cells[0].id
    set_ = matrix.resolve(whole, "m", sets=["probe.rates=5", "probe.losses=true"])
    assert set_.cells[0].id == five.id
    assert Cell.from_json(json.loads(json.dumps(five.to_json()))).id == five.id


@pytest.mark.parametrize(
    "broken",
    [
        {"epochs": [1, 2], "ca": [0.5], "asr": [None, None], "ra": [None, None]},
        {"epochs": [2, 1], "ca": [0.5, 0.5], "asr": [None, None], "ra": [None, None]},
        {"epochs": [0], "ca": [0.5], "asr": [None], "ra": [None]},
        {"epochs": [1], "ca": [1.5], "asr": [None], "ra": [None]},
        {"epochs": [1], "ca": [0.5], "asr": [None]},
        {"no_rates": 3},
        [],
    ],
)
def test_the_schema_knows_the_field(broken: Any) -> None:
    from benchbd.storage import records

    this = cell()
    record = records.blank(this, "done") | {"ca": 0.5, "notes": {"rates_by_epoch": {"model": broken}}}
    fault = record_schema.fault(record, identity) or ""
    assert fault.startswith("notes.rates_by_epoch must hold epochs and as many fractions of each metric, or no_rates")
    assert by_epoch(record, "model") == {}
    for other, status in ((cell(None), "done"), (this, "failed")):  # a defense's own note of this name
        record = records.blank(other, status) | {"ca": 0.5, "notes": {"rates_by_epoch": {"model": broken}}}
        assert record_schema.fault(record, identity) is None
