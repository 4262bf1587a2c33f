"""Clusters for tests: a real one-node Slurm, a local Ray. What cannot be started fails, with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

collect_ignore_glob = [] if os.environ.get("BENCHBD_CLUSTER") else ["test_*.py"]
"""Minutes of daemons starting and stopping: only where they are asked for (``make test-cluster``)."""

HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Slurm whose commands work in this process."""
    import slurm_node

    why = slurm_node.missing()
    if why:
        pytest.fail(why)
    # Sockets have short paths.
    folder = Path("/tmp") / f"slurm-{os.getpid()}"
    with slurm_node.slurm(folder) as environment:
        os.environ["SLURM_CONF"] = environment["SLURM_CONF"]
        yield
        del os.environ["SLURM_CONF"]
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray() -> Iterator[ModuleType]:
    """A local Ray with two CPUs and two declared GPUs (nothing looks at the GPUs)."""
    import ray

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HELPERS), os.environ.get("PYTHONPATH")]))
    for tries_left in (2, 1, 0):
        try:
            ray.init(num_cpus=2, num_gpus=2, log_to_driver=False, include_dashboard=False)
            break
        except Exception:  # on a busy machine a node may take longer to start than Ray is willing to wait
            ray.shutdown()
            if not tries_left:
                raise
    yield ray
    ray.shutdown()
