"""`make gpu` from end to end on a CPU, from a tree that is not installed; its sheets, report, limits and messages."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from waiting import wait_for

from benchbd.core.recipe import Recipe
from benchbd.plan import matrix

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "benchmarks" / "gpu"
NOT_NEEDED = ("tabulate", "matplotlib", "submitit", "ray", "hypothesis", "pytest_benchmark", "pytest_timeout", "xdist")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROGRAM))


def started(*arguments: object, missing: str = "", **variables: str) -> subprocess.Popen[str]:
    """Start the program in a Python that has the packages, but neither benchbd nor those that it does not need."""
    # Without site, an editable installation's finder is not there either.
    blocked = f"import sys; sys.modules.update(dict.fromkeys({NOT_NEEDED!r}))"
    start = f"{blocked}; import runpy; sys.argv = [sys.argv[0], *sys.argv[1:]]; sys.path.insert(0, {str(PROGRAM)!r})"
    if missing:
        start += (
            f"; import importlib.util as u; f = u.find_spec; u.find_spec = lambda n: None if n == {missing!r} else f(n)"
        )
    command = [sys.executable, "-S", "-c", f"{start}; runpy.run_path({str(PROGRAM)!r}, run_name='__main__')"]
    environment = {k: v for k, v in os.environ.items() if k not in ("BENCHBD_DATA", "OUT")}
    packages = [path for path in sys.path if path.endswith("site-packages")]
    environment |= {"PYTHONPATH": os.pathsep.join(packages), "OMP_NUM_THREADS": "1", **variables}
    command += [str(argument) for argument in arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments: object, missing: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    process = started(*arguments, missing=missing, **variables)
    output, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def is_over(process: int | str) -> bool:
    """Whether a process has ended, though perhaps nobody has asked how."""
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def flat_images(count: int, seed: int) -> np.ndarray:
    """uint8 (count, 3, 32, 32), each image of one colour: a sheet of them is small."""
    colours = np.random.default_rng(seed).integers(0, 256, (count, 3, 1, 1), dtype=np.uint8)
    return np.ascontiguousarray(np.broadcast_to(colours, (count, 3, 32, 32)))


def batch_file(images: np.ndarray, labels: np.ndarray) -> bytes:
    """Bytes that hold labels and images as a batch file of CIFAR-10 does."""
    from sheets import _START

    numbers = b"".join(b"K" + bytes([label]) for label in labels[:1000])
    rest = b"e(".join(b"".join(b"K" + bytes([n]) for n in labels[i : i + 1000]) for i in range(1000, 10_000, 1000))
    return (
        b"\x80\x02}(U\x06labels]q\x05(" + numbers + b"e(" + rest + b"eU\x04data" + _START + images.tobytes() + b"names"
    )


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], list[Path]]:
    """A CIFAR-10 of flat images: its folder, md5 sums, and its loads."""
    sys.path.insert(0, str(PROGRAM))
    try:
        import sheets
    finally:
        sys.path.remove(str(PROGRAM))
    data = tmp_path_factory.mktemp("data")
    (data / sheets.FOLDER).mkdir()
    sums = {}
    for number, (name, _, _) in enumerate(sheets.batch_files()):
        content = batch_file(flat_images(10_000, number), np.arange(10_000) % 10)
        (data / sheets.FOLDER / name).write_bytes(content)
        sums[name] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    (data / sheets.FOLDER / "batches.meta").write_bytes(b"names of classes")
    sums["batches.meta"] = hashlib.md5(b"names of classes", usedforsecurity=False).hexdigest()
    size = sum(len(content) for content in _contents(data / sheets.FOLDER, sheets))
    loads = sheets.pack(data, tmp_path_factory.mktemp("loads"), size * 2 // 3, sums)
    return data, sums, loads


def _contents(folder: Path, sheets) -> list[bytes]:
    files = {name: (folder / name).read_bytes() for name, _, _ in sheets.batch_files()}
    return [content for _, content in sheets._pictures(files, {n: sheets._frame(n, c, True) for n, c in files.items()})]


def test_sheets_of_all_loads_rebuild_the_files_byte_by_byte(packed, tmp_path):
    import sheets

    data, sums, loads = packed
    assert len(loads) == 2
    found = sheets.Sheets(loads[::-1])
    assert found.complete
    sheets.rebuild(found, tmp_path, sums)
    for name in sums:
        assert (tmp_path / sheets.FOLDER / name).read_bytes() == (data / sheets.FOLDER / name).read_bytes(), name
    with pytest.raises(
        sheets.SheetError, match="data_batch_1, rebuilt from the sheets, does not have the official md5"
    ):
        sheets.rebuild(found, tmp_path, {"data_batch_1": "0" * 32})


def test_one_load_has_all_test_images_and_part_of_the_others(packed):
    import sheets

    first = sheets.Sheets(packed[2][:1])
    images, labels = first.images("test")
    assert np.array_equal(images, flat_images(10_000, 5))
    assert np.array_equal(labels, np.arange(10_000) % 10)
    assert not first.complete
    assert 0 < first.balanced("train") < 50_000
    assert first.balanced("train") == len(first.images("train")[1])
    with pytest.raises(sheets.SheetError, match="give the first load too"):
        sheets.Sheets(packed[2][1:])


def test_a_rehearsal_runs_every_part_from_a_tree_that_is_not_installed(packed, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    flags = ("--device", "cpu", "--smoke", "--parts", "tests,rates,rows,more", "--sheets", packed[2][0])
    done = run(*flags, OUT=str(out))
    assert done.returncode == 0, done.stdout + done.stderr + (out / "gpu.log").read_text()[-3000:]
    report = json.loads((out / "gpu.json").read_text())
    assert {name: part["state"] for name, part in report["parts"].items()} == dict.fromkeys(flags[4].split(","), "done")
    said = {fact["text"] for part in report["parts"].values() for fact in part["facts"]}
    text = "\n".join(said)
    for word in ("TFLOP/s", "conventional loop", "compile + graph", "3 packed", "--jobs-per-gpu 2", "at 48 pixels"):
        assert word in text, word
    assert "test_strict_repeats_bit_for_bit: passed" in text
    assert "real images, 8 epochs: accuracy" in text
    assert "row bn-g: 2 of 2 cells done" in text
    assert "Nothing here was measured on a GPU" in (out / "gpu.md").read_text()
    assert "a part of CIFAR-10" in report["images"]
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {record["defense"] for record in records} == {"none", "ac"}
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) <= 8, "a machine that is lent may hand back only a few files"


def test_what_is_not_over_in_time_is_killed_and_the_report_is_complete(tmp_path):
    from process import run_part

    found: list[dict] = []
    program = (
        "import subprocess, sys, time, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        'print(\'{"text": "first", "pid": %d}\' % child.pid, flush=True); print(\'not json\', flush=True);'
        "time.sleep(60)"
    )
    command, log = [sys.executable, "-c", program], tmp_path / "log"
    state = run_part(command, seconds=2, environment=dict(os.environ), log=log, fact=found.append)
    assert state == "stopped: its 2 s were over"
    assert found[0]["text"] == "first"
    assert b"not json" in log.read_bytes()
    wait_for(lambda: is_over(found[0]["pid"]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_is_killed_leaves_a_complete_report_and_no_process(tmp_path, number):
    process = started("--device", "cpu", "--smoke", "--parts", "rates", "--out", tmp_path)

    def facts() -> list[dict]:
        report = tmp_path / "gpu.json"
        return json.loads(report.read_text())["parts"].get("rates", {}).get("facts", []) if report.exists() else []

    wait_for(facts)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (128 + number if number == signal.SIGTERM else -number)
    wait_for(lambda: is_over(children[0]))
    assert "(cut off)" in (tmp_path / "gpu.md").read_text()
    assert facts()


def test_no_part_begins_when_the_time_is_up(tmp_path):
    done = run("--device", "cpu", "--smoke", "--seconds", "9", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert [part["state"] for part in parts.values()] == ["stopped: the time was up before it began"] * 3


def test_a_part_that_fails_is_reported(tmp_path):
    from process import run_part

    command = [sys.executable, "-c", "raise SystemExit(3)"]
    state = run_part(command, seconds=20, environment=dict(os.environ), log=tmp_path / "log", fact=print)
    assert state == "failed: exit code 3; see log"


def test_the_report_says_cut_off_until_a_part_ends(tmp_path):
    from report import Report

    report = Report(tmp_path, {"gpu": "X"})
    report.begin("rates", "what it does")
    report.add("rates", {"text": "fast"})
    assert json.loads((tmp_path / "gpu.json").read_text())["parts"]["rates"]["state"] == "cut off"
    assert "- fast" in (tmp_path / "gpu.md").read_text()
    report.add("rates", {"text": "slow", "failed": True})
    report.end("rates", "done", 3.0)
    assert report.failed == ["rates: slow"]
    assert "**FAILED** slow" in (tmp_path / "gpu.md").read_text()


def test_missing_and_old_packages_are_named():
    from packages import faults

    assert faults(lambda package: "2.13.0+cpu") == []
    assert faults(lambda package: "2.10.1") == ["torch 2.10 is too old; 2.11 or later is needed"]
    (line,) = faults(lambda package: "2.13.0", ["no_such_module_here"])
    assert line.startswith("the package no_such_module_here is missing")


ON_A_GPU = (
    *("products", "conventional", "eager", "graph", "strict", "teachers", "airbench", "airbench_to_accuracy", "full"),
    *("synchronisations", "large_images"),
)
"""Measurements in this process; the others compile, or start processes."""


@pytest.mark.parametrize("name", ON_A_GPU)
def test_a_rate_is_measured_on_a_pretended_gpu(monkeypatch, capfd, name):
    import rates
    from pretended_gpu import pretended_gpu

    sizes = rates.SMOKE._replace(teachers=2)
    real = rates.real_images("digits", None, [], smoke=True)
    recipe = Recipe.parse({"preset": "fast"}).but(batch_size=32, epochs=2)
    monkeypatch.setattr(rates.Rates, "fast_recipe", lambda self: recipe)
    with pretended_gpu(monkeypatch) as gpu:
        getattr(rates.Rates(torch.device("cuda"), sizes, real), name)()
    said = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert said
    assert not any(fact.get("failed") for fact in said)
    captured = name not in ("products", "conventional", "eager", "synchronisations")
    assert bool(sum(graph.replays for graph in gpu.graphs)) == captured


@pytest.mark.parametrize(
    "module", ["torch", "torchvision", "numpy", "pandas", "sklearn", "rich", "safetensors", "yaml"]
)
def test_a_missing_package_is_named_before_anything_needs_it(tmp_path, module):
    done = run("--device", "cpu", "--smoke", "--out", tmp_path, missing=module)
    name = {"sklearn": "scikit-learn", "yaml": "pyyaml"}.get(module, module)
    assert done.returncode == 2
    assert done.stderr.startswith(f"gpu: the package {name} is missing (import {module} finds nothing in ")
    assert done.stderr.count("\n") == 1


def test_the_rows_are_cells_of_table2():
    import rows

    mine = matrix.resolve(matrix.parse(json.dumps(rows.matrix("cifar10", smoke=False)), "given"), "given")
    table2 = {cell.id for cell in matrix.load("table2", seeds=[0]).cells}
    assert len(mine.cells) == 15
    assert {cell.id for cell in mine.cells} <= table2
    assert [cell.attack.name for cell in mine.cells[::5]] == ["bn-g", "blend", "sig"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--device", "cpu"), "on a CPU this would take days: add --smoke"),
        (("--device", "cpu", "--smoke", "--seconds", "nan"), "--seconds nan: must be more than 0"),
        (("--device", "cpu", "--smoke", "--parts", "rates,colour"), "--parts 'rates,colour': must be some of tests"),
        (("--device", "cpu", "--smoke", "--sheets", "/no/such"), "the folder of sheets /no/such does not exist"),
        (("--device", "cpu", "--smoke", "--data", "/"), "/: holds no cifar-10-batches-py"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path, arguments, line):
    done = run(*arguments, "--out", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("gpu: ")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
