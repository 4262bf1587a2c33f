"""What ``make gpu`` has found so far, as JSON and markdown. Both files are complete whenever the program ends."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

REHEARSALS = {
    "on a CPU": "Nothing here was measured on a GPU: this is a rehearsal, with sizes that say nothing about speed.",
    "on a GPU": "This is a rehearsal, with sizes that say nothing about speed.",
}
"""What the report says of itself, by where a rehearsal ran."""


class Report:
    """Facts by part, in the order in which they arrive. Every change is written at once.

    Args:
        folder: where ``gpu.json`` and ``gpu.md`` are written.
        facts: device, versions and settings of the whole run.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder = folder
        self.data: dict[str, Any] = {**facts, "started": time.strftime("%Y-%m-%d %H:%M:%S"), "parts": {}}
        folder.mkdir(parents=True, exist_ok=True)
        self.write()

    def begin(self, part: str, title: str) -> None:
        """Open a part; until it ends, the report says that it was cut off."""
        self.data["parts"][part] = {"title": title, "state": "cut off", "seconds": None, "facts": []}
        self.write()

    def add(self, part: str, fact: dict[str, Any]) -> None:
        """Keep a fact: ``text`` for people, and any values."""
        self.data["parts"][part]["facts"].append(fact)
        self.write()

    def end(self, part: str, state: str, seconds: float) -> None:
        """Close a part; ``state`` is ``done``, ``failed: ...`` or ``stopped: ...``."""
        self.data["parts"][part] |= {"state": state, "seconds": round(seconds, 1)}
        self.write()

    def note(self, **facts: Any) -> None:
        """Keep facts about the whole run."""
        self.data |= facts
        self.write()

    @property
    def failed(self) -> list[str]:
        """The parts that failed, and single facts that did."""
        parts = self.data["parts"].items()
        whole = [name for name, part in parts if part["state"].startswith("failed")]
        return whole + [f"{name}: {f['text']}" for name, part in parts for f in part["facts"] if f.get("failed")]

    def markdown(self) -> str:
        """The report for people."""
        lines = ["# `make gpu`", ""]
        lines += [f"- {key}: {value}" for key, value in self.data.items() if key != "parts" and value is not None]
        if self.data.get("rehearsal"):
            lines += ["", REHEARSALS[self.data["rehearsal"]]]
        for name, part in self.data["parts"].items():
            took = "" if part["seconds"] is None else f", {part['seconds']:.0f} s"
            lines += ["", f"## {name}: {part['title']} ({part['state']}{took})", ""]
            lines += [f"- {'**FAILED** ' if fact.get('failed') else ''}{fact['text']}" for fact in part["facts"]]
        return "\n".join(lines) + "\n"

    def write(self) -> None:
        """Replace both files."""
        _replace(self.folder / "gpu.json", json.dumps(self.data, indent=1) + "\n")
        _replace(self.folder / "gpu.md", self.markdown())


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
