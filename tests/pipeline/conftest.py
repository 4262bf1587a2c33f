"""What every test of the pipeline wants: a quick disk, one thread, a registry that forgets."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _quick(quick_disk: None, fresh_registry: None, one_thread: None) -> None: ...
