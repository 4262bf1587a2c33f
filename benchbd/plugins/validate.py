"""What a plugin says of itself beside its parameters, checked where it is loaded and made.

Whoever reads an ill-typed ``needs``, ``smoke`` or ``info()`` later would raise there, and something else be blamed.
"""

from __future__ import annotations

from typing import Any

from benchbd.core import params
from benchbd.core.images import DatasetInfo
from benchbd.errors import BenchbdError, UsageError, shown
from benchbd.plugins.contract import Component, Dataset

_DECLARED: dict[str, tuple[tuple[type, ...], str]] = {
    "version": ((int,), "a whole number"),
    "smoke": ((dict,), "a mapping of parameters such as {'epochs': 1}"),
    "needs": ((tuple, list), "a tuple of words such as ('clean',)"),
    "clean_share": ((int, float), "a number"),
    "class_names": ((tuple, list), "a tuple of names"),
    "source": ((str,), "text"),
    **dict.fromkeys(("control", "clean_label", "poisons"), ((bool,), "True or False")),
    **dict.fromkeys(("prepared_from_poison", "prepared_from_budget"), ((bool,), "True or False")),
}


def check_declared(cls: type[Component]) -> None:
    """Check what a class says of itself.

    Raises:
        TypeError: one of its class attributes is of a type that nobody who reads it could use, or ``smoke`` names what
            is none of its parameters.
    """
    for name, (types, what) in _DECLARED.items():
        if not hasattr(cls, name):  # of another kind
            continue
        value = getattr(cls, name)
        # Python takes True for the number 1.
        fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        if fits and name in ("needs", "class_names"):
            fits = all(isinstance(word, str) for word in value)
        if not fits:
            raise TypeError(f"{name} must be {what}, not {shown(value)}")
    try:
        params.resolve(cls, dict(cls.smoke), "smoke")
    except UsageError as error:
        raise TypeError(str(error)) from None


def check_info(data: Dataset) -> None:
    """Check what a data set's ``info`` returns; what it refuses on purpose, whoever asks it next is told.

    Raises:
        TypeError: it is nothing that attacks, defenses and models could reckon with.
    """
    try:
        info: Any = data.info()
    except BenchbdError:
        return
    if not isinstance(info, DatasetInfo):
        raise TypeError(f"info() must return a DatasetInfo, not {shown(info)}")
    for name in ("classes", "size", "train", "test", "target"):
        value, least = getattr(info, name), 0 if name == "target" else 1
        if type(value) is not int or value < least:
            raise TypeError(f"info(): {name} must be an int from {least} on, not {shown(value)}")
    counts: Any = info.class_counts
    if counts is None:
        return
    if not isinstance(counts, (tuple, list)) or any(type(count) is not int or count < 0 for count in counts):
        raise TypeError(f"info(): class_counts must be a tuple of ints or None, not {shown(counts)}")
    if len(counts) != info.classes:
        raise TypeError(f"info(): class_counts has {len(counts)} numbers for {info.classes} classes")


def missing_data(data: Dataset, folder: str | None) -> str | None:
    """The line in which a data set says what files it lacks; None where all are there.

    Args:
        data: the data set.
        folder: where data sets are looked for; None: the user's cache.

    Raises:
        TypeError: ``missing()`` returns something else.
    """
    line: Any = data.missing(folder)
    if line is not None and not isinstance(line, str):
        raise TypeError(f"missing() must return a line or None, not {shown(line)}")
    return line or None
