"""What a user may ask a cell to compute with, and the one form that each wish has."""

from __future__ import annotations

from typing import Any

import pytest

from benchbd.core.numerics import Numerics, canonical_precision, numerics_text, precision_class
from benchbd.errors import UsageError


@pytest.mark.parametrize(
    ("wish", "form"),
    [
        ("auto", "auto"),
        ("fast", "auto"),
        ("auto-fast", "auto"),
        ("fp32", "fp32"),
        ("fp32-fast", "fp32"),
        ("strict", "strict"),
        ("strict-auto", "strict"),
        ("strict-bf16", "bf16-strict"),
        ("bf16-strict", "bf16-strict"),
        ("compile-eager-bf16", "bf16-eager-compile"),
        ("eager-strict", "strict-eager"),
    ],
)
def test_one_meaning_has_one_form(wish: str, form: str) -> None:
    assert canonical_precision(wish) == canonical_precision(form) == form


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": "bf61"}, "precision 'bf61': 'bf61' is unknown; did you mean 'bf16'?"),
        ({"precision": "fp32-strikt"}, "precision 'fp32-strikt': 'strikt' is unknown; did you mean 'strict'?"),
        ({"precision": ""}, "precision '': '' is unknown; known: auto, bf16, compile, eager, fast, fp32, strict"),
        ({"precision": "fp32-bf16"}, "precision 'fp32-bf16' contradicts itself"),
        ({"precision": "auto-bf16"}, "precision 'auto-bf16' contradicts itself"),
        ({"precision": "strict-compile"}, "precision 'strict-compile' contradicts itself"),
        ({"precision": 16}, "precision must be a word such as bf16 or fp32-strict, not 16"),
        ({"precision": ["fp32", "bf16"]}, "precision must be a word such as bf16 or fp32-strict, not ['fp32', 'bf16']"),
        ({"threads": 0}, "threads must be more than 0, not 0"),
        ({"threads": 1025}, "threads 1025: at most 1,024 are allowed"),
        ({"threads": True}, "threads must be a whole number, not True"),
        ({"threads": 2.0}, "threads must be a whole number, not 2.0"),
        ({"threads": "2"}, "threads must be a whole number, not '2'"),
    ],
)
def test_a_bad_wish_is_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Numerics.parse(given)
    assert str(caught.value) == message
    with pytest.raises(UsageError, match=f"^--{next(iter(given))} "):
        Numerics.parse(given, "--")


def test_defaults_leave_no_trace() -> None:
    for given in ({}, {"precision": "fast", "threads": 1}, {"precision": None, "threads": None}, {"other": 3}):
        found = Numerics.parse(given)
        assert (found.spec(), found.text) == ({}, "")
    found = Numerics.parse({"threads": 4, "precision": "strict-bf16"})
    assert found.spec() == {"precision": "bf16-strict", "threads": 4}
    assert found.text == numerics_text(found.spec()) == "precision=bf16-strict,threads=4"
    assert numerics_text({"precision": {"a": 1}, "threads": [1]}) == ""


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({"precision": "cpu-fp32", "threads": 1}, "cpu-fp32"),
        ({"precision": "cpu-fp32"}, "cpu-fp32"),
        ({"precision": "cpu-fp32", "threads": 4}, "cpu-fp32-t4"),
        ({"precision": "cpu-fp32-t4", "threads": 4}, "cpu-fp32-t4"),
        ({"precision": "cuda-bf16", "threads": 8}, "cuda-bf16"),
        ({}, None),
        ({"precision": 3}, None),
        (None, None),
    ],
)
def test_the_class_of_a_record_includes_the_threads_of_earlier_releases(env: Any, name: str | None) -> None:
    assert precision_class({"env": env}) == name
