"""Uniform random bytes that depend only on a seed and a position.

With one running generator, an image's noise would depend on the order and batching of the images. Here each image's
bytes come from a counter passed through the splitmix64 finaliser (Steele et al., 2014), for all images at once.
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
        seed: any non-negative integer below 2**64; use a different one for every purpose and split.
        indices: int64 (N,), non-negative.
        count: bytes for each index.

    Returns:
        uint8 (N, count). Row i depends only on seed and indices[i]; a larger count extends it.
    """
    words = -(-count // 8)
    base = _scramble(np.asarray(seed % 2**64, dtype=np.uint64).reshape(1) + _GOLDEN)
    streams = _scramble(base + _GOLDEN * (np.asarray(indices).astype(np.uint64) + np.uint64(1)))
    steps = _GOLDEN * np.arange(1, words + 1, dtype=np.uint64)
    out = np.empty((len(streams), count), dtype=np.uint8)
    rows = max(1, 2**15 // max(1, words))  # few enough for the temporary words to stay in the cache
    for start in range(0, len(streams), rows):
        drawn = _scramble(streams[start : start + rows, None] + steps).astype("<u8", copy=False)
        out[start : start + rows] = drawn.view(np.uint8)[:, :count]
    return out
