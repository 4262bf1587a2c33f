"""The contract tests for plugins: ``testing.check("defenses", "mine")`` runs them."""

from benchbd import deprecated
from benchbd.testing.checker import LIMIT, check, faults, names
from benchbd.testing.plugin_under_test import PluginUnderTest, cell, register

__all__ = ["LIMIT", "PluginUnderTest", "cell", "check", "faults", "names", "register"]

deprecated.old_names(__name__, Bench="PluginUnderTest")
