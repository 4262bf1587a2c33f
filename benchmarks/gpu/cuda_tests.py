"""Runs the tests of ``tests/gpu``. Each result is printed at once as a line of JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys

import pytest
from tree import ROOT, end_with_parent

FILES = [ROOT / "tests" / "gpu" / f"test_{name}.py" for name in ("trainings", "cells", "compile")]
"""In the order of their importance: the last ones are cut off if the time is up."""
SMOKE = ["-k", "strict_repeats or a_graph_equals"]
"""Which tests a rehearsal runs; CI runs all of them elsewhere."""


class Messenger:
    """A pytest plugin that prints each test's outcome."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Print the outcome of a test, or why its set-up failed."""
        if report.when != "call" and report.outcome == "passed":
            return
        name = report.nodeid.rpartition("::")[2]
        fact = {"name": name, "outcome": report.outcome, "seconds": round(report.duration, 2)}
        text = f"{name}: {report.outcome} ({report.duration:.1f} s)"
        if report.failed:
            fact["failed"] = True
            text += f": {_last_line(report)}"
            fact["details"] = str(report.longrepr)[-4000:]
        sys.__stdout__.write(json.dumps({"text": text, **fact}) + "\n")
        sys.__stdout__.flush()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Print what could not be imported."""
        if report.failed:
            text = f"{report.nodeid}: cannot be collected: {_last_line(report)}"
            details = str(report.longrepr)[-4000:]
            sys.__stdout__.write(json.dumps({"text": text, "failed": True, "details": details}) + "\n")
            sys.__stdout__.flush()


def _last_line(report: pytest.TestReport | pytest.CollectReport) -> str:
    lines = [line for line in str(report.longrepr).splitlines() if line.startswith("E ")]
    return " ".join((lines[0] if lines else str(report.longrepr)[-200:]).split())[:300]


def main() -> int:
    """Run the tests. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--smoke", action="store_true", help="three of the tests")
    args = parser.parse_args()
    end_with_parent()
    os.environ["BENCHBD_TEST_DEVICE"] = args.device
    sys.path.append(str(ROOT / "tests" / "helpers"))
    os.chdir(ROOT)
    # Output of the tests goes to standard error; only facts go to standard output.
    sys.__stdout__ = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    given = [*map(str, FILES), "-q", "-p", "no:cacheprovider", *(SMOKE if args.smoke else ())]
    return int(pytest.main(given, plugins=[Messenger()]))


if __name__ == "__main__":
    sys.exit(main())
