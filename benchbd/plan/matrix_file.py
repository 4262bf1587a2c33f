"""Read a matrix file: a path or a shipped name in, a mapping with known keys out.

The loader accepts YAML 1.2's plain scalars: ``yes``, ``1:30`` and ``0x10`` are text, ``1e-3`` is a number. It rejects
aliases, tags and duplicate keys. A file can therefore not blow up in memory, and it can only produce text, numbers,
lists and mappings.
"""

from __future__ import annotations

import difflib
import re
import shlex
import sys
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from benchbd.core.numerics import NUMERICS
from benchbd.core.paths import look, user_path
from benchbd.core.text_files import other_kind, without_mark
from benchbd.errors import UsageError, did_you_mean, shown
from benchbd.plan.shipped import shipped, text_of

MAX_BYTES = 200_000
STDIN = "-"
"""The matrix argument that stands for standard input."""
TOP = ("name", "description", "seeds", "recipe", "probe", *NUMERICS, "gate", "plugins", "blocks", "exclude")
BLOCK = ("dataset", "model", "attacks", "defenses", "seeds", "recipe", "probe", *NUMERICS, "exclude")


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that rejects aliases, tags and duplicate keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own mechanism; filled below

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.events.AliasEvent):
            raise UsageError(f"line {line}: YAML aliases (*name) are not allowed; write the values out")
        if getattr(event, "tag", None) is not None:
            raise UsageError(f"line {line}: YAML tags ({shown(event.tag)}) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float, bool, type(None))):
                raise UsageError(f"line {line}: a key must be a word")
            if key in seen:
                raise UsageError(f"line {line}: {shown(key)} is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


for _tag, _form, _first in (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
):
    _firsts = [*_first, ""] if _tag == "null" else [*_first]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_form})$"), _firsts)


def parse_yaml(text: str) -> Any:
    """Parse YAML to plain values. Raises UsageError, with the line, for anything but plain YAML."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        raise UsageError(f"{line}not YAML ({problem})") from error
    except RecursionError as error:
        raise UsageError("not YAML (nested too deeply)") from error
    except (ValueError, OverflowError) as error:
        raise UsageError(f"not YAML ({error})") from error


def read(matrix: str) -> tuple[str, str]:
    """Read the text of a matrix.

    Args:
        matrix: a path, ``-`` or the name of a shipped matrix; a path wins over a name.

    Returns:
        The text, and where it was found.

    Raises:
        UsageError: there is no such matrix, or the file is not text or is too large to be a matrix.
    """
    if matrix == STDIN:
        if sys.stdin is None:
            raise UsageError("matrix -: standard input is closed; name a file")
        return _text(sys.stdin.buffer, matrix), matrix
    path = user_path(matrix, "matrix")
    found = look(path, "matrix")
    if found == "file" and path.suffix == ".jsonl":
        line = f"is a results file, not a matrix; benchbd leaderboard {shlex.quote(matrix)} shows it"
        raise UsageError(f"matrix {shown(matrix, 200)}: {line}")
    if found == "file":
        try:
            with path.open("rb") as file:
                return _text(file, matrix), str(path)
        except OSError as error:
            raise UsageError(f"matrix {matrix}: cannot be read ({error.strerror})") from error
    known = shipped()
    if matrix in known:
        return text_of(matrix), f"{matrix} (shipped)"
    if found != "nothing":
        problem = "is a folder; name the YAML file in it" if found == "folder" else "is not a regular file"
        raise UsageError(f"matrix {shown(matrix, 200)}: {problem}")
    problem = "no such file, and no shipped matrix has that name"
    files = {Path(name).stem: name for name in _matrix_files_beside(path, matrix)}
    close = difflib.get_close_matches(path.stem[:200], files, n=1, cutoff=0.7)
    near = f"; did you mean {files[close[0]]!r}?" if close else did_you_mean(matrix, known)
    raise UsageError(f"matrix {shown(matrix, 200)}: {problem}{near}")


def _matrix_files_beside(path: Path, given: str) -> list[str]:
    """The YAML files in the folder of a path, up to 1,000, written with the folder as ``given`` has it."""
    folder = given[: len(given) - len(path.name)] if given.endswith(path.name) else ""
    try:
        files = sorted(file.name for file in islice(path.parent.iterdir(), 1000) if file.suffix in (".yaml", ".yml"))
    except OSError:
        return []
    return [folder + name for name in files]


def _text(file: BinaryIO, name: str) -> str:
    data = file.read(MAX_BYTES + 1)
    if kind := other_kind(data):
        raise UsageError(f"matrix {name}: {kind}")
    if len(data) > MAX_BYTES:
        raise UsageError(f"matrix {name}: larger than {MAX_BYTES:,} bytes; is it a matrix?")
    try:
        return without_mark(data).decode()
    except UnicodeDecodeError:
        raise UsageError(f"matrix {name}: is not UTF-8 text; is it a matrix?") from None


def parse(text: str, where: str) -> dict[str, Any]:
    """Parse YAML to a mapping with known keys. Raises UsageError, with the line, for anything that is not a matrix."""
    try:
        data = parse_yaml(text)
    except UsageError as error:
        raise UsageError(f"matrix {where}: {error}") from error
    if data is None:
        raise UsageError(f"matrix {where}: is empty; it needs dataset, model, attacks and defenses")
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else "text" if isinstance(data, str) else shown(data)
        raise UsageError(f"matrix {where}: must be a mapping with keys such as dataset and attacks, not {kind}")
    if "blocks" in data:
        for key in BLOCK:
            if key in data and key not in TOP:
                raise UsageError(f"matrix {where}: {key} belongs inside a block when the matrix has blocks")
        known_keys(data, TOP, f"matrix {where}")
    else:
        known_keys(data, (*TOP, *BLOCK), f"matrix {where}")
    return data


def known_keys(data: dict[Any, Any], allowed: tuple[str, ...], where: str) -> None:
    """Raise UsageError for a key that is not allowed."""
    for key in data:
        if key not in allowed:
            word = key if isinstance(key, str) else ""
            raise UsageError(f"{where}: unknown key {shown(key)}{did_you_mean(word, allowed)}")


def as_list(value: Any) -> list[Any]:
    """The value as a list: a list itself, [] for None (null in YAML), a list of one for any other value."""
    return [] if value is None else value if isinstance(value, list) else [value]
