"""The life of one cell: poison, defend, measure, record. The only entry that executors call."""

from __future__ import annotations

import dataclasses
import gc
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchbd.core import allocator, environment
from benchbd.core.devices import compute_device
from benchbd.core.events import Listener
from benchbd.core.forks import only_this_process
from benchbd.core.images import DatasetInfo
from benchbd.core.kinds import KINDS
from benchbd.core.paths import data_folder
from benchbd.core.seeding import seed_for
from benchbd.engine import global_state
from benchbd.engine.threads import cpu_threads
from benchbd.errors import BenchbdError, Diverged, Impossible, RunStopped, UsageError, one_line, with_article
from benchbd.lab.costs import CostLedger
from benchbd.lab.keys import plugin_fingerprint
from benchbd.lab.lab import Lab
from benchbd.lab.stages import STAGE_KINDS
from benchbd.pipeline import evaluate
from benchbd.pipeline.cell_rates import NoRates, rates_of
from benchbd.pipeline.cell_results import CellResults, Defended, DefenseNotes, Measured, Poisoned, record_of
from benchbd.pipeline.failure import status_and_line
from benchbd.pipeline.handed_out import blamed
from benchbd.pipeline.inputs import InputPrints
from benchbd.pipeline.other_sources import other_sources
from benchbd.pipeline.peak_memory import peak_memory, reset_peak_memory
from benchbd.pipeline.poison import Poison, Poisoner, apply, fingerprint, poisoned_labels
from benchbd.pipeline.probe_training import Watched
from benchbd.pipeline.ready_poison import why_no_asr
from benchbd.pipeline.shown_images import ShownImages
from benchbd.pipeline.trigger_image import trigger_png
from benchbd.plan.cell import Cell, Components
from benchbd.plan.probe import Probe
from benchbd.plugins import registry
from benchbd.plugins.contract import Defense
from benchbd.plugins.identity import part_of
from benchbd.plugins.left_running import PluginModules, note_audit_hooks
from benchbd.plugins.packed_models import packed_models
from benchbd.plugins.torchvision_ready import ready_torchvision
from benchbd.plugins.train_set import TrainSet
from benchbd.plugins.trained import ModelSpec, TrainedModel
from benchbd.storage import records
from benchbd.storage.artifacts import Store
from benchbd.storage.restricted import (
    EventProxy,
    RestrictedStore,
    event_proxy,
    restricted_store,
)


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
        cell_json: the cell, as ``Cell.to_json`` returns it.
        output: results folder, which holds ``records/``, ``store/`` and ``logs/``.
        data_root: folder of the data sets, or None for ``BENCHBD_DATA`` or the user's cache.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        plugins: plugin files to make known first. Only those that the cell names are imported: an import may change the
            process, and with it numbers that are stored under keys that other cells share.
        on_event: called with progress, log lines and other events.

    Returns:
        The record. If the cell fails, its ``status`` and ``error`` say how, and it holds all that was found until then.

    Raises:
        UsageError: the cell or its plugins are not known here, so that there is nothing to write a record about.
        OSError: the record cannot be written (a full disk).
    """
    note_audit_hooks()
    with only_this_process(), global_state.watched():  # from before the plugins are imported
        return _execute(cell_json, output, data_root, device, plugins or [], on_event)


def _execute(
    cell_json: dict[str, Any],
    output: Path,
    data_root: str | None,
    device: str,
    plugins: list[str],
    on_event: Listener | None,
) -> dict[str, Any]:
    for file in plugins:
        registry.add_plugin_file(file, load=False)
    cell = Cell.from_json(cell_json)
    ready_torchvision()
    blank = records.blank(cell, "failed")
    results = CellResults()
    status, reason = "done", None
    began = time.perf_counter()
    with event_proxy(on_event) as events:
        try:
            place = compute_device(device)
            with only_this_process(), cpu_threads(cell.threads, place):
                _measured_run(cell, results, output, data_root, place, events)
        except (KeyboardInterrupt, RunStopped):
            raise
        except BaseException as error:  # some libraries raise errors of their own that are not Exceptions
            status, reason = status_and_line(error, output)
            if not isinstance(error, BenchbdError):
                events.line(traceback.format_exc())
    record = record_of(blank, results, status=status, error=reason, seconds=time.perf_counter() - began)
    records.write_record(output, record)
    return record


def _measured_run(
    cell: Cell, results: CellResults, output: Path, data_root: str | None, device: torch.device, events: EventProxy
) -> None:
    """Run the cell; its costs and peak memory are in the results however it ends."""
    reset_peak_memory(device)
    results.ledger = ledger = CostLedger()
    try:
        _run(cell, results, output, data_root, device, ledger, events)
    finally:
        results.peak_memory = peak_memory(device)


def _run(
    cell: Cell,
    results: CellResults,
    output: Path,
    data_root: str | None,
    device: torch.device,
    ledger: CostLedger,
    events: EventProxy,
) -> None:
    """Run the phases one after the other until the cell is done or one of them fails."""
    components = cell.components()
    global_state.watch_too(PluginModules().loaded())
    store = Store(output / "store", events.line)
    attacker, unseen = CostLedger(), CostLedger()
    poisoner = Poisoner(cell, components, store, device, events, data_folder(data_root), attacker)
    results.sources = {kind: registry.source_digest(f"{kind}s", getattr(cell, kind).name) for kind in KINDS}
    not_charged: dict[str, float] = {}
    results.inputs = InputPrints()
    results.inputs.look(components, poisoner.root)
    rates = rates_of(cell, store)
    stage_store = Store(store.root, store.say, STAGE_KINDS)
    with restricted_store(stage_store) as stages, rates.keeping():
        began = time.perf_counter()
        events({"event": "stage", "stage": "poison"})
        lab = _open_lab(cell, components, poisoner, ledger, stages, results, rates)
        results.env = environment.describe(device, lab.precision_for(lab._network).name)
        not_charged["poison"] = time.perf_counter() - began
        began = time.perf_counter()
        rates.opened(cell, results, device)
        watched = _watch(cell, lab, store, unseen, events, rates)
        if cell.probe is not None:
            not_charged["probe"] = time.perf_counter() - began

        # From here until the defense returns, neither truth nor test data is in memory (unless it declared the need).
        gc.collect()
        allocator.give_back()
        began = time.perf_counter()
        with registry.noting_uses() as used:
            try:
                trained = _defend(components, lab)
            except (KeyboardInterrupt, RunStopped):
                raise
            except BaseException:
                results.other_sources = other_sources(cell, used)
                _judge_failed_defense(results, components, poisoner, lab, events, rates)
                raise
        own = max(0.0, time.perf_counter() - began - ledger.inside)
        results.other_sources = other_sources(cell, used)
        rates.defended(trained)
    computed = Counter(ledger.computed) + Counter(attacker.computed) + Counter(unseen.computed)
    charged = sum(ledger.stages.values())
    sha256 = stage_store.sha256("model", trained.key)
    results.defended = Defended(trained.key, own, charged, computed, _other_architecture(trained, lab), sha256)
    results.test_transform = None if trained.test_transform is None else trained.test_transform.spec()

    began = time.perf_counter()
    events({"event": "stage", "stage": "evaluate"})
    with global_state.usual_settings(cell.threads if device.type == "cpu" else None):
        _evaluate(results, components, poisoner, trained, lab, watched, rates)
    not_charged["evaluate"] = time.perf_counter() - began - rates.measuring
    if cell.probe is not None:
        not_charged["probe"] += rates.seconds
    results.seconds_not_charged = not_charged


def _watch(
    cell: Cell, lab: Lab, store: Store, ledger: CostLedger, events: EventProxy, rates: NoRates
) -> Watched | None:
    """The undefended training as the matrix's probe saw it, not judged yet; the defense never gets it."""
    if cell.probe is None:
        return None
    base = {**lab._base, "store": store, "ledger": ledger, "rates": rates.kept}
    watched = Watched(Probe(**cell.probe), lab.poisoned, **base)
    try:
        watched.undefended()
    except Diverged as error:  # whether that ends the cell is for the defense to find out
        events.line(f"{one_line(error)}; the record gets no probe")
        rates.diverged(watched.training)
        return None
    rates.watched(watched.training)
    return watched


def _open_lab(
    cell: Cell,
    components: Components,
    poisoner: Poisoner,
    ledger: CostLedger,
    stages: RestrictedStore,
    results: CellResults,
    rates: NoRates,
) -> Lab:
    """The lab with the poisoned set in it, and no more of the truth than the defense declares."""
    clean, info = poisoner.train_set()
    network = ModelSpec(components.model, cell.model, info.classes, info.size, components.dataset.normalisation)
    _refuse_unpackable(components.defense, network)
    poison = poisoner.poison(clean, info)
    results.poisoned = Poisoned(poison.facts, poison.key, poison.prepared.key, poison.trigger_sha256, poison.sha256)
    needs = components.defense.needs
    if results.inputs:
        results.inputs.train = poisoner.train_print
        results.inputs.weights = network.initial.fixed if network.initial else None
    part = _clean_part(clean, poison, components, cell.seed, info.poisoned) if "clean" in needs else None
    poisoned = apply(clean, poison, in_place=poisoner.owns_images and (part is None or part.images is not clean.images))
    del clean
    return rates.open_lab(
        poisoned,
        clean=part,
        truth=poison.truth(len(poisoned)) if "truth" in needs else None,
        store=stages,
        network=network,
        recipe=components.recipe,
        seed=cell.seed,
        device=poisoner.device,
        ledger=ledger,
        on_event=poisoner.on_event,
        owner=plugin_fingerprint(components.defense),
        numerics=cell.numerics,
    )


def _refuse_unpackable(defense: Defense, row: ModelSpec) -> None:
    """Raise UsageError if a model that the defense packs cannot be packed. Not even a trigger is trained by then."""
    for model in packed_models(defense):
        if fault := dataclasses.replace(row, model=model, part=part_of(model)).packing_fault():
            raise UsageError(f"defense {defense.name!r}: {fault}")


def _clean_part(clean: TrainSet, poison: Poison, components: Components, seed: int, poisoned: bool = False) -> TrainSet:
    """A share of the clean training set, of each class alike, for defenses that declare the need.

    Images that the attack did not change come first. Others follow only if a class has too few of those: the clean
    original of a poisoned image reveals the trigger when the two are compared. A data set that is
    ``poisoned`` already has no originals of these, so they never follow.
    """
    rng = np.random.default_rng(seed_for("clean", clean.key, seed))
    labels = clean.labels.numpy()
    touched = np.zeros(len(clean), bool)
    touched[poison.indices] = True
    share = float(components.defense.clean_fraction())
    chosen = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        wanted = max(1, round(share * len(members)))
        members = members[np.argsort(touched[members], kind="stable")]
        members = members[~touched[members]] if poisoned else members
        if not len(members):
            raise Impossible(f"the data set has no clean image of class {label}, which the defense needs")
        chosen.append(members[:wanted])
    return clean.subset(rng.permutation(np.concatenate(chosen)))


def _defend(components: Components, lab: Lab) -> TrainedModel:
    """Let the defense work, and validate what it was handed and what it returns."""
    who = f"defense {components.defense.name!r}"
    with blamed(who):
        with only_this_process():
            trained = components.defense.train(lab)
        lab.check_handed_out()
        if not isinstance(trained, TrainedModel):
            got = "nothing" if trained is None else with_article(type(trained).__name__)
            raise UsageError(
                f"{who} returned {got}; return a model that the lab gave: lab.train's, lab.adopt(net.state_dict()) "
                "for weights of your own, or lab.read_model's for another network (docs/plugins.md)"
            )
        lab._own(trained, "the returned model")
        with global_state.usual_settings(None):  # the default type, for one, replaces functions
            global_state.check()
    other = _other_architecture(trained, lab)
    if other and not components.defense.other_architecture:
        raise UsageError(
            f"{who} returned {with_article(other)} in a row of {lab._network.part.text}; return the row's model, "
            "or say other_architecture = True in the class, so that record and tables name it"
        )
    if trained.test_transform is not None and not components.defense.test_transform:
        raise UsageError(
            f"{who} returned a model that changes test images or outputs; say test_transform = True in the class, so "
            "that record and tables name it"
        )
    return trained


def _other_architecture(trained: TrainedModel, lab: Lab) -> str | None:
    """The spec of a returned model if it is not the row's; None if it is."""
    return None if trained._plan.spec() == lab._network.spec() else trained._plan.part.text


def _judge_findings(results: CellResults, poisoner: Poisoner, lab: Lab) -> tuple[DatasetInfo, Poison]:
    """Collect what attack and defense said of themselves, and judge the defense's suspicion by the truth.

    Afterwards, neither the lab nor this module holds a training set: its memory is free for the test images.
    """
    results.defense_notes = DefenseNotes(lab.notes, lab.broken_off, tuple(lab.warnings))
    lab._forget_sets()
    allocator.give_back()
    clean, info = poisoner.train_set()
    poison = poisoner.poison(clean, info)
    results.trigger_facts = poison.prepared.facts()
    results.trigger_png = _picture(clean, poison)
    if lab.pools:
        results.pools = evaluate.pools(lab.pools, poison.truth(len(clean)))
    if lab.suspicion is not None:
        truth, labels = poison.truth(len(clean)), poisoned_labels(clean, poison).numpy()
        results.detection = evaluate.detection(lab.suspicion, truth, labels, info.classes)
        results.suspicion = evaluate.histogram(lab.suspicion, truth)
    return info, poison


def _picture(clean: TrainSet, poison: Poison) -> str | None:
    """A picture of the first poisoned image, base64; None where nothing is poisoned."""
    if not poison.flags.any():
        return None
    first = int(np.flatnonzero(poison.flags)[0])
    return trigger_png(clean.images[int(poison.indices[first])].numpy(), poison.images[first])


def _judge_failed_defense(
    results: CellResults,
    components: Components,
    poisoner: Poisoner,
    lab: Lab,
    events: EventProxy,
    rates: NoRates,
) -> None:
    """Judge what a defense had found before it failed: it may say why. An error here must not hide that failure."""
    try:
        info, poison = _judge_findings(results, poisoner, lab)
        rates.failed(lambda: ShownImages.load(components, poisoner, info, poison).accuracy(poisoner.device))
    except Exception as error:
        events.line(f"what the defense had found until then could not be judged: {one_line(error)}")


def _evaluate(
    results: CellResults,
    components: Components,
    poisoner: Poisoner,
    trained: TrainedModel,
    lab: Lab,
    watched: Watched | None,
    rates: NoRates,
) -> None:
    """Measure with the truth and the test images."""
    device = poisoner.device
    info, poison = _judge_findings(results, poisoner, lab)
    shown = ShownImages.load(components, poisoner, info, poison)
    if results.inputs:
        results.inputs.test = fingerprint(shown.test)
        results.inputs.look(components, poisoner.root)
    accuracy, marked, attack = shown.every_rate(trained, device), shown.marked, components.attack
    count = None if marked is None else len(marked.labels)
    no_asr = why_no_asr(attack.poisoned_set(poisoner.root)) if marked is None and attack.poisons else None
    results.measured = Measured(accuracy, trained.epoch_losses, len(shown.test.labels), count, no_asr)
    if watched is not None:
        results.probe = watched.notes(poison.truth(watched.count), poison.facts)
    results.rates = rates.notes(shown.accuracy(device), trained, accuracy)
    if lab.traced:
        results.curve = evaluate.curve(lab.traced, shown.test, shown.triggered, shown.target, device)
