"""What the benchmarks share: with the tests, one thread; among themselves, lines to print and whether to measure."""

from __future__ import annotations

import pytest
from torch_threads import one_thread

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def report(request):
    """Lines to print last, after pytest-benchmark's table."""
    lines: list[str] = []
    measuring = request.config.getoption("benchmark_only", False)

    def write() -> None:
        reporter = request.config.pluginmanager.get_plugin("terminalreporter")
        if measuring and reporter is not None and lines:
            reporter.write_line("\n".join(["", "processor time, medians of rounds in turns, 1 thread", *lines]))

    request.config.add_cleanup(write)
    return lines


@pytest.fixture
def full(request) -> bool:
    """Whether to measure, or only to run through."""
    pytest.importorskip("pytest_benchmark")
    return bool(request.config.getoption("benchmark_only", False))
