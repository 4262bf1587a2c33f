"""Checks of what a plugin declares besides its parameters, made when a plugin is loaded or created.

Otherwise an ill-typed ``needs``, ``smoke`` or ``info()`` would raise later, in code that is not at fault.
"""

from __future__ import annotations

from typing import Any

from benchbd.core import params
from benchbd.core.images import DatasetInfo
from benchbd.errors import BenchbdError, UsageError, did_you_mean, shown
from benchbd.plugins.contract import Component, Dataset

_DECLARED: dict[str, tuple[tuple[type, ...], str]] = {
    "version": ((int,), "a whole number"),
    "smoke": ((dict,), "a mapping of parameters such as {'epochs': 1}"),
    "spellings": ((dict,), "a mapping such as {'name': 'network'}"),
    "packages": ((tuple, list), "a tuple of packages such as ('timm',)"),
    "younger": ((tuple, list), "a tuple of parameters such as ('epochs',)"),
    "needs": ((tuple, list), "a tuple of words such as ('clean',)"),
    "clean_share": ((int, float), "a number"),
    "class_names": ((tuple, list), "a tuple of names"),
    "source": ((str,), "text"),
    **dict.fromkeys(("control", "runs_program", "clean_label", "poisons"), ((bool,), "True or False")),
    **dict.fromkeys(("prepared_from_poison", "prepared_from_budget"), ((bool,), "True or False")),
}


def check_declared(cls: type[Component]) -> None:
    """Check the class attributes of a plugin.

    Raises:
        TypeError: an attribute has the wrong type, or ``smoke`` or ``younger`` does not fit the plugin's parameters.
    """
    for name, (types, expected) in _DECLARED.items():
        if not hasattr(cls, name):  # an attribute of another kind of plugin
            continue
        value = getattr(cls, name)
        # For Python, True is an int.
        fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        if fits and name in ("younger", "needs", "class_names", "packages"):
            fits = all(isinstance(word, str) for word in value)
        if not fits:
            raise TypeError(f"{name} must be {expected}, not {shown(value)}")
    try:
        params.resolve(cls, dict(cls.smoke), "smoke")
    except UsageError as error:
        raise TypeError(str(error)) from None
    plain: type = cls  # a component's class is hashable, which mypy does not see
    known = params.defaults(plain)
    for what, names in (("younger", cls.younger), ("spellings", cls.spellings.values())):
        for name in names:
            if name not in known:
                raise TypeError(f"{what} names no parameter: {shown(name)}{did_you_mean(name, known)}")


def check_info(data: Dataset) -> None:
    """Check what a data set's ``info`` returns.

    Errors that ``info`` raises on purpose pass here and appear at its next call.

    Raises:
        TypeError: the return value is not a valid DatasetInfo.
    """
    try:
        info: Any = data.info()
    except BenchbdError:
        return
    if not isinstance(info, DatasetInfo):
        raise TypeError(f"info() must return a DatasetInfo, not {shown(info)}")
    for name in ("classes", "size", "train", "test", "target"):
        value, lowest = getattr(info, name), 0 if name == "target" else 1
        if type(value) is not int or value < lowest:
            raise TypeError(f"info(): {name} must be an int of at least {lowest}, not {shown(value)}")
    counts: Any = info.class_counts
    if counts is None:
        return
    if not isinstance(counts, (tuple, list)) or any(type(count) is not int or count < 0 for count in counts):
        raise TypeError(f"info(): class_counts must be a tuple of ints or None, not {shown(counts)}")
    if len(counts) != info.classes:
        raise TypeError(f"info(): class_counts has {len(counts)} entries for {info.classes} classes")
