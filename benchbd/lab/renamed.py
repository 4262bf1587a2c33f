"""Old names of keywords, which work for one release and warn."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from benchbd.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")


def renamed_keywords(**new_by_old: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator that passes old keywords on under their new names, with a FutureWarning that names both.

    The call raises UsageError where it gives a keyword under both names.
    """

    def wrap(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            for old, new in new_by_old.items():
                if old in kwargs:
                    if new in kwargs:
                        raise UsageError(f"{function.__name__}: {old} is the old name of {new}; give {new} alone")
                    # Not a DeprecationWarning: Python hides those from whoever runs a plugin.
                    text = f"{function.__name__}: the keyword {old} is now called {new}; the next release drops {old}"
                    warnings.warn(text, FutureWarning, stacklevel=2)
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return wrap
