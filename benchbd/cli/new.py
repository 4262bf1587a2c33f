"""``benchbd new KIND NAME``: write a working plugin, its test, and a matrix that runs it."""

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
Writes NAME.py, test_NAME.py and NAME.yaml, with an underscore for each hyphen of NAME. All three work unchanged.
For example:

  benchbd new defense my-defense                     or new scorer, for a defense that only scores samples
  benchbd check my-defense --plugin my_defense.py    run the contract tests on it
  python -m pytest test_my_defense.py                run them along with your own tests
  benchbd run my_defense.yaml                        show a leaderboard that includes it
"""
MATRIX = """\
# {title}, on {images}: a minute or two on one core.
name: {name}
plugins: [{stem}.py]
seeds: [0]
recipe: {{epochs: 6, batch_size: 32, augment: []}}
dataset: {dataset}
model: {model}
attacks: [{attacks}]
defenses: [{defenses}]
"""
OF_KIND = {"scorer": "defense"}
"""Templates for a narrower kind of plugin, and the kind that they are."""
USUAL = {"dataset": "digits", "model": "resnet18(width=8)", "attacks": "none, bn-g", "defenses": "none"}


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "new",
        help="write a plugin to start from, with its test and a matrix",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=(*DECORATORS, *OF_KIND), help="kind of plugin")
    parser.add_argument("name", metavar="NAME", help="its name in matrices, such as my-defense")
    parser.add_argument("--into", metavar="DIR", default=".", help="folder for the files (default: the current one)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the three files, or none of them if one cannot be written."""
    template, name = args.kind, args.name
    kind = OF_KIND.get(template, template)
    stem = _stem(kind, name)
    folder = user_path(args.into, "--into")
    if look(folder, "--into") != "folder":
        raise UsageError(f"--into {shown(args.into, 200)}: no such folder; create it first")
    texts = {
        f"{stem}.py": _filled(f"{template}.py", name, stem),
        f"test_{stem}.py": _filled(f"{template}_test.py", name, stem),
        f"{stem}.yaml": _matrix(kind, name, stem),
    }
    for file in texts:
        if look(folder / file, "file") != "nothing":
            raise UsageError(f"{folder / file} already exists; choose another name, or another folder with --into")
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
        write(f"wrote {folder / file}")
    write(f"next: benchbd check {name} --plugin {folder / stem}.py")
    return 0


def _stem(kind: str, name: str) -> str:
    """Turn a plugin name into a module name. Raises UsageError if the name is invalid or taken."""
    from benchbd.plugins import registry

    if not re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", name) or len(name) > 60:
        raise UsageError(f"new: a name has lower-case letters, digits and hyphens, as in my-{kind}, not {shown(name)}")
    for entry in registry.entries(f"{kind}s"):
        if entry.name == name and entry.kind:
            raise UsageError(f"new: {kind} {name!r} already exists ({entry.origin}); choose another name")
    stem = re.sub(r"[-.]", "_", name)
    # Tests in the same folder would import the new file instead of the module of that name.
    if keyword.iskeyword(stem) or find_spec(stem) is not None:
        raise UsageError(
            f"new: {stem}.py would hide the Python module or keyword {stem}; choose another name, such as my-{name}"
        )
    return stem


def _filled(template: str, name: str, stem: str) -> str:
    """A file of :mod:`benchbd.testing.scaffold`, with the plugin's names filled in."""
    text = Path(__file__).parents[1].joinpath("testing", "scaffold", template).read_text(encoding="utf-8")
    words = "".join(word.capitalize() for word in stem.split("_"))
    return text.replace("MyPlugin", words).replace("my_plugin", stem).replace("my-plugin", name)


def _matrix(kind: str, name: str, stem: str) -> str:
    """A small matrix that runs the plugin."""
    key = {"attack": "attacks", "defense": "defenses"}.get(kind, kind)
    own = f"none, {name}" if key in ("attacks", "defenses") else name
    title = f"The {kind} {name}"
    images = "its own images" if kind == "dataset" else "scikit-learn's digits"
    return MATRIX.format(title=title, images=images, name=name, stem=stem, **{**USUAL, key: own})
