"""``benchbd new`` and ``benchbd check``: what is written passes as it is, what is broken is told in one line each."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from benchbd.cli import main
from benchbd.cli.new import EPILOG
from benchbd.plan import matrix

KINDS = ("attack", "defense", "scorer", "model", "dataset")


@pytest.fixture
def inside(tmp_path, monkeypatch, fresh_registry, one_thread):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_what_new_writes_passes_its_own_test_and_its_matrix_is_planned(inside, kind):
    assert main(["new", kind, "my-own"]) == 0
    assert sorted(p.name for p in inside.iterdir()) == ["my_own.py", "my_own.yaml", "test_my_own.py"]
    assert "my-plugin" not in "".join(p.read_text() for p in inside.iterdir())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_own.py"]
    done = subprocess.run(command, cwd=inside, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    plan = matrix.load("my_own.yaml")
    assert not plan.skipped
    part = "defense" if kind == "scorer" else kind
    assert any(getattr(cell, part).name == "my-own" for cell in plan.cells)


def test_the_help_names_the_files_that_new_writes(inside):
    assert main(["new", "defense", "my-defense"]) == 0
    named = set(re.findall(r"\S*my.defense\.\w+", EPILOG))
    assert named == {path.name for path in inside.iterdir()}


def test_the_matrix_that_new_writes_runs(inside, capsys):
    assert main(["new", "defense", "my-own"]) == 0
    words = ["run", "my_own.yaml", "--smoke", "--set", "dataset.train=200", "--filter", "attack=bn-g,defense=my-own"]
    assert main([*words, "--executor", "inline", "--device", "cpu", "--display", "none"]) == 0
    assert "my-own" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["defense", "lfd"], "defense 'lfd' already exists"),
        (["defense", "My Defense"], "a name has lower-case letters"),
        (["defense", "../x"], "a name has lower-case letters"),
        (["defense", "numpy"], "would hide the Python module or keyword numpy"),
        (["attack", "class"], "would hide the Python module or keyword class"),
        (["attack", "mine", "--into", "nowhere"], "no such folder"),
        (["thing", "mine"], "invalid choice"),
    ],
)
def test_new_refuses_what_would_not_work(inside, capsys, words, line):
    assert main(["new", *words]) == 2
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1
    assert list(inside.iterdir()) == []


def test_new_writes_over_nothing(inside, capsys):
    (inside / "my_own.yaml").write_text("mine")
    assert main(["new", "model", "my-own"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert [p.name for p in inside.iterdir()] == ["my_own.yaml"]
    assert (inside / "my_own.yaml").read_text() == "mine"


BROKEN = '''
@defense("mine", version=1)
class Mine(Defense):
    """Trains."""

    share: float = 0.5

    def train(self, lab):
        lab._store
        return lab.train(lab.poisoned)


@model("mine", version=1)
class Net(Model):
    """Nothing."""

    def build(self, classes, size):
        raise ValueError("no")
'''


def test_check_tells_in_one_line_each_what_is_wrong_and_where(inside, plugin_file, capsys):
    file = plugin_file(BROKEN)
    assert main(["check", "mine", "--plugin", str(file)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(f"defense 'mine' ({file}:6): documented: parameter share has no line of help" in s for s in lines)
    assert any(s.endswith("keeps_barrier: line 12 reaches into the lab (_store)") for s in lines)
    assert any(s.startswith("model 'mine' (") and "fits: ValueError: no (line 21)" in s for s in lines)
    assert all(s.startswith(("defense 'mine' (", "model 'mine' (")) for s in lines)


def test_check_without_a_name_takes_every_plugin_of_the_file(inside, plugin_file, capsys):
    text = '@model("a", version=1)\nclass A(Model):\n    """A."""\n\n'
    file = plugin_file(text + text.replace('"a"', '"b"').replace("class A", "class B"))
    assert main(["check", "--plugin", str(file)]) == 1
    told = capsys.readouterr().out
    assert "model 'a'" in told
    assert "model 'b'" in told


def test_check_takes_parameters_and_says_when_all_is_well(inside, capsys):
    assert main(["check", "resnet-s(stem=3)"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("model 'resnet-s' (models/resnet.py:")
    assert told.endswith("): passes all 6 checks\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "give a plugin"),
        (["lgd"], "did you mean 'lfd'?"),
        (["lfd(alhpa=1)"], "alhpa"),
        (["lfd", "--limit", "soon"], "--limit must be a time"),
        (["lfd", "--plugin", "none.py"], "no such file"),
    ],
)
def test_check_refuses_what_it_cannot_check(inside, capsys, words, line):
    assert main(["check", *words]) == 2
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1


ENDLESS = '''
@model("mine", version=1)
class Mine(Model):
    """Never done."""

    def build(self, classes, size):
        while True:
            try:
                [n for n in range(1000)]
            except Exception:
                pass
'''


def test_a_plugin_that_never_ends_is_told_as_such(inside, plugin_file, capsys):
    assert main(["check", "mine", "--limit", "1s", "--plugin", str(plugin_file(ENDLESS))]) == 1
    assert "fits: did not finish on the tiny set within 1 seconds" in capsys.readouterr().out


LEAVES = '''
@model("mine", version=1)
class Mine(Model):
    """Leaves."""

    def build(self, classes, size):
        raise SystemExit(0)
'''


def test_a_plugin_that_leaves_does_not_take_the_command_along(inside, plugin_file, capsys):
    assert main(["check", "mine", "--plugin", str(plugin_file(LEAVES))]) == 1
    assert "fits: SystemExit: 0 (line 10)" in capsys.readouterr().out


REACHES = {
    "imports benchbd.pipeline.poison": "import importlib; importlib.import_module('benchbd.pipeline.poison')",
    "imports benchbd.datasets.digits": "from benchbd.datasets.digits import Digits",
    "uses benchbd.storage": "import benchbd; benchbd.storage.artifacts",
    "reaches into the lab (_truth)": "lab._truth if False else None",
    "looks at the harness's own state (sys._getframe)": "import sys; sys._getframe",
    "looks at the harness's own state (gc.get_objects)": "import gc; gc.get_objects",
    "makes a data set": "from benchbd import registry; registry.make('datasets', 'digits') if False else None",
    "helper.py line 1 imports benchbd.pipeline.evaluate": "if False: from . import helper",
    "needs names 'clean', but lab.clean is never used": "pass",
}
DEFENSE = '''
@defense("mine", version=1)
class Mine(Defense):
    """Trains."""

    needs = ("clean",)

    def train(self, lab):
        {line}
        return lab.train(lab.poisoned)
'''


@pytest.mark.parametrize("fault", REACHES)
def test_ways_past_the_barrier_are_seen(inside, plugin_file, fault):
    from benchbd import testing
    from benchbd.plugins import registry
    from benchbd.testing.barrier import keeps_barrier

    (inside / "helper.py").write_text("from benchbd.pipeline.evaluate import accuracy\n")
    registry.add_plugin_file(str(plugin_file(DEFENSE.format(line=REACHES[fault]))))
    bench = testing.PluginUnderTest("defenses", "mine")
    found = testing.faults(bench, keeps_barrier)
    assert any(fault in line for line in found), found


def test_a_need_that_is_used_is_no_fault(inside, plugin_file):
    from benchbd import testing
    from benchbd.plugins import registry
    from benchbd.testing.barrier import keeps_barrier

    registry.add_plugin_file(str(plugin_file(DEFENSE.format(line="len(lab.clean)"))))
    assert testing.faults(testing.PluginUnderTest("defenses", "mine"), keeps_barrier) == []
