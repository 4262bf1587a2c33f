"""A thousand mutated matrices: planned, or refused in one line; nothing is written."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import fuzzing
import pytest
import yaml
from fuzzing import examples, in_time
from good_matrix import Plain
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbd.errors import UsageError, one_line
from benchbd.plan import matrix, matrix_file
from benchbd.plan.trainings import shared_trainings

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

    def change(value: Any, key: Any) -> bool:
        how = rng.randrange(12)
        if how == 0:
            del value[key]
        elif how == 1 and isinstance(value, dict):
            value[rng.choice([*matrix_file.TOP, *matrix_file.BLOCK, "reason", "", "none", None, 3])] = value.pop(key)
        elif how == 2:
            value[key] = [value[key], value[key]]
        else:
            return False
        return True

    return fuzzing.mutate(value, rng, ODD, change)


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

    @settings(max_examples=examples(1_200), deadline=None, derandomize=True, database=None)
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
            with in_time():
                if written is not None:
                    found = matrix.parse(written, "m")
                if not isinstance(found, dict):
                    return
                plan = matrix.resolve(found, "m")
                shared_trainings(plan.cells)
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
