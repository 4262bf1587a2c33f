"""The matrices that ship with benchbd: names, texts and descriptions. No YAML parser is needed to read them."""

from __future__ import annotations

import re
from importlib import resources

_DESCRIPTION = re.compile(r"^description:[ \t]*(?:[>|][-+]?[ \t]*\n[ \t]+)?(.+)$", re.MULTILINE)


def shipped() -> list[str]:
    """Names of the shipped matrices, sorted."""
    return sorted(f.name[:-5] for f in resources.files("benchbd.matrices").iterdir() if f.name.endswith(".yaml"))


def text_of(name: str) -> str:
    """The YAML text of a shipped matrix."""
    return (resources.files("benchbd.matrices") / f"{name}.yaml").read_text(encoding="utf-8")


def described() -> dict[str, str]:
    """The first line of each shipped matrix's description, by name. No YAML is parsed, so listing is fast."""
    found = {}
    for name in shipped():
        match = _DESCRIPTION.search(text_of(name))
        found[name] = match[1].strip().strip("'\"") if match else ""
    return found
