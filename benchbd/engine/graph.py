"""Replay a whole training step as one CUDA graph: the host launches once instead of about three hundred times."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

WARM_UP = 3
"""Steps to run before a capture: they choose kernels and allocate workspaces, which a capture must not do."""

log = logging.getLogger("benchbd.engine")


class Capturable(Protocol):
    """A training step that never waits for the device and can list the tensors it changes."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser; it holds no gradients between steps."""
        ...

    def __call__(self, rows: Tensor) -> None:
        """Train on the batch that ``rows`` int64 (B, ...) describe."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that a step changes, by name."""
        ...


class Recorder(Protocol):
    """The operations that a graph needs from a device; tests substitute a CPU stand-in."""

    def warm_up(self, work: Callable[[], None]) -> None:
        """Run ``work`` a few times in the place where a capture will run it."""
        ...

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture ``work`` without running it; the returned function runs it."""
        ...


class CudaRecorder:
    """Warms up on a side CUDA stream and captures a :class:`torch.cuda.CUDAGraph`."""

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
        """Capture ``work`` without running it; the returned function replays it."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        try:
            # thread_local: another thread of the process, such as a progress display, may call CUDA meanwhile.
            with torch.cuda.device(self.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
                work()
        finally:
            # Where a capture cannot be ended, torch's context leaves its own stream behind as the current one.
            torch.cuda.set_stream(stream)
        return graph.replay


class GraphedStep:
    """A step that is captured once and replayed for every full batch.

    Batches of another size, such as the last of an epoch, run eagerly on the same weights, optimiser state and sums. A
    step that cannot be captured (its loss or network reads a value back) is reported in the log and trained eagerly.

    Args:
        step: the step, with its network in the mode in which it will be trained.
        rows: int64 (B, ...), any full batch, to warm up with; the warm-up leaves no trace in the training.
        recorder: CUDA's, or a stand-in.

    Attributes:
        setup_seconds: time spent warming up and capturing; it is not charged to any cell.
    """

    def __init__(self, step: Capturable, rows: Tensor, recorder: Recorder) -> None:
        self.step = step
        self._rows = rows.clone()
        self._verified = False
        self._replay: Callable[[], None] | None = None
        started = time.perf_counter()
        before = {name: tensor.detach().clone() for name, tensor in step.tensors().items()}
        recorder.warm_up(lambda: step(self._rows))
        self._write_back(before)
        # A step ends without gradients: each replay allocates the graph's own, in the graph's own pool.
        try:
            self._replay = recorder.record(lambda: step(self._rows))
        except RuntimeError as error:
            log.warning("training without a CUDA graph: %s", _first_line(error))
            step.optimizer.zero_grad(set_to_none=True)
            self._write_back(before)
        self.setup_seconds = time.perf_counter() - started

    def __call__(self, rows: Tensor) -> None:
        """Train on one batch, with the same result as the step itself."""
        if self._replay is None or len(rows) != len(self._rows):
            self.step(rows)
            return
        self._rows.copy_(rows)
        if self._verified:
            self._replay()
        else:
            self._first_replay(self._replay)

    def _write_back(self, before: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self.step.tensors().items():
                tensor.copy_(before[name])

    def _first_replay(self, replay: Callable[[], None]) -> None:
        """Replay, and check that a tensor changed: a graph that captured nothing replays without an error."""
        before = {name: tensor.detach().clone() for name, tensor in self.step.tensors().items()}
        replay()
        if all(torch.equal(tensor, before[name]) for name, tensor in self.step.tensors().items()):
            raise RuntimeError("the captured training step changes nothing when replayed")
        self._verified = True


def _first_line(error: BaseException) -> str:
    """What went wrong first: ending a capture that has failed raises an error of its own, which says less."""
    while isinstance(error.__context__, RuntimeError):
        error = error.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]
