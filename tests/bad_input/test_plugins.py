"""Whatever is wrong with a plugin file, or with what its code says: one line that blames it, exit code 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from good_matrix import GOOD, block

from benchbd.cli import main

MINE = "from benchbd import Attack, attack\n\n\n@attack('NAME', version=1)\nclass Mine(Attack):\n    pass\n"


PLUGINS = {
    "raises": (MINE + "raise RuntimeError('no luck\\ntoday')\n", "RuntimeError: no luck today (line 7)"),
    "raises nothing said": (MINE + "raise RuntimeError\n", "RuntimeError (line 7)"),
    "has a syntax error": ("def broken(:\n", "SyntaxError: invalid syntax (line 1)"),
    "defines nothing": (
        "x = 1\n",
        'defines no plugin; decorate a class with one of @dataset("name"), @attack("name")',
    ),
    "is empty": ("", "defines no plugin"),
    "leaves": (MINE + "raise SystemExit(0)\n", "SystemExit: 0"),
    "misses a package": ("import not_there\n" + MINE, "ModuleNotFoundError: No module named 'not_there'"),
    "takes a built-in name": (MINE.replace("NAME", "blend"), "attack 'blend' is defined twice, in attacks/blend.py:"),
    "has a NUL": ("x = '\0'\n", "null bytes"),
    "recurses": (MINE + "def f():\n    return f()\n\n\nf()\n", "RecursionError"),
}


@pytest.mark.parametrize("name", PLUGINS)
@pytest.mark.parametrize("door", ["--plugin", "plugins:"])
def test_plugin_files(refused: Callable[..., str], folder: Path, name: str, door: str) -> None:
    text, told = PLUGINS[name]
    (folder / "mine.py").write_text(text)
    (folder / "with.yaml").write_text(block(plugins="mine.py"))
    words = ["good.yaml", "--plugin", "mine.py"] if door == "--plugin" else ["with.yaml"]
    message = refused("plan", *words)
    assert told in message
    assert "mine.py" in message
    assert main(["validate", "good.yaml"]) == 0, "nothing of it may stay"


HEAD = """from benchbd.plugins.contract import *
from benchbd.plugins.contract import attack, dataset, defense, model


"""


DATA = """@dataset("mine", version=1)
class Mine(Dataset):
    def info(self):
        return DatasetInfo(10, 8, 100, 20, None, 1)
"""


KINDS_OF_MINE = {
    "dataset": DATA,
    "attack": '@attack("mine", version=1)\nclass Mine(Attack):\n    pass\n',
    "defense": '@defense("mine", version=1)\nclass Mine(Defense):\n    rate: float = 0.5\n',
    "model": '@model("mine", version=1)\nclass Mine(Model):\n    pass\n',
}


ALL = ("plan", "run", "status", "validate")


CODE: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    # the kind, what is added to the class, the verbs that must refuse it, what they say
    "missing raises": (
        "dataset",
        "def missing(self, root): 1 / 0",
        ("run", "plan"),
        "raised ZeroDivisionError: division",
    ),
    "missing leaves": (
        "dataset",
        "def missing(self, root): raise SystemExit(7)",
        ("run", "plan"),
        "raised SystemExit: 7",
    ),
    "missing is odd": (
        "dataset",
        "def missing(self, root): return 5",
        ("run",),
        "missing() must return a line or None",
    ),
    "info raises": ("dataset", "def info(self): return {}['x']", (*ALL, "describe"), "raised KeyError: 'x'"),
    "info leaves": ("dataset", "def info(self): raise SystemExit(7)", (*ALL, "describe"), "raised SystemExit: 7"),
    "info is None": (
        "dataset",
        "def info(self): pass",
        (*ALL, "describe"),
        "info() must return a DatasetInfo, not None",
    ),
    "info is a tuple": (
        *("dataset", "def info(self): return (10, 8, 100, 20, None, 1)", (*ALL, "describe")),
        "info() must return a DatasetInfo, not (10, 8",
    ),
    "a size is text": (
        *("dataset", "def info(self): return DatasetInfo(10, 8, 'many', 20, None, 1)", (*ALL, "describe")),
        "info(): train must be an int of at least 1, not 'many'",
    ),
    "a size is nothing": (
        *("dataset", "def info(self): return DatasetInfo(10, 8, 0, 20, None, 1)", (*ALL, "describe")),
        "info(): train must be an int of at least 1, not 0",
    ),
    "counts are text": (
        *("dataset", "def info(self): return DatasetInfo(2, 8, 4, 4, ('a', 'b'), 1)", (*ALL, "describe")),
        "info(): class_counts must be a tuple of ints or None",
    ),
    "counts are few": (
        *("dataset", "def info(self): return DatasetInfo(10, 8, 4, 4, (2, 2), 1)", (*ALL, "describe")),
        "info(): class_counts has 2 entries for 10 classes",
    ),
    "a source is a list": ("dataset", "source = ['x']", (*ALL, "describe"), "source must be text, not ['x']"),
    "check raises": ("attack", "def check(self, info): [][0]", ALL, "raised IndexError: list index out of range"),
    "check leaves": ("attack", "def check(self, info): raise SystemExit(7)", ALL, "raised SystemExit: 7"),
    "a model's check leaves": ("model", "def check(self, info): raise SystemExit", ALL, "raised SystemExit"),
    "a defense's check leaves": ("defense", "def check(self, info, at): exit(0)", ALL, "raised SystemExit: 0"),
    "__init__ leaves": ("model", "def __post_init__(self): raise SystemExit(0)", ALL, "raised SystemExit: 0"),
    "params raises": ("defense", "def params(self): 1 / 0", ALL, "raised ZeroDivisionError: division by zero"),
    "params leaves": ("attack", "def params(self): raise SystemExit(0)", ALL, "raised SystemExit: 0"),
    "params is None": (
        "defense",
        "def params(self): pass",
        ALL,
        "params() must return every parameter by name, not None",
    ),
    "params are others": ("defense", "def params(self): return {'a': 1}", ALL, "must return every parameter by name"),
    "params are no JSON": (
        "defense",
        "def params(self): return {'rate': {3}}",
        ALL,
        "raised TypeError: Object of type set",
    ),
    "smoke is a list": (
        "defense",
        "smoke = ['x']",
        ("plan --smoke", *ALL),
        "smoke must be a mapping of parameters such as",
    ),
    "smoke is None": ("attack", "smoke = None", ("plan --smoke", "describe"), "smoke must be a mapping"),
    "smoke is a typo": (
        "defense",
        "smoke = {'rat': 1}",
        ("plan --smoke",),
        "smoke has no parameter 'rat'; did you mean 'rate'",
    ),
    "smoke is ill-typed": ("defense", "smoke = {'rate': 'x'}", ("plan --smoke",), "smoke: rate must be float, not 'x'"),
    "needs is None": (
        "defense",
        "needs = None",
        ("describe", *ALL),
        "needs must be a tuple of words such as ('clean',)",
    ),
    "needs is a word": ("defense", "needs = 'clean'", ("describe", *ALL), "needs must be a tuple of words"),
    "needs holds a number": ("defense", "needs = (3,)", ("describe", *ALL), "needs must be a tuple of words"),
    "control is text": ("defense", "control = 'yes'", ("describe", *ALL), "control must be True or False, not 'yes'"),
}


@pytest.mark.parametrize("name", CODE)
def test_code_of_plugins(refused: Callable[..., str], folder: Path, name: str) -> None:
    kind, text, verbs, told = CODE[name]
    (folder / "mine.py").write_text(HEAD + KINDS_OF_MINE[kind] + f"    {text}\n")
    key = kind if kind in ("dataset", "model") else f"{kind}s"
    (folder / "with.yaml").write_text(block(**{key: "mine"}))
    for verb in verbs:
        words = ["describe", "mine"] if verb == "describe" else [verb.split()[0], "with.yaml", *verb.split()[1:]]
        message = refused(*words, "--plugin", "mine.py")
        assert told in message, verb
        # Whose fault it is: the plugin, and no other that was handed what it said.
        assert f"{kind} 'mine' in {folder / 'mine.py'}:" in message, verb


@pytest.mark.parametrize(
    "words", [["plan", "bad.yaml"], ["plan", "good.yaml", "--plugin", "raises.py"], ["paln"], ["run", "bad.yaml"]]
)
def test_a_real_process_says_one_line_and_ends_with_2(folder: Path, words: list[str]) -> None:
    (folder / "bad.yaml").write_text(GOOD + "seeds: [0, x]")
    (folder / "raises.py").write_text(PLUGINS["raises"][0])
    done = subprocess.run([sys.executable, "-m", "benchbd", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("benchbd: ")
    assert done.stderr.count("\n") == 1
    assert sorted(p.name for p in folder.iterdir()) == ["bad.yaml", "good.yaml", "raises.py"]
