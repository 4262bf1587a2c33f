"""Training programs that tests run through the defense ``command``, and files that must not be unpickled."""

from __future__ import annotations

import io
import os

import torch

TINY_NET = """
import json, numpy as np
from safetensors.numpy import save_file
task = json.load(open("task.json"))
rng = np.random.default_rng(task["seed"])
shapes = {"first.weight": (8, 3, 3, 3), "second.weight": (16, 8, 3, 3), "head.weight": (task["classes"], 64)}
state = {name: 0.1 * rng.standard_normal(shape) for name, shape in shapes.items()}
state["head.bias"] = np.zeros(task["classes"])
for name, width in (("norm", 8), ("norm2", 16)):
    for part, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
        state[f"{name}.{part}"] = np.full(width, float(value))
state = {name: np.ascontiguousarray(value, np.float32) for name, value in state.items()}
"""
"""Makes a random state dict of the model tiny-net; nothing is trained, and nothing slow is imported."""

SAVE = """
save_file(state, "result/model.safetensors")
"""


class Evil:
    """Makes the folder that the variable EVIL names when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, (os.environ["EVIL"],))


def archive(value: object) -> bytes:
    """An archive of torch.save."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()
