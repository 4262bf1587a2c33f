"""Replay a whole training step as one CUDA graph: one launch from the host instead of some three hundred."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

WARM_UP = 3
"""Steps before a capture: they choose kernels and allocate workspaces, which a capture must not do."""

log = logging.getLogger("benchbd.engine")


class Capturable(Protocol):
    """A training step: nothing in it waits for the device, and it says which tensors it changes."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Whose gradients are gone once a step has ended."""
        ...

    def __call__(self, rows: Tensor) -> None:
        """Train on one batch, given by its rows."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that a step changes, by name."""
        ...


class Recorder(Protocol):
    """What a graph needs of a device; tests put a CPU stand-in here."""

    def warm_up(self, work: Callable[[], None]) -> None:
        """Run ``work`` a few times where a capture will run it."""
        ...

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture ``work`` without running it; the returned function runs it."""
        ...


class CudaRecorder:
    """CUDA's own: a side stream for the warm-up, :class:`torch.cuda.CUDAGraph` for the capture."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def warm_up(self, work: Callable[[], None]) -> None:
        """Run ``work`` a few times on a side stream."""
        side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                work()
        torch.cuda.current_stream(self.device).wait_stream(side)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture ``work``."""
        graph = torch.cuda.CUDAGraph()
        # thread_local: another thread of the process (a progress display, say) may call CUDA meanwhile.
        with torch.cuda.device(self.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
        return graph.replay


class GraphedStep:
    """A step that is captured once and replayed for every full batch.

    Batches of another size (the last of an epoch) run eagerly on the same weights, optimiser state and sums. What
    cannot be captured (a loss or network that reads a value back) is said in the log and trained eagerly.

    Args:
        step: with its network in the mode in which it will be trained.
        rows: int64 (B, ...), any full batch; it is used to warm up, and training goes on from where it was.
        recorder: CUDA's, or a stand-in.

    Attributes:
        setup_seconds: time spent warming up and capturing, which no cell is charged for.
    """

    def __init__(self, step: Capturable, rows: Tensor, recorder: Recorder) -> None:
        self.step = step
        self._rows = rows.clone()
        self._proved = False
        self._replay: Callable[[], None] | None = None
        started = time.perf_counter()
        before = {name: tensor.detach().clone() for name, tensor in step.tensors().items()}
        recorder.warm_up(lambda: step(self._rows))
        self._put_back(before)
        # A step ends without gradients: the graph allocates its own, in its own pool, anew at every replay.
        try:
            self._replay = recorder.record(lambda: step(self._rows))
        except RuntimeError as error:
            log.warning("training without a CUDA graph: %s", str(error).splitlines()[0])
            step.optimizer.zero_grad(set_to_none=True)
            self._put_back(before)
        self.setup_seconds = time.perf_counter() - started

    def __call__(self, rows: Tensor) -> None:
        """Train on one batch, as the step itself does."""
        if self._replay is None or len(rows) != len(self._rows):
            self.step(rows)
            return
        self._rows.copy_(rows)
        if self._proved:
            self._replay()
        else:
            self._first_replay(self._replay)

    def _put_back(self, before: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self.step.tensors().items():
                tensor.copy_(before[name])

    def _first_replay(self, replay: Callable[[], None]) -> None:
        """Replay and look whether anything moved: a graph that captured nothing replays without an error."""
        before = {name: tensor.detach().clone() for name, tensor in self.step.tensors().items()}
        replay()
        if all(torch.equal(tensor, before[name]) for name, tensor in self.step.tensors().items()):
            raise RuntimeError("the captured training step changes nothing when replayed")
        self._proved = True
