"""``--log``: what trackers get, that their packages are looked for first, and that their failures cost no cell."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from benchbd.cli import main
from benchbd.run import tracking

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]
RUN = (
    *("run", "-a", "bn-g", "--dataset", "digits(train=100, test=50)", "--model", "lenet-s", "--set", "augment=[]"),
    *("--recipe", "{epochs: 3, batch_size: 50}", "--executor", "inline", "--device", "cpu", "--output", "out"),
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    return tmp_path


def record() -> dict[str, Any]:
    (path,) = Path("out/records").glob("*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["status"] == "done"
    return found


def logged(name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The record of a run that one tracker followed to the end."""
    assert main([*RUN, "--display", "plain", "--log", name]) == 0
    assert "fails" not in capsys.readouterr().err
    return record()


class Fake:
    """A tracker that keeps everything, and fails in one of its calls."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.seen = fails, []

    def _do(self, what: str, *values: Any) -> None:
        if what == self.fails:
            raise OSError(f"no {what}")
        self.seen.append((what, *values))

    def start(self, cell_id: str, label: str, config: dict[str, Any]) -> Fake:
        self._do("start", cell_id, label, config)
        return self

    def log(self, values: dict[str, float], epoch: int) -> None:
        self._do("log", values, epoch)

    def end(self, results: dict[str, float], facts: dict[str, str], status: str) -> None:
        self._do("end", results, facts, status)

    def close(self) -> None:
        self._do("close")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    monkeypatch.setattr(tracking, "check_trackers", lambda names: None)
    monkeypatch.setattr(tracking, "make_tracker", lambda name, output: made)
    return made


def test_a_tracker_gets_losses_results_and_hashes(fake: Fake) -> None:
    assert main([*RUN, "--display", "none", "--log", "wandb"]) == 0
    found = record()
    (start,), (end,) = ([s for s in fake.seen if s[0] == what] for what in ("start", "end"))
    assert start[1:3] == (found["id"], found["label"])
    assert start[3]["attack"] == "bn-g"
    assert start[3]["recipe.epochs"] == 3
    losses = found["notes"]["train_loss"]["model"]
    live = [s for s in fake.seen if s[0] == "log" and "loss/train" in s[1]]
    assert [s[2] for s in live] == [1, 2, 3]
    assert [s[1]["loss/train"] for s in live] == pytest.approx(losses, rel=1e-3)
    kept = [s[1]["loss/model"] for s in fake.seen if s[0] == "log" and "loss/model" in s[1]]
    assert kept == losses
    assert end[1]["ca"] == found["ca"]
    assert end[1]["asr"] == found["asr"]
    assert end[2]["artifact.model"] == found["artifacts"]["model"]
    assert end[2]["artifact.poisoned_set"] == found["artifacts"]["poisoned_set"]
    assert end[2]["data.train"] == found["data"]["train"]
    for name, kind, artifact in (("model", "model", "model"), ("poisoned_set", "poison", "poisoned_set")):
        key = found["artifacts"][artifact]
        file = Path("out/store") / kind / key[:2] / key / "arrays.safetensors"
        assert end[2][f"artifact.{name}_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert end[3] == "done"
    assert fake.seen[-1] == ("close",)


def test_a_tracker_gets_rates_by_epoch(fake: Fake) -> None:
    probe = ("--set", "probe.rates=true", "--set", "probe.losses=false")
    assert main([*RUN, *probe, "--display", "none", "--log", "wandb"]) == 0
    told = record()["notes"]["rates_by_epoch"]
    logged = {(s[2], name): value for s in fake.seen if s[0] == "log" for name, value in s[1].items()}
    for training in ("model", "undefended"):
        for metric in ("ca", "asr", "ra"):
            found = [logged[epoch, f"{training}/{metric}"] for epoch in told[training]["epochs"]]
            assert found == told[training][metric]
    assert [epoch for epoch, name in logged if name == "model/ca"] == [1, 2, 3]


@pytest.mark.parametrize("fails", ["start", "log", "end", "close"])
def test_a_tracker_that_fails_costs_no_cell(fails: str, fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.fails = fails
    assert main([*RUN, "--display", "plain", "--log", "mlflow"]) == 0
    said = capsys.readouterr().err
    assert said.count(f"--log mlflow fails and gets nothing more (OSError: no {fails}); results are not affected") == 1
    record()


def test_a_failed_cell_has_its_reason(fake: Fake) -> None:
    assert main([*RUN, "--display", "none", "--log", "wandb", "--set", "lr=1e30"]) == 1
    (end,) = [s for s in fake.seen if s[0] == "end"]
    assert end[1] == {}
    assert end[2]["status"] == end[3] != "done"
    assert end[2]["reason"]


@pytest.mark.parametrize("name", tracking.TRACKERS)
def test_a_missing_package_is_one_line_before_anything(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda word: None if word == name else real(word))
    assert main([*RUN, "--log", name]) == 2
    assert capsys.readouterr().err == f"benchbd: --log {name} needs {name}; pip install 'benchbd[{name}]'\n"
    assert not Path("out").exists()


def test_an_unknown_tracker(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--log", "tensorbord,wandb"]) == 2
    assert "--log 'tensorbord': not a tracker; did you mean 'tensorboard'?" in capsys.readouterr().err


def test_tensorboard(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = logged("tensorboard", capsys)
    (folder,) = Path("out/tensorboard").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [s.step for s in events.Scalars("loss/train")] == [1, 2, 3]
    losses = found["notes"]["train_loss"]["model"]
    assert [s.value for s in events.Scalars("loss/model")] == pytest.approx(losses, rel=1e-6)
    assert events.Scalars("ca")[0].value == pytest.approx(found["ca"])
    text = events.Tensors("facts")[0].tensor_proto.string_val[0].decode()
    assert found["artifacts"]["model"] in text


def test_mlflow(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    found = logged("mlflow", capsys)
    client = MlflowClient(f"sqlite:///{folder / 'out' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("benchbd")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["attack"] == "bn-g"
    assert run.data.metrics["asr"] == pytest.approx(found["asr"])
    assert run.data.tags["artifact.model"] == found["artifacts"]["model"]
    history = client.get_metric_history(run.info.run_id, "loss/model")
    assert [m.value for m in history] == pytest.approx(found["notes"]["train_loss"]["model"])


def test_wandb_offline(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb")
    found = logged("wandb", capsys)
    (file,) = Path("out/wandb").glob("offline-run-*/run-*.wandb")
    body = file.read_bytes()
    for text in ("loss/train", "loss/model", found["artifacts"]["model"], found["label"]):
        assert text.encode() in body
