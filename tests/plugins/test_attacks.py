"""The same promises of every attack known, built in or not."""

from __future__ import annotations

import pytest

from benchbd.testing import names
from benchbd.testing_checks import CHECKS

QUICK = {
    **{"mask_epochs": 2, "joint_epochs": 1, "width": 8, "batch": 16},  # generators
    **{"iterations": 10, "steps": 10, "neurons": 2, "k": 4},  # inverted triggers
    **{"robust_steps": 1, "robust_epochs": 1},  # robust surrogates
}
"""Parameters that cut the cost of what attacks train; each is given to the attacks that have it."""


@pytest.mark.filterwarnings("ignore:dynamic")  # its generators are barely trained here, and it says so
@pytest.mark.parametrize("name", names("attacks"))
@pytest.mark.parametrize("check", CHECKS["attacks"], ids=lambda check: check.__name__)
def test_attack(passes, name, check):
    passes("attacks", name, check, **QUICK)
