"""A real Slurm of one node, in a folder, without a system service: munged, slurmctld and slurmd as this user (root).

The settings are those that work in an unprivileged machine without systemd and cgroups: no process tracking beyond
Linux's own, no accounting, generic GPUs that are plain files (they are counted, not bound).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={d}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=100000,bf_interval=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=2
MinJobAge=120
MaxArraySize=1001
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def missing() -> str | None:
    """Why no Slurm can be started here, or None."""
    absent = [name for name in PROGRAMS if not find(name)]
    if absent:
        return f"{', '.join(absent)} not installed (apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "munged, slurmctld and slurmd want to be started by root"


def find(name: str) -> str | None:
    """A program's path; daemons are often not on a user's PATH."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _configure(folder: Path, cpus: int) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    for name in ("gpu0", "gpu1"):
        (folder / name).touch()
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(CONF.format(host=host, folder=folder, ctld=_port(), d=_port(), cpus=cpus))
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1]\n")
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    folder.chmod(0o755)


@contextlib.contextmanager
def slurm(folder: Path, cpus: int = 2) -> Iterator[dict[str, str]]:
    """Start a Slurm; yields the environment in which its commands work.

    Raises:
        RuntimeError: the node does not become idle; the message holds the logs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _configure(folder, cpus)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    daemons: list[subprocess.Popen[bytes]] = []

    def launch(name: str, *arguments: str) -> None:
        with (folder / f"{name}.out").open("wb") as out:
            words = [str(find(name)), *arguments]
            daemons.append(subprocess.Popen(words, stdout=out, stderr=out, env=environment, start_new_session=True))

    files = ("key-file", "munge.key"), ("socket", "munge.sock"), ("pid-file", "munge.pid"), ("log-file", "munge.log")
    try:
        arguments = [f"--{option}={folder / name}" for option, name in files] + [f"--seed-file={folder}/munge.seed"]
        launch("munged", "--foreground", "--force", *arguments)
        _wait(lambda: (folder / "munge.sock").exists(), folder)
        launch("slurmctld", "-D")
        launch("slurmd", "-D")
        sinfo = str(find("sinfo"))

        def idle() -> bool:
            said = subprocess.run(
                [sinfo, "-h", "-o", "%T"], capture_output=True, text=True, env=environment, check=False
            )
            return said.stdout.strip() == "idle"

        _wait(idle, folder)
        yield environment
    finally:
        for daemon in reversed(daemons):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGTERM)
        for daemon in daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()


def _wait(condition: object, folder: Path, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        if time.monotonic() > deadline:
            logs = [f"{p.name}:\n{p.read_text(errors='replace')[-1500:]}" for p in sorted(folder.glob("*.*o[ug]*"))]
            raise RuntimeError("Slurm does not start\n" + "\n".join(logs))
        time.sleep(0.1)
