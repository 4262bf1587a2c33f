"""The summary of a run: counts, failed cells with their logs, and the exact commands to run next."""

from __future__ import annotations

from collections.abc import Mapping

from benchbd.errors import agrees, counted
from benchbd.run.outcome import Outcome
from benchbd.run.settings import RunSettings, duration_text

SHOWN = 20
"""Maximum number of failed cells listed by name; the rest are only counted."""


def summary(
    outcome: Outcome,
    labels: Mapping[str, str],
    settings: RunSettings,
    *,
    again: str = "",
    go_on: str = "",
    stale: int = 0,
) -> str:
    """Summarise a run as text.

    Args:
        outcome: outcome of the run.
        labels: label by cell ID.
        settings: settings of the run, for the paths of logs.
        again: command that runs the failed cells again.
        go_on: command that continues with the unreached cells.
        stale: number of kept records whose plugin source or data has changed since.
    """
    counts = ", ".join(f"{count} {status}" for status, count in outcome.counts.items()) or "no cells"
    lines = [
        f"{counts} in {duration_text(outcome.seconds)}" + (f" ({outcome.interrupted})" if outcome.interrupted else "")
    ]
    failed = [i for i, status in outcome.statuses.items() if status not in ("done", "skipped", "pending")]
    for cell_id in failed[:SHOWN]:
        lines.append(
            f"  {outcome.statuses[cell_id]}: {labels.get(cell_id, cell_id)}: {outcome.reasons.get(cell_id, '')}"
        )
        log = settings.log_path(cell_id)
        if log.exists():
            lines.append(f"    log: {log}")
    if len(failed) > SHOWN:
        lines.append(f"  and {len(failed) - SHOWN} more")
    permanent = any(outcome.statuses[i] in ("failed", "diverged", "oom", "timeout") for i in failed)
    unreached = any(status in ("pending", "cancelled", "killed", "lost") for status in outcome.statuses.values())
    if permanent and again:
        longer = ", with a longer --timeout" if any(outcome.statuses[i] == "timeout" for i in failed) else ""
        lines.append(f"run them again{longer}: {again}")
    if unreached and go_on:
        lines.append(f"continue: {go_on}")
    if stale:
        lines.append(
            f"{counted(stale, 'kept result')} {agrees(stale, 'is', 'are')} stale: a plugin's source or data has "
            f"changed since; --rerun stale recomputes {agrees(stale, 'it', 'them')}"
        )
    return "\n".join(lines) + "\n"
