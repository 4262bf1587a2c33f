"""torchvision beside a torch of another build, with stand-ins for its package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ASK = "from benchbd.vision import torchvision; import torch; torchvision()"
ASK += "; print(hasattr(torch.ops.torchvision, 'nms'), hasattr(torch.ops.torchvision, 'qnms'))"
SOUND = ""
MISMATCHED = """
import torch
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
"""
OTHER = "raise RuntimeError('something else')"


def ask(folder: Path, package: str) -> subprocess.CompletedProcess[str]:
    """What is declared after an import of a stand-in package."""
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(package)
    (folder / "torchvision" / "datasets.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(("package", "declared"), [(SOUND, "False False"), (MISMATCHED, "True True")])
def test_operators_are_declared_only_where_the_import_misses_them(tmp_path: Path, package: str, declared: str) -> None:
    assert ask(tmp_path, package).stdout.strip() == declared


def test_another_failure_is_told_as_it_is(tmp_path: Path) -> None:
    done = ask(tmp_path, OTHER)
    assert done.returncode != 0
    assert "something else" in done.stderr
