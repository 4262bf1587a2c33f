"""Everything about a GPU in one command: ``make gpu``, or ``python benchmarks/gpu --help``.

It proves the CUDA paths, measures the engine and runs rows of Table 2. It needs torch, torchvision, numpy, pandas,
scikit-learn, rich, safetensors, pyyaml and pytest, and names what is missing. benchbd need not be installed.
Results are written as they come.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packages import faults
from process import run_part
from report import Report
from tree import PARENT, ROOT, environment, importable

HERE = Path(__file__).resolve().parent
PARTS = {
    "tests": ("the CUDA tests", 90.0),
    "rates": ("what the engine does in a second", 120.0),
    "rows": ("rows of Table 2 on real images", 480.0),
    "more": ("side by side, strict, large images, a whole training", 240.0),
}
"""Title and most seconds of each part."""
USUAL = "tests,rates,rows"
SECONDS = 560.0
"""Seconds of everything: a command of ten minutes has time left to hand over its files."""
SMOKE_SECONDS = 600.0
AT_THE_END = 8.0
"""Seconds that stopping and writing take."""
PROBE = """\
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "torch": torch.__version__, "cuda": torch.version.cuda,
    "gpu": torch.cuda.get_device_name(0) if cuda else None,
    "capability": ".".join(map(str, torch.cuda.get_device_capability(0))) if cuda else None,
    "gpu_memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if cuda else None,
}))
"""
EPILOG = """\
  make gpu DATA=~/data                                         tests, rates, rows; 9 minutes and 20 seconds at most
  python benchmarks/gpu --data ~/data --parts rows             rows alone, 8 minutes
  python benchmarks/gpu --sheets load1 load2 --out results     CIFAR-10 as sheets.py packs it
  python benchmarks/gpu --device cpu --smoke                   does it run? says nothing about speed
"""


class UsageFault(Exception):
    """An argument or a machine that this program cannot work with, in one line."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu",
        description=__doc__.partition("\n")[0],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, help="where results go (default: $OUT, else gpu-out)")
    parser.add_argument("--data", type=Path, help="folder that holds cifar-10-batches-py (default: $BENCHBD_DATA)")
    parser.add_argument("--sheets", type=Path, nargs="+", default=[], help="instead: folders that sheets.py has packed")
    parser.add_argument("--parts", default=USUAL, help=f"some of {', '.join(PARTS)} (default: {USUAL})")
    parser.add_argument("--seconds", type=float, help=f"of everything (default: {SECONDS:.0f})")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    return parser.parse_args(given)


def checked_parts(text: str) -> list[str]:
    """The parts that are asked for."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise UsageFault(f"--parts {text!r}: must be some of {', '.join(PARTS)}, joined by commas")
    return parts


def images(args: argparse.Namespace, scratch: Path) -> tuple[list[str], str]:
    """Arguments that name the real images, and a line about them; no arguments where there are none."""
    if args.sheets:
        from sheets import SheetError, Sheets, rebuild

        try:
            sheets = Sheets(args.sheets)
            counts = {split: sheets.balanced(split) for split in ("train", "test")}
            if sheets.complete:
                rebuild(sheets, scratch / "data")
                return ["--data", str(scratch / "data"), "--dataset", "cifar10"], "all of CIFAR-10, from sheets"
        except SheetError as error:
            raise UsageFault(f"--sheets: {error}") from error
        if not all(counts.values()):
            raise UsageFault(
                f"--sheets: there are {counts['train']} training and {counts['test']} test images; both are needed"
            )
        place = scratch / "data" / "cifar10-sheets"
        place.mkdir(parents=True, exist_ok=True)
        for folder in args.sheets:
            for file in folder.iterdir():
                if not (place / file.name).exists():
                    (place / file.name).symlink_to(file.resolve())
        spec = f"cifar10-sheets(train={counts['train']},test={counts['test']})"
        line = f"a part of CIFAR-10: {counts['train']:,} training and {counts['test']:,} test images, as many per class"
        found = ["--data", str(scratch / "data"), "--dataset", spec, "--plugin", str(HERE / "cifar10_sheets.py")]
        return found, line
    data = args.data or (Path(os.environ["BENCHBD_DATA"]) if os.environ.get("BENCHBD_DATA") else None)
    if data is not None:
        if not any((data / inside / "cifar-10-batches-py").is_dir() for inside in ("", "cifar10")):
            raise UsageFault(f"{data}: holds no cifar-10-batches-py; give --data DIR, or --sheets")
        return ["--data", str(data.resolve()), "--dataset", "cifar10"], "all of CIFAR-10"
    if args.smoke:
        return ["--dataset", "digits"], "scikit-learn's digits, for a rehearsal"
    return [], "none: give --data DIR or --sheets DIR ... for rows and the accuracy of airbench"


def device_facts(args: argparse.Namespace, variables: dict[str, str]) -> dict[str, Any]:
    """Versions and the GPU, asked in a process of its own: this one must not hold a GPU's memory."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, env=variables, check=False)
    try:
        facts: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    except ValueError:
        last = done.stderr.strip().rpartition("\n")[2]
        raise UsageFault(f"torch cannot be imported: {last}") from None
    if args.device == "cuda" and facts["gpu"] is None:
        what = "sees no GPU (nvidia-smi tells whether the driver does)"
        if facts["cuda"] is None:
            what = "is a CPU build (pytorch.org/get-started has builds for CUDA)"
        raise UsageFault(f"torch {facts['torch']} {what}; --device cpu --smoke rehearses everything without one")
    return facts


class Program:
    """The parts one after the other, within the time.

    Args:
        args: the command line.
        scratch: folder for temporary files.
    """

    def __init__(self, args: argparse.Namespace, scratch: Path) -> None:
        self.args, self.scratch, self.began = args, scratch, time.monotonic()
        self.seconds = args.seconds or (SMOKE_SECONDS if args.smoke else SECONDS)
        self.out: Path = args.out or Path(os.environ.get("OUT") or ROOT / "gpu-out")
        self.results = self.out / "rows"
        if os.environ.get("OUT") and args.out is None:
            self.results = scratch / "rows"  # only a few files come back from there
        self.variables = environment(importable(scratch))
        self.variables |= {"OMP_NUM_THREADS": "1"} if args.device == "cpu" else {}
        self.variables[PARENT] = str(os.getpid())
        self.parts = checked_parts(args.parts)
        self.images, self.about_images = images(args, scratch)
        facts = device_facts(args, self.variables)
        rehearsal = f"on a {'CPU' if args.device == 'cpu' else 'GPU'}" if args.smoke else None
        self.report = Report(self.out, {**facts, "images": self.about_images, "rehearsal": rehearsal})
        self._seen: set[str] = set()

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.seconds - AT_THE_END - (time.monotonic() - self.began)

    def command(self, part: str) -> list[str]:
        """The command of a part."""
        flags = ["--device", self.args.device, *(["--smoke"] if self.args.smoke else [])]
        if part == "tests":
            return [sys.executable, str(HERE / "cuda_tests.py"), *flags]
        if part == "rows":
            return [sys.executable, str(HERE / "rows.py"), *flags, *self.images, "--results", str(self.results)]
        more = ["--more"] if part == "more" else self.images
        return [sys.executable, str(HERE / "rates.py"), *flags, *more, "--seconds", f"{self.budget(part):.0f}"]

    def budget(self, part: str) -> float:
        """Seconds that a part may take."""
        return min(SMOKE_SECONDS if self.args.smoke else PARTS[part][1], self.left)

    def run(self) -> int:
        """Run the parts. Returns the exit code: 0, or 1 if something failed."""
        for part in self.parts:
            title, _ = PARTS[part]
            self.report.begin(part, title)
            sys.stdout.write(f"{part}: {title}\n")
            sys.stdout.flush()
            began = time.monotonic()
            if self.left < 5:
                state = "stopped: the time was up before it began"
            elif part == "rows" and not self.images:
                state = "left out: no real images were given (--data DIR or --sheets DIR ...)"
            else:
                state = run_part(
                    self.command(part),
                    seconds=self.budget(part),
                    environment=self.variables,
                    log=self.out / "gpu.log",
                    fact=lambda fact, part=part: self.report.add(part, fact),  # type: ignore[misc]
                    tick=self.collect if part == "rows" else lambda: None,
                )
            if part == "rows":
                self.collect()
            self.report.end(part, state, time.monotonic() - began)
            sys.stdout.write(f"  {part}: {state}, {time.monotonic() - began:.0f} s\n")
        self.report.note(ended=time.strftime("%Y-%m-%d %H:%M:%S"), failed=self.report.failed or None)
        sys.stdout.write(f"results: {self.out / 'gpu.md'}\n")
        return 1 if self.report.failed else 0

    def collect(self) -> None:
        """Report the cells that are newly finished, and write all records into one file."""
        from rows import records_of, told

        found = records_of(self.results)
        new = [record for record in found if record["id"] not in self._seen]
        if not new:
            return
        for record in new:
            self._seen.add(record["id"])
            fact = told(record)
            sys.stdout.write(f"  {fact['text']}\n")
            sys.stdout.flush()
            self.report.add("rows", fact)
        place = self.out / "results.jsonl"
        part = place.with_suffix(".part")
        part.write_text("".join(json.dumps(record, sort_keys=True) + "\n" for record in found))
        part.replace(place)


def main() -> int:
    """Entry point. Returns the exit code: 0, 1 if something failed, 2 if it cannot run here."""
    args = arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):  # as `timeout` and a closed terminal send them
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    problems = faults()
    try:
        if problems:
            raise UsageFault("; ".join(problems))
        if args.seconds is not None and not 0 < args.seconds < float("inf"):
            raise UsageFault(f"--seconds {args.seconds}: must be more than 0")
        if args.device == "cpu" and not args.smoke:
            raise UsageFault("on a CPU this would take days: add --smoke, or use `make bench`")
        scratch = Path(tempfile.mkdtemp(prefix="benchbd-gpu-"))
        try:
            return Program(args, scratch).run()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except UsageFault as fault:
        sys.stderr.write(f"gpu: {fault}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
