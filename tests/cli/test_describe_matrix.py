"""``benchbd describe matrix`` and the keys of a matrix file."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from benchbd.cli import main
from benchbd.plan.matrix_file import BLOCK, TOP


def test_describe_matrix_shows_every_key_with_an_example(told: Callable[..., str]) -> None:
    out = told("describe", "matrix")
    for key in {*TOP, *BLOCK}:
        assert f"\n  {key}: " in out
        assert f"Example: {key}:" in out
    assert {key["name"] for key in json.loads(told("describe", "matrix", "--json"))["keys"]} == {*TOP, *BLOCK}


@pytest.mark.parametrize("key", sorted({*TOP, *BLOCK} - {"recipe"}))
def test_describe_shows_each_key(key: str, told: Callable[..., str]) -> None:
    out = told("describe", key)
    assert out.startswith(f"matrix key {key}\n")
    assert json.loads(told("describe", key, "--json"))["example"].startswith(f"{key}:")


def test_describe_probe_and_gate_say_more(told: Callable[..., str]) -> None:
    assert "samples   int         2000     Number of training images" in told("describe", "probe")
    assert "at least 50 % and" in told("describe", "gate")
    assert "batch_size" in told("describe", "recipe")


def test_near_misses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "matrxi"]) == 2
    assert "did you mean 'matrix'?" in capsys.readouterr().err
