"""A plugin's own import of torchvision works where the built-in data sets' does: at its top and inside a function."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MISMATCHED = """
import torch
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
"""
PLUGIN = """
{top}
from benchbd import Defense, defense

@defense("of-a-file", version=1)
class OfAFile(Defense):
    def train(self, lab):
        {inside}
        return torchvision.__name__
"""
ASK = """
import sys
{before}
from benchbd.plugins import registry
registry.add_plugin_file("mine.py")
{after}
from benchbd.plugins.torchvision_ready import ready_torchvision
ready_torchvision()
print(registry.make("defenses", "of-a-file").train(None))
"""


@pytest.mark.parametrize(("top", "inside"), [("import torchvision", "pass"), ("", "import torchvision")])
@pytest.mark.parametrize(("before", "after"), [("import torch", ""), ("", "import torch")])
def test_a_plugin_imports_torchvision(tmp_path: Path, top: str, inside: str, before: str, after: str) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(MISMATCHED)
    (tmp_path / "torchvision" / "datasets.py").write_text("")
    (tmp_path / "mine.py").write_text(PLUGIN.format(top=top, inside=inside))
    code = ASK.format(before=before, after=after)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("torchvision", 0), done.stderr
