"""The same promises of every defense known, built in or not."""

from __future__ import annotations

import pytest

from benchbd.testing.checker import names
from benchbd.testing.promises import CHECKS


@pytest.mark.parametrize("name", names("defenses"))
@pytest.mark.parametrize("check", CHECKS["defenses"], ids=lambda check: check.__name__)
def test_defense(passes, name, check):
    passes("defenses", name, check, of="tiny-filter")
