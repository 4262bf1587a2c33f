"""run, status, logs and rerun, as people type them."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from benchbd.cli import main
from benchbd.storage import records
from benchbd.storage.cell_locks import CellLocks

Cli = Callable[..., int]

MATRIX = """
name: fakes
seeds: [0, 1]
blocks:
  - dataset: toy-images
    model: toy-net
    attacks: [toy-attack]
    defenses: [{act: {n: 1}}, {act: {do: raise}}]
"""


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    path = tmp_path / "fakes.yaml"
    path.write_text(MATRIX)
    return path


@pytest.fixture
def cli(fakes: ModuleType, matrix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a verb on the matrix: ``cli("run", "--rerun", "failed")``."""
    monkeypatch.chdir(tmp_path)

    def call(verb: str, *words: str, matrix: str = str(matrix)) -> int:
        given = [verb, matrix, "--output", "out"]
        if verb in ("run", "status", "rerun"):
            given += ["--plugin", str(fakes.PLUGIN)]
        if verb in ("run", "rerun"):
            given += ["--execute", fakes.EXECUTE, "--display", "plain", "--device", "cpu", "--jobs", "2"]
        return main([*given, *words])

    return call


def only(folder: Path, status: str) -> list[dict[str, object]]:
    found = [json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))]
    return [record for record in found if record["status"] == status]


def test_run_shows_the_board_the_failures_and_what_to_type_next(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli("run") == 1
    said, told = capfd.readouterr()
    assert "leaderboard: " in said
    assert "# Leaderboard" in (tmp_path / "out" / "leaderboard.md").read_text()
    assert "2 done, 2 failed in" in told
    failed = only(tmp_path / "out", "failed")[0]
    assert f"  failed: {failed['label']}: ValueError: told to" in told
    assert f"    log: {tmp_path / 'out' / 'logs' / str(failed['id'])}.log" in told
    again = next(line for line in told.splitlines() if line.startswith("run them again: "))
    command = again.removeprefix("run them again: ").split()
    assert command[:2] == ["benchbd", "run"]
    assert command[-6:] == ["--device", "cpu", "--jobs", "2", "--rerun", "failed"]
    assert "--plugin" in command


def test_run_is_idempotent(cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli("run", "--filter", "defense=act*n=1*")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "records").iterdir()}
    assert len(before) == 2
    assert cli("run", "--filter", "defense=act*n=1*") == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "records").iterdir()} == before
    assert "2 done in" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--timeout", "soon"), "--timeout must be a time like"),
        (("--shard", "3/2"), "--shard must be i/n"),
        (("--jobs", "0"), "--jobs must be more than 0"),
        (
            ("--executor", "slurm", "--executor-config", "nowhere.yaml"),
            "--executor-config nowhere.yaml: cannot be read",
        ),
        (("--executor", "ray", "--executor-config", "{a: [}"), "not YAML"),
        (("--executor", "slurm", "--executor-config", "{1: 2}"), "must be a mapping"),
        (("--executor", "slurm", "--executor-config", "{a: &a [x], b: [*a, *a]}"), "YAML aliases"),
        (("--executor", "ray", "--executor-config", "{a: !!python/name:os.system x}"), "YAML tags"),
        (("--executor", "slurm", "--executor-config", "{a: " + "[" * 1000), "nested too deeply"),
        (("--executor", "slurm", "--executor-config", "x" * 10_000), "cannot be read"),
        (("--executor", "slurm", "--executor-config", "a\0b"), "cannot be read"),
        (("--executor-config", "{partition: gpu}"), "is only for slurm and ray, not for --executor local"),
        (("--jobs", "1000000000"), "--jobs 1000000000: at most "),
        (("--gpus", "x"), "--gpus must be numbers"),
        (("--device", "cpu", "--gpus", "0"), "contradict"),
        (("--filter", "defense=lfd"), "--filter 'defense=lfd': no cell has"),
    ],
)
def test_bad_flags_get_one_line(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert cli("run", *words) == 2
    told = capfd.readouterr().err
    assert told.startswith("benchbd: ")
    assert told.count("\n") == 1
    assert message in told


@pytest.mark.parametrize("flag", ["--gpus", "--timeout", "--budget", "--data", "--executor-config"])
def test_rerun_refuses_empty_flags_too(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str], flag: str, fakes: ModuleType
) -> None:
    cell = fakes.cell(n=1)
    records.write_record(tmp_path / "out", records.blank(cell, "failed", "told to"))
    assert cli("rerun", flag, "", matrix=cell.id) == 2
    assert (
        capfd.readouterr().err
        == f"benchbd: {flag} '': is empty; give a value (an unset variable?) or leave {flag} out\n"
    )
    assert only(tmp_path / "out", "failed") != []


@pytest.mark.parametrize(("executor", "library"), [("slurm", "submitit"), ("ray", "Ray")])
def test_a_missing_cluster_library_is_one_line_that_says_what_to_install(
    cli: Cli, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, executor: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library.lower(), None)
    assert cli("run", "--executor", executor) == 2
    assert capfd.readouterr().err == (
        f"benchbd: --executor {executor} needs {library}: pip install 'benchbd[{executor}]'\n"
    )


def test_a_refused_run_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    for words in (["--shard", ""], ["--jobs", "99999"], ["--timeout", "soon"]):
        assert cli("run", *words) == 2
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_made(cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("a file")
    assert cli("run") == 2
    assert "is a file, not a folder" in capfd.readouterr().err


def test_status_tells_states_running_and_stale(cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli("run")
    capfd.readouterr()
    done, failed = only(tmp_path / "out", "done"), only(tmp_path / "out", "failed")
    (tmp_path / "out" / "records" / f"{failed[1]['id']}.json").unlink()
    records.write_record(tmp_path / "out", {**done[0], "sources": {"defense": "code:" + "0" * 64}})
    claims = CellLocks(tmp_path / "out")
    assert claims.take(str(done[1]["id"]))
    assert cli("status", "--json") == 0
    told = json.loads(capfd.readouterr().out)
    claims.close()
    assert told["counts"] == {"done": 1, "running": 1, "failed": 1, "missing": 1}
    assert told["stale"] == 1
    rows = {row["id"]: row for row in told["cells"]}
    assert rows[done[0]["id"]]["stale"] == ["defense act"]
    assert rows[failed[0]["id"]]["error"] == "ValueError: told to"
    assert cli("status") == 0
    text = capfd.readouterr().out
    assert "stale: defense act changed since" in text
    assert "ValueError: told to" in text


def test_stale_results_are_kept_said_and_made_again_on_request(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cli("run", "--filter", "defense=act*n=1*")
    done = only(tmp_path / "out", "done")[0]
    records.write_record(tmp_path / "out", {**done, "sources": {"defense": "code:" + "0" * 64}})
    capfd.readouterr()
    assert cli("run", "--filter", "defense=act*n=1*") == 0
    assert "1 kept result is stale" in capfd.readouterr().err
    assert cli("run", "--filter", "defense=act*n=1*", "--rerun", "stale") == 0
    assert "stale" not in capfd.readouterr().err
    assert only(tmp_path / "out", "done")[0].get("sources") != {"defense": "code:" + "0" * 64}


def test_logs(cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli("run")
    failed, done = only(tmp_path / "out", "failed")[0], only(tmp_path / "out", "done")[0]
    capfd.readouterr()
    assert main(["logs", str(failed["id"])[:9], "--output", "out"]) == 0
    assert "failed: ValueError: told to" in capfd.readouterr().out
    assert main(["logs", str(done["label"]), "--output", "out"]) == 0
    assert capfd.readouterr().out.rstrip().endswith("done")
    assert main(["logs", "", "--output", "out"]) == 2
    assert main(["logs", "../../etc/passwd", "--output", "out"]) == 2
    assert main(["logs", "abc", "--output", "nowhere"]) == 2


def test_logs_follow_a_running_cell_to_its_end(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "out" / "logs" / f"{'a' * 16}.log"
    path.parent.mkdir(parents=True)
    path.write_text("== label  attempt 1 ==\n")
    claims = CellLocks(tmp_path / "out")
    claims.take("a" * 16)
    command = [sys.executable, "-m", "benchbd", "logs", "aaaa", "-f", "--output", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline().startswith("== label")
        with path.open("a") as file:
            file.write("epoch 1\n")
        assert follower.stdout.readline() == "epoch 1\n"
        assert follower.poll() is None
        with path.open("a") as file:
            file.write("done\n")
        claims.close()
        assert follower.stdout.readline() == "done\n"
        assert follower.wait(timeout=10) == 0


def test_the_log_of_a_cell_is_followed_while_a_run_works_on_it(
    cli: Cli, fakes: ModuleType, matrix: Path, tmp_path: Path
) -> None:
    matrix.write_text(MATRIX.replace("{act: {n: 1}}, {act: {do: raise}}", "{act: {do: hang}}").replace("[0, 1]", "[0]"))
    words = ["run", str(matrix), "--output", "out", "--plugin", str(fakes.PLUGIN), "--execute", fakes.EXECUTE]
    command = [sys.executable, "-m", "benchbd"]
    run = subprocess.Popen([*command, *words, "--display", "none", "--device", "cpu", "--jobs", "1"], cwd=tmp_path)
    try:
        deadline = time.monotonic() + 60
        while not fakes.read_trace(tmp_path / "out"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        cell_id = fakes.read_trace(tmp_path / "out")[0][2]
        follow = [*command, "logs", cell_id, "-f", "--output", "out"]
        with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as follower:
            assert follower.stdout is not None
            assert follower.stdout.readline().startswith("== toy-images/toy-net/toy-attack/act")
            assert follower.stdout.readline().endswith("acting\n")
            assert follower.poll() is None, "it waits for more"
            run.terminate()
            assert follower.wait(timeout=60) == 0, "it ends with the cell"
        assert run.wait(timeout=60) == 130
    finally:
        run.kill()
        run.wait()


def test_rerun_one_cell(cli: Cli, fakes: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli("run")
    done = only(tmp_path / "out", "done")[0]
    capfd.readouterr()
    assert cli("rerun", matrix=str(done["id"])[:8]) == 0
    assert f"{done['label']}  CA 0.900  ASR 0.100" in capfd.readouterr().out
    trace = fakes.read_trace(tmp_path / "out")
    assert [row[2] for row in trace if row[1] == "start"].count(str(done["id"])) == 2
    assert cli("rerun", matrix="ffff") == 2


def test_numerics_of_run_status_and_rerun(cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = ("--filter", "defense=act*n=1*", "--seeds", "0")
    assert cli("run", *good) == cli("run", *good, "--precision", "bf16-strict", "--threads", "2") == 0
    usual, other = sorted(only(tmp_path / "out", "done"), key=lambda record: len(str(record["label"])))
    assert other["spec"] == {**dict(usual["spec"]), "precision": "bf16-strict", "threads": 2}
    capfd.readouterr()
    assert cli("status", *good, "--set", "precision=strict-bf16", "--set", "threads=2") == 0
    assert ": 1 done" in capfd.readouterr().out
    assert cli("status", *good, "--precision", "fp32") == 0
    assert ": 1 missing" in capfd.readouterr().out
    assert cli("rerun", "--precision", "auto", matrix=str(other["id"])) == 0
    assert "/threads=2/s0" in capfd.readouterr().out
    assert len(only(tmp_path / "out", "done")) == 3, "a cell of other numerics is recorded beside the first"
    for words in (("--precision", "bf61"), ("--threads", "0")):
        assert cli("rerun", *words, matrix=str(other["id"])) == cli("run", *words) == 2
        assert capfd.readouterr().err.count(f"benchbd: {words[0]} ") == 2


def test_the_command_to_type_next_has_the_numerics(cli: Cli, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli("run", "--seeds", "0", "--precision", "fp32", "--threads", "2") == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "--rerun failed" in line]
    assert "--precision fp32" in line
    assert "--threads 2" in line


def test_a_record_that_the_report_refuses_does_not_turn_the_exit_code(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "records").mkdir(parents=True)
    (tmp_path / "out" / "records" / f"{'b' * 16}.json").write_text("{}")
    assert cli("run", "--filter", "defense=act*n=1*") == 0
    out, err = capfd.readouterr()
    assert f"{'b' * 16}.json: has no id; left out" in err
    assert "| toy-attack" in out


def test_help_of_the_runner_verbs_needs_nothing_heavy() -> None:
    code = "import sys; from benchbd.cli import parser; parser(); print(sorted(HEAVY & set(sys.modules)))"
    code = code.replace("HEAVY", "{'torch', 'rich', 'yaml', 'pandas', 'numpy', 'ray'}")
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == "[]"
    assert time.monotonic() - began < 5.0


def test_shards_of_several_machines_are_merged_into_the_whole(
    cli: Cli, matrix: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    matrix.write_text(MATRIX.replace("{act: {n: 1}}, {act: {do: raise}}", "{act: {n: [1, 2, 3]}}"))
    for part in ("1", "2"):
        assert cli("run", "--shard", f"{part}/2", "--output", f"part{part}", "--executor", "inline") == 0
    parts = [{path.name for path in (tmp_path / f"part{n}" / "records").iterdir()} for n in (1, 2)]
    assert all(parts)
    assert not parts[0] & parts[1]
    assert main(["merge", "part1", "part2", "--output", "all"]) == 0
    capfd.readouterr()
    assert cli("status", "--output", "all", "--json") == 0
    assert json.loads(capfd.readouterr().out)["counts"] == {"done": 6}


def test_a_second_run_in_the_same_folder_shares_the_work(
    cli: Cli, fakes: ModuleType, matrix: Path, tmp_path: Path
) -> None:
    matrix.write_text(MATRIX.replace("{act: {n: 1}}, {act: {do: raise}}", "{act: {n: [1, 2, 3, 4], seconds: 0.2}}"))
    codes: list[int] = []
    words = ["run", str(matrix), "--output", "out", "--plugin", str(fakes.PLUGIN), "--execute", fakes.EXECUTE]
    command = [sys.executable, "-m", "benchbd", *words, "--display", "none", "--device", "cpu", "--jobs", "2"]

    def other() -> None:
        codes.append(subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode)

    threads = [threading.Thread(target=other) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    started = [row[2] for row in fakes.read_trace(tmp_path / "out") if row[1] == "start"]
    assert len(started) == len(set(started)) == 8


class Terminal(io.StringIO):
    """Standard output on a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Make standard output a terminal of 100 columns from now on."""

    def make() -> Terminal:
        monkeypatch.delenv("CI", raising=False)
        for name, value in (("TERM", "xterm"), ("COLUMNS", "100"), ("NO_COLOR", "1")):
            monkeypatch.setenv(name, value)
        stream = Terminal()
        monkeypatch.setattr("sys.stdout", stream)
        return stream

    return make


def bare(text: str) -> str:
    """Text without the codes of a terminal, and without spaces at the ends of lines."""
    return "\n".join(line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines())


def test_a_run_on_a_terminal_ends_with_tables_and_in_a_pipe_with_markdown(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], terminal: Callable[[], Terminal]
) -> None:
    cli("run")
    piped = capsys.readouterr().out
    out = tmp_path / "out"
    assert piped.startswith("<!--")
    assert "\n| " in piped
    assert "\x1b" not in piped
    assert piped.endswith(f"\nleaderboard: {out.relative_to(tmp_path) / 'leaderboard.md'}\n")
    assert (out / "leaderboard.html").read_text().startswith("<!doctype html>")
    stream = terminal()
    cli("run")
    assert stream.getvalue() == piped, "--display plain is for scripts"
    stream = terminal()
    cli("run", "--display", "none")
    text = bare(stream.getvalue())
    assert "toy-images / toy-net  4/4\n" in text
    assert "✗" in text
    assert "mean of 2 seeds  ✗ failed" in text
    assert "time a cell" in text
    assert "|" not in text
    assert text.endswith("\nleaderboard: out/leaderboard.md\npage:        out/leaderboard.html")
    assert max(map(len, text.splitlines())) <= 100


def test_status_shows_the_grid_on_a_terminal_and_on_request(
    cli: Cli, capsys: pytest.CaptureFixture[str], terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("run", "--filter", "seed=0")
    capsys.readouterr()
    assert cli("status") == 0
    piped = capsys.readouterr().out
    assert piped.splitlines()[0] == "fakes: 2 missing, 1 done, 1 failed"
    assert "CA/ASR" not in piped
    assert piped.count("  missing  ") == 2
    monkeypatch.setenv("COLUMNS", "100")
    cli("status", "--grid")
    asked = capsys.readouterr().out
    stream = terminal()
    cli("status")
    shown = bare(stream.getvalue())
    assert shown == bare(asked), "the same grid"
    head, _, rest = shown.partition("\n\n")
    assert head == "fakes: 2 missing, 1 done, 1 failed"
    assert rest.startswith("toy-images / toy-net  2/4\n")
    assert "missing  " not in rest, "the grid marks what waits"
    assert "failed  toy-images/toy-net/toy-attack/act(do=raise)/s0" in rest
    stream = terminal()
    cli("status", "--all")
    assert bare(stream.getvalue()).count("  missing  ") == 2
    stream = terminal()
    cli("status", "--no-grid")
    assert stream.getvalue() == piped
    stream = terminal()
    cli("status", "--json")
    assert json.loads(stream.getvalue())["counts"] == {"missing": 2, "done": 1, "failed": 1}
    assert cli("status", "--json", "--grid") == 2
