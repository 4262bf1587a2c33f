"""The evaluator's probe: what it tells is right, the defense cannot see it, and the training is none the wiser."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchbd import engine, testing
from benchbd.errors import RunStopped, UsageError
from benchbd.lab.stages import STAGE_KINDS, Stages
from benchbd.pipeline.probe_training import KIND, Watched
from benchbd.pipeline.run_cell import execute
from benchbd.plan import matrix, shipped
from benchbd.plan.cell import Cell, identity
from benchbd.plan.probe import Probe
from benchbd.plugins import registry
from benchbd.report.groups import group_records
from benchbd.report.probes import SCORED_EPOCH, points

DATA = "tiny(train=120,test=40,size=16)"
EPOCHS = 3
ASKED = {"losses": True, "features": 2, "samples": 60}


def cell(probe: dict | None = ASKED, defense: str = "none", **recipe) -> Cell:
    given = {"dataset": DATA, "attack": "tiny-patch", "epochs": EPOCHS, "schedule": "constant", **recipe}
    made = testing.cell(defense=defense, **given)
    spec = None if probe is None else Probe.parse(probe, made.recipe["epochs"]).spec()
    return dataclasses.replace(made, probe=spec)


def run(this: Cell, folder: Path, **given) -> dict:
    record = execute(this.to_json(), output=folder, device="cpu", **given)
    assert record["status"] == "done", record["error"]
    return json.loads((folder / "records" / f"{this.id}.json").read_text())


def weights(folder: Path) -> dict[str, bytes]:
    return {p.parent.name: p.read_bytes() for p in (folder / "store" / "model").rglob("arrays.safetensors")}


# What it tells


@pytest.mark.learning
def test_losses_by_epoch_are_those_of_trainings_that_long(tmp_path):
    """An independent way to the same numbers: train for e epochs, evaluate, and average with the truth in hand."""
    told = run(cell(), tmp_path / "a")["notes"]["probe"]
    assert told["epochs"] == [1, 2, 3]
    for epoch in told["epochs"]:
        made = cell(None, epochs=epoch)
        run(made, tmp_path / f"{epoch}")
        losses, truth, labels = truth_of(made, tmp_path / f"{epoch}")
        of_target = ~truth & (labels == labels[truth][0])
        assert told["clean_target_count"] == of_target.sum() < (~truth).sum()
        assert told["poison_mean"][epoch - 1] == pytest.approx(losses[truth].mean(), rel=1e-4)
        for name, chosen in (("clean_mean", ~truth), ("clean_target_mean", of_target)):
            mean = losses[chosen].mean()
            assert told[name][epoch - 1] == pytest.approx(mean, rel=1e-4)
            assert told[f"poison_over_{name}"][epoch - 1] == (losses[truth] > mean).sum()


def truth_of(this: Cell, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cross-entropies of all samples under a cell's model, which of them are poisoned, and their labels."""
    from benchbd.pipeline.poison import Poisoner, apply
    from benchbd.storage.artifacts import Store

    made, store = this.components(), Store(folder / "store")
    poisoner = Poisoner(this, made, store, torch.device("cpu"), lambda event: None, None)
    clean, info = poisoner.train_set()
    poison = poisoner.poison(clean, info)
    data, truth = apply(clean, poison), np.zeros(len(clean), bool)
    truth[poison.indices] = True
    (key,) = weights(folder)
    net = engine.build(made.model, info.classes, info.size, made.dataset.normalisation, 0)
    net.load_state_dict({k: torch.from_numpy(v) for k, v in store.get("model", key).arrays.items()})
    with torch.inference_mode():
        logits = net.eval()(data.images.float() / 255)
        losses = torch.nn.functional.cross_entropy(logits, data.labels, reduction="none").double().numpy()
    return losses, truth, data.labels.numpy()


def test_features_are_placed_in_the_plane_beside_their_labels_and_the_truth(tmp_path):
    record = run(cell({"losses": False, "features": 2, "samples": 60}), tmp_path)
    note = record["notes"]["tsne"]
    assert note["epoch"] == 2
    assert len(note["xy"]) == len(note["poison"]) == len(note["label"]) == 60
    assert all(len(pair) == 2 for pair in note["xy"])
    assert 0 < sum(note["poison"]) < 60
    assert {note["label"][i] for i in range(60) if note["poison"][i]} == {record["poison"]["target"]}
    assert "probe" not in record["notes"]


def test_where_features_have_no_embedding_the_record_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "features_of", lambda net, images, device: np.ones((len(images), 4), np.float32))
    record = run(cell({"losses": False, "features": 2, "samples": 60}), tmp_path)
    assert record["status"] == "done"
    assert record["notes"]["tsne"] == {"epoch": 2, "no_embedding": "features of all samples are equal"}
    assert points(group_records([record], {}, {}, {}).groups) == []


def test_a_clean_row_has_clean_losses_and_no_poisoned_ones(tmp_path):
    note = run(dataclasses.replace(cell(), attack=testing.cell().attack), tmp_path)["notes"]["probe"]
    assert all(note["clean_mean"])
    assert note["poison_mean"] == [None] * EPOCHS
    assert note["poison_over_clean_mean"] == [0] * EPOCHS


# The training is none the wiser


def test_weights_and_keys_are_the_same_with_and_without(tmp_path):
    plain, probed = run(cell(None), tmp_path / "plain"), run(cell(), tmp_path / "probed")
    assert weights(tmp_path / "plain") == weights(tmp_path / "probed")
    for key in ("ca", "asr", "ra", "artifacts", "epochs_trained", "trainings", "trainings_computed"):
        assert plain[key] == probed[key], key
    assert plain["notes"]["train_loss"] == probed["notes"]["train_loss"]


def test_its_cost_is_not_charged(tmp_path, monkeypatch):
    slow = engine.losses_of

    def sleepy(*args, **kwargs):
        import time

        time.sleep(0.5)
        return slow(*args, **kwargs)

    monkeypatch.setattr(engine, "losses_of", sleepy)
    time = run(cell(), tmp_path)["time"]
    assert time["stages_not_charged"]["probe"] >= 0.5 * EPOCHS
    # The training took the rest of the probe's time at most, so what was slept is charged to nobody.
    assert time["stages"]["train"] <= time["stages_not_charged"]["probe"] - 0.5 * EPOCHS


def test_a_training_that_was_stored_unwatched_is_watched_all_the_same(tmp_path):
    fresh = run(cell(), tmp_path / "fresh")["notes"]
    run(cell(None), tmp_path / "used")
    before = weights(tmp_path / "used")
    later = run(cell(), tmp_path / "used")["notes"]
    assert (later["probe"], later["tsne"]) == (fresh["probe"], fresh["tsne"])
    assert weights(tmp_path / "used") == before


def test_a_second_probe_of_a_watched_training_trains_nothing(tmp_path, monkeypatch):
    run(cell({"features": 2}), tmp_path)
    monkeypatch.setattr(engine, "fit", lambda *args, **kwargs: pytest.fail("trained again"))
    run(cell({"losses": True, "samples": 30}), tmp_path)


@pytest.mark.parametrize("watched_before", [True, False])
def test_a_killed_training_leaves_no_gap_in_the_curve(tmp_path, monkeypatch, watched_before):
    monkeypatch.setattr("benchbd.storage.checkpoint.Checkpoint.due", lambda self: True)
    whole = run(cell(), tmp_path / "whole")["notes"]

    class Killed(RunStopped):
        pass

    def kill(event):
        if event.get("event") == "progress" and event.get("epoch") == 2 and "loss" in event:
            raise Killed

    first = cell() if watched_before else cell(None)
    with pytest.raises(Killed):
        execute(first.to_json(), output=tmp_path / "out", device="cpu", on_event=kill)
    assert list((tmp_path / "out" / "store" / "checkpoint").rglob("meta.json"))
    notes = run(cell(), tmp_path / "out")["notes"]
    assert (notes["probe"], notes["tsne"]) == (whole["probe"], whole["tsne"])


def test_a_diverging_training_ends_as_it_would_without(tmp_path):
    given = {"optimizer": "sgd", "lr": 1e30}
    ends = [
        execute(cell(probe, **given).to_json(), output=tmp_path / name, device="cpu")
        for name, probe in (("plain", None), ("probed", ASKED))
    ]
    assert [end["status"] for end in ends] == ["diverged"] * 2
    assert ends[0]["error"] == ends[1]["error"]
    assert repr(ends[0]["notes"]) == repr(ends[1]["notes"])  # NaN is no equal of itself


# The defense cannot see it


def test_a_lab_gives_nothing_of_what_a_probe_keeps(tmp_path, plugin_file):
    path = plugin_file(
        """
        from pathlib import Path

        @defense("nosy", version=1)
        class Nosy(Defense):
            \"\"\"Asks its store for a probe's artifact.\"\"\"
            kept: str = ""
            def train(self, lab):
                trained = lab.train(lab.poisoned)
                for key in Path(self.kept).read_text().split():
                    try:
                        lab._store.get("probe", key)
                    except Exception as error:
                        lab.note("refused", str(error))
                    else:
                        raise AssertionError("the probe was given away")
                lab.note("holds", sorted(type(v).__name__ for v in vars(lab).values()))
                return trained
        """,
        "nosy.py",
    )
    registry.add_plugin_file(str(path))
    run(cell(), tmp_path / "out")
    keys = [p.parent.name for p in (tmp_path / "out" / "store" / KIND).rglob("meta.json")]
    assert len(keys) == EPOCHS + 1
    (tmp_path / "keys").write_text("\n".join(keys))
    notes = run(cell(defense=f"nosy(kept={str(tmp_path / 'keys')!r})"), tmp_path / "out")["notes"]
    assert KIND not in STAGE_KINDS
    assert "out of bounds" in notes["refused"]
    assert "Watched" not in notes["holds"]
    assert notes["probe"]["epochs"] == [1, 2, 3]


def test_the_watcher_of_a_lab_watches_nothing():
    assert Stages._watcher(None, "0" * 64) is None
    assert Watched._watcher is not Stages._watcher


# In matrices


def test_a_probe_is_part_of_a_cells_identity_only_where_one_is_asked_for():
    plain, probed = cell(None), cell()
    assert "probe" not in plain.spec()
    assert plain.id != probed.id
    assert plain.row_key == probed.row_key  # the poison and the trainings are shared
    assert probed.id == identity(probed.spec())
    again = Cell.from_json(json.loads(json.dumps(probed.to_json())))
    assert (again.id, again.probe) == (probed.id, probed.probe)


WHOLE = {"dataset": "digits", "model": "lenet", "attacks": "bn-g", "defenses": "none", "recipe": {"epochs": 15}}


def test_a_matrix_asks_at_the_top_in_a_block_and_on_the_command_line():
    blocks = [{k: WHOLE[k] for k in ("dataset", "model", "attacks", "defenses")}]
    top = matrix.resolve({**WHOLE, "probe": {"features": 9}}, "m")
    block = matrix.resolve({"recipe": WHOLE["recipe"], "blocks": [{**blocks[0], "probe": {"features": 9}}]}, "m")
    set_ = matrix.resolve(WHOLE, "m", sets=["probe.features=9"])
    assert {p.cells[0].probe["features"] for p in (top, block, set_)} == {9}
    assert {p.cells[0].id for p in (top, block, set_)} == {top.cells[0].id}
    assert matrix.resolve(WHOLE, "m").cells[0].probe is None


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        ({"features": 20}, r"probe: features after epoch 20, but the recipe has 15; use --set probe.features=EPOCH"),
        ({"features": 0}, "an epoch of at least 1, not 0"),
        ({"losses": False}, "records nothing"),
        ({"feature": 3}, "did you mean"),
        ({"samples": 3}, "at least 10, not 3"),
        ({"losses": "each"}, "losses"),
        ([1], r"probe must be a mapping such as \{losses: true\}"),
    ],
)
def test_a_wrong_probe_is_one_clear_line_at_plan_time(probe, said):
    with pytest.raises(UsageError, match=said) as found:
        matrix.resolve({**WHOLE, "probe": probe}, "m")
    assert "\n" not in str(found.value)


FIGURES = ("fig1", "fig2", "fig4a", "fig4b", "fig4c", "fig5", "fig6", "fig7")


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_shipped_matrix_at_paper_scale(name):
    assert name in shipped.shipped()
    plan = matrix.load(name)
    assert plan.cells
    assert not plan.skipped
    for one in plan.cells:
        assert one.dataset.text == "cifar10"  # all 50,000 images
        assert {k: one.recipe[k] for k in ("epochs", "batch_size", "optimizer", "lr", "schedule")} == {
            "epochs": 80, "batch_size": 128, "optimizer": "adam", "lr": 0.001, "schedule": "cosine"
        }  # fmt: skip
        assert (one.probe is not None) == (name in ("fig1", "fig2", "fig6", "fig7"))


def test_figures_2_and_7_need_no_cell_that_figure_1_has_not():
    ids = {name: {c.id for c in matrix.load(name).cells} for name in ("fig1", "fig2", "fig7")}
    assert ids["fig2"] == ids["fig1"]
    assert ids["fig7"] < ids["fig1"]


def test_narrow_networks_have_what_each_figure_reads_on_the_whole_set():
    plan = matrix.load("figures-narrow")
    assert not plan.skipped
    probed = [one for one in plan.cells if one.probe is not None]
    swept = [one for one in plan.cells if one.probe is None]
    assert {one.dataset.text for one in plan.cells} == {"cifar10"}
    assert {one.seed for one in plan.cells} == {0, 1}
    paper = matrix.load("fig1").cells[0].recipe
    for one in probed:
        assert one.recipe["epochs"] > SCORED_EPOCH
        assert {**one.recipe, "epochs": 80, "horizon": None} == paper
        assert one.recipe["horizon"] == paper["epochs"]
        assert one.probe["losses"]
        figure = "fig1" if one.model.name in ("resnet18", "resnet-s") else "fig6"
        assert one.probe["features"] == (SCORED_EPOCH if figure == "fig1" else None)
        assert (one.model.name, one.attack.text) in {(c.model.name, c.attack.text) for c in matrix.load(figure).cells}
    wanted = {c.model.name for figure in ("fig1", "fig6") for c in matrix.load(figure).cells}
    assert {one.model.name for one in probed} == wanted
    for name in ("fig4a", "fig4b", "fig4c", "fig5"):
        keys = ("alpha", "beta", "mode", "teacher")
        asked = [{key: c.defense.params[key] for key in keys} for c in matrix.load(name).cells if c.defense.params]
        for given in asked:
            given["teacher"] += "(width=16)" if given["teacher"] in ("resnet-s2", "resnet18") else ""
            assert any(given.items() <= one.defense.params.items() for one in swept), (name, given)
    narrow = {c.id for c in matrix.load("cifar10-narrow").cells}
    assert sum(one.id in narrow for one in swept) == 12  # undefended and LfD with one teacher, both seeds


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_can_be_made_small(name):
    small = ["dataset.train=5000", "epochs=15"] + (["probe.features=10"] if name in ("fig1", "fig2", "fig7") else [])
    assert {c.recipe["epochs"] for c in matrix.load(name, sets=small).cells} == {15}
    assert {c.recipe["epochs"] for c in matrix.load(name, smoke=True).cells} == {1}


# The trigger's picture, which the record keeps for the same reader


def test_the_record_keeps_a_small_picture_of_a_poisoned_image(tmp_path):
    import base64
    import io

    from PIL import Image

    record = run(cell(None), tmp_path / "a")
    with Image.open(io.BytesIO(base64.b64decode(record["notes"]["trigger_png"]))) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (16, 48, 3)
    before, after, difference = pixels[:, :16], pixels[:, 16:32], pixels[:, 32:]
    square = np.zeros((16, 16), bool)
    square[5:11, 5:11] = True  # tiny-patch: 6 white pixels a side from the middle - 3
    assert (after[square] == 255).all()
    assert (after[~square] == before[~square]).all()
    assert (difference[~square] == 128).all()
    assert (difference[square] > 128).all()
    clean = run(dataclasses.replace(cell(None), attack=testing.cell().attack), tmp_path / "b")
    assert "trigger_png" not in clean["notes"]


def test_large_images_make_small_pictures():
    import base64
    import io

    from PIL import Image

    from benchbd.pipeline.trigger_image import LARGEST, trigger_png

    noise = np.random.default_rng(0).integers(0, 256, (3, 224, 224), np.uint8)
    text = trigger_png(noise, noise)
    with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        assert picture.size == (3 * LARGEST, LARGEST)
    assert len(text) < 200_000
