"""The same promises of every defense known, built in or not."""

from __future__ import annotations

import pytest
from training_programs import SAVE, TINY_NET

from benchbd.core.files_folder import VARIABLE
from benchbd.testing import checker
from benchbd.testing.checker import names
from benchbd.testing.promises import CHECKS


@pytest.mark.parametrize("name", names("defenses"))
@pytest.mark.parametrize("check", CHECKS["defenses"], ids=lambda check: check.__name__)
def test_defense(passes, name, check, tmp_path, monkeypatch):
    if name == "command":
        # It is nothing without a program, which the user writes: here one that imports nothing slow.
        monkeypatch.setenv(VARIABLE, str(tmp_path))
        (tmp_path / "train.py").write_text(TINY_NET + SAVE)
    passes("defenses", name, check, of="tiny-filter", run="python train.py", files=["train.py"])


def test_a_defense_without_its_program_says_what_to_write():
    (line,) = checker.check("defenses", "command")
    assert line.endswith("command: run names no program; write command(run='python train.py', files=['train.py'])")
