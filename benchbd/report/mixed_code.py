"""Which cells of a group were measured with other code of a plugin than the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from benchbd.report.groups import Group
from benchbd.report.labels import Labels, Variant
from benchbd.report.wording import cell_seeds, listed
from benchbd.storage.record_schema import Record
from benchbd.storage.staleness import known_sources

LISTED = 8
"""Cells that a note lists for a plugin; the rest are only counted."""


class _Use(NamedTuple):
    """A finished record's use of a plugin."""

    digest: str
    row: Variant
    column: Variant
    seed: int


def mixed_code_notes(group: Group, labels: Labels) -> list[str]:
    """A line for each plugin whose code is not the same in all records of a table.

    Records of earlier releases name no digest of the code, and match every other.
    """
    uses: dict[tuple[str, str], list[_Use]] = {}
    for row, column, record in _finished(group):
        for plugin, digest in known_sources(record).items():
            uses.setdefault(plugin, []).append(_Use(digest, row, column, record["seed"]))
    return [
        f"{'Data set' if kind == 'dataset' else kind.capitalize()} {name} had different code in some cells, which may "
        f"not be comparable with the rest: {listed(_others(found, labels), LISTED, '; ', '; and ')}. "
        "benchbd run --rerun stale measures all with the present code."
        for (kind, name), found in uses.items()
        if len({use.digest for use in found}) > 1
    ]


def _finished(group: Group) -> Iterator[tuple[Variant, Variant, Record]]:
    for row in group.rows:
        for column in group.columns:
            for record in group.entry(row, column).done():
                yield row, column, record


def _others(uses: list[_Use], labels: Labels) -> list[str]:
    """The cells with other code than most; of equally frequent ones, the first counts as that of most."""
    usual = Counter(use.digest for use in uses).most_common(1)[0][0]
    seeds: dict[tuple[Variant, Variant], list[int]] = {}
    for use in uses:
        if use.digest != usual:
            seeds.setdefault((use.row, use.column), []).append(use.seed)
    return [cell_seeds(labels(row), labels(column), sorted(found)) for (row, column), found in seeds.items()]
