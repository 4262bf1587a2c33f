"""Which cells of a group were measured on other data or from other initial weights than the rest."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from benchbd.report.groups import Group
from benchbd.report.labels import Labels, Variant
from benchbd.report.wording import cell_seeds, listed
from benchbd.storage.data_version import DataVersion, all_differences, data_version, usual_version

OTHER_DATA = "§"
"""Sign of a number that rests on other data than the rest, and of a row with such a number."""
Measured = frozenset[tuple[Variant, DataVersion]]
"""Networks, and versions that they were measured on."""
LISTED = 8
"""Cells that a note lists; the rest are only counted."""


def measured(group: Group, rows: Iterable[Variant], columns: Iterable[Variant]) -> Measured:
    """The data versions behind some rows and columns, each with the network of the group."""
    columns = list(columns)
    records = (record for row in rows for column in columns for record in group.entry(row, column).done())
    return frozenset((group.scale.model, version) for record in records if (version := data_version(record)))


def other_data_text(found: Measured) -> str:
    """``§ mixes different data (training set)``; empty for one version. Each network has initial weights of its own."""
    pairs: list[tuple[DataVersion, DataVersion]] = []
    for (model, one), (other_model, other) in itertools.pairwise(sorted(found, key=str)):
        pairs.append((one, other if model == other_model else other._replace(weights=one.weights)))
    names = all_differences(pairs)
    return f"{OTHER_DATA} mixes different data ({names})" if names else ""


def mixed_data(group: Group) -> MixedData:
    """The data versions of a group's records, read once."""
    return group.remembered("mixed data", lambda: MixedData(group))


class MixedData:
    """The data versions of a group's records. Records of earlier releases name no version and match every other.

    Args:
        group: the records of one table.
    """

    def __init__(self, group: Group) -> None:
        # The group remembers this object. A way back to it would keep all records until the collector comes.
        self._rows, self._columns = group.rows, group.columns
        self._found = {
            place: {record["seed"]: version for record in entry.done() if (version := data_version(record)) is not None}
            for place, entry in group.entries.items()
        }
        self.usual = usual_version(version for by_seed in self._found.values() for version in by_seed.values())

    def by_seed(self, row: Variant, column: Variant) -> Mapping[int, DataVersion]:
        """The known data versions of an entry by seed."""
        return self._found.get((row, column), {})

    def versions(self, rows: Iterable[Variant], columns: Iterable[Variant]) -> set[DataVersion]:
        """The versions behind some rows and columns."""
        places = [(row, column) for row in rows for column in columns]
        return {version for place in places for version in self._found.get(place, {}).values()}

    def mixes(self, rows: Iterable[Variant]) -> bool:
        """Whether the numbers in some rows rest on more than one version, so that they cannot be compared."""
        return len(self.versions(rows, self._columns)) > 1

    def deviates(self, rows: Iterable[Variant], column: Variant) -> bool:
        """Whether a column's numbers in some rows rest on another version than the usual one of the table."""
        return bool(self.versions(rows, [column]) - {self.usual})

    def notes(self, labels: Labels) -> list[str]:
        """The note on the sign: which cells were measured on what other data; empty if there are none."""
        found = []
        for row in self._rows:
            for column in self._columns:
                by_seed = self._found.get((row, column), {}).items()
                others = {seed: version for seed, version in sorted(by_seed) if version != self.usual}
                if self.usual and others:
                    named = cell_seeds(labels(row), labels(column), others)
                    found.append(f"{named} (another {next(iter(others.values())).difference(self.usual)})")
        if not found:
            return []
        text = listed(found, LISTED, "; ", "; and ")
        return [f"{OTHER_DATA} measured on different data than the rest, and not comparable with it: {text}."]
