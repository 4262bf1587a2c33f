"""How a component is written: ``name``, ``name(a=1, b='x')`` or, in YAML, ``{name: {a: 1}}``."""

from __future__ import annotations

import ast
import re
from typing import Any

from benchbd.errors import UsageError

_FORM = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9_.-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)
MAX_LENGTH = 2000


def parse_spec(given: Any, what: str) -> tuple[str, dict[str, Any]]:
    """Split a spec into a name and parameters (lists not yet expanded).

    Args:
        given: text, or a mapping with one key.
        what: ``attack``, ``defense``, ... for the message.

    Raises:
        UsageError: it is neither form, or its arguments are no literals.
    """
    if isinstance(given, dict):
        if len(given) != 1:
            raise UsageError(f"{what}: {{name: {{parameters}}}} takes one name, found {len(given)}")
        name, inner = next(iter(given.items()))
        if inner is None:
            inner = {}
        if not isinstance(name, str) or not isinstance(inner, dict):
            raise UsageError(f"{what} {name!r}: parameters must be a mapping such as {{rate: 0.1}}")
        for key in inner:
            if not isinstance(key, str):
                raise UsageError(f"{what} {name!r}: parameter names are words, not {key!r}")
        given_text = name
    elif isinstance(given, str):
        given_text, inner = given, {}
    else:
        raise UsageError(f"{what}: expected a name, found {str(given)[:60]!r}")
    if len(given_text) > MAX_LENGTH:
        raise UsageError(f"{what}: a name of {len(given_text)} characters is no name")
    match = _FORM.fullmatch(given_text)
    if match is None:
        raise UsageError(f"{what}: {given_text[:60]!r} is neither NAME nor NAME(parameter=value)")
    name, arguments = match.group(1), match.group(2)
    return name, {**(_arguments(name, arguments, what) if arguments else {}), **inner}


def _arguments(name: str, text: str, what: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise ValueError("write parameter=value")
        return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError) as error:
        raise UsageError(f"{what} {name!r}: cannot read the parameters ({text[:60]}): write name=value, with text in quotes") from error
