"""The last words of a run: counts, what broke and where its log is, and the exact commands that come next."""

from __future__ import annotations

from collections.abc import Mapping

from benchbd.run.outcome import Outcome
from benchbd.run.settings import RunSettings, duration_text

SHOWN = 20
"""Broken cells listed by name; of more, the count."""


def summary(
    outcome: Outcome,
    labels: Mapping[str, str],
    settings: RunSettings,
    *,
    again: str = "",
    go_on: str = "",
    stale: int = 0,
) -> str:
    """Sum a run up for people.

    Args:
        outcome: how it ended.
        labels: label by cell id.
        settings: for the logs' places.
        again: command that runs the failed cells again.
        go_on: command that goes on with what was not reached.
        stale: number of kept records whose plugin source has changed since.
    """
    counts = ", ".join(f"{count} {status}" for status, count in outcome.counts.items()) or "no cells"
    lines = [
        f"{counts} in {duration_text(outcome.seconds)}" + (f" ({outcome.interrupted})" if outcome.interrupted else "")
    ]
    broken = [i for i, status in outcome.statuses.items() if status not in ("done", "skipped", "pending")]
    for cell_id in broken[:SHOWN]:
        lines.append(
            f"  {outcome.statuses[cell_id]}: {labels.get(cell_id, cell_id)}: {outcome.reasons.get(cell_id, '')}"
        )
        log = settings.log_path(cell_id)
        if log.exists():
            lines.append(f"    log: {log}")
    if len(broken) > SHOWN:
        lines.append(f"  and {len(broken) - SHOWN} more")
    stay = any(outcome.statuses[i] in ("failed", "diverged", "oom", "timeout") for i in broken)
    unreached = any(status in ("pending", "cancelled", "killed", "lost") for status in outcome.statuses.values())
    if stay and again:
        lines.append(f"run them again: {again}")
    if unreached and go_on:
        lines.append(f"go on: {go_on}")
    if stale:
        lines.append(
            f"{stale} kept results are stale: a plugin's source has changed since; --rerun stale makes them again"
        )
    return "\n".join(lines) + "\n"
