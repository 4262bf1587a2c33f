"""The work that shipped plugins declare, by hand, and what a plugin may not declare."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchbd.errors import BenchbdError
from benchbd.plan import matrix
from benchbd.plan.work import CellWork, work_of
from benchbd.plugins.training import Work

MATRIX = """
name: m
dataset: digits(train=200, test=60)
model: resnet18(width=4)
recipe: {epochs: 3, batch_size: 50}
attacks: [ATTACK]
defenses: [DEFENSE]
"""
ASD = "{asd: {seeds: 1, epochs: 5, second: 1, third: 3, iterations: 10, batch: 16}}"
DBD = "{dbd: {ssl_epochs: 2, linear_epochs: 4, semi_epochs: 5, semi_batch: 16, iterations: 10}}"


def planned(attack: str, defense: str) -> CellWork:
    text = MATRIX.replace("ATTACK", attack).replace("DEFENSE", defense)
    plan = matrix.resolve(matrix.parse(text, "m"), "m")
    [(_, found)] = list(work_of(plan.cells))
    return found


@pytest.mark.parametrize(
    ("defense", "work"),
    [
        ("none", [Work(600)]),
        ("ac", [Work(600), Work(600)]),
        ("oracle", [Work(600)]),
        ("{fine-pruning: {profile: canonical, clean_frac: 0.2}}", [Work(600), Work(10 * 40)]),
        ("{abl: {turning_epochs: 2, finetune_epochs: 4, unlearn_epochs: 10}}", [Work(400), Work(800), Work(20)]),
        ("{abl: {turning_epochs: 2, finetune_epochs: 0, unlearn_epochs: 10}}", [Work(400), Work(20)]),
        ("{lfd: {teachers: 1, teacher_epochs: 7}}", [Work(1400, model="resnet-s"), Work(600)]),
        ("{lfd: {teacher_epochs: 7}}", [Work(8 * 1400, model="resnet-s"), Work(600)]),
        # An epoch has 4 steps, so 10 steps are 3 epochs.
        ("{lfd: {teacher_steps: 10}}", [Work(8 * 600, model="resnet-s"), Work(600)]),
        (
            "{lfd-ensemble: {teacher_epochs: 7, teachers: 3, rungs: [[resnet-s1, resnet-s]]}}",
            [Work(3 * 1400, model="resnet-s1"), Work(3 * 1400, model="resnet-s"), Work(600)],
        ),
        ('{random-filter: {of: "lfd(teachers=1, teacher_epochs=7)"}}', [Work(1400, model="resnet-s"), Work(600)]),
        # 5 epochs of 10 steps with 16 labelled and 2 x 16 unlabelled images, which are guessed too; two virtual models.
        (ASD, [Work(5 * 10 * 48 + 2 * 200, 5 * 10 * 32 + 7 * 200)]),
        ("{augment: {policy: mixup}}", [Work(600)]),
        # 2 epochs, then 8; the biased network sees each of their images too. With the critic: its own pass, twice.
        ("{cbd: {biased_epochs: 2, epochs: 8}}", [Work(400), Work(1600, 1600)]),
        ("{cbd: {biased_epochs: 2, epochs: 8, information: true}}", [Work(400), Work(1600, 4800)]),
        # 10 clean images are a twentieth of the set; five copies of 20 are half of it.
        ("{nab: {isolation_epochs: 2, label_epochs: 8, epochs: 4}}", [Work(400), Work(80), Work(800)]),
        ("{pdb: {epochs: 4}}", [Work(4 * 300)]),
        # 40 images to relearn and 10 to unlearn.
        (
            "{d-br: {first_epochs: 1, apart_epochs: 2, unlearn_epochs: 4}}",
            [Work(200), Work(400), Work(600), Work(200)],
        ),
        ("{dp-sgd: {epochs: 2}}", [Work(400, loop="dp-sgd(batch=2000)")]),
        (
            "{dp-sgd: {epochs: 2, batch: 150, sigma: 2}}",
            [Work(300, loop="dp-sgd(batch=150)")],
        ),  # a step of 150 an epoch
        (DBD, [Work(2 * 2 * 200), Work(0, 4 * 200), Work(5 * 10 * 48, 5 * 10 * 32 + 5 * 200)]),
    ],
)
def test_defenses(defense: str, work: list[Work | None]) -> None:
    assert [piece.work for piece in planned("bn-g", defense).defense] == work


@pytest.mark.parametrize(
    ("attack", "work"),
    [
        ("bn-g", []),
        ("{cl: {rate: 0.5, rate_of: class, surrogate: standard}}", [Work(600)]),
        ("{cl: {rate: 0.5, rate_of: class, robust_epochs: 2, robust_steps: 4}}", [Work(400, 8 * 400)]),
        # Two shares and the check; the plain trigger is the first share. Three teachers of 2 epochs.
        (
            "{lfd-adaptive: {alphas: [[0.2, 0.1]], of: 'lfd(teacher_epochs=2, teachers=3)'}}",
            [Work(1200, model="resnet-s")] * 3,
        ),
        (
            "{lfd-adaptive: {alpha: 0.1, of: \"lfd-ensemble(teacher_epochs=2, rungs=['resnet-s1', 'resnet-s'])\"}}",
            [Work(1600, model="resnet-s1"), Work(1600, model="resnet-s")] * 2,
        ),
        # 128 of 180 images fill a batch. Two passes for 25 epochs; for 100 epochs, two passes of 12 images of each.
        # The operations of both networks at full width and 32 pixels are those that torch counts.
        (
            "dynamic",
            [
                Work(100 * 128, operations=100 * 2 * 12 * (475_987_968 + 158_072_832)),
                Work(0, operations=25 * 2 * 128 * 472_449_024),
            ],
        ),
    ],
)
def test_attacks(attack: str, work: list[Work | None]) -> None:
    assert [piece.work for piece in planned(attack, "none").attack] == work


def test_the_evaluation_sees_clean_and_triggered_test_images() -> None:
    assert planned("bn-g", "none").evaluation.work == Work(0, 120)
    assert planned("none", "none").evaluation.work == Work(0, 60)


def test_a_teacher_has_its_own_network_and_recipe() -> None:
    """A recipe that is tuned for the row's model is not the teacher's."""
    text = MATRIX.replace("ATTACK", "bn-g").replace("DEFENSE", "lfd").replace("epochs: 3,", "preset: fast, epochs: 3,")
    [(_, found)] = list(work_of(matrix.resolve(matrix.parse(text, "m"), "m").cells))
    teacher, student = found.defense
    assert '"name":"resnet-s"' in teacher.pace.network.model
    assert '"optimizer":"adam"' in teacher.recipe
    assert '"optimizer":"sgd"' in student.recipe


def test_a_loop_of_a_defenses_own_has_its_own_pace() -> None:
    """Noise does not change how long a step takes, so two variants have one pace; the batch may."""
    text = MATRIX.replace("ATTACK", "bn-g").replace(
        "DEFENSE", "none, {dp-sgd: {epochs: 2, batch: [100, 50], sigma: [1, 2]}}"
    )
    plan = matrix.resolve(matrix.parse(text, "m"), "m")
    usual, *loops = [piece for _, found in work_of(plan.cells) for piece in found.defense]
    assert usual.pace.loop == ""
    assert len(loops) == 4
    assert len({piece.pace for piece in loops}) == 2
    assert {piece.pace._replace(loop="") for piece in loops} == {usual.pace}
    assert {piece.label for piece in loops} == {"full of dp-sgd, resnet18(width=4) on digits(train=200,test=60)"}


PLUGIN = """
from benchbd import Defense, Training, Work, defense

@defense("mine", version=1)
class Mine(Defense):
    def trainings(self, attack):
        return (Training("teacher", ("mine",)), Training("full", ("mine", 2)))
    HOOK
"""


def test_without_a_declaration_only_full_trainings_are_known(fresh_registry: None, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN.replace("HOOK", ""))
    from benchbd.plugins import registry

    registry.add_plugin_file(str(tmp_path / "mine.py"))
    teacher, student = planned("bn-g", "mine").defense
    assert (teacher.work, teacher.label) == (None, "teacher of mine")
    assert student.work == Work(600)


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("(Work(1),)", "a Work for each of 2 trainings, not 1"),
        ("(Work(1), 3)", "must return Work objects or None, not 3"),
        ("(Work(-1), None)", "must be 0 or more"),
        ("(Work(float('nan')), None)", "must be 0 or more"),
        ("(Work(1, loop=3), None)", "loop must be the spec of a defense, not 3"),
        ("(Work(1, loop='mind'), None)", "mine: training_work(): loop 'mind': no defense is called 'mind'"),
    ],
)
def test_wrong_declarations_name_the_plugin(fresh_registry: None, tmp_path: Path, hook: str, message: str) -> None:
    text = f"def training_work(self, attack, recipe, info):\n        return {hook}"
    (tmp_path / "mine.py").write_text(PLUGIN.replace("HOOK", text))
    from benchbd.plugins import registry

    registry.add_plugin_file(str(tmp_path / "mine.py"))
    with pytest.raises(BenchbdError, match="mine") as caught:
        planned("bn-g", "mine")
    assert message in str(caught.value)
