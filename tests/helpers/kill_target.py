"""Runs cells in processes of their own, forked at once from one that has imported everything: something to be killed.

``kill_target.py OUT CHECKPOINT_EVERY`` reads orders (JSON, one a line: a cell, and after how many seconds to kill it by
SIGKILL, or null) and answers ``ended STATUS`` when the cell's process is gone.
"""

from __future__ import annotations

import functools
import importlib
import json
import math
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    """Serve until stdin ends."""
    output, every = Path(sys.argv[1]), float(sys.argv[2])
    import torch

    from benchbd.pipeline import run_cell as module

    torch.set_num_threads(1)
    for name in ("sklearn.datasets", "sklearn.cluster", "sklearn.decomposition", "torch._dynamo"):
        importlib.import_module(name)
    os.fsync = lambda descriptor: None  # a kill is no power cut
    module.Lab = functools.partial(module.Lab, checkpoint_every=every)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                module.execute(order["cell"], output=output, device="cpu")
            finally:
                os._exit(0)
        end = time.monotonic() + (math.inf if order["kill_after"] is None else order["kill_after"])
        while not (gone := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() >= end:
                os.kill(child, signal.SIGKILL)  # it has not been waited for, so the number is still its own
                gone = os.waitpid(child, 0)
                break
            time.sleep(0.005)
        status = gone[1]
        sys.stdout.write(f"ended {status}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
