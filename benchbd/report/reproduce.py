"""The command that runs a record's cell again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any


def command(record: Mapping[str, Any]) -> str:
    """One line for a shell. Cells are chosen by their id, so a changed matrix or plugin is noticed, not run."""
    matrix = record.get("matrix")
    chosen = f"--filter id={record['id']} --seeds {record['seed']} --output again"
    return f"benchbd run {shlex.quote(str(matrix))} {chosen}" if matrix else f"benchbd rerun {record['id']}"
