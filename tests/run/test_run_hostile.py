"""Names and folders made to lead the runner astray: one line, exit code 2, nothing written where it does not belong."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import pytest

from benchbd.cli import main
from benchbd.cli.run_arguments import read_config
from benchbd.run import Outcome
from benchbd.storage import records
from benchbd.storage.cell_locks import CellLocks, running

Go = Callable[..., Outcome]
Watch = Callable[[Path], AbstractContextManager[None]]

NAMES = {"up": "../../etc/passwd", "absolute": "/etc/passwd", "NUL": "a\0b", "long": "x" * 10_000, "escape": "\x1b[31m"}
USES: dict[str, Callable[[str], list[str]]] = {
    "logs": lambda name: ["logs", name, "--output", "out"],
    "show": lambda name: ["show", name, "--output", "out"],
    "rerun": lambda name: ["rerun", name, "--output", "out"],
    "merge": lambda name: ["merge", f"{name}/x", "--output", "out"],
    "compare": lambda name: ["compare", "out", f"{name}/x"],
    "export": lambda name: ["export", name, "--output", "out"],
    "export into": lambda name: ["export", f"{name}/x", "--output", "out"],
    "clean": lambda name: ["clean", "-y", "--output", f"{name}/x"],
    "logs of": lambda name: ["logs", "abc", "--output", f"{name}/x"],
    "executor-config": lambda name: ["run", "quickstart", "--executor", "ray", "--executor-config", name],
    "plugin": lambda name: ["run", "quickstart", "--plugin", f"{name}/x.py"],
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("use", USES)
def test_path_tricks_get_one_line(
    fakes: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    writes_nothing_outside: Watch,
    use: str,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    cell = fakes.cell(n=1)
    records.write_record(tmp_path / "out", records.blank(cell, "done") | {"ca": 0.9})
    (tmp_path / "out" / "logs").mkdir()
    (tmp_path / "out" / "logs" / f"{cell.id}.log").write_text("== a log ==\n")
    before = sorted(tmp_path.rglob("*"))
    with writes_nothing_outside(tmp_path):
        assert main(USES[use](NAMES[name])) == 2
    told = capfd.readouterr().err
    assert told.startswith("benchbd: ")
    assert told.count("\n") == 1
    assert len(told) < 1_200
    assert "\x1b" not in told
    assert "root:" not in told, "no file's content is shown"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("executor", ["local", "inline"])
def test_links_planted_in_a_results_folder_are_replaced_and_lead_no_write_out(
    fakes: ModuleType, go: Go, tmp_path: Path, executor: str
) -> None:
    output, precious, cell = tmp_path / "out", tmp_path / "precious", fakes.cell("talk")
    precious.write_text("mine\n")
    plants = [output / "logs" / f"{cell.id}.log", output / "running" / cell.id, records.record_path(output, cell.id)]
    for plant in plants:
        plant.parent.mkdir(parents=True, exist_ok=True)
        plant.symlink_to(precious)
    assert go([cell], output=output, executor=executor).counts == {"done": 1}
    assert precious.read_text() == "mine\n"
    assert not any(plant.is_symlink() for plant in plants)
    assert records.read_record(output, cell.id)["status"] == "done"


def test_a_dangling_claim_makes_no_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "out" / "running").mkdir(parents=True)
    (tmp_path / "out" / "running" / "a").symlink_to(tmp_path / "made")
    assert running(tmp_path / "out") == set()
    claims = CellLocks(tmp_path / "out")
    assert claims.take("a")
    assert running(tmp_path / "out") == {"a"}
    claims.close()
    assert not (tmp_path / "made").exists()


def test_cluster_settings_are_read_from_a_file_or_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "slurm.yaml").write_text(
        "partition: gpu\ncpus_per_task: 8\nadditional_parameters: {reservation: night}\n"
    )
    wanted = {"partition": "gpu", "cpus_per_task": 8, "additional_parameters": {"reservation": "night"}}
    assert read_config(str(tmp_path / "slurm.yaml")) == wanted
    assert read_config("{partition: gpu, poll: 2}") == {"partition": "gpu", "poll": 2}
    assert read_config(None) == {}
