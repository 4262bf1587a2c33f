"""The matrices that ship with benchbd: names, texts and descriptions. No YAML parser is needed to read them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

_DESCRIPTION = re.compile(r"^description:[ \t]*(?:[>|][-+]?[ \t]*\n[ \t]+)?(.+)$", re.MULTILINE)


def _folders() -> list[Path]:
    # Not importlib.resources: its import is a tenth of the time of benchbd list.
    spec = importlib.util.find_spec("benchbd.matrices")
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]


def shipped() -> list[str]:
    """Names of the shipped matrices, sorted."""
    return sorted({file.stem for folder in _folders() for file in folder.glob("*.yaml")})


def text_of(name: str) -> str:
    """The YAML text of a shipped matrix."""
    files = (folder / f"{name}.yaml" for folder in _folders())
    return next(file for file in files if file.is_file()).read_text(encoding="utf-8")


def described() -> dict[str, str]:
    """The first line of each shipped matrix's description, by name. No YAML is parsed, so listing is fast."""
    found = {}
    for name in shipped():
        match = _DESCRIPTION.search(text_of(name))
        found[name] = match[1].strip().strip("'\"") if match else ""
    return found
