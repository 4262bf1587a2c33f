"""One bench a plugin, shared by all checks of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchbd.plugins import registry
from benchbd.testing.checker import faults
from benchbd.testing.plugin_under_test import PluginUnderTest
from benchbd.testing.promises import Check


@pytest.fixture(autouse=True, scope="module")
def _one_thread_and_no_trace():
    threads, known = torch.get_num_threads(), set(registry.plugin_files())
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for file in set(registry.plugin_files()) - known:
        registry.forget_plugin_file(file)


@pytest.fixture(scope="module")
def passes(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """Run a check on a plugin: ``passes(kind, name, check, **parameters)``."""
    benches: dict[str, PluginUnderTest] = {}

    def run(kind: str, name: str, check: Check, **given: Any) -> None:
        if name not in benches:
            fields = {f.name for f in dataclasses.fields(registry.load(kind, name))}
            fitting = {k: v for k, v in given.items() if k in fields}
            benches[name] = PluginUnderTest(kind, name, tmp_path_factory.mktemp(name), **fitting)
        if benches[name].missing:
            pytest.skip(str(benches[name].missing))
        assert faults(benches[name], check) == []

    return run
