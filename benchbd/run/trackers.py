"""TensorBoard, MLflow and Weights & Biases. Each is imported only when a run logs to it."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

from benchbd.core.extras import extra_module

_UNUSUAL = re.compile(r"[^A-Za-z0-9=._-]+")
_NO_METRIC = re.compile(r"[^A-Za-z0-9_. /-]+")
LONGEST_PARAM = 6000
"""Characters of a value that MLflow keeps."""


class TensorBoard:
    """Event files below ``OUTPUT/tensorboard``, a folder for each try of a cell.

    Args:
        output: the results folder.
    """

    def __init__(self, output: Path) -> None:
        what = "--log tensorboard"
        self._writer = extra_module("tensorboard.summary.writer.event_file_writer", "tensorboard", what)
        self._event = extra_module("tensorboard.compat.proto.event_pb2", "tensorboard", what)
        self._summary = extra_module("tensorboard.compat.proto.summary_pb2", "tensorboard", what)
        self._metadata = extra_module("tensorboard.plugins.text.metadata", "tensorboard", what)
        self._tensors = extra_module("tensorboard.util.tensor_util", "tensorboard", what)
        self._folder = output / "tensorboard"

    def start(self, cell_id: str, label: str, config: dict[str, Any]) -> _TensorBoardRun:
        """Open a folder of events."""
        name = f"{_UNUSUAL.sub('_', label)[:120]}-{cell_id[:8]}-{time.strftime('%m%d-%H%M%S')}"
        run = _TensorBoardRun(self, self._writer.EventFileWriter(str(self._folder / name)))
        run.text("config", config)
        return run

    def close(self) -> None:
        """Nothing is open."""

    def scalars(self, values: dict[str, float], epoch: int) -> Any:
        """An event with numbers."""
        parts = [self._summary.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        return self._event.Event(wall_time=time.time(), step=epoch, summary=self._summary.Summary(value=parts))

    def text(self, name: str, text: str) -> Any:
        """An event with text."""
        metadata = self._metadata.create_summary_metadata(display_name=name, description="")
        tensor = self._tensors.make_tensor_proto([text])
        value = self._summary.Summary.Value(tag=name, metadata=metadata, tensor=tensor)
        return self._event.Event(wall_time=time.time(), summary=self._summary.Summary(value=[value]))


class _TensorBoardRun:
    def __init__(self, board: TensorBoard, writer: Any) -> None:
        self._board, self._writer = board, writer

    def text(self, name: str, values: dict[str, Any]) -> None:
        """Keep values by name as a block of JSON."""
        lines = json.dumps(values, indent=1, sort_keys=True, default=str).splitlines()
        self._writer.add_event(self._board.text(name, "\n".join(f"    {line}" for line in lines)))

    def log(self, values: dict[str, float], epoch: int) -> None:
        """Keep numbers of an epoch."""
        self._writer.add_event(self._board.scalars(values, epoch))
        self._writer.flush()

    def end(self, results: dict[str, float], facts: dict[str, str], status: str) -> None:
        """Keep the results and close the file."""
        if results:
            self._writer.add_event(self._board.scalars(results, 0))
        self.text("facts", facts)
        self._writer.close()


class MLflow:
    """Runs of the experiment ``benchbd``, in ``MLFLOW_TRACKING_URI`` or else in ``OUTPUT/mlflow.db``.

    Args:
        output: the results folder.
    """

    def __init__(self, output: Path) -> None:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        module = extra_module("mlflow", "mlflow", "--log mlflow")
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{output.resolve() / 'mlflow.db'}"
        self._folder, self._module = output, module
        self._client: Any = None
        self._experiment = ""

    def _connected(self) -> Any:
        if self._client is None:
            # The client, not mlflow.start_run: it holds several open runs, and a child process opens none by itself.
            self._client = self._module.MlflowClient(tracking_uri=self._uri)
            found = self._client.get_experiment_by_name("benchbd")
            place = None if os.environ.get("MLFLOW_TRACKING_URI") else (self._folder.resolve() / "mlartifacts").as_uri()
            self._experiment = (
                found.experiment_id if found else self._client.create_experiment("benchbd", artifact_location=place)
            )
        return self._client

    def start(self, cell_id: str, label: str, config: dict[str, Any]) -> _MLflowRun:
        """Open a run."""
        client = self._connected()
        run = client.create_run(self._experiment, tags={"cell": cell_id}, run_name=label[:250])
        for name, value in config.items():
            client.log_param(run.info.run_id, _NO_METRIC.sub("_", name), str(value)[:LONGEST_PARAM])
        return _MLflowRun(client, run.info.run_id)

    def close(self) -> None:
        """Nothing is open."""


class _MLflowRun:
    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self._id = client, run_id

    def log(self, values: dict[str, float], epoch: int) -> None:
        """Keep numbers of an epoch."""
        for name, value in values.items():
            self._client.log_metric(self._id, _NO_METRIC.sub("_", name), value, step=epoch)

    def end(self, results: dict[str, float], facts: dict[str, str], status: str) -> None:
        """Keep the results and close the run."""
        self.log(results, 0)
        for name, value in facts.items():
            self._client.set_tag(self._id, name, value[:LONGEST_PARAM])
        final = {"done": "FINISHED", "cancelled": "KILLED"}.get(status, "FAILED")
        self._client.set_terminated(self._id, final)


class WandB:
    """Runs of the project ``benchbd`` (or ``WANDB_PROJECT``), offline in ``OUTPUT/wandb`` unless ``WANDB_MODE`` is set.

    Args:
        output: the results folder.
    """

    def __init__(self, output: Path) -> None:
        self._wandb = extra_module("wandb", "wandb", "--log wandb")
        self._output = output

    def start(self, cell_id: str, label: str, config: dict[str, Any]) -> _WandBRun:
        """Open a run beside those that are open."""
        run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "benchbd",
            dir=str(self._output),
            name=label[:120],
            group=str(config.get("matrix") or "") or None,
            config=config,
            mode=os.environ.get("WANDB_MODE") or "offline",
            reinit="create_new",
            settings=self._wandb.Settings(silent=True, console="off", disable_git=True),
        )
        return _WandBRun(run)

    def close(self) -> None:
        """Wait until all is written: a finished run's last lines may still be on their way to the file."""
        self._wandb.teardown()


class _WandBRun:
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, values: dict[str, float], epoch: int) -> None:
        """Keep numbers of an epoch; stages count their epochs each for itself, so the epoch is a number of its own."""
        self._run.log({**values, "epoch": epoch})

    def end(self, results: dict[str, float], facts: dict[str, str], status: str) -> None:
        """Keep the results and close the run."""
        self._run.summary.update({**results, **facts})
        self._run.finish(exit_code=0 if status == "done" else 1)
