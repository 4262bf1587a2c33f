"""The life of one cell: poison, defend, measure, record. The only entry that executors call."""

from __future__ import annotations

import contextlib
import gc
import resource
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchbd.core import environment
from benchbd.core.devices import compute_device
from benchbd.core.events import Listener
from benchbd.core.files import is_disk_full
from benchbd.core.images import DatasetInfo, Images
from benchbd.core.kinds import KINDS
from benchbd.core.paths import data_folder
from benchbd.core.seeding import seed_for
from benchbd.errors import BenchbdError, Diverged, Impossible, UsageError, one_line
from benchbd.lab.costs import CostLedger
from benchbd.lab.keys import plugin_fingerprint
from benchbd.lab.lab import Lab
from benchbd.lab.stages import STAGE_KINDS
from benchbd.pipeline import evaluate
from benchbd.pipeline.poison import Poison, Poisoner, apply
from benchbd.pipeline.probe_training import Watched
from benchbd.pipeline.selection import targets
from benchbd.pipeline.trigger_image import trigger_png
from benchbd.plan.cell import Cell, Components
from benchbd.plan.probe import Probe
from benchbd.plugins import registry
from benchbd.plugins.train_set import TrainSet
from benchbd.plugins.trained import ModelSpec, TrainedModel
from benchbd.storage import records
from benchbd.storage.artifacts import Store
from benchbd.storage.restricted import EventProxy, RestrictedStore, event_proxy, restricted_store


def execute(
    cell_json: dict[str, Any],
    *,
    output: Path,
    data_root: str | None = None,
    device: str = "auto",
    plugins: list[str] | None = None,
    on_event: Listener | None = None,
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
        The record. Whatever goes wrong inside is in its ``status`` and ``error``.

    Raises:
        UsageError: the cell or its plugins are not known here, so that there is nothing to write a record about.
        OSError: the record cannot be written (a full disk).
    """
    for file in plugins or []:
        registry.add_plugin_file(file)
    cell = Cell.from_json(cell_json)
    record = records.blank(cell, "failed")
    ledger = CostLedger()
    began = time.perf_counter()
    with event_proxy(on_event) as say:
        try:
            where = compute_device(device)
            _reset_peak(where)
            try:
                _run(cell, record, output, data_root, where, ledger, say)
            finally:
                record["epochs_trained"], record["trainings"] = ledger.epochs, ledger.trainings
                record["artifacts"]["stages"] = ledger.artifacts
                record["time"] |= {"stages": {**ledger.stages, **record["time"]["stages"]}, "waited": ledger.waited}
                record["peak_memory_bytes"] = _peak(where)
            record["status"] = "done"
        except (Exception, SystemExit) as error:
            record["status"], record["error"] = _explained(error, output)
            if not isinstance(error, BenchbdError):
                say.line(traceback.format_exc())
    record["time"]["own"] = time.perf_counter() - began
    records.write_record(output, record)
    return record


def _explained(error: BaseException, output: Path) -> tuple[str, str]:
    """The status and the one line that an error ends a cell with."""
    text = one_line(error)
    if isinstance(error, Diverged):
        return "diverged", text
    if isinstance(error, Impossible):
        return "skipped", text
    if isinstance(error, BenchbdError):
        return "failed", text
    if _is_out_of_memory(error):
        return "oom", text or "out of memory"
    if is_disk_full(error):
        place = getattr(error, "filename", None) or output
        return "failed", f"the disk is full ({place}); free some space and run the same command again"
    return "failed", f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or the host. torch says so in several ways."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    signs = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def _run(
    cell: Cell,
    record: dict[str, Any],
    output: Path,
    data_root: str | None,
    device: torch.device,
    ledger: CostLedger,
    say: EventProxy,
) -> None:
    """Fill in the record, as far as the cell gets."""
    components = cell.components()
    store = Store(output / "store", say.line)
    attacker = CostLedger()
    poisoner = Poisoner(cell, components, store, device, say, data_folder(data_root), attacker)
    record["sources"] = {kind: registry.source_digest(f"{kind}s", getattr(cell, kind).name) for kind in KINDS}
    with restricted_store(Store(store.root, store.say, STAGE_KINDS)) as stages:
        began = time.perf_counter()
        say({"event": "stage", "stage": "poison"})
        lab = _open_lab(cell, components, poisoner, ledger, stages, record)
        record["env"] = environment.describe(device, lab.precision_for(lab._network).name)
        poisoning = time.perf_counter() - began
        unseen = CostLedger()
        began = time.perf_counter()
        watched = _watch(cell, lab, store, unseen, say)
        probing = {} if cell.probe is None else {"probe": time.perf_counter() - began}

        # From here until the defense returns, neither truth nor test data is in memory (unless it declared the need).
        gc.collect()
        began = time.perf_counter()
        try:
            trained = _defend(components, lab)
        except (Exception, SystemExit):
            _judge_failed_defense(record, poisoner, lab, say)
            raise
        elsewhere = max(0.0, time.perf_counter() - began - ledger.inside)
    record["time"]["stages"] = {"defense's own": elsewhere}
    record["time"]["total"] = sum(ledger.stages.values()) + elsewhere
    record["trainings_computed"] = dict(
        Counter(ledger.computed) + Counter(attacker.computed) + Counter(unseen.computed)
    )
    record["artifacts"]["model"] = trained.key

    began = time.perf_counter()
    say({"event": "stage", "stage": "evaluate"})
    _measure(record, components, poisoner, trained, lab, device, watched)
    record["time"]["stages_not_charged"] = {
        "poison": poisoning,
        **probing,
        "evaluate": time.perf_counter() - began,
    }


def _watch(cell: Cell, lab: Lab, store: Store, ledger: CostLedger, say: EventProxy) -> Watched | None:
    """What the matrix's probe saw of the undefended training, not yet judged; the defense is never handed it."""
    if cell.probe is None:
        return None
    watched = Watched(Probe(**cell.probe), lab.poisoned, **{**lab._base, "store": store, "ledger": ledger})
    try:
        watched.undefended()
    except Diverged as error:  # whether that ends the cell is for the defense to find out
        say.line(f"{one_line(error)}; nothing of the probe is told")
        return None
    return watched


def _open_lab(
    cell: Cell,
    components: Components,
    poisoner: Poisoner,
    ledger: CostLedger,
    stages: RestrictedStore,
    record: dict[str, Any],
) -> Lab:
    """The lab with the poisoned set in it, and no more of the truth than the defense declares."""
    clean, info = poisoner.train_set()
    poison = poisoner.poison(clean, info)
    record["poison"] = poison.facts or None
    record["artifacts"] |= {"poisoned_set": poison.key, "trigger": poison.prepared.key}
    record["artifacts"]["trigger_sha256"] = poison.trigger_sha256
    poisoned = apply(clean, poison)
    needs = components.defense.needs
    return Lab(
        poisoned,
        clean=_clean_part(clean, poison, components, cell.seed) if "clean" in needs else None,
        truth=poison.truth(len(poisoned)) if "truth" in needs else None,
        store=stages,
        network=ModelSpec(components.model, cell.model, info.classes, info.size, components.dataset.normalisation),
        recipe=components.recipe,
        seed=cell.seed,
        device=poisoner.device,
        ledger=ledger,
        on_event=poisoner.on_event,
        owner=plugin_fingerprint(components.defense),
    )


def _clean_part(clean: TrainSet, poison: Poison, components: Components, seed: int) -> TrainSet:
    """A share of the clean training set, of each class alike, for defenses that declare the need.

    Images that the attack left alone come first, others only where a class has not enough of those: the clean original
    of a poisoned image would give the trigger away to whoever compares the two.
    """
    rng = np.random.default_rng(seed_for("clean", clean.key, seed))
    labels = clean.labels.numpy()
    touched = np.zeros(len(clean), bool)
    touched[poison.indices] = True
    share = float(getattr(components.defense, "clean_frac", components.defense.clean_share))
    chosen = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        members = members[np.argsort(touched[members], kind="stable")]
        chosen.append(members[: max(1, round(share * len(members)))])
    return clean.subset(rng.permutation(np.concatenate(chosen)))


def _defend(components: Components, lab: Lab) -> TrainedModel:
    """Let the defense work, and hold it to its word."""
    handed = lab.poisoned
    trained = components.defense.train(lab)
    handed.check()
    if not isinstance(trained, TrainedModel):
        got = type(trained).__name__
        raise UsageError(f"defense {components.defense.name!r} returned {got}, not what lab.train or lab.prune gave")
    return trained


def _judge_findings(record: dict[str, Any], poisoner: Poisoner, lab: Lab) -> tuple[DatasetInfo, Poison]:
    """Fill in what attack and defense said of themselves, and how right the defense's suspicion was."""
    record["notes"] |= lab.notes
    if lab.broken_off is not None:
        record["notes"]["broken_off"] = lab.broken_off
    clean, info = poisoner.train_set()
    poison = poisoner.poison(clean, info)
    if facts := poison.prepared.facts():
        record["notes"]["trigger"] = facts
    if poison.flags.any():
        first = int(np.flatnonzero(poison.flags)[0])
        before = clean.images[int(poison.indices[first])].numpy()
        record["notes"]["trigger_png"] = trigger_png(before, poison.images[first])
    if lab.suspicion is not None:
        truth, labels = poison.truth(len(clean)), apply(clean, poison).labels.numpy()
        record["detection"] = evaluate.detection(lab.suspicion, truth, labels, info.classes)
        record["notes"]["suspicion"] = evaluate.histogram(lab.suspicion, truth)
    return info, poison


def _judge_failed_defense(record: dict[str, Any], poisoner: Poisoner, lab: Lab, say: EventProxy) -> None:
    """What a defense had found before it failed tells why. Nothing that goes wrong here may hide that failure."""
    try:
        _judge_findings(record, poisoner, lab)
    except Exception as error:
        say.line(f"what the defense had found until then could not be judged: {one_line(error)}")


def _measure(
    record: dict[str, Any],
    components: Components,
    poisoner: Poisoner,
    trained: TrainedModel,
    lab: Lab,
    device: torch.device,
    watched: Watched | None,
) -> None:
    """Fill in what only the truth and the test images can tell."""
    info, poison = _judge_findings(record, poisoner, lab)
    test = components.dataset.load("test", poisoner.root)
    triggered = poisoner.triggered(Images(*test), info, poison) if components.attack.poisons else None
    target = 0 if triggered is None else targets(components.attack, info)[triggered[1].numpy()]
    found = evaluate.accuracy(trained, test, triggered, target, device)
    record |= {"ca": found.ca, "asr": found.asr, "ra": found.ra}
    notes = record["notes"]
    notes |= {"train_loss": {"model": trained.epoch_losses}, "test_images": len(test.labels)}
    notes["ca_per_class"] = found.per_class
    if triggered is not None:
        notes["triggered_test_images"] = len(triggered[1])
    if watched is not None:
        notes |= watched.notes(poison.truth(len(lab.poisoned)))
    if lab.traced:
        notes["curve"] = evaluate.curve(lab.traced, test, triggered, target, device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    # Linux forgets the process's high-water mark when 5 is written here; a worker runs many cells.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak(device: torch.device) -> int:
    """Peak memory in bytes: of the device on CUDA, of the process otherwise."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
