"""Checkpoints of running trainings, kept in the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from benchbd.core.files import is_disk_full

if TYPE_CHECKING:
    from benchbd.storage.artifacts import Store
    from benchbd.storage.restricted import RestrictedStore


class Checkpoint:
    """Saves a running training at intervals, so that a killed training resumes from its last save.

    The state includes the seconds spent so far. The cost of a resumed training is therefore the sum of its parts.

    Args:
        store: where to save.
        key: the training's key.
        every: seconds between two saves.
        check: called before each save; raises if the key no longer names what is trained on.
    """

    def __init__(
        self, store: Store | RestrictedStore, key: str, every: float, check: Callable[[], None] = lambda: None
    ) -> None:
        self._store, self._key, self._every, self._check = store, key, every, check
        self._last = time.perf_counter()

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.perf_counter() - self._last >= self._every

    def save(self, state: dict[str, Any]) -> None:
        """Save tensors and plain numbers. A full disk is only reported: the training's result may still fit later."""
        self._check()
        arrays = {k: v.detach().cpu().numpy() for k, v in state.items() if isinstance(v, torch.Tensor)}
        plain = {k: v for k, v in state.items() if not isinstance(v, torch.Tensor)}
        try:
            self._store.put("checkpoint", self._key, arrays, {"plain": plain})
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._store.say("the disk is full: no checkpoint was saved; the training continues")
        self._last = time.perf_counter()

    def load(self) -> dict[str, Any] | None:
        """The last saved state, or None."""
        found = self._store.get("checkpoint", self._key)
        if found is None:
            return None
        return {**{k: torch.from_numpy(v) for k, v in found.arrays.items()}, **found.meta["plain"]}

    def clear(self) -> None:
        """Delete the checkpoint: the training is complete."""
        self._store.drop("checkpoint", self._key)
