"""Uniform random bytes that depend on a seed and a position only.

Drawing from one running generator would tie an image's noise to the order and batching in which images pass. Here each
image's bytes come from a counter put through the splitmix64 finaliser (Steele et al., 2014), all images at once.
"""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _scramble(words: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser, a bijection of 64-bit words in which each input bit flips half of the output bits."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scrambled: np.ndarray = words ^ (words >> np.uint64(31))
    return scrambled


def bytes_of_each(seed: int, indices: np.ndarray, count: int) -> np.ndarray:
    """Draw ``count`` uniform bytes for each index.

    Args:
        seed: any non-negative integer below 2**64; give every purpose and split its own.
        indices: int64 (N,), non-negative.
        count: bytes for each index.

    Returns:
        uint8 (N, count); row i depends on seed, indices[i] and count's prefix only (a longer draw starts the same).
    """
    words = -(-count // 8)
    base = _scramble(np.asarray(seed % 2**64, dtype=np.uint64).reshape(1) + _GOLDEN)
    streams = _scramble(base + _GOLDEN * (np.asarray(indices).astype(np.uint64) + np.uint64(1)))
    steps = _GOLDEN * np.arange(1, words + 1, dtype=np.uint64)
    out = np.empty((len(streams), count), dtype=np.uint8)
    rows = max(1, 2**15 // max(1, words))  # small enough that the temporary words stay in the cache
    for start in range(0, len(streams), rows):
        drawn = _scramble(streams[start : start + rows, None] + steps).astype("<u8", copy=False)
        out[start : start + rows] = drawn.view(np.uint8)[:, :count]
    return out
