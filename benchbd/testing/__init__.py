"""The contract that every plugin keeps, as checks to run: ``testing.check("defenses", "mine")``."""

from benchbd.testing.bench import Bench, cell, register
from benchbd.testing.checker import LIMIT, check, faults, names

__all__ = ["LIMIT", "Bench", "cell", "check", "faults", "names", "register"]
