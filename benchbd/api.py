"""benchbd from Python: run a matrix, and read results as a tidy table.

Heavy packages are imported only when one of the two functions is called.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchbd.core.confusion import RATES
from benchbd.core.paths import data_given
from benchbd.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from benchbd.plan.matrix import Plan
    from benchbd.run.display.base import Display

KEYS = ("id", "matrix", "dataset", "model", "attack", "defense", "seed", "status", "error", "ca", "asr", "ra")
"""First columns of a table: fields of a record, unchanged."""
NESTED = {
    "detection": ("auroc", *RATES),
    "poison": ("count", "share_of_set", "share_of_target_class"),
    "time": ("total", "own"),
    "env": ("device", "precision"),
}
"""Columns such as ``poison.count``: values nested in a field of a record."""
LAST = ("control", "epochs_trained", "peak_memory_bytes", "clean_asr", "asr_all", "ca_non_target")
ASKED = {"precision": "auto", "threads": 1}
"""Columns from a cell's spec, with their values where it has none."""
DATA = ("train", "test")
"""Last columns: the fingerprints ``data.train`` and ``data.test`` of what the cell was measured on."""


def run_matrix(
    matrix: str | os.PathLike[str] | Mapping[str, Any],
    *,
    output: str | os.PathLike[str] = "benchbd-out",
    data: str | os.PathLike[str] | None = None,
    plugins: Sequence[str | os.PathLike[str]] = (),
    seeds: Sequence[int] | None = None,
    sets: Mapping[str, Any] | None = None,
    filters: Sequence[str] = (),
    exclude: Sequence[str] = (),
    smoke: bool = False,
    precision: str | None = None,
    threads: int | None = None,
    rerun: Literal["failed", "stale", "all"] | None = None,
    display: Literal["auto", "rich", "plain", "none"] = "none",
    **settings: Any,
) -> pd.DataFrame:
    """Run every cell of a matrix that has no result yet, as ``benchbd run`` does.

    Args:
        matrix: a YAML file, the name of a shipped matrix, or a mapping with the content of such a file.
        output: results folder; cells that already have a result there are skipped.
        data: folder with the data sets (default: ``BENCHBD_DATA``, then the user's cache).
        plugins: Python files with your own plugins.
        seeds: seeds to run instead of the matrix's.
        sets: settings to change, named as for ``--set``: ``{"epochs": 2, "lfd.alpha": 0.2}``.
        filters: run only cells that match: ``["defense=lfd*"]``.
        exclude: leave out cells that match.
        smoke: shrink every cell to seconds.
        precision: ``fp32``, ``bf16-strict`` and the like instead of the matrix's; part of a cell's ID.
        threads: CPU threads of a cell instead of the matrix's; part of its ID.
        rerun: also rerun these cells.
        display: how to show progress on standard error.
        **settings: fields of :class:`benchbd.run.RunSettings` (``executor``, ``device``, ``jobs``, ``timeout`` in
            seconds, ...).

    Returns:
        One row per cell, including cells that failed or cannot exist; see :func:`load_results`.

    Raises:
        UsageError: an argument is invalid, or a file that it names.
    """
    from benchbd.plugins import registry
    from benchbd.run import RunSettings, run_cells
    from benchbd.run.display.choose import make_display
    from benchbd.run.prepare import kept_on_other_data, prepare_output
    from benchbd.run.workers.slots import check_numbers
    from benchbd.storage.records import read_record

    for plugin in plugins:
        registry.add_plugin_file(os.fspath(plugin))
    folder = Path(output).expanduser().resolve()
    own = {"output", "data_root", "plugins", "stale", "changed_inputs", "threads"}
    known = {field.name for field in dataclasses.fields(RunSettings)} - own
    if unknown := sorted(settings.keys() - known):
        raise UsageError(f"run_matrix: unknown setting {unknown[0]!r}; known: {', '.join(sorted(known))}")
    root = None if data is None else str(Path(data).expanduser().resolve())
    with data_given(root):
        asked = {"precision": precision, "threads": threads}
        plan = _load_plan(matrix, sets or {}, filters, exclude, seeds=seeds, smoke=smoke, **asked)
        chosen = RunSettings(
            output=folder,
            data_root=root,
            plugins=tuple(registry.plugin_files()),
            rerun=rerun,
            threads=threads,
            **settings,
        )
        check_numbers(chosen)
        shown: Display = make_display(display)
        chosen = prepare_output(plan, chosen, folder)
        for line in kept_on_other_data(plan, chosen, folder):
            warnings.warn(line, stacklevel=2)
        run_cells(plan.cells, chosen, shown)
    wanted = [cell.id for cell in plan.cells] + [skipped.cell.id for skipped in plan.skipped]
    return _table(record for ident in wanted if (record := read_record(folder, ident)))


def load_results(place: str | os.PathLike[str] = "benchbd-out") -> pd.DataFrame:
    """Read results as a tidy table: one row per cell, one column per variable.

    Args:
        place: a results folder, or a ``results.jsonl`` file.

    Returns:
        A frame with the columns of ``KEYS``, then ``detection.auroc`` and the like, ``poison.count``, ``time.total`` in
        seconds, and one column for every parameter: ``attack.rate``, ``defense.alpha``, ``recipe.epochs``. ``ca``,
        ``asr``, ``ra``, ``clean_asr``, ``asr_all``, ``ca_non_target`` and ``der`` are fractions; all but the first are
        missing without an attack. ``der`` is missing if the undefended cell of the row and seed is. Other values are
        missing if they do not apply to a cell. Lists become tuples.

    Records that cannot be used are left out, with a warning that names them.

    Raises:
        UsageError: there are no results.
    """
    from benchbd.plan.cell import identity
    from benchbd.storage import results_file

    damaged: list[str] = []
    found = results_file.load(place, identity, lambda problem: damaged.append(str(problem)))
    if damaged:
        shown = [*damaged[:5], *([f"and {len(damaged) - 5} more"] if len(damaged) > 5 else [])]
        warnings.warn(f"left out: {'; '.join(shown)}", stacklevel=2)
    return _table(found)


def _load_plan(
    matrix: str | os.PathLike[str] | Mapping[str, Any],
    sets: Mapping[str, Any],
    filters: Sequence[str],
    exclude: Sequence[str],
    *,
    seeds: Sequence[int] | None,
    **given: Any,
) -> Plan:
    """Resolve a matrix with its settings and seeds, and apply the filters."""
    import json

    from benchbd.plan import matrix as matrices

    # JSON is valid YAML, so mappings and settings pass the same checks as files and flags.
    changes = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in sets.items()]
    given |= {"sets": changes, "seeds": None if seeds is None else list(seeds)}
    if isinstance(matrix, Mapping):
        try:
            text = json.dumps(matrix)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"run_matrix: a matrix may hold only text, numbers, lists and mappings ({error})"
            ) from error
        plan = matrices.resolve(matrices.parse(text, "given"), "given", **given)
    else:
        plan = matrices.load(os.fspath(matrix), **given)
    return matrices.narrow(plan, list(filters), list(exclude))


def _table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    from benchbd.report.der import ratings

    given = [dict(record) for record in records]
    rated = ratings(given)
    rows = [{**_row(record), "der": rated.get(record["id"])} for record in given]
    usual = [*KEYS, *(f"{key}.{name}" for key, names in NESTED.items() for name in names), *LAST, "der", *ASKED]
    last = [f"data.{name}" for name in DATA]
    frame: pd.DataFrame = pd.DataFrame(
        rows, columns=[*usual, *sorted({name for row in rows for name in row} - {*usual, *last}), *last]
    )
    return frame


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    from benchbd.report.isolation import rates_of

    row: dict[str, Any] = {key: record.get(key) for key in KEYS}
    for key, names in NESTED.items():
        inside = record.get(key) or {}
        row |= {f"{key}.{name}": inside.get(name) for name in names}
    row |= {f"detection.{name}": value for name, value in rates_of(record).items()}
    row |= {key: record.get(key) for key in LAST}
    row |= {key: (record.get("spec") or {}).get(key, usual) for key, usual in ASKED.items()}
    row |= {f"data.{name}": (record.get("data") or {}).get(name) for name in DATA}
    given = {**(record.get("params") or {}), "recipe": record.get("recipe") or {}}
    for key, values in given.items():
        row |= {f"{key}.{name}": tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return row
