"""Faults as figures: run a small matrix on digits while everything that can break is broken, and count the losses.

``python tools/torture.py --faults 100`` (``make torture``). At random moments the run, its workers and its cells are
killed, stored artifacts and finished records are damaged or replaced by FIFOs, folders, sockets and links, junk is
added, the disk is filled (on a small tmpfs, if it can be mounted), the results folder is deleted, the reader of the
messages goes away. Some cells of the matrix break whatever they can reach in their process. After each end of the run
the same command is given again. At the end every other cell must be done, with the numbers of an undisturbed run. No
undamaged finished record may ever have changed. No process and no lock may be left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults import FAULTS, READER_FAULT, SLOPPY, SLOPPY_FAULT, Scene, workers

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
SLOPPY_LINE = "    defenses: [{sloppy: {number: [0, 1, 2, 3]}}, "
GAP = 0.2
BURST = 4
"""Most faults at one moment."""
READER_GONE = 0.2
"""Share of the runs whose reader of messages goes away after the first line."""
LONGEST = 600.0
"""Seconds after which a single run counts as stuck; undisturbed it takes a tenth of that on a busy machine."""
VOLATILE = ("env", "time", "peak_memory_bytes", "attempts", "trainings_computed")
"""Fields that may differ between two runs of one cell: the machine, the clock, the cells that computed the stages."""


def command(matrix: Path, output: Path, plugin: Path | None) -> list[str]:
    """The run, as a user would type it."""
    words = [sys.executable, "-m", "benchbd", "run", str(matrix), "--output", str(output)]
    words += [] if plugin is None else ["--plugin", str(plugin)]
    return [*words, "--display", "plain", "--device", "cpu", "--jobs", "2"]


def records(output: Path) -> dict[str, bytes]:
    """The bytes of each finished record by cell ID; damaged ones are left out."""
    found = {}
    for path in sorted((output / "records").glob("[0-9a-f]*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            if path.is_symlink() or not path.is_file():
                continue
            data = path.read_bytes()
            record = json.loads(data)
            if record["status"] == "done" and record["id"] == path.stem:
                found[path.stem] = data
    return found


def essence(data: bytes) -> dict[str, Any]:
    """The part of a record that must not depend on what happened around its cell."""
    return {key: value for key, value in json.loads(data).items() if key not in VOLATILE}


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """Mount a small file system at a folder; False if this is not allowed."""
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
        self.calm_matrix, self.matrix = folder / "calm.yaml", folder / "torture.yaml"
        self.calm_matrix.write_text(MATRIX)
        self.matrix.write_text(MATRIX.replace("    defenses: [", SLOPPY_LINE))
        self.plugin = folder / "sloppy.py"
        self.plugin.write_text(SLOPPY)
        self.breakages = folder / "breakages"
        self.faults: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.seen: dict[str, bytes] = {}
        self.wanted: dict[str, bytes] = {}
        self.junk: set[str] = set()
        self.damaged: dict[str, list[bytes]] = {}
        self.log = folder / "log"

    def start(self, matrix: Path, output: Path, plugin: Path | None = None) -> subprocess.Popen[bytes]:
        """Begin a run in a session of its own. The reader of its messages may go away at once."""
        gone = plugin is not None and self.random.random() < READER_GONE
        with self.log.open("ab") as file:
            process = subprocess.Popen(
                command(matrix, output, plugin),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE if gone else file,
                start_new_session=True,
                env={**os.environ, "TORTURE_BREAKAGES": str(self.breakages)},
            )
        if process.stderr is not None:
            process.stderr.close()
            self.faults[READER_FAULT] += 1
        return process

    @property
    def inflicted(self) -> int:
        """Number of faults so far."""
        with contextlib.suppress(FileNotFoundError):
            self.faults[SLOPPY_FAULT] = len(self.breakages.read_text().splitlines())
        return self.faults.total()

    def calm(self) -> None:
        """The undisturbed run, without the cells that break things."""
        began = time.monotonic()
        process = self.start(self.calm_matrix, self.folder / "calm")
        assert process.wait(900) == 0, self.log.read_text()
        seconds = time.monotonic() - began
        self.counts["seconds of the undisturbed run"] = round(seconds)
        # Often enough to hit every cell, seldom enough that there is something to break: a busy machine is slow.
        self.gap *= seconds
        self.wanted = records(self.folder / "calm")
        self.counts["cells"] = len(self.wanted)

    def storm(self, faults: int, disk: Path, fillable: bool) -> None:
        """Break enough things, of every kind; each time all cells are done, begin with an empty folder."""
        self.calm()
        while self.inflicted < faults or self.never(fillable):
            self.counts["rounds"] += 1
            output = disk / f"round{self.counts['rounds']}"
            self.seen, self.junk = {}, set()
            while not self.one_run(output, faults, disk, fillable):
                pass
            self.check(output)
            subprocess.run(["rm", "-rf", str(output)], check=True)

    def one_run(self, output: Path, faults: int, disk: Path, fillable: bool) -> bool:
        """Give the command once; True when it ended with every innocent cell done."""
        before = self.inflicted
        process = self.start(self.matrix, output, self.plugin)
        scene = Scene(process, output, disk, self.random, self.damaged, self.junk)
        self.counts["runs"] += 1
        deadline = time.monotonic() + LONGEST
        while process.poll() is None:
            assert time.monotonic() < deadline, f"a run does not end:\n{self.last_lines()}"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self.random.uniform(0.05, self.gap))
            for _ in range(self.random.randint(1, BURST)):
                if process.poll() is None and (self.inflicted < faults or self.never(fillable)):
                    self.inflict(scene, faults, fillable)
            self.nothing_lost(output)
        sys.stderr.write(
            f"round {self.counts['rounds']}, run {self.counts['runs']}: {self.inflicted} of {faults} faults\n"
        )
        self.no_orphans(process.pid)
        done = self.wanted.keys() == self.finished(output).keys()
        assert done or process.returncode != 0, f"exit code 0, but cells are not done:\n{self.last_lines()}"
        quiet = {SLOPPY_FAULT, READER_FAULT}
        left_alone = self.inflicted - before == sum(self.faults[kind] for kind in quiet) - self._quiet_before
        self._quiet_before = sum(self.faults[kind] for kind in quiet)
        free = shutil.disk_usage(disk).free >> 10
        message = f"a run that nothing disturbed left cells undone ({free} KiB are free):\n{self.last_lines()}"
        assert done or not left_alone, message
        return done

    _quiet_before = 0

    def last_lines(self) -> str:
        """The last messages of the runs."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def never(self, fillable: bool) -> list[str]:
        """The kinds of fault that have not happened yet."""
        return [kind for kind in FAULTS if not self.faults[kind] and (fillable or kind != "disk filled")]

    def inflict(self, scene: Scene, faults: int, fillable: bool) -> None:
        """Inflict one fault. In the second half, kinds that have not happened yet come first."""
        kinds = self.never(fillable) if self.inflicted >= faults // 2 else []
        kinds = kinds or [kind for kind in FAULTS if fillable or kind != "disk filled"]
        kind = self.random.choices(kinds, [FAULTS[kind].weight for kind in kinds])[0]
        before = {cell_id: len(found) for cell_id, found in self.damaged.items()}
        if not FAULTS[kind].inflict(scene):
            return
        fresh = {cell_id for cell_id, found in self.damaged.items() if len(found) != before.get(cell_id)}
        self.faults[kind] += 1
        if kind == "output folder deleted":
            self.seen = {}
        self.seen = {cell_id: data for cell_id, data in self.seen.items() if cell_id not in fresh}

    def finished(self, output: Path) -> dict[str, bytes]:
        """The finished records of the innocent cells, without what faults have put in their place."""
        found = records(output)
        return {
            cell_id: data
            for cell_id, data in found.items()
            if cell_id in self.wanted and data not in self.damaged.get(cell_id, ())
        }

    def nothing_lost(self, output: Path) -> None:
        """A finished record stays as it is for ever."""
        now = self.finished(output)
        for cell_id, data in self.seen.items():
            assert now.get(cell_id) == data, f"the finished record {cell_id} changed"
        self.seen = now

    def no_orphans(self, parent: int) -> None:
        """Nothing of a run outlives it."""
        deadline = time.monotonic() + 20
        while workers(parent):
            assert time.monotonic() < deadline, f"orphans of {parent}: {workers(parent)}"
            time.sleep(0.05)

    def check(self, output: Path) -> None:
        """All done, with the numbers of the undisturbed run; no lock is held, nothing is left lying about."""
        found = self.finished(output)
        for cell_id, calm_bytes in self.wanted.items():
            mine, calm = essence(found[cell_id]), essence(calm_bytes)
            other = {k: (mine.get(k), calm.get(k)) for k in mine.keys() | calm.keys() if mine.get(k) != calm.get(k)}
            assert not other, f"{cell_id} differs from the undisturbed run (stormy, calm): {other}"
            self.counts["records compared"] += 1
        assert running(output) == set()
        stale = remove_stale_files(output, older_than=0.0)
        self.counts["temporary files left by the dead, removed"] += stale.temporary
        left = [*(output / "store" / "locks").glob("*"), *(output / "running").glob("*")]
        left = [path for path in left if path.name not in self.junk]
        assert not left, f"locks are left: {left}"


def torture(folder: Path, faults: int, seed: int = 0, gap: float = GAP, megabytes: int = 48) -> dict[str, int]:
    """Torture a digits matrix.

    Args:
        folder: an empty folder to work in.
        faults: how many to inflict at least; it goes on until each kind has happened.
        seed: of the faults' kinds and details (their moments depend on the machine all the same).
        gap: longest pause between two moments of faults, as a share of the undisturbed run's time.
        megabytes: size of the small disk.

    Returns:
        The number of faults by kind, their sum, and the counts of runs, rounds and compared records.

    Raises:
        AssertionError: something was lost, changed or left behind.
    """
    this = Torture(folder, seed, gap)
    with small_disk(folder / "disk", megabytes) as fillable:
        this.storm(faults, folder / "disk", fillable)
    kinds = Counter(this.breakages.read_text().split()) if this.breakages.exists() else Counter()
    disorder = {f"  of these: {kind}": count for kind, count in kinds.most_common()}
    return {**this.faults, **disorder, "faults": this.inflicted, **this.counts}


def main() -> None:
    """Torture and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gap", type=float, default=GAP, help="longest pause, as a share of the undisturbed run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        try:
            counts = torture(Path(folder), args.faults, args.seed, args.gap)
        except AssertionError:
            sys.stdout.write((Path(folder) / "log").read_text(errors="replace")[-20_000:])
            raise
    for name, count in counts.items():
        sys.stdout.write(f"{count:6d}  {name}\n")
    sys.stdout.write("nothing lost, nothing left: every record equals the undisturbed run's\n")


if __name__ == "__main__":
    main()
