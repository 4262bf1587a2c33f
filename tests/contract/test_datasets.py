"""The same promises of every data set known; those whose files are not here are skipped (see BENCHBD_DATA)."""

from __future__ import annotations

import pytest

from benchbd.testing.checker import names
from benchbd.testing.promises import CHECKS


@pytest.mark.parametrize("name", names("datasets"))
@pytest.mark.parametrize("check", CHECKS["datasets"], ids=lambda check: check.__name__)
def test_dataset(passes, name, check):
    passes("datasets", name, check, train=600, test=200)
