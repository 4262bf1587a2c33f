"""Runs cells in processes of their own, forked at once from one that has imported everything: something to be killed.

``kill_target.py OUT CHECKPOINT_EVERY`` reads cells (JSON, one a line), answers with the process id of each one's
process, and then with ``ended STATUS`` when it is gone.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Serve until stdin ends."""
    output, every = Path(sys.argv[1]), float(sys.argv[2])
    import torch

    from benchbd import execute as module

    torch.set_num_threads(1)
    for name in ("sklearn.datasets", "sklearn.cluster", "sklearn.decomposition", "torch._dynamo"):
        importlib.import_module(name)
    module.Lab = functools.partial(module.Lab, checkpoint_every=every)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                module.execute(json.loads(line), output=output, device="cpu")
            finally:
                os._exit(0)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"ended {status}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
