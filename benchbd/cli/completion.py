"""``benchbd completion SHELL``: tab completion for bash, zsh and fish.

The scripts are a few lines each. They pass the typed words to ``benchbd completion --for`` and show its output, so
flags, matrices and plugins (including those of installed packages) are always up to date.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

from benchbd.cli.common import DEFAULT_OUTPUT, write
from benchbd.cli.matrix_reference import topics
from benchbd.errors import BenchbdError

SHELLS = ("bash", "zsh", "fish")
FILES = ":files"
"""Line that asks the shell to complete file names."""
PATHS = ("FILE", "DIR", "FOLDER", "YAML", "A", "B")
"""Metavars of arguments that are paths."""
PLUGINS = {"attacks": "attacks", "defenses": "defenses", "dataset": "datasets", "model": "models"}
"""Arguments that are names of plugins, with the kind."""
EPILOG = """\
Load the script from the start-up file of your shell:

  bash   eval "$(benchbd completion bash)"                                       in ~/.bashrc
  zsh    eval "$(benchbd completion zsh)"                                        in ~/.zshrc, after compinit
  fish   benchbd completion fish > ~/.config/fish/completions/benchbd.fish       once
"""
BASH = r"""_benchbd() {
    local word about current="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=()
    while IFS=$'\t' read -r word about; do
        if [[ $word == :files ]]; then
            compopt -o filenames 2>/dev/null
            while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$current")
        else
            COMPREPLY+=("$word")
        fi
    done < <("${COMP_WORDS[0]}" completion --for "${COMP_WORDS[@]:0:COMP_CWORD+1}" 2>/dev/null)
}
complete -F _benchbd benchbd
"""
ZSH = r"""#compdef benchbd
_benchbd() {
    local word about files
    local -a found
    while IFS=$'\t' read -r word about; do
        if [[ $word == :files ]]; then files=1; else found+=("${word//:/\\:}:$about"); fi
    done < <("${words[1]}" completion --for "${(@)words[1,CURRENT]}" 2>/dev/null)
    (( $#found )) && _describe -t values value found
    [[ -n $files ]] && _files
}
compdef _benchbd benchbd
"""
FISH = r"""function __benchbd_complete
    set -l typed (commandline -opc) (commandline -ct)
    for line in ($typed[1] completion --for $typed 2>/dev/null)
        if test "$line" = :files
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c benchbd -f -a '(__benchbd_complete)'
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "completion",
        help="print a script for tab completion in your shell",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", nargs="?", choices=SHELLS, default="bash", help="default: bash")
    parser.add_argument("--for", dest="typed", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the script, or the candidates if a script asks for them with ``--for``."""
    if args.typed is None:
        write({"bash": BASH, "zsh": ZSH, "fish": FISH}[args.shell])
    elif lines := [f"{word}\t{about}".rstrip() for word, about in candidates(args.typed)]:
        write("\n".join(lines))
    return 0


def candidates(typed: list[str]) -> Iterator[tuple[str, str]]:
    """Candidates for the last typed word, each with a line of help.

    Args:
        typed: the words from the command's name up to the cursor; the last may be empty.
    """
    from benchbd.cli import parser

    *before, current = typed[1:] or [""]
    top = parser()
    verbs = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    verb = next((word for word in before if word in verbs.choices), None)
    if verb is None:
        options = [(str(a.dest), a.help or "") for a in verbs._choices_actions]
        options += _flags(top) if current.startswith("-") else []
    else:
        options = _arguments(verbs.choices[verb], verb, before[before.index(verb) + 1 :], current)
    for word, about in options:
        if word.startswith(current) or word == FILES:
            yield word, " ".join(about.split())


def _flags(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    shown = [a for a in parser._actions if a.option_strings and a.help != argparse.SUPPRESS]
    return [(flag, action.help or "") for action in shown for flag in action.option_strings]


def _arguments(parser: argparse.ArgumentParser, verb: str, before: list[str], current: str) -> list[tuple[str, str]]:
    """Candidates for the word after a verb and the words ``before``."""
    by_flag = {flag: action for action in parser._actions for flag in action.option_strings}
    pending: argparse.Action | None = None
    positionals = 0
    before = [word for word in before if word != "="]  # bash splits --output=DIR into three words
    for word in before:
        if pending is not None:
            pending = None
        elif word.startswith("-"):
            action = by_flag.get(word)
            pending = action if action is not None and action.nargs != 0 else None
        else:
            positionals += 1
    if pending is not None:
        return _values(pending, verb, before)
    if current.startswith("-"):
        return _flags(parser)
    known = [a for a in parser._actions if not a.option_strings]
    if positionals < len(known):
        return _values(known[positionals], verb, before)
    return _values(known[-1], verb, before) if known and known[-1].nargs == "+" else []


def _cells(before: list[str]) -> list[tuple[str, str]]:
    """IDs of the cells of the results folder or file that the words name; of a file, with their labels."""
    from benchbd.core.paths import user_path
    from benchbd.storage import results_file
    from benchbd.storage.results_folder import record_ids

    def given(flag: str) -> str | None:
        words = [word for typed in before for word in (typed.split("=", 1) if typed.startswith("--") else [typed])]
        values = [value for word, value in itertools.pairwise(words) if word == flag]
        return values[-1] if values else None

    with contextlib.suppress(BenchbdError, OSError):
        if file := given("--results"):
            found = results_file.each(user_path(file, "--results"), skip=lambda problem: None)
            return sorted({record["id"]: record["label"] for record in found}.items())
        return [(ident, "") for ident in record_ids(user_path(given("--output") or DEFAULT_OUTPUT, "--output"))]
    return []


def _values(action: argparse.Action, verb: str, before: list[str]) -> list[tuple[str, str]]:
    """Candidates for the value of an argument after the words ``before``, found by its name."""
    from benchbd.core.presets import ABOUT
    from benchbd.plugins import registry

    if action.choices is not None:
        return [(str(choice), "") for choice in action.choices]
    if action.dest == "precision":
        from benchbd.core.numerics import FORMATS, MODES

        return [(word, "") for word in (*FORMATS, *MODES)]
    name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if name in PATHS or action.dest == "out":
        return [(FILES, "")]
    if name == "CELL":
        return _cells(before)
    if "MATRIX" in name or action.dest == "matrix":
        from benchbd.cli.plot import FIGURES
        from benchbd.plan.shipped import described

        figures = [(figure, "") for figure in FIGURES] if "FIGURE" in name else []
        return [*figures, *described().items(), (FILES, "")]
    if action.dest in PLUGINS or (verb in ("describe", "check") and action.dest == "name"):
        kind = PLUGINS.get(action.dest)
        others = [
            ("recipe", ""),
            *((topic, "") for topic in topics()),
            *((preset, about.summary) for preset, about in ABOUT.items()),
        ]
        plugins = [(entry.name, entry.summary) for entry in registry.entries(kind) if entry.kind]
        return [*plugins, *(others if verb == "describe" else [])]
    if action.dest == "recipe":
        return [(preset, about.summary) for preset, about in ABOUT.items()]
    if (verb, name) == ("help", "VERB"):
        from benchbd.cli import VERBS

        return [(each, "") for each in VERBS]
    if (verb, name) == ("list", "KIND"):
        from benchbd.cli.list import GROUPS

        return [(group, "") for group in GROUPS]
    return []
