"""From a plugin instance to the part of a cell's identity that it stands for."""

from __future__ import annotations

import dataclasses

from benchbd.errors import shown
from benchbd.plugins import registry
from benchbd.plugins.contract import Component
from benchbd.plugins.part import Part, _short


def part_of(component: Component) -> Part:
    """Describe a plugin instance; its text names only the parameters that differ from the defaults.

    Raises:
        UsageError: the plugin's own ``params`` raises, or returns what is not its parameters or no JSON.
    """
    with registry.blame(component.kind, component.name):
        params = component.params()
        defaults = {f.name: f.default for f in dataclasses.fields(component)}
        if not isinstance(params, dict) or params.keys() != defaults.keys():
            raise TypeError(f"params() must return every parameter by name, not {shown(params)}")
        usual = {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}
        changed = [f"{k}={_short(v)}" for k, v in params.items() if v != usual[k]]
        text = component.name + (f"({','.join(changed)})" if changed else "")
        part = Part(component.name, component.version, params, text)
        _ = part.json  # it is remembered; what cannot be written is to be found while the plugin can be blamed
    return part
