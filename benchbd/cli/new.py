"""``benchbd new KIND NAME``: a plugin that works, its test, and a matrix that runs it."""

from __future__ import annotations

import argparse
import keyword
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchbd.cli.common import write
from benchbd.core.paths import look, user_path
from benchbd.errors import UsageError, shown
from benchbd.plugins.scan import DECORATORS

EPILOG = """\
Writes three files: NAME.py, test_NAME.py and NAME.yaml, all of which pass as they are. Then:

  benchbd check NAME --plugin NAME.py       what every plugin promises
  python -m pytest test_NAME.py             that, and tests of your own
  benchbd run NAME.yaml                     a leaderboard with it
"""
MATRIX = """\
# {what}, on {where}: a minute or two on one core.
name: {name}
plugins: [{stem}.py]
seeds: [0]
recipe: {{epochs: 6, batch_size: 32, augment: []}}
dataset: {dataset}
model: {model}
attacks: [{attacks}]
defenses: [{defenses}]
"""
USUAL = {"dataset": "digits", "model": "resnet18(width=8)", "attacks": "none, bn-g", "defenses": "none"}


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "new",
        help="write a plugin to start from",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=tuple(DECORATORS), help="what it is to be")
    parser.add_argument("name", metavar="NAME", help="its name in matrices, such as my-defense")
    parser.add_argument("--into", metavar="DIR", default=".", help="folder for the files (default: this one)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the three files, or none."""
    kind, name = args.kind, args.name
    stem = _stem(kind, name)
    folder = user_path(args.into, "--into")
    if look(folder, "--into") != "folder":
        raise UsageError(f"--into {shown(args.into, 200)}: no such folder; make it first")
    texts = {
        f"{stem}.py": _filled(f"{kind}.py", name, stem),
        f"test_{stem}.py": _filled(f"{kind}_test.py", name, stem),
        f"{stem}.yaml": _matrix(kind, name, stem),
    }
    for file in texts:
        if look(folder / file, "file") != "nothing":
            raise UsageError(f"{folder / file} is there already; choose another name, or another folder with --into")
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
        write(f"wrote {folder / file}")
    write(f"next: benchbd check {name} --plugin {folder / stem}.py")
    return 0


def _stem(kind: str, name: str) -> str:
    """The name as a module's name. Raises UsageError for a name that is none, or that is taken."""
    from benchbd.plugins import registry

    if not re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", name) or len(name) > 60:
        raise UsageError(f"new: a name is small letters, digits and hyphens, such as my-{kind}, not {shown(name)}")
    for entry in registry.entries(f"{kind}s"):
        if entry.name == name and entry.kind:
            raise UsageError(f"new: there is {kind} {name!r} already ({entry.origin}); choose another name")
    stem = re.sub(r"[-.]", "_", name)
    # Python would import the new file in the place of what it hides, from tests that lie beside it.
    if keyword.iskeyword(stem) or find_spec(stem) is not None:
        raise UsageError(f"new: {stem}.py would hide what Python calls {stem}; choose another name, such as my-{name}")
    return stem


def _filled(template: str, name: str, stem: str) -> str:
    """A file of :mod:`benchbd.testing.scaffold` with the plugin's own names in it."""
    text = Path(__file__).parents[1].joinpath("testing", "scaffold", template).read_text(encoding="utf-8")
    words = "".join(word.capitalize() for word in stem.split("_"))
    return text.replace("MyPlugin", words).replace("my_plugin", stem).replace("my-plugin", name)


def _matrix(kind: str, name: str, stem: str) -> str:
    """A small matrix in which the plugin has its line."""
    key = {"attack": "attacks", "defense": "defenses"}.get(kind, kind)
    own = f"none, {name}" if key in ("attacks", "defenses") else name
    what = f"The {kind} {name}"
    where = "images of its own" if kind == "dataset" else "scikit-learn's digits"
    return MATRIX.format(what=what, where=where, name=name, stem=stem, **{**USUAL, key: own})
