"""Cells that are named on the command line instead of in a matrix: ``-a bn-g -d lfd --dataset digits``."""

from __future__ import annotations

import argparse
import ast
import re
from typing import TYPE_CHECKING, Any

from benchbd.errors import UsageError, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "resnet18"
"""The model without ``--model``."""
WHERE = "of the command line"
FLAGS = {
    "attacks": "--attack",
    "defenses": "--defense",
    "dataset": "--dataset",
    "model": "--model",
    "recipe": "--recipe",
}
"""The flags, by the name of their argument."""
_BOARD_FORM = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*\((.*)\)\s*", re.DOTALL)
_WORDS = re.compile(r"[A-Za-z][\w.-]*(\(.*\))?", re.DOTALL)


def add_one_off_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name cells without a matrix."""
    group = parser.add_argument_group("cells without a matrix")
    text = "instead of MATRIX: an attack or its spec, such as blend or 'blend(alpha=0.3)'; may be repeated"
    group.add_argument("-a", "--attack", dest="attacks", metavar="ATTACK", action="append", help=text)
    text = "a defense or its spec, as tables print it; may be repeated (default: none)"
    group.add_argument("-d", "--defense", dest="defenses", metavar="DEFENSE", action="append", help=text)
    group.add_argument("--dataset", metavar="D", help="a data set or its spec")
    group.add_argument("--model", metavar="M", help=f"a model or its spec (default: {MODEL})")
    text = "a preset, such as fast, or {epochs: 4} (default: paper); --set changes one entry"
    group.add_argument("--recipe", metavar="R", help=text)


def given_flags(args: argparse.Namespace) -> list[tuple[str, str]]:
    """The flags of this group that are given, each with its value."""
    found = []
    for name, flag in FLAGS.items():
        value = getattr(args, name, None)
        found += [(flag, each) for each in (value if isinstance(value, list) else [value]) if each is not None]
    return found


def one_off_matrix(args: argparse.Namespace) -> dict[str, Any] | None:
    """The matrix that the flags describe; None if there is a MATRIX.

    Raises:
        UsageError: neither or both are given, or a flag is missing.
    """
    given = given_flags(args)
    if args.matrix is not None:
        if given:
            raise UsageError(
                f"{given[0][0]} names cells without a matrix, but there is a MATRIX, {shown(args.matrix, 100)}; "
                "leave one out, or choose cells of the matrix with --filter defense=lfd"
            )
        return None
    if not given:
        hint = "also for -a ATTACK -d DEFENSE --dataset D without a matrix"
        raise UsageError(
            f"the following arguments are required: MATRIX; see benchbd {getattr(args, 'verb', 'run')} --help, {hint}"
        )
    for flag, value in (("-a ATTACK", args.attacks), ("--dataset D", args.dataset)):
        if not value:
            raise UsageError(f"cells without a matrix need {flag}, such as -a bn-g -d lfd --dataset digits")
    matrix = {
        "name": "cells",
        "dataset": component(args.dataset, "dataset"),
        "model": component(args.model or MODEL, "model"),
        "attacks": [component(text, "attack") for text in args.attacks],
        "defenses": [component(text, "defense") for text in args.defenses or ["none"]],
    }
    if args.recipe is not None:
        if not args.recipe.strip():
            raise UsageError(
                f"--recipe {shown(args.recipe)}: is empty; give a value (an unset variable?) or leave it out"
            )
        from benchbd.plan.matrix_file import parse_yaml

        try:
            matrix["recipe"] = parse_yaml(args.recipe)
        except UsageError as error:
            raise UsageError(f"--recipe {shown(args.recipe)}: {error}") from error
    return matrix


def component(text: str, kind: str) -> Any:
    """A spec as a matrix takes it. Text without quotes is read as tables print it: ``ac(preset=per-class)``.

    Raises:
        UsageError: it has neither form.
    """
    from benchbd.plugins.spec import parse_spec

    try:
        name, params = parse_spec(text, kind)
    except UsageError:
        match = _BOARD_FORM.fullmatch(text)
        if match is None or not _closed(match[2]):
            names = [piece.strip() for piece in _pieces(text.replace(" ", ","))]
            if len(names) > 1 and all(_WORDS.fullmatch(name) for name in names if name):
                flag = {"attack": "-a", "defense": "-d"}.get(kind)
                advice = f"repeat {flag}, as in {flag} {names[0]} {flag} {names[-1]}" if flag else "give one"
                raise UsageError(f"{kind} {shown(text)}: names several; {advice}") from None
            raise
        name, params = match[1], {}
        for piece in _pieces(match[2]):
            key, equals, value = (part.strip() for part in piece.partition("="))
            if not equals or not key.isidentifier() or key in params:
                raise
            try:
                params[key] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                if not _WORDS.fullmatch(value):
                    raise UsageError(f"{kind} {shown(name)}: cannot read {shown(piece.strip())}") from None
                params[key] = value
    return {name: params} if params else name


def _closed(text: str) -> bool:
    """Whether no bracket of the text closes one that is open before it: ``a=1),b(c=2`` does."""
    depth = 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if depth < 0:
            return False
    return True


def _pieces(text: str) -> Iterator[str]:
    """Split at commas outside brackets."""
    depth, start = 0, 0
    for at, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            yield text[start:at]
            start = at + 1
    yield text[start:]
