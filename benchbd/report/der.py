"""DER, the defense effectiveness rating: what a defense takes from the attack, less what it takes from accuracy.

DER = (max(0, ASR drop) - max(0, CA drop) + 1) / 2, a fraction: 0.5 for no effect, 1 for a perfect defense. The drops
are relative to the undefended cell of the same row and seed. The formula is that of line 92 of BackdoorBench's
``utils/metric.py`` (commit f02e353); lines 62 to 64 of that file add the CA drop instead of subtracting it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from benchbd.core.kinds import KINDS
from benchbd.report.groups import UNDEFENDED, Group, SeedRecords, precedence
from benchbd.report.labels import Variant, asked_numerics
from benchbd.storage.data_version import data_version
from benchbd.storage.record_schema import Record


def rating(undefended: tuple[float, float], defended: tuple[float, float]) -> float:
    """DER from the (CA, ASR) of the undefended and of the defended model, fractions."""
    ca_drop, asr_drop = undefended[0] - defended[0], undefended[1] - defended[1]
    return (max(0.0, asr_drop) - max(0.0, ca_drop) + 1) / 2


def by_seed(group: Group, row: Variant, column: Variant) -> dict[int, float]:
    """DER of a column in a row by seed, in the group's definitions of CA and ASR.

    It is missing for no defense, for seeds that one side lacks, and where the two were measured on different data.
    """
    plain = group.undefended()
    if plain is None or column == plain:
        return {}
    before, after = group.entry(row, plain), group.entry(row, column)
    return after.remembered("der", lambda: _by_seed(before, after))


def _by_seed(before: SeedRecords, after: SeedRecords) -> dict[int, float]:
    found = {}
    for seed in after.by_seed.keys() & before.by_seed.keys():
        one, other = before.rates(seed), after.rates(seed)
        if one and other and _same_data(before.by_seed[seed], after.by_seed[seed]):
            found[seed] = rating(one, other)
    return dict(sorted(found.items()))


def ratings(records: Iterable[Record]) -> dict[str, float]:
    """DER by record ID, for the finished records whose undefended record is among the given ones."""
    done = [r for r in records if r["status"] == "done" and r["ca"] is not None and r["asr"] is not None]
    undefended: dict[str, Record] = {}
    for record in done:
        if record["defense"] == UNDEFENDED:
            rival = undefended.setdefault(_row(record), record)
            undefended[_row(record)] = max(rival, record, key=precedence)
    found = {}
    for record in done:
        plain = undefended.get(_row(record))
        if plain is not None and record["defense"] != UNDEFENDED and _same_data(plain, record):
            found[record["id"]] = rating((plain["ca"], plain["asr"]), (record["ca"], record["asr"]))
    return found


def _row(record: Mapping[str, Any]) -> str:
    """What a record shares with its undefended one: everything but the defense."""
    kinds = [kind for kind in KINDS if kind != "defense"]
    params, spec = record.get("params") or {}, record.get("spec") or {}
    parts = [[record[kind], params.get(kind), (spec.get(kind) or {}).get("version")] for kind in kinds]
    return json.dumps([*parts, record.get("recipe"), record["seed"], asked_numerics(record)], sort_keys=True)


def _same_data(one: Record, other: Record) -> bool:
    """False if the two are known to have been measured on different data or initial weights."""
    versions = data_version(one), data_version(other)
    return None in versions or versions[0] == versions[1]
