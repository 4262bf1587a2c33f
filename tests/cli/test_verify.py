"""verify: a good results file passes, every kind of tampering is found, and drawn cells repeat on this machine."""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzzing
import pytest

from benchbd.cli import main
from benchbd.core.confusion import Confusion
from benchbd.plan.cell import identity
from benchbd.plugins import registry
from benchbd.storage import results_file

MATRIX = """
recipe: {epochs: 1, batch_size: 50, augment: []}
dataset: digits(train=100, test=50)
model: lenet-s
attacks: [none, bn-g]
defenses: [none, ac]
"""
HERE = ("--executor", "inline", "--device", "cpu", "--display", "none")
Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Four small cells on digits, measured by this machine."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "m.yaml").write_text(MATRIX)
    assert main(["run", str(folder / "m.yaml"), "--output", str(folder / "out"), *HERE]) == 0
    return results_file.load(folder / "out", identity)


@pytest.fixture
def verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Write records to a file and verify it: exit code, standard output and error."""

    def check(records: Records, *words: str) -> tuple[int, str, str]:
        file = tmp_path / "results.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        before = file.read_bytes()
        capsys.readouterr()
        code = main(["verify", str(file), *words])
        assert file.read_bytes() == before
        return code, *capsys.readouterr()

    return check


def found(records: Records, kind: str) -> dict[str, Any]:
    """The poisoned cell of a defense."""
    return next(r for r in records if (r["attack"], r["defense"]) == ("bn-g", kind))


def unattacked(records: Records) -> dict[str, Any]:
    """A cell without an attack, whose CA no other field of the schema bounds."""
    return next(r for r in records if r["attack"] == "none")


def rehashed(record: dict[str, Any]) -> None:
    record["id"] = identity(record["spec"])


def _edit_spec(records: Records) -> None:
    found(records, "ac")["spec"]["recipe"]["epochs"] = 2


def _unknown_plugin(records: Records) -> None:
    record = found(records, "ac")
    record["defense"] = record["spec"]["defense"]["name"] = "wonder"
    rehashed(record)


def _other_version(records: Records) -> None:
    record = found(records, "ac")
    record["spec"]["defense"]["version"] = 99
    rehashed(record)


def _other_source(records: Records) -> None:
    found(records, "ac")["sources"]["defense"] = "code:" + "0" * 64


def _no_source(records: Records) -> None:
    found(records, "ac")["sources"] = {}


def _other_seed(records: Records) -> None:
    record = copy.deepcopy(found(records, "ac"))
    record["seed"] = record["spec"]["seed"] = 1
    rehashed(record)
    records.append(record)


def _one_of_many_images(records: Records) -> None:
    """Any CA is a whole number of enough images."""
    unattacked(records).update(ca=0.987654, ca_non_target=None, asr_all=None, triggered=None)
    unattacked(records)["notes"] = {"test_images": 1_000_000}


def _many_triggered(records: Records) -> None:
    record = found(records, "none")
    record.update(asr=0.987654, ra=0.0, asr_all=None, ca_non_target=None, clean_asr=None, triggered=None)
    record["notes"]["triggered_test_images"] = 1_000_000


def _many_unflagged(records: Records) -> None:
    record = found(records, "ac")
    confusion = {**record["detection"]["confusion"], "tn": 10**6}
    record["detection"].update(confusion=confusion, **Confusion(**confusion).rates())
    record["poison"]["share_of_set"] = None


def _unfinished_of_another_version(records: Records) -> None:
    _other_version(records)
    found(records, "ac").update(status="failed", error="out of luck")


TAMPERED: dict[str, tuple[Callable[[Records], Any], str]] = {
    "ca": (lambda r: unattacked(r).update(ca=0.987654), "ca 0.987654 is not a whole number of its 50 test images"),
    "range": (lambda r: found(r, "ac").update(ca=1.2), "ca must be a fraction in [0, 1] or null, not 1.2"),
    "asr": (lambda r: found(r, "ac").update(asr=1.0, ra=0.5), "asr"),
    "old id": (_edit_spec, "but its spec has the id"),
    "unknown plugin": (_unknown_plugin, "no defense is called 'wonder'"),
    "version": (_other_version, "but was measured in version 99"),
    "source": (_other_source, "defense ac was measured with other code than that of this installation"),
    "no source": (_no_source, "defense ac has no digest of its code in sources"),
    "duplicate": (lambda r: r.append(copy.deepcopy(r[0])), "has 2 records, alike; keep one"),
    "other duplicate": (lambda r: r.append({**unattacked(r), "ca": 0.0}), "has 2 records, with different results"),
    "copied seed": (_other_seed, "as its own, but their seeds differ"),
    "no images": (lambda r: found(r, "ac")["notes"].pop("test_images"), "has no usable notes.test_images"),
    "per class": (lambda r: found(r, "ac")["notes"].update(ca_per_class=[0.0] * 10), "outside the accuracies"),
    "flagged": (lambda r: found(r, "ac")["detection"].update(flagged=0, flagged_per_class=[1]), "detection.flagged is"),
    "poison": (lambda r: found(r, "ac")["poison"].update(count=1), "poison.count is 1, but detection.confusion counts"),
    "confusion": (lambda r: found(r, "ac")["detection"]["confusion"].update(tp=0, fn=0), "counts of flagged samples"),
    "time": (lambda r: found(r, "ac")["time"].update(total=0.0), "time.total is 0.0, but a finished cell takes time"),
    "stages": (lambda r: found(r, "ac")["time"].update(total=1e6), "but its stages add up to"),
    "seed": (lambda r: found(r, "ac").update(seed="0"), "seed must be"),
    "status": (lambda r: found(r, "ac").update(status="splendid"), "status must be"),
    "failed": (lambda r: found(r, "ac").update(status="failed"), "is failed but gives no reason in error"),
    "data": (lambda r: found(r, "ac")["data"].update(train="0" * 64), "were measured on another training set"),
    "needs": (lambda r: found(r, "ac").update(needs=["clean"]), "needs is ['clean'], but defense ac has [] here"),
    "control": (lambda r: found(r, "ac").update(control=True), "control is True, but defense ac has False here"),
    "label": (lambda r: found(r, "ac").update(label="cifar10/x"), "bn-g/ac/s0: is called 'cifar10/x' in label"),
    "trainings": (lambda r: found(r, "ac").update(trainings={"full": -1}), "trainings must be counts by kind"),
    "test images": (_one_of_many_images, "notes.test_images is 1000000, but digits has 50 test images"),
    "triggered images": (_many_triggered, "has 1000000 triggered test images, but digits has 50 test images"),
    "training images": (_many_unflagged, "but digits has 100 training images"),
    "unfinished": (_unfinished_of_another_version, "but was measured in version 99"),
    "odd source": (lambda r: found(r, "ac")["sources"].update(defense="x"), "has no digest of its code in sources"),
    "odd class": (lambda r: found(r, "ac")["env"].update(precision="banana"), "'banana' is not a precision class"),
    "no class": (lambda r: found(r, "ac")["env"].pop("precision"), "names no precision class"),
}


def test_a_good_file_passes_and_its_cells_repeat_to_the_bit(measured: Records, verify: Callable[..., Any]) -> None:
    code, out, err = verify(measured, "--sample", "2", "--seed", "5", *HERE)
    assert (code, err) == (0, "")
    assert out.count("(±0.00)") == out.count("(±") > 1  # every share must be equal
    assert "4 records, 4 done: 0 findings, 0 notes; 2 of 2 cells drawn with seed 5 repeat\n" in out


@pytest.mark.parametrize("kind", TAMPERED)
def test_tampering_is_found(measured: Records, verify: Callable[..., Any], kind: str) -> None:
    edit, text = TAMPERED[kind]
    records = copy.deepcopy(measured)
    edit(records)
    code, out, err = verify(records)
    assert (code, err) == (1, "")
    assert any(line.startswith("finding: ") and text in line for line in out.splitlines()), out


def test_a_plausible_lie_is_found_by_running_the_cell_again(measured: Records, verify: Callable[..., Any]) -> None:
    records = [copy.deepcopy(found(measured, "none"))]
    truth = records[0]["ca"]
    lie = records[0]["ca"] = truth + (0.02 if truth < 0.5 else -0.02)  # one image of 50
    for name in ("ca_non_target", "asr_all"):
        records[0][name] = None
    assert verify(records)[0] == 0
    code, out, _ = verify(records, "--sample", "1", *HERE)
    assert code == 1
    assert f"ca is {100 * lie:.2f} in the record, but {100 * truth:.2f} here; the tolerance is 0.00 points" in out
    assert verify(records, "--sample", "1", "--tolerance", "2", *HERE)[0] == 0


def test_invented_flags_are_found_by_running_the_cell_again(measured: Records, verify: Callable[..., Any]) -> None:
    record = copy.deepcopy(found(measured, "ac"))
    perfect = {"tp": 10, "fp": 0, "fn": 0, "tn": 90}
    assert record["detection"]["confusion"] != perfect
    record["detection"] = {"confusion": perfect, "auroc": 1.0, **Confusion(**perfect).rates()}
    assert verify([record])[0] == 0
    code, out, _ = verify([record], "--sample", "1", *HERE)
    assert code == 1
    assert "detection.confusion is {'tp': 10, 'fp': 0, 'fn': 0, 'tn': 90} in the record, but" in out
    assert "detection.auroc is 1.0 in the record, but" in out
    assert verify([record], "--sample", "1", "--tolerance", "0", *HERE)[0] == 0  # the user asks for CA, ASR and RA


def test_a_cell_that_ends_for_a_reason_of_this_machine_refuses_nothing(
    measured: Records, verify: Callable[..., Any]
) -> None:
    words = ("--sample", "1", "--seed", "1", "--timeout", "0.01s", "--device", "cpu", "--display", "none")
    code, out, _ = verify(measured, *words)
    assert code == 0
    assert "has no result on this machine (timeout: " in out
    assert "0 findings, 1 note; 0 of 1 cell drawn with seed 1 repeat" in out
    _, out, _ = verify(measured, "--json", *words)
    assert [each["repeats"] for each in json.loads(out)["repeats"]] == [False]


def test_an_attack_whose_file_is_missing_here_is_not_drawn(
    verify: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCHBD_DATA", raising=False)
    Path("m.yaml").write_text(MATRIX.replace("[none, bn-g]", "[bn-g]").replace("[none, ac]", "[none]"))
    set_of = ["export-poison", "m.yaml", "--attack", "bn-g", "--seed", "0", "--to", "set", "--format", "npz"]
    assert main(set_of) == 0
    assert main(["import", "set", "--format", "npz", "--to", "data/p.npz"]) == 0
    Path("m.yaml").write_text(Path("m.yaml").read_text().replace("[bn-g]", "[\"imported(file='p.npz')\"]"))
    assert main(["run", "m.yaml", "--data", "data", "--output", "out", *HERE]) == 0
    records = results_file.load("out", identity)
    code, out, _ = verify(records, "--sample", "1", *HERE)
    assert code == 0
    assert "note: 1 cell not drawn: imported: give the folder of p.npz with --data or BENCHBD_DATA\n" in out
    code, out, _ = verify(records, "--sample", "1", "--data", "data", *HERE)
    assert code == 0
    assert "1 of 1 cell drawn" in out


def test_json_has_the_same_findings(measured: Records, verify: Callable[..., Any]) -> None:
    records = copy.deepcopy(measured)
    _unknown_plugin(records)
    code, out, _ = verify(records, "--json", "--sample", "1", "--seed", "1", *HERE)
    answer = json.loads(out)
    assert code == 1
    assert [each["kind"] for each in answer["findings"]] == ["plugin"]
    assert (answer["records"], answer["seed"]) == (4, 1)
    (again,) = answer["repeats"]
    assert again["repeats"] is True
    assert again["shares"]["ca"]["record"] == again["shares"]["ca"]["here"]


def test_a_plugin_file_makes_its_cells_known(
    measured: Records, verify: Callable[..., Any], plugin_file: Callable[..., Path]
) -> None:
    records = copy.deepcopy(measured)
    record = found(records, "none")
    record["defense"] = record["spec"]["defense"]["name"] = "wonder"
    record["label"] = record["label"].replace("/none/s0", "/wonder/s0")
    rehashed(record)
    file = plugin_file(
        """
        @defense("wonder", version=1)
        class Wonder(Defense):
            "Train as usual."
            def train(self, lab):
                return lab.train(lab.poisoned)
        """
    )
    code, out, _ = verify(records, "--plugin", str(file))
    assert code == 1
    assert "defense wonder was measured with other code" in out
    record["sources"]["defense"] = registry.source_digest("defenses", "wonder")
    assert verify(records, "--plugin", str(file))[0] == 0


@pytest.mark.parametrize("nested", [False, True])
def test_a_program_named_in_a_record_is_never_run(
    nested: bool, measured: Records, verify: Callable[..., Any], plugin_file: Callable[..., Path], tmp_path: Path
) -> None:
    file = plugin_file(
        """
        @defense("outside", version=1)
        class Outside(Defense):
            "Run a program."
            command: str = "true"
            "What to run."
            def train(self, lab):
                import pathlib
                pathlib.Path(self.command).touch()
                return lab.train(lab.poisoned)
        """
    )
    record = copy.deepcopy(found(measured, "none"))
    part = {"name": "outside", "version": 1, "params": {"command": str(tmp_path / "ran")}}
    if nested:
        named = f"outside(command={str(tmp_path / 'ran')!r})"
        part = {"name": "random-filter", "version": 2, "params": {"of": named}}
    record["spec"]["defense"] = part
    record["defense"], record["params"]["defense"] = part["name"], part["params"]
    rehashed(record)
    _, out, _ = verify([record], "--sample", "1", "--plugin", str(file), *HERE)
    assert f"note: 1 cell not drawn: defense {part['name']} runs a program that the record names\n" in out
    assert "0 of 0 cells drawn" in out
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("nested", [False, True])
def test_a_training_program_named_in_a_record_is_never_run(
    nested: bool, measured: Records, verify: Callable[..., Any], tmp_path: Path
) -> None:
    record = copy.deepcopy(found(measured, "none"))
    named = f"command(run='touch {tmp_path / 'ran'}')"
    made = registry.make("defenses", named)
    part = {"name": made.name, "version": made.version, "params": made.params()}
    if nested:
        part = {"name": "random-filter", "version": 2, "params": {"of": named}}
    record["spec"]["defense"] = part
    record["defense"], record["params"]["defense"] = part["name"], part["params"]
    rehashed(record)
    _, out, _ = verify([record], "--sample", "1", *HERE)
    assert f"note: 1 cell not drawn: defense {part['name']} runs a program that the record names\n" in out
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([""], "RESULTS '': is empty"),
        (["nothing-there.jsonl"], "no records found"),
        (["empty.jsonl"], "empty.jsonl: has no records"),
        (["packed.jsonl"], "packed.jsonl: is compressed (gzip); unpack it first"),
        (["indented.jsonl"], "is not a results file, which has a JSON record on each line (line 1: not JSON ("),
        (["full.jsonl", "--sample", "-1"], "--sample must be 0 or more"),
        (["full.jsonl", "--tolerance", "nan"], "--tolerance must be 0 to 100 points"),
        (["full.jsonl", "--data", "nowhere"], "no such folder"),
        (["full.jsonl", "--plugin", "nowhere.py"], "no such file"),
        (["full.jsonl", "--output", "."], "is not empty"),
    ],
)
def test_bad_usage_is_one_line(
    measured: Records,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").write_text("\n")
    Path("full.jsonl").write_text(json.dumps(measured[0]))
    Path("packed.jsonl").write_bytes(gzip.compress(json.dumps(measured).encode()))
    Path("indented.jsonl").write_text(json.dumps(measured[0], indent=1))
    assert main(["verify", *words]) == 2
    err = capsys.readouterr().err
    assert text in err
    assert err.count("\n") == 1


ODD = [None, True, -1, 10**400, 1e308, "", "\0", "\ud800", "a\u2028b", "x" * 3000, [], {}, [[]], {"": {}}, [None] * 5]


def test_no_mutated_record_is_an_internal_error(measured: Records, verify: Callable[..., Any]) -> None:
    rng = random.Random(0)

    def change(value: Any, key: Any) -> bool:
        if rng.randrange(6):
            return False
        del value[key]
        return True

    for _ in range(fuzzing.examples(150, 0.05)):
        records = copy.deepcopy(measured)
        for record in records:
            for _ in range(rng.randrange(4)):
                name = rng.choice(list(record))
                record[name] = fuzzing.mutate(record[name], rng, ODD, change)
            if rng.random() < 0.5 and isinstance(record.get("spec"), dict):
                record["spec"] = fuzzing.mutate(record["spec"], rng, ODD, change)
                try:
                    rehashed(record)
                    record |= {k: record["spec"][k]["name"] for k in ("dataset", "attack", "defense", "model")}
                    record["params"] = {k: record["spec"][k]["params"] for k in record["params"]}
                    record |= {k: record["spec"][k] for k in ("seed", "recipe")}
                except (KeyError, TypeError, ValueError, IndexError):
                    pass
        with fuzzing.in_time():
            code, out, err = verify(records)
        assert code in (0, 1), err
        assert (err, "Traceback" in out) == ("", False)
        assert all(line.startswith(("finding: ", "note: ", "4 records")) for line in out.splitlines())
