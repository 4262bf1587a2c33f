"""A small network and a small set that the engine's tests share."""

from __future__ import annotations

from toy_training import make_net, plain, toy_set  # noqa: F401  (fixtures)
