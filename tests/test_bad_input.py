"""Bad and hostile input: exactly one clear line on standard error, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbd import matrix, matrixfile
from benchbd.cli import main
from benchbd.errors import UsageError, did_you_mean, one_line, shown

GOOD = """
dataset: digits
model: resnet18(width=2)
attacks: [none, {blend: {alpha: 0.2}}]
defenses: [none, {lfd: {beta: [0, 1.0e-3]}}]
"""


class Plain(yaml.SafeDumper):
    """Writes what is there twice twice, not as an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_registry: None) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCHBD_DATA", raising=False)
    (tmp_path / "good.yaml").write_text(GOOD)
    return tmp_path


@pytest.fixture
def refused(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    writes_nothing_outside: Callable[[Path], AbstractContextManager[None]],
) -> Callable[..., str]:
    """Run a command that must be refused; return its one line."""

    def never(*_: Any) -> None:
        raise AssertionError("a run was started")

    monkeypatch.setattr("benchbd.run.run_cells", never)

    def run(*words: str) -> str:
        before = sorted(folder.rglob("*"))
        began = time.process_time()
        with writes_nothing_outside(folder):
            code = main(words)
        out, err = capsys.readouterr()
        assert code == 2, err
        assert out == ""
        assert err.startswith("benchbd: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        assert err[:-1].isprintable()
        assert len(err) < 1_100
        assert time.process_time() - began < 3, "a refusal must be quick"
        assert sorted(folder.rglob("*")) == before
        return err.removeprefix("benchbd: ").rstrip("\n")

    return run


# -- the command line itself


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["paln", "x"], "there is no verb 'paln'; did you mean 'plan'?"),
        (["x" * 10_000], "there is no verb 'xxx"),
        (["plan"], "the following arguments are required: MATRIX; see benchbd plan --help"),
        (["plan", "good.yaml", "--sed", "1"], "unrecognized arguments: --sed 1"),
        (["plan", "good.yaml", "--filt", "defense=lfd"], "unrecognized arguments: --filt"),
        (["plan", "good.yaml", "more"], "unrecognized arguments: more"),
        (["plan", "good.yaml", "--seeds"], "argument --seeds: expected one argument"),
        (["plan", "good.yaml", "--seeds", ""], "a seed is a whole number"),
        (["plan", "good.yaml", "--seeds", "0-"], "a seed is a whole number"),
        (["plan", "good.yaml", "--seeds", ",".join(["0-9999"] * 50) + ",10000-10001"], "more than 10,000 seeds"),
        (["plan", "good.yaml", "--filter", "defence=lfd"], "unknown key 'defence'; did you mean 'defense'?"),
        (["plan", "good.yaml", "--filter", "defense=ldf"], "did you mean 'lfd'?"),
        (["plan", "good.yaml", "--exclude", "defense=ldf"], "did you mean 'lfd'?"),
        (["plan", "good.yaml", "--set", "lfd.bta=1"], "lfd has no parameter 'bta'; did you mean 'beta'?"),
        (["plan", "good.yaml", "--set", "abl.lr=1"], "nothing in this matrix is called 'abl'"),
        (["plan", "good.yaml", "--set", "model=resnet19"], "no model is called 'resnet19'; did you mean 'resnet18'?"),
        (["plan", "good.yaml", "--output", "good.yaml"], "is a file, not a folder"),
        (["plan", "good.yaml", "--output", "a\0b"], "that is no path"),
        (["plan", "good.yaml", "--output", "x" * 10_000], "that is no path"),
        (["plan", "good.yaml", "--output", "x" * 3_000], "cannot be read (File name too long)"),
        (["plan", "good.yaml", "--output", "~nobody-of-that-name/x"], "no such home folder"),
        (["plan", "good.yaml", "--data", "nowhere"], "data folder 'nowhere': no such folder"),
        (["validate", "good.yaml", "--data", "good.yaml"], "data folder 'good.yaml': no such folder"),
        (["plan", "good.yaml", "--data", "a\0b"], "that is no path"),
        (["plan", "good.yaml", "--plugin", "nowhere.py"], "plugin 'nowhere.py': no such file"),
        (["plan", "good.yaml", "--plugin", "."], "plugin '.': no such file"),
        (["plan", "good.yaml", "--plugin", "a\0b"], "that is no path"),
        (
            ["plan", "good.yaml", "--data", ""],
            "--data '': is empty; give a value (an unset variable?) or leave --data out",
        ),
        (["plan", "good.yaml", "--output", ""], "--output '': is empty"),
        (["status", "good.yaml", "--output", " "], "--output ' ': is empty"),
        *(
            (
                ["run", "good.yaml", flag, ""],
                f"{flag} '': is empty; give a value (an unset variable?) or leave {flag} out",
            )
            for flag in ("--gpus", "--shard", "--timeout", "--budget", "--data", "--output", "--executor-config")
        ),
        *((["run", "good.yaml", flag, ""], "") for flag in ("--filter", "--exclude", "--set", "--seeds", "--plugin")),
        (["run", "good.yaml", "--executor-config", "{a: 1}"], "is for slurm and ray alone, not for --executor local"),
        (["run", "good.yaml", "--executor", "inline", "--executor-config", "{}"], "not for --executor inline"),
        (["run", "good.yaml", "--jobs", "1000000000"], "--jobs 1000000000: at most "),
        (["run", "good.yaml", "--jobs", "9" * 400], "99...: at most "),
        (["run", "good.yaml", "--jobs-per-gpu", "1000000000"], "--jobs-per-gpu 1000000000: at most "),
        (["run", "good.yaml", "--threads", "1000000000"], "--threads 1000000000: at most 1,024"),
        (["plan", "good.yaml", "--set", "seeds=3"], "seeds is no setting but a flag; did you mean --seeds 3?"),
        (["plan", "good.yaml", "--set", "seeds=[0, 1]"], "did you mean --seeds 0,1?"),
        (["plan", "good.yaml", "--set", "seed = 3"], "did you mean --seeds 3?"),
        (["run", "good.yaml", "--set", "jobs=2"], "did you mean --jobs 2?"),
        (["plan", "good.yaml", "--set", "jobs=2"], "recipe has no parameter 'jobs'"),
        (["list", "atacks"], "nothing is called 'atacks'; did you mean 'attacks'?"),
        (["list", "atacks", "*"], "there is no kind 'atacks'; did you mean 'attacks'?"),
        (["list", "attacks", "nothing*"], "nothing is called 'nothing*'; known: bl"),
        (["list", "--plugin", "nowhere.py"], "plugin 'nowhere.py': no such file"),
        (["describe", "lfdd"], "nothing is called 'lfdd'; did you mean 'lfd'?"),
        (["describe", "attacks/lfd"], "nothing is called 'attacks/lfd'"),
        (["describe", "../../etc/passwd"], "nothing is called '../../etc/passwd'"),
        (["describe", "x" * 10_000], "nothing is called 'xxx"),
        (["show", "abc"], "no records in"),
        (["show", "../../etc/passwd", "--output", "."], "no records in"),
        (["prepare", "good.yaml", "--device", "abacus"], "--device 'abacus': must be auto, cpu, cuda or cuda:N"),
        (["prepare", "good.yaml", "--device", "cuda:99"], "no such device here"),
        (["prepare", "good.yaml", "--device", "meta"], "no such device here"),
    ],
    ids=lambda value: " ".join(w[:24] for w in value).replace("\0", "NUL") if isinstance(value, list) else "",
)
def test_flags_and_names(refused: Callable[..., str], words: list[str], told: str) -> None:
    assert told in refused(*words)


# -- which matrix


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("quikstart", "no such file, and no shipped matrix has that name; did you mean 'quickstart'?"),
        ("", "is a folder; name the YAML file in it"),
        ("nowhere/good.yaml", "no such file"),
        ("good.yaml/x", "no such file"),
        (".", "is a folder; name the YAML file in it"),
        ("../../../../etc/passwd", "must be a mapping"),
        ("/etc/../etc/hostname", "must be a mapping"),
        ("/dev/zero", "is no plain file"),
        ("/dev/stdin/x", "no such file"),
        ("../matrices/__init__", "no such file"),
        ("a\0b", "that is no path"),
        ("x" * 10_000, "that is no path"),
        ("x" * 300, "cannot be read (File name too long)"),
        ("\x1b[31mred", "no such file"),
        ("two\nlines", "no such file"),
        ("~nobody-of-that-name/x.yaml", "no such home folder"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_names_of_matrices(refused: Callable[..., str], name: str, told: str) -> None:
    if "etc" in name and not Path(name).exists():
        pytest.skip(f"this machine has no {name}")
    assert told in refused("plan", name)


# -- what is in it


def block(**changes: Any) -> str:
    data = {**yaml.safe_load(GOOD), **changes}
    return yaml.dump({k: v for k, v in data.items() if v is not KeyError}, Dumper=Plain)


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join(lines)


HUNDRED = list(range(100))
TEXTS = {
    "empty": ("", "is empty; it needs blocks"),
    "only a comment": ("# nothing\n", "is empty"),
    "text": ("just words", "must be a mapping with blocks, not str"),
    "a list": ("- a\n- b\n", "must be a mapping with blocks, not list"),
    "a number": ("3", "must be a mapping with blocks, not int"),
    "not YAML": ("attacks: [none\ndefenses: x", "line 2: not YAML"),
    "a tab": ("dataset:\n\t- digits", "line 2: not YAML (found character '\\t' that cannot start any token)"),
    "two documents": ("a: 1\n---\nb: 2\n", "not YAML"),
    "a NUL": ("dataset: a\0b", "not YAML (special characters are not allowed)"),
    "an escape": ("dataset: \x1b[31m", "not YAML (special characters are not allowed)"),
    "Latin-1": (GOOD.encode() + "# \xe9\xe8".encode("latin-1"), "is not UTF-8 text"),
    "UTF-16": (GOOD.encode("utf-16"), "is not UTF-8 text"),
    "binary": (bytes(range(256)) * 10, "is not UTF-8 text"),
    "too large": ("# " + "x" * 300_000, "larger than 200,000 bytes"),
    "deep": ("a: " + "[" * 50_000, "nested too deeply"),
    "deep mappings": ("".join(" " * i + "a:\n" for i in range(500)), "nested too deeply"),
    "an alias": ("a: &x 1\nb: *x\n", "line 2: YAML aliases (*name) are not allowed"),
    "a bomb": (bomb(), "line 2: YAML aliases"),
    "a bomb that eats itself": ("a: &a [*a, *a]", "YAML aliases"),
    "a merge": ("a: &x {b: 1}\nc:\n  <<: *x\n", "YAML aliases"),
    "a merge without alias": (GOOD + "<<: {seeds: 1}", "unknown key '<<'"),
    "a python tag": ("a: !!python/object/apply:os.system [echo]", "YAML tags"),
    "a python name": ("a: !!python/name:os.system", "YAML tags"),
    "a binary tag": ("a: !!binary aGk=", "YAML tags"),
    "a broken tag": ("a: !!int ''", "YAML tags"),
    "a local tag": ("a: !mine x", "YAML tags"),
    "a bare tag": ("a: ! x", "YAML tags"),
    "a directive": ("%TAG ! tag:x,2000:\n---\na: !b 1", "YAML tags"),
    "a key twice": (GOOD + "dataset: cifar10", "line 6: 'dataset' is given twice"),
    "a key twice inside": (block() + "recipe: {epochs: 1, epochs: 2}", "'epochs' is given twice"),
    "a list as key": ("? [a]\n: 1", "line 1: a key must be a word"),
    "a mapping as key": ("{{a: 1}: 2}", "a key must be a word"),
    "an unknown key": (GOOD + "defences: [lfd]", "unknown key 'defences'; did you mean 'defenses'?"),
    "a number as key": (GOOD + "3: x", "unknown key 3"),
    "a long key": (GOOD + "x" * 900 + ": 1", "unknown key 'xxx"),
    "a huge number": (GOOD + "seeds: " + "9" * 5_000, "not YAML (Exceeds the limit"),
    "a large number": (GOOD + "seeds: " + "9" * 400, "a seed is a whole number"),
    "no data set": (block(dataset=KeyError), "dataset is missing"),
    "no model": (block(model=None), "model is missing"),
    "no attacks": (block(attacks=[]), "attacks is missing"),
    "no defenses": (block(defenses=KeyError), "defenses is missing"),
    "blocks and a block": (GOOD + "blocks: []", "dataset belongs inside a block"),
    "no blocks": ("blocks: []", "blocks must be a list with at least one block"),
    "blocks is text": ("blocks: x", "blocks must be a list"),
    "blocks is null": ("blocks:", "blocks must be a list"),
    "a block is text": ("blocks: [x]", "block 1: must be a mapping"),
    "a block's key": ("blocks: [{datset: digits}]", "block 1: unknown key 'datset'; did you mean 'dataset'?"),
    "an unknown data set": (block(dataset="cifar"), "no dataset is called 'cifar'; did you mean 'cifar10'?"),
    "an unknown model": (block(model="resnet"), "no model is called 'resnet'; did you mean 'resnet"),
    "an unknown attack": (block(attacks=["blnd"]), "no attack is called 'blnd'; did you mean 'blend'?"),
    "an unknown defense": (block(defenses=["lfdd"]), "no defense is called 'lfdd'; did you mean 'lfd'?"),
    "a path as name": (block(attacks=["../../etc/passwd"]), "'../../etc/passwd' is neither NAME nor"),
    "an absolute path": (block(model="/etc/passwd"), "'/etc/passwd' is neither NAME nor"),
    "a NUL in a name": ('{attacks: "a\\0b", dataset: digits, model: lenet, defenses: none}', "'a\\x00b' is neither"),
    "a surrogate": ('{attacks: "\\ud800", dataset: digits, model: lenet, defenses: none}', "neither NAME nor"),
    "a name of 10 kB": (block(attacks=["x" * 10_000]), "a name of 10000 characters is no name"),
    "a name is a number": (block(defenses=[3]), "defense: expected a name, found 3"),
    "a name is a list": (block(defenses=[["none"]]), "defense: expected a name, found ['none']"),
    "two names": (block(defenses=[{"none": None, "lfd": None}]), "takes one name, found 2"),
    "parameters are a list": (block(defenses=[{"lfd": [1]}]), "parameters must be a mapping"),
    "an unknown parameter": (block(defenses=[{"lfd": {"alhpa": 1}}]), "no parameter 'alhpa'; did you mean 'alpha'?"),
    "an ill-typed parameter": (block(defenses=[{"lfd": {"alpha": "high"}}]), "alpha must be float, not 'high'"),
    "not a number": ("{attacks: blend(alpha=1e999), dataset: digits, model: lenet, defenses: none}", "must be float"),
    ".nan": (block(defenses=[{"lfd": {"beta": float("nan")}}]), "beta must be float, not nan"),
    "an unknown choice": (block(defenses=[{"lfd": {"mode": "weigted"}}]), "mode must be 'weighted' | 'unweighted'"),
    "an empty list": (block(defenses=[{"lfd": {"beta": []}}]), "beta is an empty list"),
    "a mapping as value": (block(defenses=[{"lfd": {"beta": {"a": 1}}}]), "beta must be float, not {'a': 1}"),
    "a text of 10 kB": (block(defenses=[{"lfd": {"teacher": "x" * 10_000}}]), "teacher must be str, not 'xxx"),
    "an unknown teacher": (block(defenses=[{"lfd": {"teacher": "resnet-ss"}}]), "no model is called 'resnet-ss'"),
    "code": (block(defenses=["lfd(alpha=__import__('os').system('x'))"]), "cannot read the parameters"),
    "an unknown recipe key": (block(recipe={"epoch": 1}), "recipe has no parameter 'epoch'; did you mean 'epochs'?"),
    "an ill-typed recipe": (block(recipe={"epochs": "many"}), "recipe: epochs must be int, not 'many'"),
    "an impossible recipe": (block(recipe={"batch_size": 0}), "batch_size must be 1 or more, not 0"),
    "an unknown augmentation": (block(recipe={"augment": ["crop"]}), "'crop' is unknown; did you mean 'crop4'?"),
    "a recipe of numbers": (block(recipe={3: 4}), "recipe has no parameter 3"),
    "a recipe is text": (block(recipe="long"), "recipe must be a mapping"),
    "a seed is text": (block(seeds="one"), "a seed is a whole number from 0 on, or a range"),
    "a seed is negative": (block(seeds=[-1]), "a seed is a whole number"),
    "a seed is a fraction": (block(seeds=0.5), "a seed is a whole number"),
    "a seed is true": (block(seeds=True), "a seed is a whole number"),
    "a backward range": (block(seeds="4-0"), "a seed is a whole number"),
    "no seeds": (block(seeds=[]), "seeds is empty"),
    "a flood of seeds": (block(seeds=[f"{i * 10_000}-{i * 10_000 + 9_999}" for i in range(50)]), "more than 10,000"),
    "a strange gate": (block(gate=2), "gate is an ASR in [0, 1], not 2"),
    "a gate is true": (block(gate=True), "gate is an ASR in [0, 1]"),
    "a name with a path": (block(name="../x"), "name must be a word"),
    "the name is a list": (block(name=["x"]), "name must be a word"),
    "a description is a list": (block(description=["x"]), "description must be text"),
    "an exclude without reason": (block(exclude=[{"attack": "none"}]), "needs a reason"),
    "an exclude with a typo": (block(exclude=[{"attack": "nnone", "reason": "x"}]), "fits no cell"),
    "a plugin that is not there": (block(plugins=["../../nowhere.py"]), "no such file"),
    "a plugin with a NUL": ('{plugins: "a\\0b"}', "that is no path"),
    "a plugin is a number": (block(plugins=3), "plugins are files, not 3"),
    "a million cells by seeds": (
        block(seeds="0-9999", model=[{"resnet18": {"width": HUNDRED[1:20]}}]),
        "cells, more than 100,000; is a list in the wrong place?",
    ),
    "a million cells by a typo": (
        block(defenses=[{"lfd": {"alpha": [i / 1000 for i in HUNDRED], "beta": HUNDRED, "teacher_epochs": HUNDRED}}]),
        "2,000,000 cells, more than 100,000",
    ),
    "more cells than atoms": (
        block(defenses=[{"lfd": dict.fromkeys(("alpha", "beta", "ga_cap"), HUNDRED * 20)}], seeds="0-9999"),
        "cells, more than 100,000",
    ),
    "a million cells in one line": (
        block(defenses=[f"lfd(alpha={HUNDRED},beta={HUNDRED},ga_cap={HUNDRED})"]),
        "2,000,000 cells, more than 100,000",
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_matrices(refused: Callable[..., str], folder: Path, name: str) -> None:
    text, told = TEXTS[name]
    path = folder / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refused("plan", "bad.yaml")
    assert told in message
    assert "bad.yaml" in message


@pytest.mark.parametrize(("key", "value"), [("dataset", "cifar"), ("attacks", "blnd"), ("defenses", {"lfd": {"a": 1}})])
def test_the_message_names_the_block(refused: Callable[..., str], folder: Path, key: str, value: Any) -> None:
    good = yaml.safe_load(GOOD)
    (folder / "bad.yaml").write_text(yaml.dump({"blocks": [good, {**good, key: value}]}, Dumper=Plain))
    assert refused("plan", "bad.yaml").startswith("matrix bad.yaml, block 2: ")


@pytest.mark.parametrize("verb", ["run", "plan", "validate", "status", "prepare"])
def test_every_verb_that_takes_a_matrix_refuses_alike(refused: Callable[..., str], folder: Path, verb: str) -> None:
    (folder / "bad.yaml").write_text(block(attacks=["blnd"]))
    assert refused(verb, "bad.yaml") == "matrix bad.yaml: no attack is called 'blnd'; did you mean 'blend'?"


# -- plugin files


MINE = "from benchbd.components import Attack, attack\n\n\n@attack('NAME', version=1)\nclass Mine(Attack):\n    pass\n"
PLUGINS = {
    "raises": (MINE + "raise RuntimeError('no luck\\ntoday')\n", "RuntimeError: no luck today (line 7)"),
    "raises nothing said": (MINE + "raise RuntimeError\n", "RuntimeError (line 7)"),
    "has a syntax error": ("def broken(:\n", "SyntaxError: invalid syntax (line 1)"),
    "defines nothing": ("x = 1\n", "no class under @dataset, @attack, @defense, @model"),
    "is empty": ("", "no class under"),
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


# -- plugins whose code raises, or says what nobody can use, once it is loaded

HEAD = """from benchbd.components import *
from benchbd.components import attack, dataset, defense, model


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
        "info(): train must be an int from 1 on, not 'many'",
    ),
    "a size is nothing": (
        *("dataset", "def info(self): return DatasetInfo(10, 8, 0, 20, None, 1)", (*ALL, "describe")),
        "info(): train must be an int from 1 on, not 0",
    ),
    "counts are text": (
        *("dataset", "def info(self): return DatasetInfo(2, 8, 4, 4, ('a', 'b'), 1)", (*ALL, "describe")),
        "info(): class_counts must be a tuple of ints or None",
    ),
    "counts are few": (
        *("dataset", "def info(self): return DatasetInfo(10, 8, 4, 4, (2, 2), 1)", (*ALL, "describe")),
        "info(): class_counts has 2 numbers for 10 classes",
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


# -- folders that may not be read

DRIVER = """
import contextlib, io, json, sys
from benchbd.cli import main

told = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    told.append([code, out.getvalue(), err.getvalue()])
json.dump(told, sys.stdout)
"""
PROBE = """
import benchbd.cli, os, sys

try:
    os.listdir(sys.argv[1])
except PermissionError:
    sys.exit(42)
"""
Unprivileged = Callable[..., list[tuple[int, str, str]]]


@pytest.fixture(scope="session")
def without_privileges() -> tuple[list[str], dict[str, Any]]:
    """Words before a command and options of subprocess.run, with which it can't read what its modes forbid.

    To root every folder is open. setpriv takes the two capabilities away that open them; another user has none.
    """
    setpriv = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    other = {"user": 65534, "group": 65534, "extra_groups": []}
    ways: list[tuple[list[str], dict[str, Any]]] = [([], {})]
    if os.geteuid() == 0:
        ways = [(setpriv, {}), ([], other)] if shutil.which("setpriv") else [([], other)]
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        (Path(place) / "closed").mkdir(mode=0)
        for words, options in ways:
            command = [*words, sys.executable, "-c", PROBE, str(Path(place) / "closed")]
            try:
                found = subprocess.run(command, capture_output=True, check=False, cwd=place, **options).returncode
            except OSError:
                continue
            if found == 42:
                return words, options
    pytest.skip("no way to run a command without root's privileges: setpriv and other users both fail here")


@pytest.fixture
def unprivileged(without_privileges: tuple[list[str], dict[str, Any]], place: Path) -> Unprivileged:
    """Run commands one after the other where modes count; return exit code, standard output and error of each."""
    before, options = without_privileges

    def run(*commands: Sequence[str], env: dict[str, str] | None = None) -> list[tuple[int, str, str]]:
        there = sorted(place.rglob("*"))
        done = subprocess.run(
            [*before, sys.executable, "-c", DRIVER],
            input=json.dumps([list(words) for words in commands]),
            capture_output=True,
            text=True,
            check=True,
            cwd=place,
            env={**{k: v for k, v in os.environ.items() if k != "BENCHBD_DATA"}, **(env or {})},
            **options,
        )
        assert sorted(place.rglob("*")) == there, "something was written"
        return [(code, out, err) for code, out, err in json.loads(done.stdout)]

    return run


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="benchbd-test-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        (folder / "good.yaml").write_text(GOOD)
        yield folder
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


def one_refusal(told: tuple[int, str, str]) -> str:
    code, out, err = told
    assert (code, out) == (2, ""), err
    assert err.startswith("benchbd: ")
    assert err.count("\n") == 1
    return err.removeprefix("benchbd: ").rstrip("\n")


def closed(path: Path) -> Path:
    path.chmod(0)
    return path


def test_an_unreadable_data_folder(unprivileged: Unprivileged, place: Path) -> None:
    folder = place / "closed"
    folder.mkdir(mode=0)
    ways = [[verb, "good.yaml", "--data", data] for verb in ("plan", "run") for data in ("closed", str(folder))]
    for words, told in zip(ways, unprivileged(*ways), strict=True):
        named = words[-1] if words[0] == "plan" else folder  # workers may have another working folder
        assert one_refusal(told) == f"data folder '{named}': not readable; check its permissions"
    (told,) = unprivileged(["plan", "good.yaml"], env={"BENCHBD_DATA": str(folder)})
    assert one_refusal(told) == f"data folder '{folder}': not readable; check its permissions"


CIFAR = ("cifar-10-batches-py", *(f"cifar-10-batches-py/data_batch_{n}" for n in range(1, 6)))
CIFAR_FILES = (*CIFAR[1:], "cifar-10-batches-py/test_batch", "cifar-10-batches-py/batches.meta")
SIGNS = "gtsrb/GTSRB/Final_Training/Images"


@pytest.mark.parametrize(
    ("data", "locked", "told"),
    [
        ("cifar10", "cifar-10-batches-py", "cifar10: {data}/cifar-10-batches-py/data_batch_1 cannot be read"),
        ("cifar10", "cifar-10-batches-py/test_batch", "cifar10: {data}/cifar-10-batches-py/test_batch cannot be read"),
        ("gtsrb", "gtsrb", "data folder {data} cannot be read"),
        ("gtsrb", "gtsrb/GTSRB", "gtsrb: {data}/" + SIGNS + " cannot be read"),
        ("gtsrb", SIGNS, "gtsrb: {data}/" + SIGNS + " cannot be read"),
        ("gtsrb", "gtsrb/GT-final_test.csv", "gtsrb: {data}/gtsrb/GT-final_test.csv cannot be read"),
    ],
    ids=lambda value: value.replace("/", "-") if "{" not in value else "",
)
def test_unreadable_data(unprivileged: Unprivileged, place: Path, data: str, locked: str, told: str) -> None:
    root = place / "data"
    for name in (*CIFAR_FILES, "gtsrb/GT-final_test.csv"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    (root / SIGNS).mkdir(parents=True)
    closed(root / locked)
    (place / "with.yaml").write_text(block(dataset=data))
    words = ["with.yaml", "--data", str(root)]
    ran, planned = unprivileged(["run", *words, "--display", "none"], ["plan", *words])
    line = told.format(data=root) + ": Permission denied; check its permissions"
    assert one_refusal(ran) == line
    code, out, err = planned
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"data: {line}"


@pytest.mark.parametrize("locked", ["out", "out/records", "out/logs", "out/store", "out/running", "behind"])
def test_an_unreadable_output_folder(unprivileged: Unprivileged, place: Path, locked: str) -> None:
    output = "behind/out" if locked == "behind" else "out"
    (place / locked).mkdir(parents=True)
    closed(place / locked)
    commands = [
        *([verb, "good.yaml"] for verb in ("plan", "status", "validate", "run")),
        *([verb, "abc"] for verb in ("show", "logs", "rerun")),
        *(["leaderboard"], ["leaderboard", "good.yaml"], ["clean", "-y"], ["export", "all.jsonl"]),
    ]
    for told in unprivileged(*([*words, "--output", output] for words in commands)):
        where = output if locked == "behind" else locked
        assert one_refusal(told) == f"--output '{where}': cannot be read (Permission denied); check its permissions"


def test_an_output_folder_that_cannot_be_written(unprivileged: Unprivileged, place: Path) -> None:
    (place / "out").mkdir(mode=0o555)
    (told,) = unprivileged(["run", "good.yaml", "--output", "out"])
    advice = "check its permissions and the disk, or name another folder"
    assert one_refusal(told) == f"--output 'out': cannot be written (Permission denied); {advice}"


def test_other_files_that_cannot_be_read(unprivileged: Unprivileged, place: Path) -> None:
    log = place / "out" / "logs" / f"{'a' * 16}.log"
    log.parent.mkdir(parents=True)
    log.write_text("== label")
    for path in (log, place / "mine.py", place / "closed.yaml"):
        path.touch()
        closed(path)
    commands = [
        ["logs", "aaaa", "--output", "out"],
        ["plan", "closed.yaml"],
        ["plan", "good.yaml", "--plugin", "mine.py"],
    ]
    for told, name in zip(unprivileged(*commands), (log.name, "closed.yaml", "mine.py"), strict=True):
        assert re.search(rf"{re.escape(name)}.*Permission denied", one_refusal(told))


def test_a_folder_behind_a_closed_one(
    refused: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.stat

    def stat(self: Path, **options: Any) -> os.stat_result:
        if "behind" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, **options)

    monkeypatch.setattr(Path, "stat", stat)
    for words in (["--data", "behind/x"], ["--output", "behind/x"], ["--plugin", "behind/x.py"]):
        assert "cannot be read (Permission denied)" in refused("validate", "good.yaml", *words)
    assert "cannot be read (Permission denied)" in refused("validate", "behind/x.yaml")


# -- the same, from a real process


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


# -- what nobody foresaw


def test_an_error_of_our_own_is_one_line_and_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raised: list[BaseException] = []

    def fail(*_: Any, **__: Any) -> None:
        raise raised.pop()

    monkeypatch.setattr(matrix, "load", fail)
    monkeypatch.delenv("BENCHBD_DEBUG", raising=False)
    for error, told in (
        (KeyError("two\nlines"), "KeyError: 'two\\nlines'"),
        (SystemExit(7), "RuntimeError: something called sys.exit(7)"),
        (RuntimeError(), "RuntimeError"),
    ):
        raised.append(error)
        assert main(["plan", "quickstart"]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err == (
            f"benchbd: internal error: {told}; please report it, with what BENCHBD_DEBUG=1 in the environment shows\n"
        )


def test_the_traceback_can_be_had(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("BENCHBD_DEBUG", "1")
    assert main(["plan", "nowhere.yaml"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.splitlines()[-1].startswith("benchbd: ")


# -- messages


def test_values_are_shown_short_in_one_line_whatever_they_are() -> None:
    for value in ("x" * 10_000, "a\n\x1b\0\ud800\u202e", 10**5000, [[1] * 1000], {"a": 10**5000}, object(), None):
        assert len(shown(value)) <= 75
        assert shown(value).isprintable()
    assert shown("x") == "'x'"
    assert one_line("a\n b\t\x07c") == "a b \\x07c"
    assert len(one_line("x" * 10_000)) == 1000


def test_suggestions() -> None:
    assert did_you_mean("epoch", ["epochs", "lr"]) == "; did you mean 'epochs'?"
    assert did_you_mean("zzz", ["lr", "epochs", "lr"]) == "; known: epochs, lr"
    assert did_you_mean("zzz", []) == "; none is known"


# -- fuzz

WHOLE: dict[str, Any] = {
    "name": "m",
    "description": "Words.",
    "seeds": [0, "1-2"],
    "gate": 0.5,
    "recipe": {"epochs": 3, "lr": 1e-3, "augment": ["crop4"]},
    "exclude": [{"attack": "toy-attack", "seed": 1, "reason": "why not"}],
    "blocks": [
        {
            "dataset": "toy-images",
            "model": {"toy-net": {"width": [2, 4]}},
            "attacks": ["none", {"toy-attack": {"places": [[1], [2, 3]], "strength": 2}}],
            "defenses": ["none", "toy-defense(beta=[1, 2])", {"toy-defense": {"mode": "soft", "note": "x"}}],
            "recipe": {"batch_size": 32},
        }
    ],
}
ODD: list[Any] = [
    *(None, True, False, 0, -1, 3, 2**63, 10**30, 1e308, 1e-3, float("nan"), float("inf"), "", "none", "x", "*", "["),
    *(1, 2, 0.25, [2], [0.5, 1], "toy-clean", "toy-net", "toy-images", "word", "toy-defense(note='y')", "1-3"),
    *("toy-attack", "toy-defense(", "toy-defense(beta=1)", "toy-defense(beta=[1, 2, 3])", "../../x", "/etc/passwd"),
    *("a\0b", "\ud800", "x" * 10_000, "0-5000", "9-1", "toy-images(train=5000)", "toy-net(width=99)"),
    *([], {}, [[]], [None], {"": {}}, {"none": None}, {"toy-attack": {"strength": "x"}}, {3: 4}, {"reason": "x"}),
    *(
        ["none"] * 60,
        {"toy-defense": {"beta": [0.5] * 60}},
        {"toy-defense": {"beta": list(range(900))}},
        ["0-4999"] * 9,
    ),
]
SNIPPETS = [
    *(
        "\n",
        "  ",
        "\t",
        ":",
        ": ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "'",
        '"',
        "&a ",
        "*a",
        "!!int ",
        "!x ",
        "? ",
        "| \n",
        "> ",
    ),
    *("<<: ", "---\n", "%YAML 9\n", "\0", "\x85", "\u2028", "\ufeff", "~", "null", ".nan", "1e999", "0x10", "1:30"),
    *("=", "2001-01-01", "#", ",", "\\", "@", "`", "9" * 400, "seeds: 1\n", "blocks:\n", "é"),
]


def mutate(value: Any, rng: random.Random) -> Any:
    """Replace, remove, rename, double or wrap something at a random place."""
    if not (isinstance(value, (dict, list)) and value) or rng.random() < 0.1:
        return rng.choice(ODD)
    value = copy.copy(value)
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    how = rng.randrange(12)
    if how == 0:
        del value[key]
    elif how == 1 and isinstance(value, dict):
        value[rng.choice([*matrixfile.TOP, *matrixfile.BLOCK, "reason", "", "none", None, 3])] = value.pop(key)
    elif how == 2:
        value[key] = [value[key], value[key]]
    else:
        value[key] = mutate(value[key], rng)
    return value


def test_a_thousand_mutated_matrices_are_planned_or_refused_and_nothing_is_written(
    toys: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writes_nothing_outside: Callable[[Path], AbstractContextManager[None]],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(matrix, "MAX_CELLS", 400)
    text = yaml.safe_dump(WHOLE, sort_keys=False)
    whole = matrix.resolve(copy.deepcopy(WHOLE), "m")
    assert len(whole.cells) + len(whole.skipped) == 3 * 2 * 3 * 4
    tried: list[int] = []
    planned: list[int] = []
    refusals: set[str] = set()

    @settings(max_examples=1_200, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 2**64))
    def fuzz(seed: int) -> None:
        rng = random.Random(seed)
        found: Any = copy.deepcopy(WHOLE)
        written = None
        if rng.random() < 0.6:
            for _ in range(rng.randint(1, 2)):
                found = mutate(found, rng)
            written = yaml.dump(found, Dumper=Plain, allow_unicode=True) if rng.random() < 0.5 else None
        else:
            written = text
            for _ in range(rng.randint(1, 2)):
                at = rng.randrange(len(written))
                written = written[:at] + rng.choice(SNIPPETS) + written[at + rng.randint(0, 8) :]
        try:
            if written is not None:
                found = matrix.parse(written, "m")
            if not isinstance(found, dict):
                return
            plan = matrix.resolve(found, "m")
            matrix.trainings(plan.cells)
        except UsageError as error:  # and no other error, of ours or of Python's
            refusals.add(one_line(error))
        else:
            assert len({c.id for c in plan.cells}) == len(plan.cells)
            assert all(one_line(c.label) for c in plan.cells)
            planned.append(len(plan.cells))
        tried.append(seed)

    with writes_nothing_outside(tmp_path):
        fuzz()
    assert list(tmp_path.iterdir()) == []
    assert len(tried) >= 1_000
    assert len(planned) > 60, "both ways out must be well travelled"
    assert len(refusals) > 150
