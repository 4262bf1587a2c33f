"""A training program of somebody else, in a process of its own, as a defense like any other."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from benchbd import Attack, BenchbdError, DatasetInfo, Defense, Normalisation, UsageError, defense
from benchbd.core.contents import contents_digest
from benchbd.core.files_folder import checked_names, user_files
from benchbd.core.program import Ended, clean_variables, run_program
from benchbd.core.training_files import write_training_files
from benchbd.defenses._command_line import filled_in, words_of
from benchbd.defenses._program_results import (
    FACTS,
    MODEL_FILES,
    check_folder,
    read_facts,
    read_flagged,
    read_model,
    read_samples,
)
from benchbd.errors import shown

if TYPE_CHECKING:
    import numpy as np

    from benchbd import Lab, Recipe, TrainedModel, Work

TASK, TRAIN, RESULT, TEMPORARY = RESERVED = ("task.json", "train", "result", "tmp")
"""Names in the program's folder that its files must not have."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@defense("command", version=1)
class Command(Defense):
    """Somebody's own training program: ``command(run='python train.py', files=['train.py'])``.

    The program runs in a process of its own. Its current folder is new and holds its files, the poisoned training
    images and labels in train/, and task.json: recipe, classes, image shape, seed, device, threads, time limit. It
    finds no test images, poison mask, true labels, attack or matrix there, and its environment names no folder of
    the run. It must write a model into result/ (model.safetensors, model.torchscript, model.pt2 or model.onnx) and may
    write scores (scores.npy or scores.csv, higher is more suspicious), flagged samples (flagged.npy or flagged.csv) and
    result.json. docs/command.md has an example, and says what this barrier is and is not.

    The result is stored under the hash of the command, the contents of the files, the data, recipe and seed. A changed
    file makes records stale.
    """

    other_architecture: ClassVar[bool] = True
    runs_program: ClassVar[bool] = True

    run: str = ""
    """The command line; no shell. python is the Python that runs benchbd. {task}, {train}, {result}, {seed}, {device},
    {threads}, {model}, {classes}, {size}, {epochs}, {batch_size} and {lr} stand for values of task.json."""
    files: tuple[str, ...] = ()
    """Files and folders that the program needs, its own code too. Names are relative to the folder of the matrix file
    (else BENCHBD_FILES, else the current folder); they are copied under these names."""
    format: Literal["npz", "imagefolder", "backdoor-toolbox"] = "npz"
    """Training images in train/: train.npz (images uint8 (N, 3, S, S), labels int64); CLASS/NUMBER.png; or the torch
    archives imgs and labels."""
    returns: Literal["safetensors", "torchscript", "export", "onnx"] = "safetensors"
    """What the program writes: a state dict of a model that benchbd knows, a TorchScript or torch.export program, or an
    ONNX graph (needs benchbd[onnx])."""
    model: str | None = None
    """safetensors: the model that the state dict belongs to. Default: the row's."""
    inputs: Literal["normalised", "unit", "uint8"] = "normalised"
    """What the model takes, (B, 3, S, S): floats minus mean, by std; floats in [0, 1]; or uint8 (not with
    safetensors)."""
    mean: tuple[float, ...] = ()
    """normalised: three numbers. Default: those of the data set, which task.json names."""
    std: tuple[float, ...] = ()
    """normalised: three numbers. Default: those of the data set, which task.json names."""
    env: tuple[str, ...] = ()
    """Further environment variables that the program gets, such as TORCH_HOME."""
    hours: float = 24.0
    """Time limit of the program, in hours."""

    def __post_init__(self) -> None:
        words_of(self.run)
        object.__setattr__(self, "files", checked_names(self.files, self.name, RESERVED))
        if not 0.0 < self.hours <= 10_000:
            raise UsageError(f"command: hours must be positive and at most 10000, not {self.hours:g}")
        if (self.mean or self.std) and (len(self.mean), len(self.std)) != (3, 3):
            raise UsageError("command: mean and std go together and have three numbers each")
        if self.std and min(self.std) <= 0:
            raise UsageError(f"command: std must be positive, not {list(self.std)}")
        if self.mean and self.inputs != "normalised":
            raise UsageError(f"command: mean and std go with inputs normalised, not {self.inputs}")
        if self.returns == "safetensors" and self.inputs == "uint8":
            raise UsageError("command: a model that benchbd knows takes floats; inputs uint8 goes with a program")
        if self.model is not None and self.returns != "safetensors":
            raise UsageError(f"command: model goes with returns safetensors; a {self.returns} program needs none")
        for name in self.env:
            if not re.fullmatch(r"[A-Za-z_]\w*", name) or name.startswith("BENCHBD_"):
                raise UsageError(f"command: env names {shown(name)}, which is not a variable that a program may get")

    def missing(self) -> str | None:
        """Say in one line what the program lacks, else None."""
        words = words_of(self.run)
        if not words:
            return "command: run names no program; write command(run='python train.py', files=['train.py'])"
        try:
            there = user_files(self.files, self.name)
            for word in words:
                with contextlib.suppress(UsageError):
                    checked_names([word], self.name, RESERVED)
                    if word not in there and not word.startswith("-") and user_files([word], self.name).keys() - there:
                        return f"command: run names {shown(word)}, which is not in files, so the program cannot find it"
            if self.returns == "onnx":
                from importlib.util import find_spec

                if find_spec("onnxruntime") is None:
                    return "command: returns onnx needs onnxruntime; pip install 'benchbd[onnx]'"
        except UsageError as error:
            return str(error)
        return None

    def input_files(self) -> list[str]:
        """The program's files."""
        return [str(path) for path in user_files(self.files, self.name).values()]

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        """Check that the model exists and fits the images."""
        if self.model is not None:
            from benchbd import registry

            registry.make("models", self.model).check(info)

    def training_work(self, attack: Attack, recipe: Recipe, info: DatasetInfo) -> tuple[Work | None, ...]:
        """Unknown: the program decides."""
        return (None,)

    def train(self, lab: Lab) -> TrainedModel:
        """Run the program, or find what it left when it ran before; read its model.

        Raises:
            BenchbdError: the program failed, or ran out of time.
            UsageError: a file is missing, or a result cannot be used.
            Diverged: weights, logits or scores are not finite.
        """
        import numpy as np

        if line := self.missing():
            raise UsageError(line)
        sources = user_files(self.files, self.name)
        digest = contents_digest([*sources.values()])
        given = {**self.params(), "contents": digest, "names": [*sources]}
        found = lab.stage(self.name, given, lambda: self._result(lab, sources, digest))
        said = json.loads(found["facts"].tobytes())
        facts = said.pop("result")
        lab.note(self.name, said | ({"notes": facts["notes"]} if facts["notes"] is not None else {}))
        if "scores" in found or "flagged" in found:
            flagged = found.get("flagged")
            lab.suspect(found.get("scores", flagged), None if flagged is None else flagged.astype(bool))
        content = np.ascontiguousarray(found["model"]).tobytes()
        told = {"epochs": facts["epochs"], "epoch_losses": facts["epoch_losses"]}
        return lab.read_model(content, self.returns, name="program's model", **self._how(), **told)

    def _how(self) -> dict[str, Any]:
        """How the lab reads the model."""
        own = Normalisation(self.mean, self.std) if self.mean else None  # type: ignore[arg-type]
        return {"model": self.model, "inputs": self.inputs, "normalisation": own}

    def _result(self, lab: Lab, sources: dict[str, Path], digest: str | None) -> dict[str, np.ndarray]:
        """Run the program in a folder of its own, and check and return what it has left there."""
        import numpy as np

        with tempfile.TemporaryDirectory(prefix="program-", ignore_cleanup_errors=True) as place:
            folder = Path(place)
            self._fill(folder, lab, sources, digest)
            ended = self._run(folder, lab)
            tail = [line.replace(f"{folder}/", "") for line in ended.tail]
            said = {
                "exit_code": ended.code,
                "seconds": round(ended.seconds, 3),
                "peak_memory_bytes": ended.peak,
            }
            if fault := ended.fault(f"{self.hours:g} h"):
                lab.note(self.name, {**said, "log_tail": tail})
                raise BenchbdError(f"command: the program {fault}")
            try:
                check_folder(folder / RESULT)
                content, facts = read_model(folder / RESULT, self.returns), read_facts(folder / RESULT)
                scores = read_samples(folder / RESULT, "scores", len(lab.poisoned))
                flagged = read_flagged(folder / RESULT, len(lab.poisoned))
                if scores is not None:
                    lab.suspect(scores, flagged)
                try:
                    lab.check_model(content, self.returns, **self._how())
                except BenchbdError as error:
                    raise type(error)(f"result/{MODEL_FILES[self.returns]}: {error}") from error
            except BenchbdError as error:
                lab.note(self.name, {**said, "log_tail": tail})
                raise type(error)(f"command: {error}") from error
        text = json.dumps({**said, "result": facts._asdict()})
        found = {"model": np.frombuffer(content, np.uint8), "facts": np.frombuffer(text.encode(), np.uint8)}
        return found | {k: v for k, v in {"scores": scores, "flagged": flagged}.items() if v is not None}

    def _fill(self, folder: Path, lab: Lab, sources: dict[str, Path], digest: str | None) -> None:
        """Copy the program's files, and write the training set and the task."""
        for name, path in sources.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / name)
        if contents_digest([folder / name for name in sources]) != digest:
            raise UsageError("command: a file of the program changed while it was copied; run the cell again")
        data = lab.poisoned
        write_training_files(data.images.numpy(), data.labels.numpy(), lab.classes, folder / TRAIN, self.format)
        for name in (RESULT, TEMPORARY):
            (folder / name).mkdir()
        (folder / TASK).write_text(json.dumps(self._task(lab), indent=2) + "\n", encoding="utf-8")

    def _task(self, lab: Lab) -> dict[str, Any]:
        """The contents of ``task.json``."""
        import torch

        own = Normalisation(self.mean, self.std) if self.mean else lab.normalisation  # type: ignore[arg-type]
        return {
            "train": TRAIN,
            "format": self.format,
            "result": RESULT,
            "model_file": f"{RESULT}/{MODEL_FILES[self.returns]}",
            "facts_file": f"{RESULT}/{FACTS}",
            "returns": self.returns,
            "model": self.model or lab.model,
            "inputs": self.inputs,
            "mean": list(own.mean),
            "std": list(own.std),
            "classes": lab.classes,
            "images": len(lab.poisoned),
            "image_shape": [3, lab.size, lab.size],
            "recipe": lab.recipe.spec(),
            "seed": lab.seed_for(self.name) % 2**32,
            "device": str(lab.device),
            "threads": torch.get_num_threads(),
            "time_limit_seconds": self.hours * 3600,
        }

    def _run(self, folder: Path, lab: Lab) -> Ended:
        import torch

        task = self._task(lab)
        values = {**task, **task["recipe"], "task": TASK, "size": lab.size}
        words = filled_in(words_of(self.run), values)
        new = {
            **dict.fromkeys(THREADS, str(task["threads"])),
            "TMPDIR": str(folder / TEMPORARY),
            "PYTHONHASHSEED": "0",
            "PYTHONUNBUFFERED": "1",
        }
        if lab.device.type == "cuda":
            torch.cuda.empty_cache()  # memory that this process keeps and the program may need
        else:
            new["CUDA_VISIBLE_DEVICES"] = ""
        return run_program(words, folder, clean_variables(self.env, new), self.hours * 3600, lab.log)
