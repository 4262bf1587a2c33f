"""Describe a plugin instance as a part of a cell's identity."""

from __future__ import annotations

import dataclasses
from typing import Any

from benchbd.errors import shown
from benchbd.plugins import registry
from benchbd.plugins.contract import Component
from benchbd.plugins.part import Part


def part_of(component: Component) -> Part:
    """The part for a plugin instance. Its text shows only the parameters that differ from their defaults.

    Its parameters are all but those in ``younger`` that have their defaults.

    Raises:
        UsageError: the plugin's own ``params`` raises, or returns something that is not its parameters or not JSON.
    """
    with registry.blame(component.kind, component.name):
        params = component.params()
        defaults = {f.name: f.default for f in dataclasses.fields(component)}
        if not isinstance(params, dict) or params.keys() != defaults.keys():
            raise TypeError(f"params() must return every parameter by name, not {shown(params)}")
        json_defaults = {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}
        changed = [f"{k}={_short(v)}" for k, v in params.items() if v != json_defaults[k]]
        text = component.name + (f"({','.join(changed)})" if changed else "")
        unchanged = {k for k in component.younger if params[k] == json_defaults[k]}
        identifying = {k: v for k, v in params.items() if k not in unchanged}
        part = Part(component.name, component.version, identifying, text)
        _ = part.json  # cached; computed here so that a value JSON cannot hold is blamed on the plugin
    return part


def _short(value: Any) -> str:
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_short, value)) + "]"
    return str(value)
