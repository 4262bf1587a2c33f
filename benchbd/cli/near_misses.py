"""Answers to verbs and options that benchbd does not have, but that other programs do."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchbd.errors import did_you_mean, shown, suggestion

VERBS = {
    "train": "run",
    "start": "run",
    "resume": "run",
    "dry-run": "plan",
    "ls": "list",
    "info": "describe",
    "results": "leaderboard",
    "report": "leaderboard",
    "table": "leaderboard",
    "download": "prepare",
    "init": "new",
    "create": "new",
    "test": "check",
    "lint": "check",
}
"""Verbs of other programs, with ours."""


class Answer(NamedTuple):
    """What to do instead of an option, and the options that the advice names."""

    text: str
    options: tuple[str, ...] = ()


_DEVICES = Answer("--gpus 0,1 and --device cuda select devices", ("--gpus", "--device"))
_JOBS = Answer("--jobs N runs N cells at once", ("--jobs",))
_SEEDS = Answer("--seeds 0-2 selects seeds", ("--seeds",))
_OUTPUT = Answer("--output DIR names the results folder", ("--output",))
_DATA = Answer("--data DIR names the folder of the data sets", ("--data",))
_PLAN = Answer("benchbd plan MATRIX shows what a run would do")
_SET = Answer("--set changes a setting, such as --set epochs=2 or --set attack.rate=0.05", ("--set",))
_MATRIX = Answer("a matrix is given without an option: benchbd run MATRIX")
_RERUN = Answer("--rerun all runs finished cells again", ("--rerun",))
_RESUME = Answer("every run resumes: give the same command again")
_PRECISION = Answer("--precision bf16 sets the numbers of a training step", ("--precision",))
_DISPLAY = Answer("--display plain or none sets what a run shows", ("--display",))
_FILE = Answer(
    "leaderboard, plot, show and status read a results file; benchbd merge FILE --output DIR makes a results folder of "
    "it"
)
_DEBUG = Answer("BENCHBD_DEBUG=1 in the environment shows tracebacks")
OPTIONS = {
    **dict.fromkeys(("--gpu", "--gpu-id", "--gpu-ids", "--cuda", "--devices", "--n-gpus", "--num-gpus"), _DEVICES),
    "--cpu": Answer("--device cpu keeps to the CPU", ("--device",)),
    "--seed": _SEEDS,
    "--random-seed": _SEEDS,
    **dict.fromkeys(("--workers", "--num-workers", "--n-workers", "--n-jobs", "--processes", "--parallel"), _JOBS),
    **dict.fromkeys(("--dry-run", "--dryrun", "--dry", "--simulate-only"), _PLAN),
    **dict.fromkeys(("--epochs", "--batch-size", "--lr", "--optimizer", "--rate", "--poison-rate", "--pratio"), _SET),
    **dict.fromkeys(("--matrix", "--config", "--yaml", "--yaml-path", "--file"), _MATRIX),
    **dict.fromkeys(("--resume", "--continue"), _RESUME),
    **dict.fromkeys(("--force", "--overwrite", "--recompute"), _RERUN),
    **dict.fromkeys(("--output-dir", "--out-dir", "--outdir", "--out", "--results-dir", "--save-path"), _OUTPUT),
    **dict.fromkeys(("--data-dir", "--data-root", "--data-path", "--dataset-path"), _DATA),
    **dict.fromkeys(("--amp", "--bf16", "--fp16", "--fp32"), _PRECISION),
    **dict.fromkeys(("--verbose", "--quiet", "--silent"), _DISPLAY),
    "--time-limit": Answer("--timeout 2h limits the time of a cell", ("--timeout",)),
    "--results": _FILE,
    "--debug": _DEBUG,
}
"""Options of other programs, with the answers."""


def verb_hint(word: str, verbs: Iterable[str]) -> str:
    """``; did you mean 'run'?`` for a word that is not a verb."""
    meant = VERBS.get(word.lower())
    return f"; did you mean {meant!r}?" if meant else did_you_mean(word, verbs)


def unknown_option(parser: argparse.ArgumentParser, words: Sequence[str]) -> str | None:
    """A line about the first long option among a verb's words that its parser lacks; None if it has them all."""
    options = {option for action in parser._actions for option in action.option_strings}
    rest = {o for a in parser._actions if a.nargs == argparse.REMAINDER for o in a.option_strings}
    for word in words:
        name = word.partition("=")[0]
        if word == "--" or name in rest:
            return None
        if name.startswith("--") and name not in options:
            return f"unrecognized arguments: {_joined(word, words)}{_hint(name, options)}; see {parser.prog} --help"
    return None


def _joined(word: str, words: Sequence[str]) -> str:
    """The option and its value, as far as it looks like one."""
    after = words[words.index(word) + 1 :]
    value = f" {after[0]}" if after and not after[0].startswith("-") and "=" not in word else ""
    return shown(word + value, 100)[1:-1]


def _hint(name: str, options: set[str]) -> str:
    answer = OPTIONS.get(name.lower().replace("_", "-"))
    if answer is None:
        return suggestion(name, [option for option in options if option.startswith("--")])
    here = not answer.options or options.intersection(answer.options)
    return f"; {answer.text}" if here else f"; in benchbd run, {answer.text}"
