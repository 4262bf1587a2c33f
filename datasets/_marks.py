"""Rows of a CSV that describes a poisoned set, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from benchbd.datasets._labels import Row

MARKS = ("", "poison", "cover", "triggered")
"""Marks of a row, by their number in :class:`MarkedRows`."""


class MarkedRows(NamedTuple):
    """Some rows, in file order.

    Attributes:
        images: uint8 (N, 3, S, S).
        labels: int64 (N,).
        true_labels: int64 (N,); -1 where not known.
        poisoned: int64 (N,), 1 for poison, 2 for covers.
    """

    images: np.ndarray
    labels: np.ndarray
    true_labels: np.ndarray
    poisoned: np.ndarray


def marked_rows(
    images: np.ndarray, rows: Sequence[Row], places: Sequence[int], number: Mapping[str, int]
) -> MarkedRows:
    """The rows at ``places`` of all ``rows``, whose images are uint8 (M, 3, S, S) and whose classes have a number.

    The true label of a row that is not poison is its label, unless the row names another.
    """
    import numpy as np

    chosen = [rows[place] for place in places]
    true = [number.get(row.true_label, -1 if row.mark == "poison" else number[row.label]) for row in chosen]
    return MarkedRows(
        np.ascontiguousarray(images[np.asarray(places, np.int64)]),
        np.asarray([number[row.label] for row in chosen], np.int64),
        np.asarray(true, np.int64),
        np.asarray([MARKS.index(row.mark) for row in chosen], np.int64),
    )
