"""The life of one cell: poison, defend, measure, record. The only entry that executors call."""

from __future__ import annotations

import errno
import gc
import resource
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchbd import environment, evaluate, records, registry
from benchbd.cell import Cell, Made
from benchbd.components import Images
from benchbd.datafolder import data_folder
from benchbd.errors import BenchbdError, Diverged, Impossible
from benchbd.lab import Lab, Ledger, NetworkPlan, Trained, TrainSet
from benchbd.poison import Poisoner, apply
from benchbd.seeding import seed_for
from benchbd.store import Store

Event = Callable[[dict[str, Any]], None]


def execute(
    cell_json: dict[str, Any],
    *,
    output: Path,
    data_root: str | None = None,
    device: str = "auto",
    plugins: list[str] | None = None,
    on_event: Event | None = None,
) -> dict[str, Any]:
    """Run one cell and write its record.

    Args:
        cell_json: what ``Cell.to_json`` gave.
        output: results folder (``records/``, ``store/`` and ``logs/`` lie in it).
        data_root: folder of the data sets, or None for ``BENCHBD_DATA`` or the user's cache.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        plugins: plugin files to make known first.
        on_event: told what is going on.

    Returns:
        The record. Whatever goes wrong inside is in its ``status`` and ``error``; only a record that can't be written
        (a full disk) raises.
    """
    say: Event = on_event or (lambda event: None)
    for file in plugins or []:
        registry.add_plugin_file(file)
    cell = Cell.from_json(cell_json)
    began = time.perf_counter()
    record = records.blank(cell, "failed")
    try:
        record = _run(cell, record, output, data_root, _device(device), say)
        record["status"] = "done"
    except Diverged as error:
        record |= {"status": "diverged", "error": str(error)}
    except Impossible as error:
        record |= {"status": "skipped", "error": str(error)}
    except BenchbdError as error:
        record |= {"status": "failed", "error": str(error)}
    except torch.OutOfMemoryError as error:
        record |= {"status": "oom", "error": " ".join(str(error).split())[:300]}
    except MemoryError:
        record |= {"status": "oom", "error": "out of memory"}
    except OSError as error:
        if error.errno == errno.ENOSPC:
            record["error"] = f"the disk is full ({error.filename or output}); free some space and run the same command again"
        else:
            record["error"] = f"{type(error).__name__}: {error}"
        say({"event": "log", "line": traceback.format_exc()})
    except Exception as error:
        record["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        say({"event": "log", "line": traceback.format_exc()})
    record["time"]["own"] = time.perf_counter() - began
    records.write_record(output, record)
    return record


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _run(cell: Cell, record: dict[str, Any], output: Path, data_root: str | None, device: torch.device, say: Event) -> dict[str, Any]:
    made = cell.made()
    store = Store(output / "store", lambda line: say({"event": "log", "line": line}))
    poisoner = Poisoner(cell, made, store, device, say, data_folder(data_root))
    network = NetworkPlan(made.model, cell.model, made.dataset.info().classes, made.dataset.info().size, made.dataset.normalisation)
    ledger = Ledger()
    record["sources"] = {k: registry.source_digest(f"{k}s", getattr(cell, k).name) for k in ("dataset", "model", "attack", "defense")}
    _reset_peak(device)

    say({"event": "stage", "stage": "poison"})
    lab, key, counts = _open_lab(cell, made, poisoner, network, ledger, store, device, say)
    record["poison"] = counts or None
    record["artifacts"]["poisoned_set"] = key
    record["env"] = environment.describe(device, lab.precision_for(network).name)

    # From here until the defense returns, neither truth nor test data is in memory (unless it declared the need).
    gc.collect()
    began = time.perf_counter()
    trained = made.defense.train(lab)
    elsewhere = time.perf_counter() - began - ledger.inside
    record["epochs_trained"] = ledger.epochs
    record["trainings"] = {"asked": ledger.trainings, "computed": ledger.computed}
    record["time"]["stages"] = {**ledger.stages, "defense's own": elsewhere}
    record["time"]["total"] = sum(ledger.stages.values()) + elsewhere
    record["notes"] = {**lab.notes, "train_loss": {"model": trained.epoch_losses}}

    say({"event": "stage", "stage": "evaluate"})
    began = time.perf_counter()
    _measure(record, made, poisoner, trained, lab, device)
    record["time"]["stages_not_charged"] = {"evaluate": time.perf_counter() - began}
    record["artifacts"] |= {"model": trained.key, "stages": ledger.artifacts}
    record["peak_memory_bytes"] = _peak(device)
    return record


def _open_lab(
    cell: Cell, made: Made, poisoner: Poisoner, network: NetworkPlan, ledger: Ledger, store: Store, device: torch.device, say: Event
) -> tuple[Lab, str, dict[str, Any]]:
    """The lab with the poisoned set in it, and no more of the truth than the defense declares."""
    clean, info = poisoner.train_set()
    poison = poisoner.poison(clean, info)
    poisoned = apply(clean, poison)
    needs = made.defense.needs
    held_out = _clean_part(clean, made, cell.seed) if "clean" in needs else None
    truth = None
    if "truth" in needs:
        truth = np.zeros(len(poisoned), bool)
        truth[poison.indices] = True
    lab = Lab(
        poisoned,
        clean=held_out,
        truth=truth,
        store=store,
        network=network,
        recipe=made.recipe,
        seed=cell.seed,
        device=device,
        ledger=ledger,
        on_event=say,
    )
    return lab, poisoned.key, poison.facts


def _clean_part(clean: TrainSet, made: Made, seed: int) -> TrainSet:
    """A share of the clean training set, of each class alike, for defenses that declare the need."""
    rng = np.random.default_rng(seed_for("clean", clean.key, seed))
    labels = clean.labels.numpy()
    share = float(getattr(made.defense, "clean_frac", made.defense.clean_share))
    chosen = [
        rng.permutation(np.flatnonzero(labels == c))[: max(1, round(share * int((labels == c).sum())))] for c in np.unique(labels)
    ]
    return clean.subset(rng.permutation(np.concatenate(chosen)))


def _measure(record: dict[str, Any], made: Made, poisoner: Poisoner, trained: Trained, lab: Lab, device: torch.device) -> None:
    """Fill in what only the truth and the test images can tell."""
    info = made.dataset.info()
    test = made.dataset.load("test", poisoner.root)
    if not made.attack.poisons:
        found = evaluate.accuracy(trained, test, None, info.target, device)
        truth = np.zeros(len(lab.poisoned), bool)
    else:
        clean, info = poisoner.train_set()
        poison = poisoner.poison(clean, info)
        truth = np.zeros(len(lab.poisoned), bool)
        truth[poison.indices] = True
        triggered = poisoner.triggered(Images(test.images, test.labels), info, poison)
        found = evaluate.accuracy(trained, test, triggered, made.attack.resolved_target(info), device)
        record["artifacts"]["trigger_sha256"] = poison.trigger_sha256
        record["notes"]["triggered_test_images"] = len(triggered[1])
    record |= {"ca": found.ca, "asr": found.asr, "ra": found.ra}
    record["notes"]["test_images"] = len(test.labels)
    record["notes"]["ca_per_class"] = found.per_class
    record["detection"] = evaluate.detection(lab.suspicion, truth, lab.poisoned.labels.numpy(), info.classes)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    # Linux forgets the process's high-water mark when 5 is written here; a worker runs many cells.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak(device: torch.device) -> int:
    """Peak memory in bytes: of the device on CUDA, of the process otherwise."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
