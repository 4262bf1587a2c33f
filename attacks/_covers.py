"""Covers: training images that are changed like the poison but keep their labels."""

from __future__ import annotations

from benchbd import Budget, DatasetInfo, Impossible, share_of


def covers_of(ratio: float, rate: float, info: DatasetInfo) -> int:
    """Number of covers: ``ratio`` for each poisoned image, when ``rate`` of the set is poisoned."""
    return share_of(ratio, share_of(rate, info.train))


def check_room(budget: Budget | None, covers: int, info: DatasetInfo) -> None:
    """Raise Impossible if poison and covers need more images than the set has. An unknown budget passes."""
    if budget is not None and budget.count + covers > info.train:
        raise Impossible(f"{budget.count} poisoned images and {covers} covers do not fit into {info.train} images")
