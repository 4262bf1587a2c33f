"""Covers: training images beside the poison that are changed too and keep their labels."""

from __future__ import annotations

from benchbd import Budget, DatasetInfo, Impossible, share_of


def covers_of(ratio: float, rate: float, info: DatasetInfo) -> int:
    """How many: ``ratio`` for each image of a poison that is ``rate`` of the set."""
    return share_of(ratio, share_of(rate, info.train))


def check_room(budget: Budget | None, covers: int, info: DatasetInfo) -> None:
    """Raises Impossible where poison and covers exceed the images there are; a budget not yet known is not judged."""
    if budget is not None and budget.count + covers > info.train:
        raise Impossible(f"{budget.count} poisoned images and {covers} covers do not fit into {info.train} images")
