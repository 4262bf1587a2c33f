"""The command line: what each verb says, in what shape, with which exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_matrix_text import TOYS

import benchbd.cli
from benchbd.cli import main
from benchbd.plan import matrix
from benchbd.storage import records


def test_help_names_every_verb_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    there = [v for v in benchbd.cli.VERBS if (Path(benchbd.cli.__file__).parent / f"{v.replace('-', '_')}.py").exists()]
    assert {"run", "plan", "status", "list", "describe", "show", "leaderboard", "validate", "env"} <= set(there)
    told = [line.split()[0] for line in out.splitlines() if line.startswith("    ") and line[4] != " "]
    assert told == there
    assert main([]) == 2


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in [
        v for v in benchbd.cli.VERBS if (Path(benchbd.cli.__file__).parent / f"{v.replace('-', '_')}.py").exists()
    ]:
        with pytest.raises(SystemExit) as caught:
            main([verb, "--help"])
        assert caught.value.code == 0
        assert f"benchbd {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("verb", sorted(benchbd.cli.VERBS))
def test_the_help_of_a_verb_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    lines = capsys.readouterr().out.partition("usage:")[2].splitlines()[1:]
    assert any(f"  benchbd {verb}" in line or f"(benchbd {verb}" in line for line in lines)


def test_version(told: Callable[..., str]) -> None:
    assert told("--version").startswith("benchbd ")


def test_list(told: Callable[..., str]) -> None:
    out = told("list")
    assert [line for line in out.splitlines() if not line.startswith(" ")] == [
        f"{kind}:" for kind in ("datasets", "attacks", "defenses", "models", "presets", "matrices")
    ]
    assert out.count("\n  none ") == 2
    assert "\n  quickstart " in out
    only = told("list", "defenses", "a*")
    assert [line.split()[0] for line in only.splitlines()] == ["defenses:", "abl", "ac", "asd", "augment"]
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


def test_describe_the_recipe_and_its_presets(told: Callable[..., str]) -> None:
    from benchbd.core.presets import PRESETS

    out = told("describe", "recipe")
    assert out.startswith("recipe\n\nOptimiser, schedule and augmentation of one training.")
    assert "benchbd describe NAME shows: paper, backdoorbench, sgd-long, fast, muon." in out
    assert "  augment          list of str " in out
    for name, entries in PRESETS.items():
        assert told("describe", f"presets/{name}") == told("describe", name)
        facts = json.loads(told("describe", name, "--json"))
        assert {entry["name"]: entry["value"] for entry in facts["entries"]} == entries
        assert all(entry["help"] for entry in facts["entries"])
        assert facts["source"] in told("describe", name)
    assert "  momentum      0.9" in told("describe", "sgd-long")
    assert {row["name"] for row in json.loads(told("list", "presets", "--json"))} == set(PRESETS)
    assert "\npresets:\n  paper " in told("list")


def test_describe_everything(told: Callable[..., str]) -> None:
    from benchbd.plugins import registry

    for entry in registry.entries():
        facts = json.loads(told("describe", f"{entry.kind}/{entry.name}", "--json"))
        assert facts["doc"]
        for parameter in facts["parameters"]:
            assert parameter["help"], (entry.name, parameter["name"])


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
        "notes": {"hostile": "\x1b[2J\nsecond line", "losses": {"model": [2.1914721754205226, 0.5]}, "count": 12345},
    }
    records.write_record(Path("benchbd-out"), record)
    rows = dict(line.split("  ", 1) for line in told("show", cell.id[:8]).splitlines())
    shown = {name: value.strip() for name, value in rows.items()}
    assert shown["cell"] == f"{cell.label} ({cell.id})"
    assert shown["status"] == "done"
    assert shown["CA / ASR / RA"] == "0.9000 / 1.0000 / -"
    assert shown["detection"] == "AUROC 0.7500, precision -, TPR (recall) 0.5000, FPR -, F1 -"
    assert shown["poison"] == "10 images, 10.00% of the set, - of the target class"
    assert shown["time"] == "12.5 s as if run alone, 1.5 s spent by this run"
    assert shown["note hostile"] == "\\x1b[2J second line"
    assert shown["note losses"] == "{'model': [2.191, 0.5]}"
    assert shown["note count"] == "12345"
    assert json.loads(told("show", cell.label, "--json"))["id"] == cell.id


def test_show_has_the_rate_without_the_trigger(toy_matrix: Path, told: Callable[..., str]) -> None:
    cell = matrix.load(str(toy_matrix)).cells[0]
    counts = {"images": 1000, "unchanged": 20, "gained": 900, "lost": 10}
    found = {"ca": 0.9, "asr": 0.95, "clean_asr": 0.06, "triggered": counts}
    found |= {"poison": {"count": 10, "share_of_set": 0.1, "share_of_target_class": 0.5, "unchanged": 3}}
    found["poison"]["measured"] = {"gap": 0.0123456, "closed": 0.97}
    records.write_record(Path("benchbd-out"), records.blank(cell, "done") | found)
    text = told("show", cell.id)
    assert "0.0600 without the trigger, lift +0.8900 on 1,000 images, 20 of them unchanged by the trigger" in text
    assert "50.00% of the target class, 3 unchanged" in text
    assert "closed 0.97, gap 0.01235" in text


def test_status_names_attacks_that_are_not_implanted(toy_matrix: Path, told: Callable[..., str]) -> None:
    for cell in matrix.load(str(toy_matrix)).cells:
        counts = {"images": 100, "unchanged": 100, "gained": 0, "lost": 0}
        found = {"ca": 0.9, "asr": 1.0, "clean_asr": 1.0, "triggered": counts}
        records.write_record(Path("benchbd-out"), records.blank(cell, "done") | found)
    (line,) = json.loads(told("status", "toys.yaml", "--json"))["not_implanted"]
    assert line.startswith("toy-attack")  # its label may name parameters
    assert line.endswith(" on toy-images is not implanted: the trigger changes no pixel")
    assert f"warning: {line}" in told("status", "toys.yaml").splitlines()


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
        def prepare(self, workshop):
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
    assert err == f"benchbd: {row}/late/s0: found out late\n"
