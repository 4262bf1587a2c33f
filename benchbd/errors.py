"""The errors a user may see. Each message says in one line what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

LONGEST = 1000
"""Maximum length of an error message, in characters."""


class BenchbdError(Exception):
    """Base class of the errors that are shown without a traceback."""

    exit_code = 1


class UsageError(BenchbdError):
    """Bad input: a name, a parameter or a file. The command line exits with code 2."""

    exit_code = 2


class UnknownPlugin(UsageError):
    """A name that no plugin here has, with its kind in the singular."""

    def __init__(self, line: str, kind: str, name: str) -> None:
        super().__init__(line)
        self.kind, self.name = kind, name


class Misused(UsageError):
    """A plugin changed, or mixed up, what the harness had handed it. The harness adds the plugin's name."""


class Impossible(BenchbdError):
    """A cell that cannot exist, such as one with a budget larger than a class. Planned as ``skipped``."""


class Diverged(BenchbdError):
    """A training whose loss exploded or became non-finite; the cell ends as ``diverged``."""


class RunStopped(BaseException):
    """The user or a time limit stops what runs in this process. Not an Exception, so that no plugin catches it."""


class CorruptArtifact(BenchbdError):
    """A stored file whose bytes no longer match the sha256 stored with them."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest known word, else the sorted known words."""
    names = sorted(set(known))
    return suggestion(word, names) or (f"; known: {', '.join(names)}" if names else "; none is known")


def suggestion(word: Any, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest known word; '' if none is near or ``word`` is not text."""
    if not isinstance(word, str):
        return ""
    names = sorted(set(known))
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word[:200], names, n=1, cutoff=0.6)
    near += [by_lower[name] for name in difflib.get_close_matches(word[:200].lower(), by_lower, n=1, cutoff=0.6)]
    return f"; did you mean {near[0]!r}?" if near else ""


def shown(value: Any, limit: int = 60) -> str:
    """Quote a value for a message: its repr in one line, cut to about ``limit`` characters. Never raises."""
    try:
        text = repr(value[: 2 * limit] if isinstance(value, str) else value)
    except (ValueError, RecursionError):  # Python refuses to print a number of more than 4,300 digits
        return f"{with_article(type(value).__name__)} too large to print"
    return one_line(text if len(text) <= limit else text[: limit - 3] + "...")


def with_article(name: str) -> str:
    """The name after its article, by its sound: ``an airbench``, ``a resnet18``, ``an mlp``, ``a unet``."""
    word = re.match("[a-z]*", name.lower())[0]  # type: ignore[index]  # it matches any text
    if word.startswith("nd") or not set(word) & set("aeiouy"):  # spelt out, letter by letter
        an = word[:1] in tuple("aefhilmnorsx")
    else:
        an = re.match("[aeio]|u(?![ns][aeiou]|int)", word) is not None
    return f"{'an' if an else 'a'} {name}"


def counted(count: int, noun: str, form: str = "") -> str:
    """A number and its noun: ``1 attack``, ``9 attacks``; ``form`` may be a format of numbers, such as ``,``."""
    return f"{count:{form}} {noun}{'' if count == 1 else 's'}"


def agrees(count: int, one: str, several: str) -> str:
    """The word that goes with a number of things: ``one``, such as ``is``, or ``several``, such as ``are``."""
    return one if count == 1 else several


def one_line(error: object) -> str:
    """The text of an error as one line, cut to ``LONGEST``, with control characters escaped."""
    text = " ".join(str(error).split())
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: LONGEST + 1])
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
