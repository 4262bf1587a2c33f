"""Faults as figures: run a small matrix on digits while everything that can break is broken, and count what was lost.

``python tools/torture.py --faults 100`` (``make torture``). At random moments the run or one of its workers is killed
with SIGKILL, stored artifacts are damaged, the disk is filled (on a small tmpfs, where this may be mounted). After each
fault the same command is given again. At the end every cell must be done, with the very numbers of an undisturbed run,
no finished record may ever have changed, no process and no lock may be left.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchbd.storage.cell_locks import running
from benchbd.storage.cleanup import remove_stale_files

MATRIX = """
name: torture
seeds: [0, 1]
recipe: {epochs: 2, batch_size: 256}
blocks:
  - dataset: digits
    model: lenet-s
    attacks: [none, bn-g]
    defenses: [none, oracle, fine-pruning, {lfd: {teacher: lenet-s, teacher_epochs: 1}}]
"""
WEIGHTS = {"run killed": 5, "worker killed": 5, "artifact damaged": 3, "disk filled": 2}
GAP = 0.2
LONGEST = 600.0
"""Seconds after which a single run counts as stuck; undisturbed it takes a tenth of that on a busy machine."""
VOLATILE = ("env", "time", "peak_memory_bytes", "attempts", "trainings_computed")
"""What may differ between two runs of one cell: the machine, the clock, what was found in the store."""


def command(matrix: Path, output: Path) -> list[str]:
    """The run, as a user would type it."""
    words = [sys.executable, "-m", "benchbd", "run", str(matrix), "--output", str(output)]
    return [*words, "--display", "plain", "--device", "cpu", "--jobs", "2"]


def start(matrix: Path, output: Path, log: Path) -> subprocess.Popen[bytes]:
    """Begin a run in a session of its own."""
    with log.open("ab") as file:
        arguments = command(matrix, output)
        return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)


def workers(parent: int) -> list[int]:
    """Processes that belong to a run: its workers and their watchdogs."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"benchbd.run.workers.worker" in words and words[words.index(b"--parent") + 1] == str(parent).encode():
                found.append(int(folder.name))
    return sorted(found)


def records(output: Path) -> dict[str, bytes]:
    """Finished records as they lie there."""
    found = {}
    for path in sorted((output / "records").glob("[0-9a-f]*.json")):
        data = path.read_bytes()
        if json.loads(data)["status"] == "done":
            found[path.stem] = data
    return found


def essence(data: bytes) -> dict[str, Any]:
    """What of a record must not depend on what happened around it."""
    return {key: value for key, value in json.loads(data).items() if key not in VOLATILE}


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """Mount a small file system at a folder; False where this is not allowed."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


class Torture:
    """One torture of one matrix."""

    def __init__(self, folder: Path, seed: int, gap: float) -> None:
        self.folder, self.gap = folder, gap
        self.random = random.Random(seed)
        self.matrix = folder / "torture.yaml"
        self.matrix.write_text(MATRIX)
        self.faults: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.seen: dict[str, bytes] = {}
        self.log = folder / "log"

    def calm(self) -> dict[str, bytes]:
        """The undisturbed run."""
        began = time.monotonic()
        process = start(self.matrix, self.folder / "calm", self.log)
        assert process.wait(900) == 0, self.log.read_text()
        self.counts["seconds of the undisturbed run"] = round(time.monotonic() - began)
        # Often enough to hit every cell, seldom enough that there is something to break: a busy machine is slow.
        self.gap = (time.monotonic() - began) * self.gap
        return records(self.folder / "calm")

    def storm(self, faults: int, disk: Path, fillable: bool) -> None:
        """Break things until enough was broken; each time all cells are done, begin anew."""
        wanted = self.calm()
        self.counts["cells"] = len(wanted)
        while sum(self.faults.values()) < faults:
            self.counts["rounds"] += 1
            output = disk / f"round{self.counts['rounds']}"
            self.seen = {}
            while not self.one_run(output, faults, disk, fillable):
                pass
            self.check(output, wanted)
            subprocess.run(["rm", "-rf", str(output)], check=True)

    def one_run(self, output: Path, faults: int, disk: Path, fillable: bool) -> bool:
        """Give the command once; True when it ended with every cell done."""
        before = sum(self.faults.values())
        process = start(self.matrix, output, self.log)
        self.counts["runs"] += 1
        deadline = time.monotonic() + LONGEST
        while process.poll() is None:
            assert time.monotonic() < deadline, f"a run does not end:\n{self.told()}"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self.random.uniform(0.05, self.gap))
            if process.poll() is None and sum(self.faults.values()) < faults:
                kinds = [k for k in WEIGHTS if fillable or k != "disk filled"]
                never = [k for k in kinds if not self.faults[k]] if sum(self.faults.values()) >= faults // 2 else []
                kind = self.random.choices(never or kinds, [WEIGHTS[k] for k in never or kinds])[0]
                if self.inflict(kind, process, output, disk):
                    self.faults[kind] += 1
            self.nothing_lost(output)
        self.no_orphans(process.pid)
        left_alone = sum(self.faults.values()) == before
        assert process.returncode == 0 or not left_alone, f"a run that nothing disturbed failed:\n{self.told()}"
        return process.returncode == 0

    def told(self) -> str:
        """The end of what the runs said."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def inflict(self, kind: str, process: subprocess.Popen[bytes], output: Path, disk: Path) -> bool:
        """One fault; False where there was nothing to break."""
        if kind == "run killed":
            process.kill()
            process.wait()
            return True
        if kind == "worker killed":
            # A watchdog has its worker's command line too: killing either is fair.
            pids = workers(process.pid)
            if pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.random.choice(pids), signal.SIGKILL)
            return bool(pids)
        if kind == "artifact damaged":
            return self.damage(output)
        return self.fill(process, disk)

    def damage(self, output: Path) -> bool:
        """Flip a byte of a stored file, cut it short, or empty it."""
        files = sorted(p for p in (output / "store").glob("*/*/*/*") if p.is_file())
        if not files:
            return False
        try:
            with self.random.choice(files).open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                how = self.random.choice(("flip", "cut", "empty"))
                if how == "flip" and size:
                    place = self.random.randrange(size)
                    file.seek(place)
                    byte = file.read(1)[0]
                    file.seek(place)
                    file.write(bytes([byte ^ 0x55]))
                else:
                    file.truncate(size // 2 if how == "cut" else 0)
        except (FileNotFoundError, OSError):
            return False  # it was replaced meanwhile
        return True

    def fill(self, process: subprocess.Popen[bytes], disk: Path) -> bool:
        """Leave not one byte free for a while."""
        filler = disk / "filler"
        try:
            with filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.random.uniform(0.5, 3.0))
        filler.unlink()
        return True

    def nothing_lost(self, output: Path) -> None:
        """A finished record stays as it is for ever."""
        now = records(output)
        for cell_id, data in self.seen.items():
            assert now.get(cell_id) == data, f"the finished record {cell_id} changed"
        self.seen = now

    def no_orphans(self, parent: int) -> None:
        """Nothing of a run outlives it."""
        deadline = time.monotonic() + 20
        while workers(parent):
            assert time.monotonic() < deadline, f"orphans of {parent}: {workers(parent)}"
            time.sleep(0.05)

    def check(self, output: Path, wanted: dict[str, bytes]) -> None:
        """All done, with the numbers of the undisturbed run; nothing held, nothing left lying about."""
        found = records(output)
        assert found.keys() == wanted.keys()
        for cell_id in wanted:
            mine, calm = essence(found[cell_id]), essence(wanted[cell_id])
            other = {k: (mine.get(k), calm.get(k)) for k in mine.keys() | calm.keys() if mine.get(k) != calm.get(k)}
            assert not other, f"{cell_id} differs from the undisturbed run (stormy, calm): {other}"
        assert running(output) == set()
        stale = remove_stale_files(output, older_than=0.0)
        self.counts["temporary files left by the dead, removed"] += stale.temporary
        left = list((output / "store" / "locks").glob("*")) + list((output / "running").glob("*"))
        assert not left, f"locks are left: {left}"
        self.counts["records compared"] += len(found)


def torture(folder: Path, faults: int, seed: int = 0, gap: float = GAP, megabytes: int = 48) -> dict[str, int]:
    """Torture a digits matrix; the counts of what was done to it.

    Args:
        folder: an empty folder to work in.
        faults: how many to inflict.
        seed: of everything random in here (moments depend on the machine all the same).
        gap: longest pause between two faults, as a share of the undisturbed run's time.
        megabytes: size of the small disk.

    Raises:
        AssertionError: something was lost, changed or left behind.
    """
    this = Torture(folder, seed, gap)
    with small_disk(folder / "disk", megabytes) as fillable:
        this.storm(faults, folder / "disk", fillable)
    return {**this.faults, "faults": sum(this.faults.values()), **this.counts}


def main() -> None:
    """Torture and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gap", type=float, default=GAP, help="longest pause, as a share of the undisturbed run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        counts = torture(Path(folder), args.faults, args.seed, args.gap)
    for name, count in counts.items():
        sys.stdout.write(f"{count:6d}  {name}\n")
    sys.stdout.write("nothing lost, nothing left: every record equals the undisturbed run's\n")


if __name__ == "__main__":
    main()
