"""Fields as parameters: types, defaults, help, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbd.core import params
from benchbd.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    count: int = 3
    """How many."""
    rate: float = 1
    """What share,
    of all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample(Base):
    rate: float = 1
    """The subclass's words."""
    fast: bool = False
    word: str = "x"
    maybe: int | None = None
    mode: Literal["a", "b", 3] = "a"
    """One of these."""
    many: tuple[float, ...] = (1, 2.5)
    some: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen(Sample):
    choice: Literal["slow", "fast"] | None = None
    only: Literal["this"] = "this"


def take(name: str, value: Any) -> Any:
    return params.resolve(Sample, {name: value}, "sample")[name]


def test_schema_tells_names_types_defaults_and_help() -> None:
    told = {p.name: p for p in params.schema(Sample)}
    assert list(told) == ["count", "rate", "fast", "word", "maybe", "mode", "many", "some"]
    assert {name: p.type for name, p in told.items()} == {
        "count": "int",
        "rate": "float",
        "fast": "bool",
        "word": "str",
        "maybe": "int | None",
        "mode": "'a' | 'b' | 3",
        "many": "list of float",
        "some": "list of str | None",
    }
    assert (told["count"].default, told["count"].help) == (3, "How many.")
    assert told["rate"].help == "The subclass's words."
    assert {p.name: p.help for p in params.schema(Base)}["rate"] == "What share, of all."
    assert told["word"].help == ""


def test_list_typed_parameters_are_known_also_behind_a_union() -> None:
    assert params.list_typed(Sample) == {"many", "some"}


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("count", 7, 7),
        ("count", 7.0, 7),
        ("count", -(2**53), -(2**53)),
        ("rate", 1, 1.0),
        ("rate", "1e-3", 0.001),
        ("rate", "-.5E+2", -50.0),
        ("fast", True, True),
        ("word", "", ""),
        ("maybe", None, None),
        ("maybe", 4, 4),
        ("mode", "b", "b"),
        ("mode", 3, 3),
        ("many", [1, 2], (1.0, 2.0)),
        ("many", [], ()),
        ("some", None, None),
        ("some", ["a"], ("a",)),
    ],
)
def test_fitting_values_are_taken_with_the_declared_type(name: str, value: Any, taken: Any) -> None:
    got = take(name, value)
    assert got == taken
    assert type(got) is type(taken)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", 1.5),
        ("count", True),
        ("count", "7"),
        ("count", None),
        ("count", 2**53 + 1),
        pytest.param("count", 10**5000, id="huge"),
        ("count", math.inf),
        ("count", math.nan),
        ("count", [1]),
        ("rate", "0.5"),
        ("rate", "1e999"),
        ("rate", "nan"),
        ("rate", math.nan),
        ("rate", -math.inf),
        ("rate", False),
        ("rate", 10**400),
        ("fast", 1),
        ("fast", "yes"),
        ("fast", None),
        ("word", 3),
        ("word", "nul\0"),
        ("word", "two\nlines"),
        ("word", "\ud800"),
        ("word", "x" * 10_000),
        ("maybe", "4"),
        ("maybe", 1.5),
        ("mode", "c"),
        ("mode", 3.0),
        ("many", 1.0),
        ("many", [1, "x"]),
        ("many", {"a": 1}),
        ("some", ["a", 1]),
    ],
)
def test_anything_else_is_refused_with_the_type_wanted(name: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        take(name, value)
    text = str(caught.value)
    assert text.startswith(f"sample: {name} must be ")
    assert ", not " in text
    assert len(text) < 200
    assert text.isprintable()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("count", "7", "must be int, not '7'"),
        ("maybe", "4", "must be int or None, not '4'"),
        ("rate", "high", "must be float, not 'high'"),
        ("rate", math.nan, "must be a finite number, not nan"),
        ("rate", "-inf", "must be a finite number, not '-inf'"),
        ("rate", "1e999", "must be a finite number, not '1e999'"),
        ("mode", "c", "must be one of a, b, 3, not 'c'"),
        ("mode", "A", "must be one of a, b, 3, not 'A'; did you mean 'a'?"),
        ("mode", "3", "must be one of a, b, 3, not '3'"),
        ("choice", "slwo", "must be one of slow, fast or None, not 'slwo'; did you mean 'slow'?"),
        ("only", 3, "must be this, not 3"),
        ("many", 1, "must be list of float such as [1.0] or [], not 1"),
        ("many", "x", "must be list of float such as [1.0, 2.5] or [], not 'x'"),
        ("many", [1, "x"], "must be list of float, not [1, 'x']"),
        ("some", "word", "must be list of str such as [word] or [] or None, not 'word'"),
        ("some", "none", "must be list of str such as [] or None, not 'none'"),
    ],
)
def test_a_refusal_says_what_is_wanted(name: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        params.resolve(Chosen, {name: value}, "sample")
    assert str(caught.value) == f"sample: {name} {words}"


def test_defaults_are_typed_as_given_values_are() -> None:
    """``rate: float = 1`` left out and ``rate=1.0`` written out must be one cell, so one value."""
    left_out, written = params.resolve(Sample, {}, "s"), params.resolve(Sample, {"rate": 1, "many": [1, 2.5]}, "s")
    assert left_out == written
    assert [type(v) for v in (left_out["rate"], *left_out["many"])] == [float, float, float]


def test_minus_zero_is_zero() -> None:
    assert math.copysign(1, take("rate", -0.0)) == 1


def test_unknown_names_get_a_suggestion_or_the_list() -> None:
    with pytest.raises(UsageError, match=r"^sample has no parameter 'cuont'; did you mean 'count'\?$"):
        take("cuont", 1)
    with pytest.raises(UsageError, match=r"known: count, fast, many, maybe, mode, rate, some, word$"):
        take("zzzzzz", 1)
    with pytest.raises(UsageError, match=r"no parameter 'prset'; did you mean 'preset'\?$"):
        params.resolve(Sample, {"prset": 1}, "sample", also=["preset"])
    with pytest.raises(UsageError, match=r"known: count, fast, many, maybe, mode, preset, rate, some, word$"):
        params.resolve(Sample, {"zzzzzz": 1}, "sample", also=["preset"])


def test_classes_with_parameters_no_matrix_can_give_are_told_so() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class NoDefault:
        a: int

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Mapping:
        a: dict = dataclasses.field(default_factory=dict)  # type: ignore[type-arg]

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Wrong:
        a: int = "three"  # type: ignore[assignment]

    for cls, words in ((NoDefault, "needs a plain default"), (Mapping, "has the type dict"), (Wrong, "must be int")):
        with pytest.raises(TypeError, match=words):
            params.defaults(cls)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(name=st.sampled_from([p.name for p in params.schema(Sample)]), value=json_values)
def test_what_is_taken_is_taken_again_unchanged(name: str, value: Any) -> None:
    try:
        once = params.resolve(Sample, {name: value}, "sample")
    except UsageError:
        return
    assert repr(params.resolve(Sample, once, "sample")) == repr(once)
