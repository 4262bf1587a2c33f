"""Writes docs/matrix.md from the reference that ``benchbd describe matrix`` shows.

python tools/matrix_page.py
python tools/matrix_page.py --check
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from pathlib import Path

from benchbd.plan import reference
from benchbd.plan.reference import KEYS, MatrixKey
from benchbd.plugins.aliases import ALIASES, aliases_of

PAGE = Path(__file__).parent.parent / "docs" / "matrix.md"
WIDTH = 120


def page() -> str:
    """The text of docs/matrix.md."""
    table = ["| key | where | default |", "|---|---|---|"]
    table += [f"| [`{key.name}`](#{key.name}) | {key.place} | {key.default} |" for key in KEYS]
    parts = [
        "<!-- Written by tools/matrix_page.py from benchbd/plan/reference.py; do not edit. -->",
        "# The matrix file",
        _wrapped(f"{reference.SUMMARY} `benchbd describe matrix` shows this page in the terminal."),
        _yaml(reference.EXAMPLE),
        "\n".join(table),
        "## Components",
        *map(_wrapped, reference.COMPONENTS),
        "## Other names",
        *map(_wrapped, reference.ALIASES),
        _aliases(),
        "## YAML",
        *map(_wrapped, reference.YAML),
        "# Keys",
        *(_key(key) for key in KEYS),
    ]
    return "\n\n".join(parts) + "\n"


def _key(key: MatrixKey) -> str:
    facts = f"Type: {key.type}. Default: {key.default}. It stands {key.place}."
    return "\n\n".join((f"## {key.name}", _wrapped(key.meaning), _wrapped(facts), _yaml(key.example)))


def _aliases() -> str:
    lines = ["| kind | name | may be written |", "|---|---|---|"]
    for kind, aliases in ALIASES.items():
        for name in dict.fromkeys(name for names in aliases.values() for name in names):
            lines.append(f"| {kind[:-1]} | `{name}` | {', '.join(f'`{each}`' for each in aliases_of(kind, name))} |")
    return "\n".join(lines)


def _yaml(text: str) -> str:
    return f"```yaml\n{text.rstrip()}\n```"


def _wrapped(text: str) -> str:
    # A space inside code is no place for a line break.
    kept = re.sub(r"`[^`]*`", lambda code: code[0].replace(" ", "\u00a0"), text)
    return textwrap.fill(kept, WIDTH, break_long_words=False, break_on_hyphens=False).replace("\u00a0", " ")


def main() -> int:
    """Write the page, or compare it with --check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if docs/matrix.md is out of date")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        sys.stderr.write(f"{PAGE} is out of date; run python tools/{Path(__file__).name}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
