"""Short labels for components and recipes, which show only differences from the defaults."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from benchbd.core.numerics import numerics_text
from benchbd.core.presets import PRESETS
from benchbd.core.recipe import YOUNGER, preset_spec
from benchbd.errors import BenchbdError, counted
from benchbd.report.earlier import completed

Defaults = Callable[[str, str], Mapping[str, Any] | None]
LONG_LABEL = 24
"""Longer column labels are shortened to the bare name; a note below the table gives the parameters."""


class Variant(NamedTuple):
    """A component with its parameters. ``params`` is JSON, which makes variants comparable and hashable."""

    kind: str
    name: str
    params: str

    def values(self) -> dict[str, Any]:
        """The parameters by name."""
        return json.loads(self.params)  # type: ignore[no-any-return]


_variants: dict[tuple[str, str, str], Variant] = {}


def variant(record: Mapping[str, Any], kind: str) -> Variant:
    """A record's component of one kind (dataset, model, attack or defense), with the parameters of today's plugin."""
    given = (record.get("params") or {}).get(kind) or {}
    params = completed(kind, record[kind], given, record.get("recipe") or {})
    # Many records share few variants, and repr is faster than JSON. Equal reprs have equal JSON.
    key = (kind, record[kind], repr(params))
    found = _variants.get(key)
    if found is None:
        found = _variants[key] = Variant(kind, record[kind], json.dumps(params, sort_keys=True))
    return found


def asked_numerics(record: Mapping[str, Any]) -> str:
    """The precision and threads that a record's cell asked for: ``precision=bf16``; empty for the defaults."""
    spec = record.get("spec")
    return numerics_text(spec) if isinstance(spec, Mapping) else ""


@functools.cache
def registered(kind: str, name: str) -> dict[str, Any] | None:
    """Default parameters of a registered plugin; None for an unknown one, whose record may come from elsewhere."""
    from benchbd.core import params
    from benchbd.plugins import registry

    try:
        cls = registry.load(f"{kind}s", name)
    except (BenchbdError, ImportError):
        return None
    return {p.name: list(p.default) if isinstance(p.default, tuple) else p.default for p in params.schema(cls)}


def value_text(value: Any) -> str:
    """A parameter's value as the command line writes it."""
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, list):
        return "[" + ",".join(map(value_text, value)) + "]"
    return str(value)


class Labels:
    """Short labels for the variants of a set of records.

    A label leaves out parameters equal to the plugin's defaults. If the plugin is unknown, the label names the
    parameters that vary among the records.

    Args:
        variants: every variant to label.
        defaults: (kind, name) -> defaults, or None if the plugin is unknown.
    """

    def __init__(self, variants: Iterable[Variant], defaults: Defaults = registered) -> None:
        self._defaults = defaults
        self._texts: dict[Variant, str] = {}
        self._seen: dict[tuple[str, str], dict[str, set[str]]] = {}
        values: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for item in set(variants):
            values.setdefault((item.kind, item.name), []).append(item.values())
        for plugin, given in values.items():
            # A parameter that a variant lacks varies too, which an empty text stands for.
            keys = dict.fromkeys(key for one in given for key in one)
            self._seen[plugin] = {k: {json.dumps(one[k]) if k in one else "" for one in given} for k in keys}

    def defaults(self, item: Variant) -> Mapping[str, Any]:
        """The plugin's defaults by parameter; empty if the plugin is unknown."""
        return self._defaults(item.kind, item.name) or {}

    def changed(self, item: Variant) -> dict[str, Any]:
        """The parameters that the label shows, by name."""
        defaults = self._defaults(item.kind, item.name)
        values = item.values()
        if defaults is not None:
            fields = [k for k in defaults if k in values] + [k for k in values if k not in defaults]
            return {k: values[k] for k in fields if k not in defaults or values[k] != defaults[k]}
        seen = self._seen.get((item.kind, item.name), {})
        return {k: v for k, v in values.items() if len(seen.get(k, ())) > 1}

    def __call__(self, item: Variant) -> str:
        """The label, such as ``lfd`` or ``lfd(beta=0)``; ``--filter`` takes the same text."""
        if item not in self._texts:
            inner = ",".join(f"{k}={value_text(v)}" for k, v in self.changed(item).items())
            self._texts[item] = f"{item.name}({inner})" if inner else item.name
        return self._texts[item]

    def heading(self, item: Variant, among: Iterable[Variant]) -> str:
        """A column's heading: the bare name if the label is long and no other variant has that name, else the label."""
        text = self(item)
        unique = sum(other.name == item.name for other in set(among)) == 1
        return item.name if unique and len(text) > LONG_LABEL else text

    def abbreviations(self, among: Iterable[Variant]) -> list[str]:
        """``lfd is lfd(teacher=...)`` for every heading shorter than its label."""
        items = list(dict.fromkeys(among))
        return [f"{i.name} is {self(i)}" for i in items if self.heading(i, items) != self(i)]


@functools.cache
def recipe_text(recipe: str) -> str:
    """``20 epochs, lr=0.01`` from a recipe's JSON: the epochs, then all differences from the paper's recipe.

    If fewer entries differ from another preset, it begins ``8 epochs, fast recipe``.
    """
    given = json.loads(recipe)
    name, differences = min(((name, _differences(given, name)) for name in PRESETS), key=lambda found: len(found[1]))
    parts = [f"{counted(given['epochs'], 'epoch')}"] if "epochs" in given else []
    parts += [f"{name} recipe"] if name != "paper" else []
    return ", ".join(parts + [f"{k}={value_text(v)}" for k, v in differences.items()])


def _differences(given: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """Entries of a recipe, epochs apart, whose values are not the preset's."""
    theirs = {**YOUNGER, **preset_spec(preset)}
    # Entries that are not given have their defaults.
    values = {**given, **{k: v for k, v in {**YOUNGER, **preset_spec("paper")}.items() if k not in given}}
    return {k: v for k, v in values.items() if k != "epochs" and (k not in theirs or theirs[k] != v)}
