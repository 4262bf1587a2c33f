"""What the evaluator watches of the undefended training, behind the defense's back: a matrix's ``probe`` entry."""

from __future__ import annotations

import dataclasses
from typing import Any

from benchbd.core import params
from benchbd.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """Which facts about the undefended training go into a record's ``notes``. Part of a cell's identity where given."""

    losses: bool = True
    """After each epoch: mean loss of clean and of poisoned samples (eval mode, no augmentation)."""
    features: int | None = None
    """Epoch after which penultimate features are taken, for a t-SNE picture; none where not given."""
    samples: int = 2000
    """Training images in that picture, drawn at random."""

    def __post_init__(self) -> None:
        if not self.losses and self.features is None:
            raise UsageError("probe: asks for nothing; say losses: true, or features: 20, or leave it out")
        if self.features is not None and self.features < 1:
            raise UsageError(f"probe: features is an epoch from 1 on, not {self.features}")
        if self.samples < 10:
            raise UsageError(f"probe: samples must be 10 or more, not {self.samples}")

    @classmethod
    def parse(cls, given: dict[str, Any], epochs: int) -> Probe:
        """Make a probe from what a matrix says, for trainings of so many epochs.

        Raises:
            UsageError: an unknown or ill-typed entry, or an epoch that never comes.
        """
        made = cls(**params.resolve(cls, given, "probe"))
        if made.features is not None and made.features > epochs:
            raise UsageError(
                f"probe: features after epoch {made.features}, but the recipe has {epochs}; "
                "say --set probe.features=EPOCH for a short run"
            )
        return made

    def spec(self) -> dict[str, Any]:
        """Every entry, ready for JSON."""
        return dataclasses.asdict(self)
