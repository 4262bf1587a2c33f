"""``benchbd plan`` lists what data sets and attacks lack, where a run refuses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from poisoned_sets import poisoned_set

from benchbd.cli import main
from benchbd.core.poisoned_set_file import write_set
from benchbd.plan import matrix
from benchbd.plan.absent_files import AbsentFiles
from benchbd.plugins.input_files import input_files_digest
from benchbd.storage import records

MATRIX = """
name: m
dataset: DATASET
model: resnet18(width=4)
recipe: {epochs: 1}
attacks: [ATTACK]
defenses: [none, DEFENSE]
"""
PLUGIN = """
@attack("patch", version=1)
class Patch(Attack):
    def missing(self, root):
        return "patch: patch.png is not there"
    def stamp(self, images, context):
        return images

@attack("noisy", version=1)
class Noisy(Attack):
    def missing(self, root):
        return "noisy: a\\nb\\x1b[31m.npz is not there"
    def stamp(self, images, context):
        return images

@dataset("loud", version=1)
class Loud(Dataset):
    def missing(self, root):
        return "loud: a\\nb\\x1b[31m is not there"
    def info(self):
        return DatasetInfo(10, 8, 100, 100, None, 0)

@attack("measured", version=1)
class Measured(Attack):
    def missing(self, root):
        return "measured: sizes.json is not there"
    def check(self, info):
        open("sizes.json")
    def stamp(self, images, context):
        return images

@attack("unsure", version=1)
class Unsure(Attack):
    def trainings(self):
        return (Training("loop", ()),)
    def training_work(self, recipe, info):
        raise UsageError("unsure: cannot say its work")
    def stamp(self, images, context):
        return images

@attack("asked", version=1)
class Asked(Attack):
    def missing(self, root):
        with open("asked.txt", "a") as file:
            file.write(f"{self.target}\\n")
        return "asked: a.png is not there"
    def stamp(self, images, context):
        return images

@dataset("small", version=1)
class Small(Dataset):
    def info(self):
        return DatasetInfo(4, 8, 40, 16, None, 0)

@defense("reader", version=1)
class Reader(Defense):
    def check(self, info, attack):
        attack.check(info)
    def train(self, data, lab):
        raise NotImplementedError

@defense("packer", version=1)
class Packer(Defense):
    def packed_models(self):
        return ("resnet-s",)
    def train(self, data, lab):
        raise NotImplementedError

@dataset("sized", version=1)
class Sized(Dataset):
    there: bool = False
    def missing(self, root):
        return None if self.there else "sized: sizes.json is not there"
    def info(self):
        raise UsageError("sized: sizes.json has no sizes")
"""
COMMAND = "{command: {run: python a.py, files: [a.py]}}"


@pytest.fixture
def plan(
    tmp_path: Path,
    plugin_file: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[int, str, str]]:
    """What a verb says of a matrix with these plugins."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCHBD_FILES", raising=False)
    monkeypatch.delenv("BENCHBD_DATA", raising=False)
    plugin_file(PLUGIN)

    def run(*words: str, dataset: str = "digits", attack: str = "bn-g", defense: str = "none", verb: str = "plan"):
        text = MATRIX.replace("DATASET", dataset).replace("ATTACK", attack).replace("DEFENSE", defense)
        Path("m.yaml").write_text(text)
        code = main([verb, "m.yaml", "--plugin", "mine.py", "--data", str(tmp_path), *words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"attack": "imported"}, "poison.npz; benchbd import writes it"),
        ({"attack": "patch"}, "patch: patch.png is not there"),
        ({"attack": "measured"}, "measured: sizes.json is not there"),
    ],
    ids=["imported", "patch", "measured"],
)
def test_what_a_run_refuses_a_plan_lists(given: dict[str, str], line: str, plan: Callable[..., tuple[int, str, str]]):
    code, out, err = plan(**given)
    assert (code, err) == (0, "")
    (listed,) = [text for text in out.splitlines() if text.startswith("missing: ")]
    assert line in listed
    assert "data: " not in out
    assert out.startswith("m: ")

    code, out, err = plan("--json", **given)
    assert (code, err) == (0, "")
    assert json.loads(out)["missing_files"] == [listed.removeprefix("missing: ")]
    assert json.loads(out)["missing_data"] == []

    code, out, err = plan("--output", "out", **given, verb="run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert line in err or "sizes.json" in err
    assert not Path("out").exists()


def test_a_defense_without_its_files_is_a_mistake(plan: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = plan(defense=COMMAND)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "command: files: 'a.py' is not in " in err
    Path("a.py").write_text("")
    code, out, _ = plan("--json", defense=COMMAND)
    assert (code, json.loads(out)["missing_files"]) == (0, [])


def test_what_a_plugin_says_is_printed_as_one_line_of_plain_text(plan: Callable[..., tuple[int, str, str]]) -> None:
    _, out, _ = plan(attack="noisy", dataset="loud")
    assert "missing: noisy: a b\\x1b[31m.npz is not there\n" in out
    assert "data: loud: a b\\x1b[31m is not there\n" in out


def test_a_defense_that_asks_an_attack_for_its_files_waits_for_them_too(
    plan: Callable[..., tuple[int, str, str]],
) -> None:
    code, out, err = plan(attack="imported", defense="reader")
    assert (code, err) == (0, "")
    assert out.count("  missing  digits/") == 2
    assert out.count("missing: ") == 1


def test_models_that_a_defense_packs_wait_for_the_sizes_of_a_data_set(
    plan: Callable[..., tuple[int, str, str]],
) -> None:
    code, out, err = plan(dataset="sized", defense="packer")
    assert (code, err) == (0, "")
    assert "data: sized: sizes.json is not there\n" in out


def test_an_attack_that_lacks_nothing_and_cannot_say_its_work_is_not_left_out(
    plan: Callable[..., tuple[int, str, str]],
) -> None:
    code, out, err = plan("--simulate", "gpus=1", "--rate", "40", attack="unsure")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "unsure: cannot say its work" in err


def test_what_can_be_checked_without_the_file_is_checked(plan: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = plan(attack="patch(target=99)")
    assert code == 0
    assert "skipped digits/resnet18(width=4)/patch(target=99)/none/s0: target class 99 does not exist" in out


def test_a_file_that_stops_the_run_of_other_cells_is_listed_too(plan: Callable[..., tuple[int, str, str]]) -> None:
    words = ("--filter", "defense=none")
    assert "missing: command: files: 'a.py'" in plan(*words, defense=COMMAND)[1]
    assert plan(*words, "--output", "out", defense=COMMAND, verb="run")[0] == 2


def test_cells_of_unknown_size_are_listed_and_left_out_of_times(plan: Callable[..., tuple[int, str, str]]) -> None:
    plan("--simulate", "gpus=1", "--rate", "40", dataset="digits")  # says that it counts operations, if nobody has yet
    code, out, err = plan("--simulate", "gpus=1", "--rate", "40", dataset="[sized, digits]")
    assert code == 0
    assert "data: sized: sizes.json is not there\n" in out
    assert "missing: sized" not in out
    assert out.count("  missing  sized/") == 1
    assert "  not included: 1 cell, whose work depends on files that are missing\n" in out[out.index("40 TFLOPS") :]
    assert "1 GPU: " in out
    assert err == ""
    for dataset, number in (("[sized, digits]", 1), ("digits", 0)):
        out = plan("--json", "--simulate", "gpus=1", "--rate", "40", dataset=dataset)[1]
        assert json.loads(out)["simulation"]["cells_left_out"] == number


@pytest.mark.parametrize(("words", "name"), [(("--time",), "time"), (("--simulate", "cores=1"), "simulation")])
def test_times_of_cells_of_unknown_size_are_unknown(
    words: tuple[str, ...], name: str, plan: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = plan(*words, dataset="sized")
    assert (code, err) == (0, "")
    assert ": unknown\n  not included: 1 cell, whose work depends on files that are missing\n" in out
    assert "nothing is left" not in out
    assert json.loads(plan(*words, "--json", dataset="sized")[1])[name]["cells_left_out"] == 1


def test_a_data_set_that_lacks_nothing_and_has_no_size_is_a_mistake(
    plan: Callable[..., tuple[int, str, str]],
) -> None:
    code, out, err = plan(dataset="sized(there=True)")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "sized: sizes.json has no sizes" in err


def test_a_model_without_its_network_is_a_mistake(plan: Callable[..., tuple[int, str, str]]) -> None:
    Path("model.py").write_text(
        "from benchbd import Model, model\n"
        "@model('lacking', version=1)\n"
        "class Lacking(Model):\n"
        "    def missing(self):\n"
        "        return 'lacking: there is no network resnet19'\n"
    )
    code, out, err = plan("--plugin", "model.py", "--set", "model=lacking")
    assert (code, out) == (2, "")
    assert err == "benchbd: matrix m.yaml: lacking: there is no network resnet19\n"


@pytest.mark.parametrize("verb", ["plan", "status", "validate"])
@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"attack": "imported"}, "poison.npz; benchbd import writes it"),
        ({"attack": "measured"}, "measured: sizes.json is not there"),
        ({"attack": "noisy"}, "noisy: a b\\x1b[31m.npz is not there"),
        ({"attack": "bn-g", "dataset": "csv-folder"}, "labels.csv"),
    ],
    ids=["imported", "measured", "noisy", "csv-folder"],
)
def test_missing_files_stop_no_verb_that_only_looks(
    verb: str, given: dict[str, str], line: str, plan: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = plan(**given, verb=verb)
    assert (code, err) == (0, "")
    (listed,) = [text for text in out.splitlines() if text.startswith(("missing: ", "data: "))]
    assert line in listed
    assert {"plan": "1 missing", "status": "1 missing", "validate": "fine, 1 cell"}[verb] in out.splitlines()[0]
    if verb == "status":
        assert json.loads(plan("--json", **given, verb=verb)[1])["missing_files"] == [
            listed.removeprefix("missing: ").replace("a b\\x1b", "a\nb\x1b")
        ]


@pytest.mark.parametrize("verb", ["status", "validate"])
def test_the_rest_of_a_matrix_with_a_missing_file_is_checked(
    verb: str, plan: Callable[..., tuple[int, str, str]]
) -> None:
    for given, line in (
        ({"attack": "imported, bn-x"}, "no attack is called 'bn-x'"),
        ({"attack": "imported", "defense": COMMAND}, "matrix m.yaml: command: files: 'a.py' is not in "),
        ({"attack": "imported", "dataset": "sized(there=True)"}, "sized: sizes.json has no sizes"),
    ):
        code, out, err = plan(**given, verb=verb)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert line in err
    _, out, _ = plan(attack="imported, bn-g(target=99)", verb=verb)
    assert "target class 99 does not exist" in out
    assert out.count("missing: there is no file ") == 1


def test_a_data_folder_that_is_gone_stops_no_status_of_cells_without_files(
    plan: Callable[..., tuple[int, str, str]],
) -> None:
    for verb in ("status", "plan"):
        code, out, err = plan("--data", "gone", verb=verb)
        if verb == "status":
            assert (code, err) == (0, "")
            assert out.startswith("m: 1 missing\n")
        else:
            assert (code, out) == (2, "")


def test_a_plan_asks_each_attack_for_its_files_once(plan: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = plan("--filter", "attack=asked(target=1)", attack="{asked: {target: [1, 2]}}", defense="reader")
    assert code == 0
    assert out.count("asked: a.png is not there") == 1
    assert Path("asked.txt").read_text().split() == ["1", "2"]


@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_nothing_measures_the_cells_of_a_damaged_set_again(
    damage: str, plan: Callable[..., tuple[int, str, str]]
) -> None:
    file = Path("poison.npz")
    write_set(poisoned_set(), file)
    given = {"attack": "imported", "dataset": "small"}
    assert plan(**given)[0] == 0
    (cell,) = matrix.load("m.yaml", absent=AbsentFiles()).cells
    digest = input_files_digest(cell.components().attack, str(Path.cwd()))
    done = records.blank(cell, "done") | {"ca": 0.5}
    done["data"] = dict.fromkeys(("train", "test", "files", "weights")) | {"attack_files": digest}
    records.write_record(Path("out"), done)
    for verb in ("plan", "status"):
        assert "poison of imported" not in plan("--output", "out", **given, verb=verb)[1]
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:1000] if damage == "cut" else b"")
    for verb in ("plan", "status"):
        code, out, err = plan("--output", "out", **given, verb=verb)
        assert (code, err) == (0, "")
        assert "--rerun stale" not in out
        assert "poison of imported cannot be compared with the record of 1 cell: " in out
    code, out, err = plan("--output", "out", "--rerun", "stale", "--filter", "defense=none", **given, verb="run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    # Another set of the same form may be measured.
    other = poisoned_set()
    other.images[0] ^= 1
    write_set(other, file)
    assert (
        "poison of imported changed since 1 cell was measured; benchbd run with --rerun stale"
        in plan("--output", "out", **given)[1]
    )
