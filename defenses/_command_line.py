"""The command line of a training program, as a user writes it: words, placeholders, no shell."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence

from benchbd import UsageError
from benchbd.errors import did_you_mean, shown

PLACEHOLDERS = (
    *("task", "train", "result", "seed", "device", "threads", "model"),
    *("classes", "size", "epochs", "batch_size", "lr"),
)
"""Words in braces that stand for a value of ``task.json``."""
PYTHON = ("python", "python3")
"""First words that stand for the Python that runs benchbd."""
_SHELL = ("|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1")
_BRACES = re.compile(r"\{([a-z_]\w*)\}")


def words_of(run: str) -> list[str]:
    """Split a command line into words as a shell does, without running one.

    Raises:
        UsageError: a quotation is not closed, a placeholder is unknown, or a word needs a shell.
    """
    try:
        words = shlex.split(run)
    except ValueError as error:
        raise UsageError(f"command: run {shown(run)}: {str(error).lower()}") from error
    for word in words:
        if word in _SHELL:
            advice = "no shell runs the words; write them into a script, say train.sh, and run: sh train.sh"
            raise UsageError(f"command: run has {shown(word)}, but {advice}")
        for name in _BRACES.findall(word):
            if name not in PLACEHOLDERS:
                raise UsageError(f"command: run has {{{name}}}{did_you_mean(name, PLACEHOLDERS)}")
    return words


def filled_in(words: Sequence[str], values: Mapping[str, object]) -> list[str]:
    """The words with their placeholders replaced and ``python`` as the Python that runs benchbd.

    Args:
        words: what :func:`words_of` returned.
        values: one for each of :data:`PLACEHOLDERS`.
    """
    found = [_BRACES.sub(lambda match: str(values[match[1]]), word) for word in words]
    return [sys.executable if found[0] in PYTHON else found[0], *found[1:]]
