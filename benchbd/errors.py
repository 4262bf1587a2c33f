"""The errors a user may see: each says what, where and what to do, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchbdError(Exception):
    """Base of every error shown without a traceback."""

    exit_code = 1


class UsageError(BenchbdError):
    """Bad input: a name, a parameter, a file. The command line exits with 2."""

    exit_code = 2


class Impossible(BenchbdError):
    """A cell that cannot exist (a budget larger than a class, a model for another size). Planned as ``skipped``."""


class Diverged(BenchbdError):
    """A training whose loss stopped being finite or exploded; the cell ends as ``diverged``."""


class CorruptArtifact(BenchbdError):
    """A stored file whose bytes no longer have the sha256 written beside them."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest known word, else the sorted list of what is known."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if names else "; none is known"
