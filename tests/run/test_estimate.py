"""Estimates by hand: operations times images over a rate, finished records, and how sure the result is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchbd.cli import main
from benchbd.core import environment
from benchbd.core.numerics import USUAL
from benchbd.core.operations import Operations
from benchbd.errors import UsageError
from benchbd.plan import matrix
from benchbd.plan.work import Network, Pace, work_of
from benchbd.run import measurements as measuring
from benchbd.run.costs import facts_of
from benchbd.run.estimate import CELLS, FinishedCells, Share, estimate
from benchbd.run.forecast import within_text
from benchbd.run.rates import Rate, parse_rate, rates_of_records, spread, with_similar
from benchbd.run.simulate import work

MATRIX = """
name: m
dataset: digits(train=200, test=60)
model: resnet18(width=4)
recipe: {epochs: 3, batch_size: 50}
attacks: [bn-g, blend]
defenses:
  - none
  - fine-pruning: {profile: canonical, clean_frac: 0.2}
  - lfd: {teachers: 1, teacher_epochs: 5, beta: [0.001, 0.01]}
"""
DP_SGD = {"sigma": 1.5, "norm": 10.0, "delta": 1e-5, "epochs": 90, "lr": 0.1}
STEP, TEACHER = Operations(300.0, 100.0), Operations(30.0, 10.0)
"""Operations of the row's model and of the teacher."""


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sequence[Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("m.yaml").write_text(MATRIX)
    return matrix.load("m.yaml").cells


def paces_of(cells: Sequence[Any]) -> dict[str, Pace]:
    """The paces of a plan by the name of their model."""
    pieces = [piece for _, found in work_of(cells) for piece in (*found.attack, *found.defense)]
    return {json.loads(piece.pace.network.model)["name"]: piece.pace for piece in pieces}


def known(cells: Sequence[Any]) -> tuple[dict[Network, Operations], dict[Pace, Rate]]:
    """Operations of both networks, and rates of 1,000 and 100 operations a second."""
    paces = paces_of(cells)
    student, teacher = paces["resnet18"], paces["resnet-s"]
    operations = {student.network: STEP, teacher.network: TEACHER}
    return operations, {student: Rate(1000.0, "measured", 1, 1.5), teacher: Rate(100.0, "records", 7, 1.1)}


def test_operations_are_images_times_operations(cells: Sequence[Any]) -> None:
    """A row: the undefended model, fine-tuning on 40 images for 10 epochs, a teacher, two students, 4 evaluations."""
    operations, _ = known(cells)
    found = estimate(cells, operations, None)
    row = 600 * 300 + 400 * 300 + 1000 * 30 + 2 * 600 * 300 + 4 * 120 * 100
    assert found.unit == "operations"
    assert work(found.jobs) == pytest.approx(2 * row)


def test_seconds_are_operations_over_each_networks_rate(cells: Sequence[Any]) -> None:
    found = estimate(cells, *known(cells))
    teachers, rest = 2 * 1000 * 30 / 100, 2 * (3 * 600 * 300 + 400 * 300 + 4 * 120 * 100) / 1000
    assert found.unit == "seconds"
    assert work(found.jobs) == pytest.approx(teachers + rest)
    assert found.shares == [Share("measured", rest, 1, 1.5), Share("records", teachers, 7, pytest.approx(1.1))]
    assert [(group.label, group.number) for group in found.groups][:2] == [
        ("full, resnet18(width=4) on digits(train=200,test=60)", 6),
        ("teacher, resnet-s on digits(train=200,test=60)", 2),
    ]
    assert sum(group.cost for group in found.groups) == pytest.approx(work(found.jobs))


def test_stored_trainings_cost_nothing(cells: Sequence[Any]) -> None:
    operations, rates = known(cells)
    teacher = next(p for _, w in work_of(cells) for p in w.defense if p.kind == "teacher")
    all_of, left = estimate(cells, operations, rates), estimate(cells, operations, rates, stored={teacher.key})
    assert work(all_of.jobs) - work(left.jobs) == pytest.approx(300)


def test_unknown_trainings_are_counted_and_not_priced(cells: Sequence[Any]) -> None:
    """The teacher's rate is unknown, or its operations are."""
    operations, rates = known(cells)
    teacher = paces_of(cells)["resnet-s"]
    without_rate = estimate(cells, operations, {p: r for p, r in rates.items() if p != teacher})
    without_operations = estimate(cells, {n: o for n, o in operations.items() if n != teacher.network}, rates)
    for found in (without_rate, without_operations):
        assert found.unknown == {"teacher, resnet-s on digits(train=200,test=60)": 2}
        assert work(found.jobs) == pytest.approx(work(estimate(cells, operations, rates).jobs) - 600)


def record_of(
    cell: Any, total: float, stages: dict[str, float], trainings: dict[str, int], **env: Any
) -> dict[str, Any]:
    facts = {**facts_of(cell), "spec": cell.spec(), "status": "done", "trainings": trainings}
    usual = {"device": environment.cpu_name(), "precision": "cpu-fp32", "threads": 1}
    return {**facts, "time": {"total": total, "stages": stages}, "env": {**usual, **env}}


def test_rates_of_records_are_the_operations_of_their_trainings_over_their_seconds(cells: Sequence[Any]) -> None:
    """Undefended 180,000 operations in 90 s and 110 s; a teacher of 30,000 in 30 s; a repeated one says nothing."""
    operations, _ = known(cells)
    paces = paces_of(cells)
    none, other = (cell for cell in cells if cell.defense.name == "none")
    lfd, again = [cell for cell in cells if cell.defense.name == "lfd"][:2]
    records = [
        record_of(none, 90, {"train": 90.0}, {"full": 1}),
        record_of(none, 90, {"train": 90.0}, {"full": 1}),
        record_of(other, 110, {"train": 110.0}, {"full": 1}),
        record_of(lfd, 30, {"teacher": 30.0}, {"teacher": 1}),
        record_of(again, 99, {"teacher": 99.0}, {"teacher": 3}),
        {"status": "done", "time": {"stages": {"train": "x"}}, "trainings": {"full": 1}},
    ]
    found = rates_of_records(records, paces.values(), operations)
    assert found[paces["resnet18"]] == Rate(pytest.approx((2000 + 180_000 / 110) / 2), "records", 2, 1.5)
    assert found[paces["resnet-s"]].per_second == pytest.approx(1000)


def test_finished_cells_cost_what_their_records_say(cells: Sequence[Any]) -> None:
    """LfD took 1,000 s: 300 of them are the teacher's, 180 the student's, the rest its own."""
    operations, rates = known(cells)
    lfd = next(cell for cell in cells if cell.defense.name == "lfd")
    finished = FinishedCells([record_of(lfd, 1000.0, {}, {})])
    one = [lfd]
    found = estimate(one, operations, rates, finished)
    assert (found.known, found.unknown) == (1, {})
    assert work(found.jobs) == pytest.approx(1000 + 12)
    assert found.shares[0] == Share(CELLS, pytest.approx(1000), 1, 1.5)
    # Other data, another recipe or another device is no such cell: its seconds are not taken for these.
    Path("m.yaml").write_text(MATRIX.replace("train=200", "train=300"))
    larger = [cell for cell in matrix.load("m.yaml").cells if cell.defense.name == "lfd"]
    assert FinishedCells([record_of(lfd, 1000.0, {}, {})]).seconds(larger[0]) is None


def test_a_similar_networks_rate_is_taken_and_a_very_different_ones_is_not(cells: Sequence[Any]) -> None:
    paces = paces_of(cells)
    student, teacher = paces["resnet18"], paces["resnet-s"]
    rates = {student: Rate(1000.0, "measured", 1, 1.5)}
    for ratio, source in ((9, "scaled"), (11, None)):
        operations = {student.network: STEP, teacher.network: Operations(STEP.step / ratio, 1.0)}
        found = with_similar(rates, paces.values(), operations).get(teacher)
        assert (found and found.source) == source
    other = Pace(teacher.network, USUAL._replace(threads=2))
    assert other not in with_similar(rates, [other], {student.network: STEP, teacher.network: STEP})


def test_sureness() -> None:
    assert spread([1.0] * 10) == 1.1
    assert spread([1.0] * 8 + [0.5, 4.0]) == pytest.approx(2.0)
    assert (within_text(1.15), within_text(1.5)) == ("within 15 %", "within a factor of 1.5")


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "1e9"])
def test_bad_rates_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError, match="TFLOPS such as 40"):
        parse_rate(text)


class Asked:
    """Answers without torch: the row's model needs 300 operations and 0.3 s an image, the teacher a tenth of both.

    In a defense's own loop, it needs five times as long.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    def __call__(self, kind: str, requests: Sequence[dict[str, Any]]) -> list[Any]:
        self.requests += requests
        return [self.answer(request) for request in requests]

    def answer(self, request: dict[str, Any]) -> Any:
        if request["what"] == "class":
            return "cpu-fp32"
        scale = 1 if request["model"]["name"] == "resnet18" else 10
        loop = 5 if "loop" in request else 1
        return [300 / scale, 100 / scale] if request["what"] == "operations" else 0.3 * loop / scale


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()
    monkeypatch.setattr(measuring, "ask_process", asked)
    return asked


Say = Callable[..., str]


@pytest.fixture
def say(cells: Sequence[Any], asked: Asked, capsys: pytest.CaptureFixture[str]) -> Say:
    def run(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["plan", "m.yaml", "--output", "out", "--data", ".", *words]) == code
        captured = capsys.readouterr()
        return captured.out if code == 0 else captured.err

    return run


# A row: 3 full trainings of 600 images, fine-tuning on 400, a teacher of 1000 at a tenth, 4 evaluations of 120 at a
# third, at 0.3 s an image.
ROW = 0.3 * (3 * 600 + 400 + 1000 / 10 + 4 * 120 / 3)


def test_time_is_what_is_left_on_this_machine(say: Say) -> None:
    text = say("--time", "--jobs", "1", "--device", "cpu")
    assert f"time left on this machine ({environment.cpu_name()}, cpu-fp32; 1 job): 24m36s, 0.4 core hours" in text
    assert "18m00s  6 x full, resnet18(width=4) on digits(train=200,test=60)" in text
    assert "how sure: 100% from operations and each model's rate, measured here in 3 s: within a factor of 2.0" in text
    found = json.loads(say("--time", "--jobs", "2", "--device", "cpu", "--json"))["time"]
    assert found["core_seconds"] == pytest.approx(2 * ROW)
    assert ROW <= found["seconds"] < 2 * ROW
    assert found["jobs"] == 2


def test_rates_are_measured_once_and_then_kept(say: Say, asked: Asked) -> None:
    say("--time", "--device", "cpu")
    assert [r["what"] for r in asked.requests].count("rate") == 2
    assert [r["what"] for r in asked.requests].count("operations") == 2
    first = len(asked.requests)
    say("--time", "--device", "cpu")
    assert len(asked.requests) == first
    say("--time", "--device", "cpu", "--measure")
    assert [r["what"] for r in asked.requests[first:]] == ["rate", "rate"]


def test_a_kept_rate_does_not_count_for_another_version_or_processor(
    say: Say, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    say("--time", "--device", "cpu")
    for name, value in (("versions", {"torch": "3"}), ("cpu_name", "another")):
        asked.requests.clear()
        monkeypatch.setattr(environment, name, lambda value=value: value)
        say("--time", "--device", "cpu")
        assert "rate" in [request["what"] for request in asked.requests]


def test_records_of_this_machine_give_its_rate(say: Say, cells: Sequence[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A training of 180,000 operations took 60 s in four other rows: 3,000 operations a second, within 10 %."""
    from benchbd.run import forecast

    Path("m.yaml").write_text(MATRIX.replace("attacks: [bn-g, blend]", "attacks: [bn-w]\nseeds: [0, 1, 2, 3]"))
    done = [cell for cell in matrix.load("m.yaml").cells if cell.defense.name == "none"]
    Path("m.yaml").write_text(MATRIX.replace("width=4", "width=4").replace("bn-g, blend", "bn-g"))
    records = [record_of(cell, 60.0, {"train": 60.0}, {"full": 1}) for cell in done]
    monkeypatch.setattr(forecast, "earlier_records", lambda output: iter(records))
    text = say("--time", "--device", "cpu")
    assert "from operations and the rate of 4 finished trainings of this device and model: within 10 %" in text
    assert "finished cells of this device, model and recipe" in text
    # Records of another device or precision are left alone.
    records = [record_of(cell, 60.0, {"train": 60.0}, {"full": 1}, device="another") for cell in done]
    assert "100% from operations and each model's rate, measured here" in say("--time", "--device", "cpu")
    records = [record_of(cell, 60.0, {"train": 60.0}, {"full": 1}, precision="cpu-bf16") for cell in done]
    assert "100% from operations and each model's rate, measured here" in say("--time", "--device", "cpu")


def test_simulate_prints_no_minutes_without_a_gpus_rate(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchbd.run.workers.slots.visible_gpus", lambda: ())
    text = say("--simulate", "gpus=1,2")
    assert "1 GPU: 1.5e+06 operations, 0% idle" in text
    assert "no minutes: there is no GPU here, and out has no finished cells of these models on a GPU; give" in text
    assert "--rate TFLOPS" in text
    assert "how sure" not in text
    found = json.loads(say("--simulate", "gpus=1", "--json"))["simulation"]
    assert (found["unit"], found["sources"]) == ("operations", [])
    assert "no minutes" in found["missing"]


def test_cpu_records_give_no_gpu_minutes_and_gpu_records_do(
    say: Say, cells: Sequence[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchbd.run import forecast

    monkeypatch.setattr("benchbd.run.workers.slots.visible_gpus", lambda: ())
    cell = next(cell for cell in cells if cell.defense.name == "none")
    env: dict[str, Any] = {}
    monkeypatch.setattr(
        forecast, "earlier_records", lambda output: iter([record_of(cell, 60.0, {"train": 60.0}, {"full": 1}, **env)])
    )
    assert "no finished cells of these models on a GPU, only of CPUs" in say("--simulate", "gpus=8")
    env |= {"device": "NVIDIA X", "precision": "cuda-bf16"}
    text = say("--simulate", "gpus=8")
    assert "simulated from an empty store (NVIDIA X):" in text
    assert "operations," not in text
    assert "finished training of this device and model: within a factor of 1.5" in text


def test_a_given_rate_is_taken_for_all_models(say: Say) -> None:
    found = json.loads(say("--simulate", "gpus=1", "--rate", "1e-6", "--json"))["simulation"]
    assert found["unit"] == "seconds"
    assert found["runs"][0]["work"] == pytest.approx(2 * ROW * 1000 / 1e6)
    assert "the given rate for every model; a small model is slower" in say("--simulate", "gpus=1", "--rate", "40")


def test_cores_are_simulated_at_this_machines_rate(say: Say) -> None:
    text = say("--simulate", "cores=1,2")
    assert "1 core: 24m36s, 0% idle" in text
    assert "measured here in 3 s" in text


def rates_asked(asked: Asked) -> int:
    return [request["what"] for request in asked.requests].count("rate")


def test_cores_are_measured_again_on_request_whatever_cache_and_records_say(
    say: Say, asked: Asked, cells: Sequence[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchbd.run import forecast

    done = [cell for cell in cells if cell.defense.name == "none"]
    records = [record_of(cell, 60.0, {"train": 60.0}, {"full": 1}) for cell in done]
    monkeypatch.setattr(forecast, "earlier_records", lambda output: iter(records))
    assert "finished cells of this device" in say("--simulate", "cores=2")
    asked.requests.clear()
    assert "100% from operations and each model's rate, measured here" in say("--simulate", "cores=2", "--measure")
    assert rates_asked(asked) == 2
    asked.requests.clear()
    text = say("--time", "--device", "cpu", "--simulate", "cores=2", "--measure")
    assert text.count("100% from operations and each model's rate, measured here") == 2
    assert rates_asked(asked) == 2, "each rate is measured once"


def test_less_than_a_second_is_not_nothing(say: Say) -> None:
    text = say("--simulate", "gpus=2", "--rate", "40")
    assert "  2 GPUs: under a second, 0% idle (work under a second)\n" in text.replace(" 1% idle", " 0% idle")
    assert "0s" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rate", "40"], "--rate is for --simulate gpus=N"),
        (["--rate", "40", "--simulate", "cores=1"], "--rate is for --simulate gpus=N"),
        (["--jobs", "2"], "--jobs is for --time"),
        (["--device", "cpu"], "--device is for --time"),
        (["--measure"], "--measure is for --time and --simulate cores=N"),
        (["--measure", "--simulate", "gpus=1", "--rate", "40"], "--measure is for --time and --simulate cores=N"),
        (["--simulate", "gpus=1", "--simulate", "cores=2"], "--simulate is given 2 times ('gpus=1' and 'cores=2')"),
        (["--time", "--jobs", "0"], "--jobs must be more than 0"),
    ],
)
def test_flags_that_do_not_go_together(say: Say, words: list[str], message: str) -> None:
    assert message in say(*words, code=2)


def test_what_is_unknown_is_said(say: Say) -> None:
    """A given rate is that of usual steps."""
    Path("m.yaml").write_text(MATRIX.replace("- none", "- dp-sgd"))
    text = say("--simulate", "gpus=1", "--rate", "40")
    what = "2 x full of dp-sgd, resnet18(width=4) on digits(train=200,test=60)"
    assert f"not included: 2 trainings of unknown cost ({what})" in text


def test_a_defenses_own_loop_is_measured_in_itself_and_variants_share_the_rate(
    say: Say, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop takes 1.5 s an image, five times as long as the usual training: 200 images x 2 epochs x 2 x 2 cells."""
    Path("m.yaml").write_text(MATRIX.replace("- none", "- none\n  - dp-sgd: {epochs: 2, sigma: [1, 2]}"))
    text = say("--time", "--jobs", "1", "--device", "cpu")
    assert "40m00s  4 x full of dp-sgd, resnet18(width=4) on digits(train=200,test=60)" in text
    assert "not included" not in text
    assert "measured here in 3 s: within a factor of 2.0" in text
    loops = [request["loop"] for request in asked.requests if request["what"] == "rate" and "loop" in request]
    assert loops == [{"name": "dp-sgd", "params": {**DP_SGD, "batch": 2000}}]
    say("--time", "--device", "cpu", "--measure")
    assert rates_asked(asked) == 6, "three rates, measured twice"


def test_a_defenses_loop_has_a_rate_of_its_own_in_records(cells: Sequence[Any]) -> None:
    """400 images of 300 operations in 600 s, where usual trainings do 2,000 operations a second."""
    Path("m.yaml").write_text(MATRIX.replace("- none", "- none\n  - dp-sgd: {epochs: 2}"))
    none, private = matrix.load("m.yaml").cells[:2]
    operations, _ = known(cells)
    [own] = [piece.pace for _, found in work_of([private]) for piece in found.defense]
    usual = own._replace(loop="")
    records = [
        record_of(none, 90, {"train": 90.0}, {"full": 1}),
        record_of(private, 600, {"train": 600.0}, {"full": 1}),
    ]
    found = rates_of_records(records, [usual, own], operations)
    assert {pace: rate.per_second for pace, rate in found.items()} == {usual: 2000.0, own: 200.0}
    # The rate of usual trainings is not taken for the loop, nor the other way round; that of a similar network is.
    assert own not in with_similar({usual: found[usual]}, [own], operations)
    assert usual not in with_similar({own: found[own]}, [usual], operations)
    other = own._replace(network=paces_of(cells)["resnet-s"].network)
    near = {**operations, other.network: Operations(100.0, 30.0)}
    assert with_similar(found, [other], near)[other] == Rate(200.0, "scaled", 1, 3.0)


def test_networks_that_are_no_models_are_included_and_less_sure(say: Say) -> None:
    Path("m.yaml").write_text(MATRIX.replace("bn-g, blend", "dynamic"))
    text = say("--time", "--device", "cpu")
    assert "not included" not in text
    assert "2 x loop, resnet18(width=4) on digits" in text
    assert "the rate of another model of similar size: within a factor of 3.0" in text


def test_nothing_is_left(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchbd.cli.plan.SETTLED", ("missing",))
    assert json.loads(say("--time", "--device", "cpu", "--json"))["time"]["seconds"] == 0
    assert "nothing is left" in say("--time", "--device", "cpu")


def test_a_plan_imports_torch_neither_plain_nor_with_times(cells: Sequence[Any]) -> None:
    """The measuring process does; here its answers are made up."""
    script = (
        "import sys; from benchbd.run import measurements as m; from benchbd.cli import main;"
        "m.ask_process = lambda kind, requests: [{'class': 'cpu-fp32', 'rate': 0.1}.get(r['what'], [3.0, 1.0])"
        " for r in requests];"
        "flags = [[], ['--time', '--device', 'cpu', '--simulate', 'cores=2']];"
        "assert all(main(['plan', 'm.yaml', '--output', 'out', '--data', '.', *f]) == 0 for f in flags);"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_the_process_counts_measures_and_says_what_it_cannot(capfd: pytest.CaptureFixture[str]) -> None:
    """A real process with torch: lenet-s by hand is in tests/engine; here answers and a failure arrive in order."""
    model = {"model": {"name": "lenet-s", "params": {}}, "classes": 10, "size": 32}
    recipe = {"batch_size": 8, "epochs": 1, "augment": []}
    rate = {"what": "rate", **model, "precision": "fp32", "threads": 1, "recipe": recipe, "seconds": 0.01}
    requests = [
        {"what": "operations", **model},
        {"what": "operations", **model, "size": 4},
        {"what": "class", "precision": "fp32", "threads": 2},
        rate,
        {**rate, "loop": {"name": "dp-sgd", "params": {**DP_SGD, "batch": 8}}},
        {**rate, "loop": {"name": "none", "params": {}}},
    ]
    operations, failed, name, seconds, private, missing = measuring.ask_process("cpu", requests)
    assert operations[0] > operations[1] > 0
    assert failed is None
    assert name == "cpu-fp32-t2"
    assert 0 < seconds < 1
    assert seconds < private < 1
    assert missing is None
    problems = capfd.readouterr().err
    assert "benchbd: cannot measure lenet-s at 4 pixels:" in problems
    assert "benchbd: cannot measure lenet-s in the loop of none at 32 pixels: defense 'none'" in problems
    assert "training_work() names its loop, but timed_loop() returns none" in problems
