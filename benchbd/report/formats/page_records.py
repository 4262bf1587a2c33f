"""What the page holds of records: columns for its list, and the evidence that a record opens to."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from benchbd.core.kinds import KINDS
from benchbd.core.numerics import NUMERICS
from benchbd.report.formats.page_packing import LEFT_OUT, RECORDS_A_LINE, Lines, Pool, chunks, rounded
from benchbd.report.formats.reproduce import command
from benchbd.report.gate import lift_of
from benchbd.report.isolation import rates_of
from benchbd.report.labels import asked_numerics, variant
from benchbd.report.probes import no_clean_target, probe_of
from benchbd.report.wording import percent
from benchbd.storage.record_schema import OTHER_SOURCES, RATES_BY_EPOCH, TRAININGS, by_epoch, courses

if TYPE_CHECKING:
    from benchbd.report.board import Board
    from benchbd.storage.record_schema import Record

LONGEST_CURVE = 2_000
LONGEST_NOTE = 2_000
LARGEST_PICTURE = 200_000
PLACES = 80
"""Bytes that the numbers of lines take for each line of records, generously."""
EXTRAS = ("measured", "loss", "trigger", "histogram", "epochs", "probe", "course", "notes")
"""Kinds of evidence that a page may leave out to stay small, the most useful first."""
OWN_NOTES = ("train_loss", "probe", "tsne", "trigger_png", "suspicion", "curve", RATES_BY_EPOCH)
"""Notes that are not shown as notes: other evidence holds them, or figures draw them."""


def curve(values: Any) -> list[float | None] | None:
    """A list of numbers and None, with 4 significant digits; None for anything else."""
    if not isinstance(values, list) or not 0 < len(values) <= LONGEST_CURVE:
        return None
    if not all(v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in values):
        return None
    return [float(f"{v:.4g}") if v is not None and math.isfinite(v) else None for v in values]


def train_curves(notes: Mapping[str, Any]) -> list[tuple[str, list[float | None]]]:
    """Training losses as named curves of 4 significant digits; ``notes.train_loss`` is a list or lists by training."""
    given = notes.get("train_loss")
    named = given if isinstance(given, dict) else {"train": given}
    return [(str(name), found) for name, values in named.items() if (found := curve(values)) is not None]


def picture(text: Any) -> str | None:
    """``notes.trigger_png``, a PNG in base64 without line breaks; None for anything else."""
    if not isinstance(text, str) or len(text) > LARGEST_PICTURE:
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return text if data.startswith(b"\x89PNG\r\n\x1a\n") else None


def histogram(note: Any) -> dict[str, list[float | None]] | None:
    """``detection.histogram`` or ``notes.suspicion``: ``edges`` (bins + 1), ``clean`` and ``poisoned`` counts."""
    if not isinstance(note, dict):
        return None
    found = {key: curve(note.get(key)) for key in ("edges", "clean", "poisoned")}
    edges, clean, poisoned = found.values()
    fits = edges and clean and poisoned and len(edges) - 1 == len(clean) == len(poisoned)
    return found if fits and None not in edges + clean + poisoned else None  # type: ignore[operator, return-value]


def course(note: Any) -> dict[str, list[Any]] | None:
    """``notes.curve``, rates of intermediate models, as lists ``name``, ``ca``, ``asr``, ``ra``; None if malformed."""
    if not isinstance(note, list) or not all(isinstance(point, dict) for point in note):
        return None
    rates = {key: curve([point.get(key) for point in note]) for key in ("ca", "asr", "ra")}
    if len(note) < 2 or None in rates.values():
        return None
    return {"name": [str(point.get("name", place)) for place, point in enumerate(note)], **rates}  # type: ignore[dict-item]


def _hundredths(fraction: float | None) -> int | None:
    """Hundredths of a percent, rounded as tables round; None without a number."""
    return None if fraction is None else round(100 * float(percent(fraction).replace("\N{MINUS SIGN}", "-")))


class Rerun(NamedTuple):
    """The command that runs a cell again, without its ID and seed, which stand between the parts."""

    before: str
    between: str
    after: str

    @classmethod
    def of(cls, record: Record) -> Rerun:
        """The command of a record in parts."""
        before, _, rest = command(record).partition(f"id={record['id']}")
        seeds = f"\nseeds: {json.dumps(record['seed'])}\n"
        between, _, after = rest.partition(seeds)
        return cls(f"{before}id=", f"{between}\nseeds: ", f"\n{after}")


def _rerun_key(record: Record) -> str:
    """What decides the command but for ID and seed."""
    spec = record.get("spec") or {}
    asked = [spec.get(key) for key in ("probe", *NUMERICS)]
    return repr([record.get("matrix"), record.get("recipe"), asked, [record[k] for k in KINDS], record.get("params")])


class PageRecords:
    """The records of a board as the page holds them.

    Args:
        board: the board.
        records: its records in the order of the list.
    """

    def __init__(self, board: Board, records: Sequence[Record]) -> None:
        self._records = records
        self._labels = board.labels
        self.variants = {kind: Pool() for kind in KINDS}
        self._shared = Pool()
        self._reruns: dict[str, int] = {}
        self._entries = {
            id(record): (number, place)
            for number, tables in enumerate(board.groups)
            for place, entry in tables.group.entries.items()
            for record in entry.by_seed.values()
        }

    def variant_number(self, item: Any) -> int:
        """The number of a component in the page's list of its kind."""
        return self.variants[item.kind].place(item, item)

    def names(self) -> dict[str, list[dict[str, str]]]:
        """Name and label of every component by kind, in the order of their numbers."""
        return {
            kind: [{"name": item.name, "label": self._labels(item)} for item in pool.items]
            for kind, pool in self.variants.items()
        }

    def columns(self) -> dict[str, list[Any]]:
        """The list of records, a column at a time. ``group`` is -1 for a record that no table shows."""
        statuses = Pool()
        rows = [self._row(record, statuses) for record in self._records]
        names = ("id", "seed", "status", "ca", "asr", "auroc", "time", "group", *KINDS)
        found: dict[str, list[Any]] = {name: [row[place] for row in rows] for place, name in enumerate(names)}
        return {**found, "statuses": statuses.items}

    def _row(self, record: Record, statuses: Pool) -> list[Any]:
        group, place = self._entries.get(id(record), (-1, ()))
        known = {item.kind: item for item in place}
        parts = [self.variant_number(known.get(kind) or variant(record, kind)) for kind in KINDS]
        time = (record.get("time") or {}).get("total")
        auroc = (record.get("detection") or {}).get("auroc")
        return [
            record["id"],
            record["seed"],
            statuses.place(record["status"], record["status"]),
            _hundredths(record.get("ca")),
            _hundredths(record.get("asr")),
            None if auroc is None else round(1000 * auroc),
            None if time is None else float(f"{time:.4g}"),
            group,
            *parts,
        ]

    def evidence(self, lines: Lines) -> dict[str, Any]:
        """Pack the evidence of all records.

        Records stand in lines by seed, so that a page that must leave some out keeps the first seeds of all cells.

        Returns:
            ``size``: records a line; ``facts``, ``extras``: numbers of lines by kind; ``pool``: that of shared values.
        """
        lines.budget -= PLACES * (1 + len(self._records) // RECORDS_A_LINE)
        order = sorted(range(len(self._records)), key=lambda place: (self._records[place]["seed"], place))
        facts = [lines.add(part) for part in chunks([self._facts(r) for r in self._records], order)]
        shared = {
            "items": self._shared.items,
            "params": {kind: [item.values() for item in pool.items] for kind, pool in self.variants.items()},
        }
        pool = lines.add(shared)
        pictures: dict[str, int] = {}
        found: dict[str, list[int | None]] = {kind: [] for kind in EXTRAS}
        # What was measured of all records comes first, then their losses; of the rest, all about the first seeds.
        for kinds in (EXTRAS[:1], EXTRAS[1:2], EXTRAS[2:]):
            for part in chunks(self._records, order):
                for kind in kinds:
                    found[kind].append(_offered(kind, part, lines, pictures, found[kind]))
        return {"size": RECORDS_A_LINE, "facts": facts, "pool": pool, "extras": found}

    def _facts(self, record: Record) -> dict[str, Any]:
        asked = asked_numerics(record)
        recipe = {**(record.get("recipe") or {}), **({"numerics": asked} if asked else {})}
        prints = {f"sha256 of {k}": v for k, v in (record.get("data") or {}).items() if v}
        codes = {**(record.get("sources") or {}), **(record.get(OTHER_SOURCES) or {})}
        sources = {**{f"source of {k}": v for k, v in codes.items()}, **prints}
        key = _rerun_key(record)
        rerun = self._reruns.get(key)
        if rerun is None:
            parts = Rerun.of(record)
            rerun = self._reruns[key] = self._shared.place(parts, parts)
        facts = {key: record.get(key) for key in ("error", "matrix")}
        for name, shared in (("recipe", recipe), ("env", record.get("env") or {}), ("sources", sources)):
            facts[name] = self._shared.place(shared, f"{name}{shared!r}")
        facts["rerun"] = rerun
        return {k: v for k, v in facts.items() if v not in (None, {}, [])}


def _offered(
    kind: str, part: Sequence[Record], lines: Lines, pictures: dict[str, int], before: Sequence[int | None]
) -> int | None:
    """The line of one kind of evidence of some records; None if they have none.

    A kind of which a line has been left out before stays left out.
    """
    if LEFT_OUT in before:
        return LEFT_OUT
    values = [_EXTRA[kind](record) for record in part]
    if kind == "trigger":
        values = [None if text is None else _picture_line(pictures, text, lines) for text in values]
    return lines.offer(values) if any(value is not None for value in values) else None


def _picture_line(pictures: dict[str, int], text: str, lines: Lines) -> int:
    """The line of a picture; equal pictures share one."""
    if text not in pictures:
        pictures[text] = lines.offer_text(text)
    return pictures[text]


def _measured(record: Record) -> Any:
    """Rates, detection, times and costs, without what is None or empty."""
    keys = ("ra", "asr_all", "ca_non_target", "clean_asr", "poison", "triggered", "test_transform", "time")
    found = {key: rounded(record.get(key)) for key in keys}
    found["lift"] = rounded(lift_of(record))
    if detection := record.get("detection"):
        found["detection"] = rounded({k: v for k, v in detection.items() if k != "histogram"})
        found["rates"] = rounded({k: v for k, v in rates_of(record).items() if v is not None})
    costs = ("trainings", "epochs_trained", "peak_memory_bytes", "needs", "control")
    found["cost"] = {k: rounded(record[k]) for k in costs if record.get(k) not in (None, [])}
    return {k: v for k, v in found.items() if v not in (None, {}, [])} or None


def _loss(record: Record) -> Any:
    return train_curves(record.get("notes") or {}) or None


def _trigger(record: Record) -> Any:
    return picture((record.get("notes") or {}).get("trigger_png"))


def _histogram(record: Record) -> Any:
    note = (record.get("detection") or {}).get("histogram") or (record.get("notes") or {}).get("suspicion")
    return histogram(note)


def _probe(record: Record) -> Any:
    if not (found := probe_of(record)):
        return None
    shown: dict[str, Any] = {
        "epochs": found["epochs"],
        "clean": curve(found["clean_mean"]),
        "poison": curve(found["poison_mean"]),
    }
    if "clean_target_mean" in found:
        shown["target"] = curve(found["clean_target_mean"])
    elif reason := no_clean_target(record):
        shown["no_target"] = reason
    return shown


def _epochs(record: Record) -> Any:
    """Rates by epoch by training, with 4 significant digits; the undefended one only if it is another training."""
    found = {training: each for training in TRAININGS if (each := by_epoch(record, training))}
    if found.get("undefended") == found.get("model"):
        found.pop("undefended", None)
    shown: dict[str, dict[str, Any]] = {}
    for training, each in found.items():
        lists = {name: curve(values) for name, values in each.items()}
        if None not in lists.values():
            shown[training] = lists | ({"pruned": True} if courses(record)[training].get("pruned") is True else {})
    return shown or None


def _course(record: Record) -> Any:
    return course((record.get("notes") or {}).get("curve"))


def _notes(record: Record) -> Any:
    notes = record.get("notes") or {}
    shown = {"curve": course(notes.get("curve")), RATES_BY_EPOCH: _epochs(record)}
    own = tuple(name for name in OWN_NOTES if shown.get(name, name) is not None)
    kept = {k: rounded(v) for k, v in notes.items() if k not in own and len(json.dumps(v)) <= LONGEST_NOTE}
    return kept or None


_EXTRA = dict(zip(EXTRAS, (_measured, _loss, _trigger, _histogram, _epochs, _probe, _course, _notes), strict=True))
