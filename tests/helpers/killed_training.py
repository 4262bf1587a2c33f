"""A checkpoint that kills the training that saves it, for tests of resuming."""

from __future__ import annotations

import torch


class Killed(Exception):
    """The training was killed."""


class Kept:
    """Keeps a state as a file would, and stops the training once it has one; never, with ``kill_at=None``."""

    def __init__(self, kill_at: int | None) -> None:
        self.asked, self.kill_at, self.state = 0, kill_at, None

    def due(self) -> bool:
        self.asked += 1
        return self.asked == self.kill_at

    def save(self, state) -> None:
        assert all(isinstance(v, (int, torch.Tensor)) for v in state.values())
        assert all(v.is_contiguous() for v in state.values() if isinstance(v, torch.Tensor))
        assert all(v.device.type == "cpu" for v in state.values() if isinstance(v, torch.Tensor))
        self.state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}
        raise Killed

    def load(self):
        return self.state
