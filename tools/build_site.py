"""Lay the documentation out as a site and build it: ``make docs``, or ``python tools/build_site.py FOLDER``.

The pages in docs/ are written for readers on GitHub, whose links lead to files anywhere in the repository. They are
copied into a folder of their own here, with the files that they link to, the reference of the plugin interface from its
docstrings, and the leaderboard. Every link then leads to a page or file of the site.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "leaderboard/README.md": "leaderboard/index.md",
}
"""Pages outside docs/, and where they are in the site."""
BOARD = "leaderboard/board.html"
REFERENCE = {
    "lab": ("What a defense is handed",
            ["benchbd.plugins.handles", "benchbd.plugins.trained", "benchbd.plugins.train_set"]),
    "plugins": (
        "Base classes of plugins",
        ["benchbd.plugins.contract", "benchbd.plugins.component", "benchbd.plugins.attack", "benchbd.plugins.training",
         "benchbd.plugins.scorer"],
    ),
    "values": ("Images, recipes, transforms, errors",
               ["benchbd.core.images", "benchbd.core.recipe", "benchbd.core.transform", "benchbd.errors"]),
    "training": ("Training loops and passes",
                 ["benchbd.engine.training_loop", "benchbd.engine.fit", "benchbd.engine.epoch_weights",
                  "benchbd.engine.epochs", "benchbd.engine.passes", "benchbd.engine.augment"]),
    "library": ("Use from Python", ["benchbd.api", "benchbd.plugins.registry", "benchbd.testing"]),
}  # fmt: skip
"""Pages of the reference: the name, the title, and the modules on it."""
STYLE = """\
/* Tables of numbers fit beside the navigation. */
.md-typeset table:not([class]) th { min-width: 0; }
.md-typeset table:not([class]) th, .md-typeset table:not([class]) td { padding: .45em .6em; }
"""
ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc):`~?(?:[\w.]*\.)?(\w+)`")
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def pages() -> dict[str, str]:
    """Every page written by hand, by its place in the repository, with its place in the site."""
    docs = sorted(path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md"))
    return {**PAGES, **{path.as_posix(): path.relative_to("docs").as_posix() for path in docs}}


def place_of(file: str) -> str:
    """Where a file of the repository is in the site: pages and what is in docs/ as above, others under files/."""
    if file in pages():
        return pages()[file]
    if file == "leaderboard":
        return PAGES["leaderboard/README.md"]
    return file.removeprefix("docs/") if file.startswith("docs/") else f"files/{file}"


def linked(page: str, text: str, take: Callable[[str], None] = lambda file: None) -> str:
    """A page's text with its links as the site needs them.

    Args:
        page: the page's place in the repository.
        text: the page.
        take: is called with each file of the repository that the page links to.
    """
    here = Path(pages()[page]).parent

    def moved(found: re.Match[str]) -> str:
        target = os.path.normpath(Path(page).parent / found[2])
        if not (ROOT / target).exists():
            return found[0]  # The strict build names it.
        take(target)
        return f"{found[1]}{os.path.relpath(place_of(target), here)}{found[3]}"

    parts = FENCE.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(moved, part) for part in parts)


def _site_text(page: str, text: str) -> str:
    """GitHub's markdown in the words of Python-Markdown."""
    text = text.replace("<details>", "<details markdown>")
    # Python-Markdown needs an empty line before a list.
    text = re.sub(r"^(?!\s*[-*|>#]|\s*\d+\. |\s*$)(.+)\n(?=- )", r"\1\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"^```(\w+) file=(\S+)$", r'```\1 title="\2"', text, flags=re.MULTILINE)
    if page == "leaderboard/README.md":
        first, _, rest = text.partition("\n\n")
        title, _, rest = rest.partition("\n\n")
        text = (
            f"{first}\n\n{title}\n\n[The interactive page](board.html) sorts, filters and shows each record.\n\n{rest}"
        )
    return text


def lay_out(folder: Path) -> None:
    """Write everything that the site is built from into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    docs, taken = folder / "docs", set[str]()
    for page, place in pages().items():
        text = linked(page, (ROOT / page).read_text(encoding="utf-8"), taken.add)
        (docs / place).parent.mkdir(parents=True, exist_ok=True)
        (docs / place).write_text(_site_text(page, text), encoding="utf-8")
    for file in sorted(taken - pages().keys()):
        if (ROOT / file).is_file():
            (docs / place_of(file)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, docs / place_of(file))
    (folder / "docs" / "site.css").write_text(STYLE, encoding="utf-8")
    _reference(folder)


def _reference(folder: Path) -> None:
    """The pages of the reference, and the sources that they are made from, without the roles of other tools."""
    for path in (ROOT / "benchbd").rglob("*.py"):
        place = folder / "sources" / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(ROLE.sub(r"`\1`", path.read_text(encoding="utf-8")), encoding="utf-8")
    (folder / "docs" / "api").mkdir()
    for name, (title, modules) in REFERENCE.items():
        text = "\n\n".join([f"# {title}", *(f"::: {module}" for module in modules)])
        (folder / "docs" / "api" / f"{name}.md").write_text(text + "\n", encoding="utf-8")


def main(folder: Path) -> int:
    """Lay out the site, write the leaderboard's page into it, and build it; a broken link is an error."""
    lay_out(folder)
    results, board = ROOT / "leaderboard" / "results.jsonl", folder / "docs" / BOARD
    made = [sys.executable, "-m", "benchbd", "leaderboard", "--results", str(results), "--format", "html", "--write"]
    subprocess.run([*made, str(board)], check=True)
    shutil.copy(ROOT / "mkdocs.yml", folder)
    return subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=folder, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "site").resolve()))
