"""``--data`` for the time of one command: data sets that count their images in a file look there while planning."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

VARIABLE = "BENCHBD_DATA"


@contextlib.contextmanager
def data_given(folder: str | None) -> Iterator[None]:
    """While open, ``BENCHBD_DATA`` is ``folder``, where one is given; worker processes inherit it."""
    before = os.environ.get(VARIABLE)
    if folder and "\0" not in folder:
        os.environ[VARIABLE] = folder
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before
