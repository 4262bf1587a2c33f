"""The user's variables are kept apart from what plugins' code sets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from benchbd.core import user_variables as variables

NAMES = ("BENCHBD_TEST_NEW", "BENCHBD_TEST_CHANGED", "BENCHBD_TEST_GONE")
NEW, CHANGED, GONE = NAMES


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(variables, "_changed", {})
    for name in NAMES:
        monkeypatch.setenv(name, "user")
    monkeypatch.delenv(NEW)
    yield
    for name in NAMES:
        os.environ.pop(name, None)


def found(values: dict[str, str]) -> tuple[str | None, ...]:
    return tuple(values.get(name) for name in NAMES)


def work() -> None:
    with variables.plugin_at_work():
        os.environ[NEW] = os.environ[CHANGED] = "plugin"
        with variables.plugin_at_work():  # a plugin may name another
            os.environ[CHANGED] = "other"
            os.environ.pop(GONE, None)


def test_a_plugins_values_stay_here_and_are_not_the_users() -> None:
    for _ in range(2):
        work()
        assert found(dict(os.environ)) == ("plugin", "other", None)
        assert found(variables.user_variables()) == (None, "user", "user")
    with variables.only_user_variables():
        assert found(dict(os.environ)) == (None, "user", "user")
    assert found(dict(os.environ)) == ("plugin", "other", None)


def test_what_the_user_sets_afterwards_is_the_users() -> None:
    work()
    os.environ[CHANGED] = os.environ[GONE] = "later"
    assert found(variables.user_variables()) == (None, "later", "later")
    os.environ[CHANGED] = "user"
    work()
    assert found(variables.user_variables()) == (None, "user", "later")


def test_a_plugin_that_raises_is_not_forgotten() -> None:
    with contextlib.suppress(ValueError), variables.plugin_at_work():
        os.environ[NEW] = "plugin"
        raise ValueError
    assert found(variables.user_variables())[0] is None
