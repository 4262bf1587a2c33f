"""The same promises of every model known, built in or not."""

from __future__ import annotations

import pytest

from benchbd.testing.checker import names
from benchbd.testing.promises import CHECKS


@pytest.mark.parametrize("name", names("models"))
@pytest.mark.parametrize("check", CHECKS["models"], ids=lambda check: check.__name__)
def test_model(passes, name, check):
    passes("models", name, check, width=8)
