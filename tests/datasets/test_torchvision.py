"""torchvision beside the torch that is there, and with stand-ins for builds that are not, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import torch
from benchbd.datasets._torchvision import torchvision
vision = torchvision()
assert torchvision() is vision
assert vision.datasets.CIFAR10 and vision.datasets.GTSRB
import torchvision.transforms.v2
boxes, scores = torch.tensor([[0., 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]]), torch.tensor([.9, .8, .7])
try:
    print(vision.ops.nms(boxes, scores, 0.5).tolist())
except (RuntimeError, NotImplementedError) as error:
    print(type(error).__name__)
"""

ASK = "from benchbd.datasets._torchvision import torchvision; import torch; torchvision()"
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


def test_import_works_without_warnings_and_leaves_real_operators_alone() -> None:
    """Where the operators are real they still compute; where they were declared only, calling one is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {"[0, 2]", "NotImplementedError", "RuntimeError"}
