"""A Ray that was started by hand with ``ray start --head``, as docs/running.md has it, and ``--executor ray`` on it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

MATRIX = """
name: started
recipe: {epochs: 1, batch_size: 256}
dataset: digits
model: lenet-s
attacks: [none, bn-g]
defenses: [none]
"""
LIMIT = 300
"""Seconds a cluster or a run may take; some thirty on two idle cores."""


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user of Ray: a home with Ray's token in it, and a folder for what Ray writes."""
    home = tmp_path_factory.mktemp("home")
    # Sockets have short paths.
    folder = Path("/tmp") / f"ray-{os.getpid()}"
    folder.mkdir()
    ours = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    ours |= {"HOME": str(home), "RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run([_ray(), "get-auth-token", "--generate"], env=ours, check=True, capture_output=True, timeout=LIMIT)
    yield ours
    shutil.rmtree(folder, ignore_errors=True)


def _ray() -> str:
    """The command that was installed beside this Python."""
    return str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="module")
def port(user: dict[str, str]) -> Iterator[str]:
    """Port of a Ray with two CPUs and two declared GPUs. A signal stops it: ``ray stop`` would end every Ray here."""
    words = ["start", "--head", "--port", "0", "--num-cpus", "2", "--num-gpus", "2", "--include-dashboard", "false"]
    log = Path(user["HOME"]) / "head.log"
    with log.open("w") as out:
        head = subprocess.Popen([_ray(), *words, "--block"], env=user, stdout=out, stderr=out, start_new_session=True)
    address = Path(user["RAY_TMPDIR"]) / "ray" / "ray_current_cluster"
    try:
        deadline = time.monotonic() + LIMIT
        while "Ray runtime started" not in log.read_text() or not address.exists():
            assert head.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        yield address.read_text().rpartition(":")[2].strip()
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(60)
        finally:
            if head.poll() is None:
                os.killpg(head.pid, signal.SIGKILL)


def _run(folder: Path, config: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    (folder / "started.yaml").write_text(MATRIX)
    (folder / "ray.yaml").write_text(config)
    command = [sys.executable, "-m", "benchbd", "run", "started.yaml", "--output", "out", "--display", "plain"]
    command += ["--executor", "ray", "--executor-config", "ray.yaml"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT)


def _statuses(folder: Path) -> list[str]:
    return [json.loads(path.read_text())["status"] for path in (folder / "out" / "records").glob("*.json")]


@pytest.mark.usefixtures("port")
def test_a_started_ray_is_found_by_itself(user: dict[str, str], tmp_path: Path) -> None:
    # Cells ask for one of the declared GPUs each and, as there is none in truth, compute on the CPU.
    done = _run(tmp_path, "address: auto\n", user)
    assert done.returncode == 0, done.stderr[-3000:]
    assert _statuses(tmp_path) == ["done", "done"]


def test_a_started_ray_is_reached_by_its_address(user: dict[str, str], port: str, tmp_path: Path) -> None:
    config = f"address: 127.0.0.1:{port}\nnum_gpus: 0.5\n"
    done = _run(tmp_path, config, user | {"RAY_AUTH_MODE": "token"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert _statuses(tmp_path) == ["done", "done"]


def test_an_address_without_the_token_gets_a_line_that_says_what_to_set(
    user: dict[str, str], port: str, tmp_path: Path
) -> None:
    refused = _run(tmp_path, f"address: 127.0.0.1:{port}\n", user)
    assert refused.returncode == 2, refused.stderr[-3000:]
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("benchbd: ")]
    assert "RAY_AUTH_MODE=token" in line
    assert _statuses(tmp_path) == []
