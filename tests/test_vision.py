"""torchvision can be imported beside the torch that is there, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import torch
from benchbd.vision import torchvision
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


def test_import_works_without_warnings_and_leaves_real_operators_alone() -> None:
    """Where the operators are real they still compute; where they were declared only, calling one is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {"[0, 2]", "NotImplementedError", "RuntimeError"}
