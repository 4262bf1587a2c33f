"""A matrix's ``probe`` entry: facts that the evaluator records about trainings, unseen by the defense."""

from __future__ import annotations

import dataclasses
from typing import Any

from benchbd.core import params
from benchbd.errors import UsageError


def wanted_epochs(every: int, epochs: int) -> list[int]:
    """The epochs to measure, from 1: every ``every`` of them, and the last."""
    return [*range(every, epochs, every), epochs]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """Which facts about the undefended training go into a record's ``notes``, and CA and ASR by epoch.

    A cell that has a probe includes it in its identity.
    """

    losses: bool = True
    """Record the mean losses of clean samples, of clean ones with the target's label and of poisoned ones after each
    epoch (eval mode, no augmentation)."""
    features: int | None = None
    """Epoch after which the penultimate features are recorded, for a t-SNE plot; None records none."""
    samples: int = 2000
    """Number of training images in that plot, sampled at random."""
    rates: bool | int = False
    """Record CA, ASR and RA after each epoch (true), or after every this many epochs and the last, of the undefended
    training and of the training that makes the cell's model."""

    def __post_init__(self) -> None:
        if self.rates is not False and self.rates < 1:
            raise UsageError(f"probe: rates must be true or a number of epochs of at least 1, not {self.rates}")
        object.__setattr__(self, "rates", int(self.rates))  # true and 1 are the same request
        if not self.losses and self.features is None and not self.rates:
            raise UsageError("probe: records nothing; write losses: true, features: 20 or rates: true, or leave it out")
        if self.features is not None and self.features < 1:
            raise UsageError(f"probe: features must be an epoch of at least 1, not {self.features}")
        if self.samples < 10:
            raise UsageError(f"probe: samples must be at least 10, not {self.samples}")

    @classmethod
    def parse(cls, given: dict[str, Any], epochs: int) -> Probe:
        """Build a probe from a matrix's ``probe`` mapping.

        Args:
            given: the mapping.
            epochs: number of epochs of the undefended training.

        Raises:
            UsageError: an unknown or ill-typed entry, or an epoch after the last.
        """
        probe = cls(**params.resolve(cls, given, "probe"))
        if probe.features is not None and probe.features > epochs:
            raise UsageError(
                f"probe: features after epoch {probe.features}, but the recipe has {epochs}; "
                "use --set probe.features=EPOCH for a short run"
            )
        return probe

    def spec(self) -> dict[str, Any]:
        """Every entry, ready for JSON; ``rates`` only if it is asked for, as probes were identified before it."""
        spec = dataclasses.asdict(self)
        return spec if self.rates else {name: value for name, value in spec.items() if name != "rates"}
