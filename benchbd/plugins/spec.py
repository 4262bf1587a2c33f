"""Parse the spec of a component: ``name``, ``name(a=1, b='x')`` or, in YAML, ``{name: {a: 1}}``."""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any

from benchbd.errors import UsageError, shown

_FORM = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9_.-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)
MAX_LENGTH = 2000
HALVED = "blend(alpha=0.3, rate=0.05)"
"""Example of a spec that YAML splits at its comma."""


def parse_spec(given: Any, kind: str) -> tuple[str, dict[str, Any]]:
    """Split a spec into a name and parameters, with lists not yet expanded.

    Args:
        given: text, or a mapping with one key.
        kind: ``attack``, ``defense``, ... for error messages.

    Raises:
        UsageError: the spec has neither form, or an argument is not a literal.
    """
    inner: Any = {}
    if isinstance(given, dict):
        if len(given) != 1:
            raise UsageError(f"{kind}: {{name: {{parameters}}}} takes one name, found {len(given)}")
        given, inner = next(iter(given.items()))
        inner = {} if inner is None else inner
        if not isinstance(given, str) or not isinstance(inner, dict):
            raise UsageError(f"{kind} {shown(given)}: parameters must be a mapping such as {{rate: 0.1}}")
        for key in inner:
            if not isinstance(key, str):
                raise UsageError(f"{kind} {shown(given)}: parameter names must be text, not {shown(key)}")
    elif not isinstance(given, str):
        raise UsageError(f"{kind}: expected a name, found {shown(given)}")
    if len(given) > MAX_LENGTH:
        raise UsageError(f"{kind}: a spec of {len(given):,} characters is too long (at most {MAX_LENGTH:,})")
    match = _FORM.fullmatch(given)
    if match is None:
        raise UsageError(f"{kind}: {shown(given)} is neither NAME nor NAME(parameter=value){_advice(given)}")
    name, arguments = match.group(1), match.group(2)
    in_brackets = _arguments(name, arguments, kind) if arguments else {}
    for key in inner:
        if key in in_brackets:
            raise UsageError(f"{kind} {shown(name)}: {key!r} is given twice")
    return name, {**in_brackets, **inner}


def _advice(given: str) -> str:
    """How to write what looks like half a spec, which YAML makes of an unquoted one with a comma, or like several."""
    if given.count("(") > given.count(")"):
        return f'; close the parenthesis, and in a YAML list quote a spec that has a comma, as in "{HALVED}"'
    words = [word for word in re.split(r"[,\s]+", given) if word]
    if len(words) > 1 and all(_FORM.fullmatch(word) for word in words):
        return f"; several names are a list: [{', '.join(words)}]" if len(words) <= 5 else "; several names are a list"
    return ""


def _arguments(name: str, text: str, kind: str) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a string must not print a warning line
            call = ast.parse(f"f({text})", mode="eval").body
        # Text that closes the bracket early, such as "a=1)(b=2", parses to something other than one plain call of f.
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)) or call.args:
            raise ValueError("write parameter=value")
        found: dict[str, Any] = {}
        for keyword in call.keywords:
            if keyword.arg is None or keyword.arg in found:
                raise ValueError("each parameter once, by name")
            found[keyword.arg] = ast.literal_eval(keyword.value)
        return found
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError) as error:
        advice = "write name=value, each once, with text in quotes"
        raise UsageError(f"{kind} {shown(name)}: cannot read the parameters {shown(text)}: {advice}") from error
