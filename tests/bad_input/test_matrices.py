"""Whatever is wrong in a matrix: one clear line that names the place, exit code 2, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from good_matrix import GOOD, Plain, block


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join(lines)


HUNDRED = list(range(100))


TEXTS = {
    "empty": ("", "is empty; it needs dataset, model, attacks and defenses"),
    "only a comment": ("# nothing\n", "is empty"),
    "text": ("just words", "must be a mapping with keys such as dataset and attacks, not text"),
    "a list": ("- a\n- b\n", "must be a mapping with keys such as dataset and attacks, not a list"),
    "a number": ("3", "must be a mapping with keys such as dataset and attacks, not 3"),
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
    "a large number": (GOOD + "seeds: " + "9" * 400, "a seed must be a whole number"),
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
    "an unquoted spec": (
        block(attacks=KeyError) + "attacks: [none, bn-g(rate=0.1, target=2)]",
        "'bn-g(rate=0.1' is neither NAME nor NAME(parameter=value); close the parenthesis, and in a YAML list quote",
    ),
    "names with commas": (block(defenses="none, ac"), "several names are a list: [none, ac]"),
    "names with spaces": (block(attacks="none bn-g  sig"), "several names are a list: [none, bn-g, sig]"),
    "a path as name": (block(attacks=["../../etc/passwd"]), "'../../etc/passwd' is neither NAME nor"),
    "an absolute path": (block(model="/etc/passwd"), "'/etc/passwd' is neither NAME nor"),
    "a NUL in a name": ('{attacks: "a\\0b", dataset: digits, model: lenet, defenses: none}', "'a\\x00b' is neither"),
    "a surrogate": ('{attacks: "\\ud800", dataset: digits, model: lenet, defenses: none}', "neither NAME nor"),
    "a name of 10 kB": (block(attacks=["x" * 10_000]), "a spec of 10,000 characters is too long"),
    "a name is a number": (block(defenses=[3]), "defense: expected a name, found 3"),
    "a name is a list": (block(defenses=[["none"]]), "defense: expected a name, found ['none']"),
    "two names": (block(defenses=[{"none": None, "lfd": None}]), "takes one name, found 2"),
    "parameters are a list": (block(defenses=[{"lfd": [1]}]), "parameters must be a mapping"),
    "an unknown parameter": (block(defenses=[{"lfd": {"alhpa": 1}}]), "no parameter 'alhpa'; did you mean 'alpha'?"),
    "an ill-typed parameter": (block(defenses=[{"lfd": {"alpha": "high"}}]), "alpha must be float, not 'high'"),
    "not a number": (
        "{attacks: blend(alpha=1e999), dataset: digits, model: lenet, defenses: none}",
        "must be a finite number",
    ),
    ".nan": (block(defenses=[{"lfd": {"beta": float("nan")}}]), "beta must be a finite number, not nan"),
    "an unknown choice": (block(defenses=[{"lfd": {"mode": "weigted"}}]), "weigted'; did you mean 'weighted'?"),
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
    "a recipe is a list": (
        block(recipe=["fast"]),
        "recipe must be a mapping such as {epochs: 20}, or the name of a preset such as fast, not ['fast']",
    ),
    "a recipe is a number": (block(recipe=3), "or the name of a preset such as fast, not 3"),
    "an unknown preset": (block(recipe="sgd-lon"), "preset must be one of paper, backdoorbench, sgd-long, fast"),
    "a misspelt preset entry": (block(recipe={"prset": "fast"}), "no parameter 'prset'; did you mean 'preset'?"),
    "a warm-up without end": (block(recipe={"warmup": 1.0e6}), "warmup must be at most epochs (80), not 1000000.0"),
    "two crops": (block(recipe={"augment": ["crop4", "translate2"]}), "(given: crop4, translate2)"),
    "a seed is text": (block(seeds="one"), "a seed must be a whole number of at least 0 or a range"),
    "a seed is negative": (block(seeds=[-1]), "a seed must be a whole number"),
    "a seed is a fraction": (block(seeds=0.5), "a seed must be a whole number"),
    "a seed is true": (block(seeds=True), "a seed must be a whole number"),
    "a backward range": (block(seeds="4-0"), "a seed must be a whole number"),
    "no seeds": (block(seeds=[]), "seeds is empty"),
    "a flood of seeds": (block(seeds=[f"{i * 10_000}-{i * 10_000 + 9_999}" for i in range(50)]), "more than 10,000"),
    "a strange gate": (block(gate=2), "gate must be an ASR in [0, 1], not 2"),
    "a gate is true": (block(gate=True), "gate must be an ASR in [0, 1]"),
    "a name with a path": (block(name="../x"), "name must be a word"),
    "the name is a list": (block(name=["x"]), "name must be a word"),
    "a description is a list": (block(description=["x"]), "description must be text"),
    "an exclude without reason": (block(exclude=[{"attack": "none"}]), "needs a reason"),
    "an exclude with a typo": (block(exclude=[{"attack": "nnone", "reason": "x"}]), "matches no cell"),
    "a plugin that is not there": (block(plugins=["../../nowhere.py"]), "no such file"),
    "a plugin with a NUL": ('{plugins: "a\\0b"}', "not a valid path"),
    "a plugin is a number": (block(plugins=3), "plugins must be file paths, not 3"),
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
