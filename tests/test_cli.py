"""The command line: what each verb says, in what shape, with which exit code, and what it does not import."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import benchbd.cli
from benchbd import matrix, records
from benchbd.cell import Cell, part_of
from benchbd.cli import main
from benchbd.cli import plan as plan_verb

HERE = Path(__file__).parent
TOYS = str(HERE / "toy_plugins.py")
HEAVY = ("torch", "torchvision", "pandas", "matplotlib", "sklearn", "scipy")

MATRIX = """
description: Toys.
dataset: toy-images
model: toy-net
attacks: [none, toy-attack, toy-clean(rate=0.2)]
defenses: [none, toy-defense]
plugins: [TOYS]
""".replace("TOYS", TOYS)


@pytest.fixture
def toy_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toys: Path) -> Path:
    """A matrix file in a folder of its own, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCHBD_DATA", raising=False)
    path = tmp_path / "toys.yaml"
    path.write_text(MATRIX)
    return path


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must go well and return what it printed."""

    def run(*words: str) -> str:
        code = main(words)
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        return out

    return run


# -- imports and speed


def spawn(code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["list"],
        ["list", "--json"],
        ["describe", "lfd"],
        ["describe", "cifar10"],
        ["describe", "resnet18"],
        ["plan", "quickstart"],
        ["plan", "table2", "--seeds", "0"],
        ["validate", "quickstart"],
        ["status", "quickstart"],
        ["show", "abc"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom benchbd.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"heavy = [m for m in {HEAVY} if m in sys.modules]\n"
        "sys.stderr.write(f'\\nheavy: {heavy}')"
    )
    assert spawn(code, *words, cwd=tmp_path).stderr.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize("words", [["--help"], ["list"]], ids=" ".join)
def test_help_and_list_are_instant(words: list[str]) -> None:
    """Processor time of the whole process, the best of five: 0.3 s is promised on an idle machine."""
    best = 9.0
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, "-m", "benchbd", *words], stdout=subprocess.DEVNULL, check=True)
        after = os.times()
        best = min(best, sum(after[2:4]) - sum(before[2:4]))
    assert best < 0.6


def test_planning_ten_thousand_cells_on_the_command_line(toy_matrix: Path, told: Callable[..., str]) -> None:
    toy_matrix.write_text(
        MATRIX.replace("toy-clean(rate=0.2)", "toy-clean").replace("toy-defense]", "toy-defense, toy-defense(beta=2)]")
    )
    told("plan", "toys.yaml")
    best = 9.0
    for _ in range(2):
        began = time.process_time()
        out = told("plan", "toys.yaml", "--seeds", "0-1199")
        best = min(best, time.process_time() - began)
    assert out.startswith("toys: 10800 cells (10800 missing)\n")
    assert best < 2.0


# -- each verb


def test_help_names_every_verb_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    there = [v for v in benchbd.cli.VERBS if (Path(benchbd.cli.__file__).parent / f"{v}.py").exists()]
    assert {"run", "plan", "status", "list", "describe", "show", "leaderboard", "validate", "env"} <= set(there)
    told = [line.split()[0] for line in out.splitlines() if line.startswith("    ") and line[4] != " "]
    assert told == there
    assert main([]) == 2


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in [v for v in benchbd.cli.VERBS if (Path(benchbd.cli.__file__).parent / f"{v}.py").exists()]:
        with pytest.raises(SystemExit) as caught:
            main([verb, "--help"])
        assert caught.value.code == 0
        assert f"benchbd {verb}" in capsys.readouterr().out


def test_version(told: Callable[..., str]) -> None:
    assert told("--version").startswith("benchbd ")


def test_list(told: Callable[..., str]) -> None:
    out = told("list")
    assert [line for line in out.splitlines() if not line.startswith(" ")] == [
        f"{kind}:" for kind in ("datasets", "attacks", "defenses", "models", "matrices")
    ]
    assert out.count("\n  none ") == 2
    assert "\n  quickstart " in out
    only = told("list", "defenses", "a*")
    assert [line.split()[0] for line in only.splitlines()] == ["defenses:", "abl", "ac"]
    assert [line.split()[0] for line in told("list", "bn-?").splitlines()] == ["attacks:", "bn-g", "bn-w"]
    rows = json.loads(told("list", "models", "resnet*", "--json"))
    assert {r["name"] for r in rows} == {"resnet18", "resnet34", "resnet-s", "resnet-s1", "resnet-s2"}
    assert {(r["kind"], r["status"]) for r in rows} == {("models", "ok")}
    descriptions = {r["name"]: r["summary"] for r in json.loads(told("list", "matrices", "--json"))}
    assert set(descriptions) == set(matrix.shipped())
    assert all(descriptions.values())


def test_list_shows_broken_and_clashing_plugins_as_unavailable(
    plugin_file: Callable[..., Path], told: Callable[..., str]
) -> None:
    broken = plugin_file("def broken(:\n", "broken.py")
    clash = plugin_file('@attack("blend", version=1)\nclass Mine(Attack):\n    pass\n', "clash.py")
    raising = plugin_file('@attack("raising", version=1)\nclass Mine(Attack):\n    "Runs."\n\n1 / 0\n', "raising.py")
    plugins = [word for file in (broken, clash, raising) for word in ("--plugin", str(file))]
    rows = json.loads(told("list", *plugins, "--json"))
    status = {(r["kind"], r["name"], r["origin"]): r["status"] for r in rows}
    assert status["?", "broken", str(broken)].startswith("unavailable: SyntaxError: invalid syntax (line 4)")
    blends = [s for (_, name, _), s in status.items() if name == "blend"]
    assert len(blends) == 2
    for each in blends:
        assert each.startswith("unavailable: defined twice, in attacks/blend.py:")
        assert str(clash) in each
    assert status["attacks", "raising", f"{raising}:5"] == "ok", "listing runs no plugin"
    assert sum(s != "ok" for s in status.values()) == 3
    assert "files that cannot be read:\n  broken  unavailable: " in told("list", *plugins)


def test_describe(told: Callable[..., str], toys: Path) -> None:
    out = told("describe", "toy-defense")
    assert out.startswith(f"defense toy-defense (version 3, {TOYS}:")
    assert "  mode    'hard' | 'soft'  hard     How.\n" in out
    assert [f["kind"] for f in json.loads(told("describe", "none", "--json"))] == ["attack", "defense"]
    assert json.loads(told("describe", "attacks/none", "--json"))["kind"] == "attack"
    assert json.loads(told("describe", "defense/none", "--json"))["kind"] == "defense"
    oracle = told("describe", "oracle")
    assert "Needs: truth (a control)" in oracle
    assert "10 classes, 100 training and 20 test images of 8x8 pixels; target class 1." in told(
        "describe", "toy-images"
    )
    assert "Clean-label: " in told("describe", "toy-clean")
    assert "default" in told("describe", "toy-attack")
    assert "[1, 2]" in told("describe", "toy-attack")


def test_describe_everything(told: Callable[..., str]) -> None:
    from benchbd import registry

    for entry in registry.entries():
        facts = json.loads(told("describe", f"{entry.kind}/{entry.name}", "--json"))
        assert facts["doc"]
        for parameter in facts["parameters"]:
            assert parameter["help"], (entry.name, parameter["name"])


def test_plan(toy_matrix: Path, told: Callable[..., str]) -> None:
    found = matrix.load(str(toy_matrix))
    out = told("plan", "toys.yaml")
    assert out.splitlines() == [
        "toys: 4 cells (4 missing)",
        *(f"  {c.id}  missing  {c.label}" for c in found.cells),
        *(f"  skipped {s.cell.label}: {s.reason}" for s in found.skipped),
        "trainings still to do, at most: 4 full, 2 teacher (cell by cell it would be 6 instead of 6)",
        "data: put the toys into --data DIR",
    ]
    assert len(found.skipped) == 2
    records.write_record(Path("out"), records.blank(found.cells[0], "done"))
    records.write_record(Path("out"), records.blank(found.cells[1], "failed", "why"))
    data = json.loads(told("plan", "toys.yaml", "--output", "out", "--data", ".", "--json"))
    assert [c["status"] for c in data["cells"]] == ["done", "failed", "missing", "missing"]
    assert data["trainings"] == {"full": 3, "teacher": 2}
    assert data["missing_data"] == []
    assert [s["reason"] for s in data["skipped"]] == [s.reason for s in found.skipped]
    assert not Path("benchbd-out").exists(), "planning writes nothing"


def test_plan_says_what_its_counts_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert "The counts are upper bounds." in capsys.readouterr().out


def done(cell: Cell, status: str = "done", store: bool = True, **changes: Any) -> dict[str, Any]:
    """A record as a run leaves it, and artifacts of the names it gives."""
    keys = {name: hashlib.sha256(f"{cell.id} {name}".encode()).hexdigest() for name in ("teacher", "train", "losses")}
    row = hashlib.sha256(cell.row_key.encode()).hexdigest()
    for kind, key in (("model", keys["teacher"]), ("model", keys["train"]), ("array", keys["losses"]), ("poison", row)):
        if store:
            (Path("out/store") / kind / key[:2] / key).mkdir(parents=True, exist_ok=True)
    made = cell.made()
    trained = Counter(t.what for t in made.defense.trainings(made.attack))
    fields = {"trainings": dict(trained), "artifacts": {"stages": keys, "poisoned_set": row}, **changes}
    record = records.blank(cell, status) | fields
    records.write_record(Path("out"), record)
    return record


@pytest.fixture
def left(toy_matrix: Path, told: Callable[..., str]) -> Callable[..., dict[str, int]]:
    """The trainings that a plan in ``out`` counts; one attack, which trains a surrogate first, and two seeds."""
    text = MATRIX.replace("none, toy-attack, toy-clean(rate=0.2)", "toy-attack(strength=6)") + "seeds: 0-1\n"
    toy_matrix.write_text(text)

    def count(*words: str) -> dict[str, int]:
        found: dict[str, int] = json.loads(told("plan", "toys.yaml", "--output", "out", "--json", *words))["trainings"]
        return found

    return count


def cells_of(*sets: str) -> list[Cell]:
    return list(matrix.load("toys.yaml", sets=list(sets)).cells)


def test_plan_leaves_out_what_records_show_to_be_stored(left: Callable[..., dict[str, int]]) -> None:
    none, none_1, toy, toy_1 = cells_of()
    assert [c.label.split("/")[-2:] for c in (none, none_1, toy, toy_1)] == [
        ["none", "s0"],
        ["none", "s1"],
        ["toy-defense", "s0"],
        ["toy-defense", "s1"],
    ]
    assert left() == {"full": 5, "teacher": 2}  # the surrogate, and two for each seed
    done(none)
    assert left() == {"full": 3, "teacher": 2}
    done(toy)
    assert left() == {"full": 2, "teacher": 1}
    assert left("--set", "toy-defense.beta=2") == {"full": 3, "teacher": 1}, "the teacher is another cell's"
    assert left("--set", "toy-defense.epochs=2") == {"full": 3, "teacher": 2}
    assert left("--filter", "seed=0", "--set", "toy-defense.beta=2") == {"full": 1}
    for cell in (none_1, toy_1):
        done(cell)
    assert left() == {}


def test_plan_counts_what_was_stored_and_is_no_longer_there(left: Callable[..., dict[str, int]]) -> None:
    for cell in cells_of():
        done(cell)
    assert left() == {}
    more = ("--set", "toy-defense.beta=2")
    assert left(*more) == {"full": 2}
    shutil.rmtree("out/store")
    assert left() == {}, "what is done is not run again"
    assert left(*more) == {"full": 3, "teacher": 2}


def test_plan_believes_a_record_only_as_far_as_its_artifacts_are_there(left: Callable[..., dict[str, int]]) -> None:
    more = ("--set", "toy-defense.beta=2", "--filter", "seed=0,defense=toy-defense*")
    toy = cells_of()[2]
    record = done(toy)
    assert left(*more) == {"full": 1}
    shutil.rmtree(Path("out/store/model") / record["artifacts"]["stages"]["teacher"][:2])
    assert left(*more) == {"full": 1, "teacher": 1}
    shutil.rmtree("out/store/poison")
    assert left(*more) == {"full": 2, "teacher": 1}


def test_plan_counts_a_failed_cell_but_not_what_it_had_trained(left: Callable[..., dict[str, int]]) -> None:
    toy = cells_of()[2]
    done(toy, "diverged", trainings={"teacher": 1})
    only = ("--filter", "seed=0,defense=toy-defense")
    assert left(*only) == {"full": 1}
    done(toy, "killed", trainings={}, artifacts={})
    assert left(*only) == {"full": 2, "teacher": 1}
    done(toy, "skipped", trainings={}, artifacts={})
    assert left(*only) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"trainings": {"teacher": "many", "full": None}},
        {"trainings": {"teacher": -3}},
        {"artifacts": {"stages": [1, {}], "poisoned_set": {}}},
        {"artifacts": {"stages": {"teacher": [], "train": {}}, "poisoned_set": None}},
        {"artifacts": {}},
    ],
)
def test_plan_survives_records_of_odd_content(left: Callable[..., dict[str, int]], changes: dict[str, Any]) -> None:
    toy = cells_of()[2]
    done(toy, **changes)
    found = left("--filter", "seed=0,defense=toy-defense*", "--set", "toy-defense.beta=2")
    assert found["full"] >= 1
    assert found["teacher"] == 1


def test_plan_passes_over_records_of_plugins_that_are_gone(
    left: Callable[..., dict[str, int]], plugin_file: Callable[..., Path]
) -> None:
    from benchbd import registry

    file = plugin_file('@defense("gone", version=1)\nclass Gone(Defense):\n    pass\n', "gone.py")
    registry.add_plugin_file(str(file))
    done(dataclasses.replace(cells_of()[0], defense=part_of(registry.make("defenses", "gone"))), store=False)
    registry.forget_plugin_file(str(file.resolve()))
    done(cells_of()[2])
    assert left("--filter", "seed=0", "--set", "toy-defense.beta=2") == {"full": 2}


def test_ten_thousand_cells_are_counted_against_their_records_in_time(
    toy_matrix: Path, told: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond reading the records themselves, which status does as well."""
    toy_matrix.write_text(MATRIX + "seeds: 0-2499\n")
    one = done(matrix.load("toys.yaml", seeds=[0]).cells[1])
    monkeypatch.setattr(plan_verb, "record_ids", lambda output: ids)
    monkeypatch.setattr(records, "read_record", lambda output, cell_id: {**one, "id": cell_id})
    ids = [cell.id for cell in matrix.load("toys.yaml").cells][:-1]
    assert len(ids) == 9_999
    best = 9.0
    for _ in range(2):
        began = time.process_time()
        out = told("plan", "toys.yaml", "--output", "out", "--json")
        best = min(best, time.process_time() - began)
    assert sum(json.loads(out)["trainings"].values()) <= 2
    assert best < 2.0


def test_plan_takes_all_that_narrows_and_changes(toy_matrix: Path, told: Callable[..., str]) -> None:
    words = [
        "--filter",
        "attack!=toy-clean",
        "--exclude",
        "defense=none",
        "--set",
        "toy-defense.beta=2",
        "--seeds",
        "3-4",
    ]
    data = json.loads(told("plan", "toys.yaml", *words, "--smoke", "--json"))
    defense = "toy-defense(epochs=1,beta=2)"
    assert [c["label"] for c in data["cells"]] == [
        f"toy-images/toy-net/{attack}/{defense}/s{seed}" for attack in ("none", "toy-attack") for seed in (3, 4)
    ]
    assert data["skipped"] == []


def test_validate(toy_matrix: Path, told: Callable[..., str]) -> None:
    out = told("validate", "toys.yaml")
    assert out.startswith("toys.yaml: fine, 4 cells, 2 skipped\n  skipped toy-images/toy-net/toy-clean(rate=0.2)/")
    for name in matrix.shipped():
        assert told("validate", name).startswith(f"{name} (shipped): fine, ")


def test_show(toy_matrix: Path, told: Callable[..., str]) -> None:
    cell = matrix.load(str(toy_matrix)).cells[3]
    record = records.blank(cell, "done") | {
        "ca": 0.9,
        "asr": 1,
        "time": {"total": 12.5, "own": 1.5, "stages": {"teacher": 3.0}},
        "poison": {"count": 10, "share_of_set": 0.1, "share_of_target_class": None},
        "detection": {"auroc": 0.75, "precision": None, "recall": 0.5},
        "notes": {"hostile": "\x1b[2J\nsecond line"},
    }
    records.write_record(Path("benchbd-out"), record)
    rows = dict(line.split("  ", 1) for line in told("show", cell.id[:8]).splitlines())
    shown = {name: value.strip() for name, value in rows.items()}
    assert shown["cell"] == f"{cell.label} ({cell.id})"
    assert shown["status"] == "done"
    assert shown["CA / ASR / RA"] == "0.9000 / 1.0000 / -"
    assert shown["detection"] == "AUROC 0.7500, precision -, recall 0.5000"
    assert shown["poison"] == "10 images, 10.00% of the set, - of the target class"
    assert shown["time"] == "12.5 s as if alone, 1.5 s spent by this run"
    assert shown["note hostile"] == "\\x1b[2J second line"
    assert json.loads(told("show", cell.label, "--json"))["id"] == cell.id


def test_env_names_no_host_and_no_user(told: Callable[..., str]) -> None:
    import getpass
    import socket

    out = told("env", "--json")
    facts = json.loads(out)
    assert {"versions", "git", "device", "precision", "threads", "cores", "cpu"} <= set(facts)
    text = json.dumps({k: v for k, v in facts.items() if k != "BENCHBD_DATA"})
    assert socket.gethostname() not in text
    assert f'"{getpass.getuser()}"' not in text
    assert told("env").startswith("versions ")


def test_prepare_makes_poisoned_sets_and_a_row_that_cannot_be_costs_itself_alone(
    toy_matrix: Path, capsys: pytest.CaptureFixture[str], plugin_file: Callable[..., Path]
) -> None:
    late = """
    from benchbd.errors import Impossible

    @attack("late", version=1)
    class Late(Attack):
        def prepare(self, shop):
            raise Impossible("found out late")
    """
    plugin = plugin_file(late, "late.py")
    toy_matrix.write_text(
        "{dataset: digits(train=100), model: resnet18(width=2), attacks: [none, late, bn-g], defenses: [none, oracle]}"
    )
    assert main(["prepare", "toys.yaml", "--plugin", str(plugin), "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    row = "digits(train=100)/resnet18(width=2)"
    assert out.splitlines() == [f"{row}/none/s0: 100 clean images", f"{row}/bn-g/s0: 10 of 100 images poisoned"]
    assert err == f"{row}/late/s0: found out late\n"


# -- ends of a process


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    words = f"{sys.executable} -m benchbd list | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", words], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "datasets:\n"


def test_ctrl_c_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(matrix, "load", interrupt)
    assert main(["plan", "quickstart"]) == 130
    assert capsys.readouterr().err == "benchbd: interrupted\n"


def test_a_full_disk_is_one_line_and_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "out/records/x.json")

    monkeypatch.setattr(matrix, "load", full)
    assert main(["plan", "quickstart"]) == 1
    assert capsys.readouterr().err == "benchbd: out/records/x.json: No space left on device\n"


def test_names_the_terminal_cannot_show_do_not_stop_a_table(toy_matrix: Path) -> None:
    text = MATRIX.replace("toy-defense]", '{toy-defense: {note: "\\u2603"}}]')
    toy_matrix.write_text(text)
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "benchbd", "plan", "toys.yaml"], capture_output=True, text=True, env=env, check=True
    )
    assert "toy-defense(note=\\u2603)/s0" in done.stdout
