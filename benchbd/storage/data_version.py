"""The version of data and initial weights that a record was measured on, to notice that two records differ in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class DataVersion(NamedTuple):
    """Fingerprints of decoded data and initial weights. Two versions with equal fingerprints are the same.

    Attributes:
        train: sha256 of the training set.
        test: sha256 of the test set.
        weights: sha256 of the initial weights that do not come from the seed; None if all do.
    """

    train: str
    test: str
    weights: str | None

    def difference(self, other: DataVersion) -> str:
        """What differs between two versions, such as ``training set, initial weights``."""
        names = {"train": "training set", "test": "test set", "weights": "initial weights"}
        return ", ".join(text for name, text in names.items() if getattr(self, name) != getattr(other, name))


def data_version(record: Mapping[str, Any]) -> DataVersion | None:
    """The version that a finished record was measured on; None for other records and those of earlier releases."""
    data = record.get("data") or {}
    train, test = data.get("train"), data.get("test")
    if record["status"] != "done" or train is None or test is None:
        return None
    return DataVersion(train, test, data.get("weights"))


def all_differences(pairs: Iterable[tuple[DataVersion, DataVersion]]) -> str:
    """What differs within some pairs, such as ``training set, initial weights``; empty if nothing does."""
    found = [one.difference(other).split(", ") for one, other in pairs]
    return ", ".join(dict.fromkeys(text for names in found for text in names if text))


def usual_version(versions: Iterable[DataVersion | None]) -> DataVersion | None:
    """The most frequent version, of equally frequent ones the first in order; None if no record names its version."""
    counts: dict[DataVersion, int] = {}
    for version in versions:
        if version is not None:
            counts[version] = counts.get(version, 0) + 1
    return min(counts, key=lambda v: (-counts[v], v.train, v.test, v.weights or "")) if counts else None
