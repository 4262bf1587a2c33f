"""The reference of matrix files as ``benchbd describe`` shows it: the whole file, or one of its keys."""

from __future__ import annotations

import textwrap
from typing import Any

MATRIX = "matrix"
"""The name under which the whole file is described."""
WIDTH = 100


def topics() -> list[str]:
    """The names that this reference describes: ``matrix`` and the keys that no other description has."""
    from benchbd.plan.reference import KEYS

    return [MATRIX, *(key.name for key in KEYS if key.name != "recipe")]


def facts_of(name: str) -> dict[str, Any]:
    """A topic as JSON types. Raises UsageError if there is no such topic."""
    from benchbd.core import params
    from benchbd.plan import reference
    from benchbd.plan.probe import Probe
    from benchbd.report import GATE
    from benchbd.report.gate import rule

    if name == MATRIX:
        keys = [key._asdict() for key in reference.KEYS]
        doc = "\n\n".join((reference.SUMMARY, *reference.COMPONENTS, *reference.ALIASES, *reference.YAML))
        return {"kind": MATRIX, "name": MATRIX, "doc": doc, "keys": keys, "example": reference.EXAMPLE}
    key = reference.matrix_key(name)
    facts: dict[str, Any] = {"kind": "matrix key", "doc": key.meaning, **key._asdict()}
    del facts["meaning"]
    if name == "probe":
        facts["parameters"] = [p._asdict() for p in params.schema(Probe)]
    if name == "gate":
        facts["doc"] = f"{key.meaning}\n\nThe rule with the default: {rule(GATE)}"
    return facts


def text_of(facts: dict[str, Any]) -> str:
    """A topic as text, without the parameters that it may have."""
    if facts["kind"] == MATRIX:
        lines = [MATRIX, "", _wrapped(facts["doc"]), "", "Keys:"]
        for key in facts["keys"]:
            lines += ["", *(f"  {line}".rstrip() for line in _key_lines(key, key["meaning"]))]
        return "\n".join([*lines, "", "A whole matrix:", "", textwrap.indent(facts["example"].rstrip(), "  ")])
    return "\n".join([f"matrix key {facts['name']}", "", *_key_lines(facts, facts["doc"])])


def _key_lines(key: dict[str, Any], meaning: str) -> list[str]:
    head = f"{key['name']}: {key['type']}; default: {key['default']}; {key['place']}"
    return [head, *textwrap.indent(_wrapped(meaning), "  ").split("\n"), *_example(key["example"])]


def _example(text: str) -> list[str]:
    first, *rest = text.split("\n")
    return [f"  Example: {first}", *(f"           {line}" for line in rest)]


def _wrapped(text: str) -> str:
    paragraphs = [" ".join(paragraph.replace("`", "").split()) for paragraph in text.split("\n\n")]
    return "\n\n".join(textwrap.fill(p, WIDTH, break_long_words=False, break_on_hyphens=False) for p in paragraphs)
