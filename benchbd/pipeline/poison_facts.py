"""What a record says of a poison: what the harness counts, and the attack's own numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from benchbd.errors import UsageError, shown
from benchbd.pipeline.handed_out import blamed, no_change_in
from benchbd.plugins.contract import Attack


def facts_of(labels: np.ndarray, hit: np.ndarray, wanted: np.ndarray) -> dict[str, Any]:
    """A poison's facts for the record, from the true labels (N,), poisoned positions (P,) and class targets (K,)."""
    facts: dict[str, Any] = {"count": len(hit), "share_of_set": len(hit) / len(labels)}
    target = int(wanted[0])
    if (wanted != target).any():
        return {**facts, "share_of_target_class": None, "target": None, "targets": wanted.tolist()}
    share = float((labels[hit] == target).sum() / max(1, (labels == target).sum()))
    return {**facts, "share_of_target_class": share, "target": target}


def clean_target(facts: dict[str, Any], truth: np.ndarray, labels: np.ndarray) -> np.ndarray | str:
    """Which samples are clean and carry the target's label.

    Args:
        facts: of the poison; empty if the attack poisons nothing.
        truth: bool (N,), poisoned.
        labels: int64 (N,), in the poisoned set.

    Returns:
        bool (N,) with at least one such sample, or why there is none.
    """
    if not facts:
        return "there is no attack"
    if facts["target"] is None:
        return "the attack has no single target"
    chosen: np.ndarray = ~truth & (labels == facts["target"])
    return chosen if chosen.any() else "every sample with the target's label is poisoned"


def measured_by(attack: Attack, trigger: dict[str, np.ndarray]) -> dict[str, float]:
    """The attack's numbers about its poison, checked to be finite and rounded to 6 digits."""
    if type(attack).poison_facts is Attack.poison_facts:
        return {}
    with blamed(f"attack {attack.name!r}"), no_change_in(trigger):
        found = {str(name): float(f"{float(value):.6g}") for name, value in attack.poison_facts(trigger).items()}
    if odd := [name for name, value in found.items() if not math.isfinite(value)]:
        raise UsageError(f"attack {attack.name!r}: poison_facts: {shown(odd[0])} is not finite; leave it out")
    return found
