"""Pools: named parts of a training set that a defense treats alike for some epochs, such as its trusted samples."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchbd.errors import UsageError, shown

MOST_POOLS = 1000
"""Pools that one training or one defense may report."""


class Pool(NamedTuple):
    """Samples of a set that a defense put into one pool.

    Attributes:
        name: the pool's name, with the phase of the defense.
        epoch: number of the epoch, from 1; None if the pool does not belong to an epoch.
        total: number of samples in the set, N.
        bits: the members, packed and compressed.
    """

    name: str
    epoch: int | None
    total: int
    bits: bytes

    @classmethod
    def of(cls, name: str, epoch: int | None, members: Any, total: int) -> Pool:
        """Make a pool.

        Args:
            name: its name.
            epoch: number of the epoch, from 1, or None.
            members: bool (N,), or positions int64 (M,).
            total: N.

        Raises:
            UsageError: the members do not fit the set.
        """
        given = np.asarray(members)
        mask = np.zeros(total, bool)
        if given.dtype == bool and given.shape == (total,):
            mask = given
        elif given.ndim == 1 and (not len(given) or given.dtype.kind in "iu"):
            places = given.astype(np.int64)
            if len(places) and not 0 <= places.min() <= places.max() < total:
                raise UsageError(f"report_pool {shown(name)}: positions must lie in 0..{total - 1}")
            mask[places] = True
        else:
            raise UsageError(
                f"report_pool {shown(name)}: members must be bool ({total},) or positions, "
                f"not {given.dtype} {given.shape}"
            )
        return cls(str(name), epoch, total, zlib.compress(np.packbits(mask).tobytes()))

    def members(self) -> np.ndarray:
        """Which samples are in the pool, bool (N,)."""
        packed = np.frombuffer(zlib.decompress(self.bits), np.uint8)
        return np.unpackbits(packed, count=self.total).astype(bool)

    def as_json(self) -> list[Any]:
        """The pool as JSON values, for a model's facts and for checkpoints."""
        return [self.name, self.epoch, self.total, base64.b64encode(self.bits).decode()]

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> Pool:
        """Undo :meth:`as_json`."""
        name, epoch, total, text = values
        return cls(name, epoch, total, binascii.a2b_base64(text))


def check_number(pools: Sequence[Pool], name: str) -> None:
    """Raise UsageError if another pool is one too many."""
    if len(pools) >= MOST_POOLS:
        raise UsageError(f"report_pool {shown(name)}: {MOST_POOLS} pools are reported already; report fewer")
