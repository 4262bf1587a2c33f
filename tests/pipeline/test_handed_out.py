"""A plugin that changes what it was handed ends its own cell, by name, and leaves other cells their numbers."""

from __future__ import annotations

import numpy as np
import pytest

from benchbd import testing
from benchbd.errors import Misused
from benchbd.pipeline.handed_out import no_change_in
from benchbd.pipeline.run_cell import execute
from benchbd.plugins import registry

SMALL = "tiny(train=80,test=20,size=16)"

DEFENSE = '''
KEPT = []

@defense("mine", version=1)
class Mine(Defense):
    """Slips."""
    needs = ("clean",)
    {extra}
    def train(self, lab):
        import copy, pickle
        {body}
        return lab.train(lab.poisoned)
'''
SLIPS = {
    "a training set was changed in place (its images); use replace(images=..., labels=...) instead": (
        "lab.poisoned.images[7:40] = 0"
    ),
    "a training set was changed in place (its labels)": "lab.train(lab.poisoned); lab.poisoned.labels.numpy()[3] ^= 1",
    "a training set was changed in place (its images)": "lab.clean.images.numpy()[1, 0, 0, 0] ^= 1",
    "a training set's images cannot be assigned": "lab.poisoned.images = lab.poisoned.images.flip(3)",
    "poisoned cannot be assigned; pass another set": "lab.poisoned = lab.poisoned.subset(range(9))",
    "recipe cannot be assigned": "lab.recipe = None",
    "a trained model's key cannot be assigned": "m = lab.train(lab.poisoned); m.key = 'ab' * 32",
    "the returned model is a model of another cell or read from a file": (
        "return pickle.loads(pickle.dumps(lab.train(lab.poisoned)))"
    ),
}


def cell(defense: str = "mine", **given):
    return testing.cell(**{"dataset": SMALL, "attack": "tiny-patch", "defense": defense, "epochs": 1, **given})


@pytest.fixture
def run(tmp_path):
    def go(this, where: str = "out") -> dict:
        return execute(this.to_json(), output=tmp_path / where, device="cpu")

    return go


@pytest.fixture
def mine(plugin_file):
    def add(body: str = "pass", extra: str = "pass"):
        registry.add_plugin_file(str(plugin_file(DEFENSE.format(body=body, extra=extra))))

    return add


@pytest.mark.parametrize("line", SLIPS)
def test_a_defense_that_changes_what_it_was_handed_fails_by_name(run, mine, line):
    mine(SLIPS[line])
    record = run(cell())
    assert record["status"] == "failed"
    assert record["error"].startswith(f"defense 'mine': {line}")
    assert "\n" not in record["error"]


@pytest.mark.parametrize("attack", ["tiny-patch", "none"])
@pytest.mark.parametrize(
    "body",
    [
        "lab.poisoned.images[1:40] = 0",
        "lab.poisoned.images[33] = 0; return lab.train(lab.poisoned.subset(range(80)))",
        "lab.poisoned.labels[33] = 0; lab.losses(lab.train(lab.poisoned), lab.poisoned)",
    ],
)
def test_the_baseline_keeps_its_numbers_after_a_slip(run, mine, attack, body):
    alone = run(cell("none", attack=attack), "alone")
    mine(f"try:\n            {body}\n        except Exception: pass")
    assert run(cell(attack=attack))["status"] == "failed"
    after = run(cell("none", attack=attack))
    assert {k: after[k] for k in ("status", "ca", "asr", "ra")} == {k: alone[k] for k in ("status", "ca", "asr", "ra")}
    assert after["trainings_computed"] == {"full": 1}
    assert after["artifacts"] == alone["artifacts"]


def test_a_subset_of_a_changed_set_is_not_stored_under_the_subsets_key(run, mine):
    mine("lab.poisoned.images[33] = 0\n        return lab.train(lab.poisoned.subset(range(60)))")
    assert run(cell())["status"] == "failed"
    mine_again = run(cell("none"))
    assert mine_again["status"] == "done"


def test_a_model_kept_from_another_cell_is_refused(run, mine):
    mine("KEPT.append(lab.train(lab.poisoned, epochs=1))\n        return KEPT[0]")
    assert run(cell())["status"] == "done"
    record = run(cell(seed=1))
    assert record["status"] == "failed"
    assert record["error"].startswith("defense 'mine': the returned model is a model of another cell")


def test_a_model_of_another_architecture_must_be_declared(run, mine):
    mine("return lab.train(lab.poisoned, model='resnet-s')")
    record = run(cell())
    assert record["status"] == "failed"
    assert record["error"].startswith("defense 'mine' returned a resnet-s in a row of tiny-net; return the row's model")


def test_a_declared_architecture_is_named_in_the_record(run, mine):
    mine("return lab.train(lab.poisoned, model='resnet-s')", "other_architecture = True")
    record = run(cell())
    assert record["status"] == "done", record["error"]
    assert record["notes"]["architecture"] == "resnet-s"
    assert "architecture" not in run(cell("none"))["notes"]


ATTACK = '''
@attack("mine", version=1)
class Mine(Attack):
    """Slips."""
    prepared_from_poison = True
    def prepare(self, workshop):
        import numpy as np
        {prepare}
        return {{"colour": np.array([255.0])}}
    def relabel(self, labels, targets, context):
        {relabel}
        return super().relabel(labels, targets, context)
    def cover_count(self, info):
        return 4
    def cover(self, images, partners, context):
        {cover}
        return self.paint(images, context)
    def stamp(self, images, context):
        {stamp}
        return self.paint(images, context)
    def paint(self, images, context):
        out = images.clone()
        out[:, :, :4, :4] = int(context.trigger["colour"][0])
        return out
'''
CLEAN = "a training set was changed in place (its images)"
STEPS = {
    "prepare": (CLEAN, "workshop.clean.images[3] = 0"),
    "prepare ": ("clean cannot be assigned", "workshop.clean = None"),
    "stamp": ("colour of its context was changed in place; work on a copy", "context.trigger['colour'][0] -= 1"),
    "stamp ": ("colour of its context was changed", "context.trigger['colour'] = context.trigger['colour'] - 1"),
    "stamp  ": ("indices of its context was changed in place", "context.indices[0] += 1"),
    "stamp   ": ("colour of its context was changed", "if context.split == 'test': context.trigger['colour'][0] = 9"),
    "relabel": ("indices of its context was changed in place", "context.indices[:] = 0"),
    "cover": ("colour of its context was changed in place", "context.trigger['colour'][0] = 0"),
}


@pytest.mark.parametrize("step", STEPS)
def test_an_attack_that_changes_what_it_was_handed_fails_by_name(run, plugin_file, tmp_path, step):
    line, body = STEPS[step]
    parts = {**dict.fromkeys(("prepare", "relabel", "cover", "stamp"), "pass"), step.strip(): body}
    registry.add_plugin_file(str(plugin_file(ATTACK.format(**parts))))
    record = run(cell("none", attack="mine"))
    assert record["status"] == "failed"
    assert record["error"].startswith(f"attack 'mine': {line}")
    stored = {path.name for path in (tmp_path / "out" / "store").iterdir()} - {"tmp", "locks"}
    assert ("poison" in stored) == ("test" in body)
    assert ("trigger" in stored) == (step.strip() != "prepare")


def test_positions_are_handed_to_prepare_as_a_copy(run, plugin_file):
    parts = dict.fromkeys(("prepare", "relabel", "cover", "stamp"), "pass")
    registry.add_plugin_file(str(plugin_file(ATTACK.format(**parts))))
    plain = run(cell("none", attack="mine"), "plain")
    registry.add_plugin_file(str(plugin_file(ATTACK.format(**{**parts, "prepare": "workshop.indices[:] = 0"}))))
    assert run(cell("none", attack="mine"), "other")["ca"] == plain["ca"] is not None


def test_an_array_that_is_gone_is_noticed():
    arrays = {"a": np.zeros(3), "b": np.zeros(3)}
    with no_change_in(arrays):
        pass
    with pytest.raises(Misused, match="b was deleted from its context"), no_change_in(arrays):
        del arrays["b"]
