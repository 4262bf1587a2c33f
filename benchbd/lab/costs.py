"""What the stages of a cell cost, charged once each, also where one stage asks for another."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Result = tuple["dict[str, np.ndarray]", dict[str, Any]]
"""What a stage computes: arrays by name, and facts about them."""


@dataclasses.dataclass
class CostLedger:
    """What a cell's stages cost.

    Attributes:
        stages: seconds by stage name, as if each had been computed for this cell alone.
        inside: wall-clock of this process in stages, loading and waiting included.
        waited: the part of ``inside`` in which another process computed the stage.
        epochs: epochs of the trainings that the cell asked for.
        trainings: how many trainings of each kind the cell asked for.
        computed: how many of these were not in the store.
        artifacts: keys by stage name.
    """

    stages: dict[str, float] = dataclasses.field(default_factory=dict)
    inside: float = 0.0
    waited: float = 0.0
    epochs: int = 0
    trainings: dict[str, int] = dataclasses.field(default_factory=dict)
    computed: dict[str, int] = dataclasses.field(default_factory=dict)
    artifacts: dict[str, str] = dataclasses.field(default_factory=dict)

    def charge(self, name: str, key: str, seconds: float, epochs: int, counted_as: str, *, now: bool) -> None:
        """Add one stage.

        Args:
            name: the stage; a second one of that name is listed as ``name 2``.
            key: its artifact.
            seconds: what computing it took, whenever that was.
            epochs: of the training; 0 for other stages.
            counted_as: the training's kind; '' for other stages.
            now: whether it was computed now rather than found in the store.
        """
        self.stages[name] = self.stages.get(name, 0.0) + seconds
        self.epochs += epochs
        free, number = name, 1
        while free in self.artifacts:
            number += 1
            free = f"{name} {number}"
        self.artifacts[free] = key
        if counted_as:
            self.trainings[counted_as] = self.trainings.get(counted_as, 0) + 1
            if now:
                self.computed[counted_as] = self.computed.get(counted_as, 0) + 1


@dataclasses.dataclass
class Frame:
    """A stage being computed: wall-clock and charges of the stages that it asked for."""

    spent: float = 0.0
    charges: list[list[Any]] = dataclasses.field(default_factory=list)


class StageCosts:
    """Charges stages to a ledger. Equal stages are charged once.

    Attributes:
        ledger: the cell's costs.
    """

    def __init__(self, ledger: CostLedger) -> None:
        self.ledger = ledger
        self._seen: set[str] = set()
        self._frames: list[Frame] = []

    def start(self) -> StageClock:
        """The clock of a stage that is now looked up or computed."""
        return StageClock(self.ledger, self._seen, self._frames)

    def leave_out(self, seconds: float) -> None:
        """Charge these seconds to no cell: the harness has just spent them on work of its own, in no stage."""
        if self._frames:
            self._frames[-1].spent += seconds
        else:
            self.ledger.inside += seconds


class StageClock:
    """Measures one stage from the look-up to its end.

    A stage may ask for others while it is computed. Its own cost leaves theirs out, and its artifact names them, so
    that a cell which finds it in the store is charged for them all the same.
    """

    def __init__(self, ledger: CostLedger, seen: set[str], frames: list[Frame]) -> None:
        self._ledger, self._seen, self._frames = ledger, seen, frames
        self._frame = Frame()
        self._began = time.perf_counter()
        self._waiting_since: float | None = None

    def wait(self) -> None:
        """Another process computes the stage; wait for it from now on."""
        self._waiting_since = time.perf_counter()

    def waited(self) -> bool:
        """Whether the stage was waited for; adds the wait, which ends now, to the ledger."""
        if self._waiting_since is None:
            return False
        self._ledger.waited += time.perf_counter() - self._waiting_since
        return True

    def measure(self, compute: Callable[[], Result]) -> Result:
        """Compute the stage. Its own seconds and the charges of the stages within it go into its facts."""
        self._frames.append(self._frame)
        started = time.perf_counter()
        try:
            arrays, facts = compute()
        finally:
            self._frames.pop()
        facts.setdefault("seconds", time.perf_counter() - started - self._frame.spent)
        return arrays, {**facts, "inner": self._frame.charges} if self._frame.charges else facts

    def charge(self, name: str, key: str, facts: dict[str, Any], counted_as: str, *, now: bool) -> None:
        """End the stage and charge it, and the stages within it that this cell has not been charged for yet.

        Args:
            name: the stage.
            key: its artifact.
            facts: of the artifact, as :meth:`measure` returned them when it was computed.
            counted_as: the training's kind; '' for other stages.
            now: whether it was computed now.
        """
        spent = time.perf_counter() - self._began
        mine = [name, key, float(facts["seconds"]), int(facts.get("epochs", 0)), counted_as]
        charges = [*facts.get("inner", []), mine]
        if self._frames:
            around = self._frames[-1]
            around.spent += spent
            around.charges += [charge for charge in charges if charge not in around.charges]
        else:
            self._ledger.inside += spent
        for charge in charges:
            _, artifact, *_ = charge
            if artifact not in self._seen:
                self._seen.add(artifact)
                self._ledger.charge(*charge, now=now and charge is mine)
