"""How a component is written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbd.errors import UsageError
from benchbd.plugins.spec import parse_spec


@pytest.mark.parametrize(
    ("written", "name", "parameters"),
    [
        ("lfd", "lfd", {}),
        ("  bn-g ", "bn-g", {}),
        ("lfd()", "lfd", {}),
        ("lfd(alpha=0.2)", "lfd", {"alpha": 0.2}),
        ("lfd( alpha=0.2, mode='drop', )", "lfd", {"alpha": 0.2, "mode": "drop"}),
        ("x(a=[1, 2], b=None, c=-1e-3, d=True)", "x", {"a": [1, 2], "b": None, "c": -0.001, "d": True}),
        ("random-filter(of='lfd(alpha=0.2)')", "random-filter", {"of": "lfd(alpha=0.2)"}),
        ({"lfd": None}, "lfd", {}),
        ({"lfd": {"beta": [0, 1]}}, "lfd", {"beta": [0, 1]}),
        ({"lfd(alpha=0.2)": {"beta": 1}}, "lfd", {"alpha": 0.2, "beta": 1}),
    ],
)
def test_forms(written: Any, name: str, parameters: dict[str, Any]) -> None:
    assert parse_spec(written, "defense") == (name, parameters)


@pytest.mark.parametrize(
    "written",
    [
        *(
            None,
            3,
            [],
            ["lfd"],
            {},
            {"a": {}, "b": {}},
            {"a": [1]},
            {"a": 3},
            {3: {}},
            {"a": {3: 1}},
            pytest.param(10**5000, id="huge"),
        ),
        *("", " ", "../x", "/etc/passwd", "a/b", "a\0b", "-lfd", "lfd)", "lfd(", "lfd(a=1", "(a=1)", "é"),
        *("lfd(1)", "lfd(a)", "lfd(a=b)", "lfd(a=1,a=2)", "lfd(**{'a': 1})", "lfd(*[1])", "lfd(a=1)(b=2)"),
        *("lfd(a=1).x(b=2)", "lfd(a=1) or f(b=2)", "lfd(a=__import__('os'))", "lfd(a=2**9)", "lfd(a=f'{1}')"),
        *("lfd(a='\0')", "lfd(a=" + "(" * 900 + ")", "lfd(a=" + "-" * 1800 + "1)", "x" * 10_000),
        {"lfd(a=1)": {"a": 2}},
    ],
)
def test_anything_else_is_refused_in_one_short_line(written: Any) -> None:
    with pytest.raises(UsageError) as caught:
        parse_spec(written, "defense")
    text = str(caught.value)
    assert text.startswith("defense")
    assert len(text) < 250
    assert text.isprintable()


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True).filter(lambda w: w not in ("in", "is", "if", "as", "or")),
        st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | st.text("ab'\"\\ \n"),
        max_size=4,
    )
)
def test_python_literals_come_back(parameters: dict[str, Any]) -> None:
    import keyword
    import math

    wanted = {k: v for k, v in parameters.items() if not keyword.iskeyword(k)}
    wanted = {k: v for k, v in wanted.items() if not (isinstance(v, float) and math.isinf(v))}
    text = f"name({', '.join(f'{k}={v!r}' for k, v in wanted.items())})"
    assert parse_spec(text, "attack") == ("name", wanted)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=40) | st.text("lfd(=1,)'[]{}.*", max_size=30))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        name, parameters = parse_spec(text, "attack")
    except UsageError:
        return
    assert name.isascii()
    assert "/" not in name
    assert all(isinstance(k, str) for k in parameters)
