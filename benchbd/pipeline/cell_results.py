"""The results of a cell's phases, and the record built from them. No other module builds a finished record."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any, NamedTuple

from benchbd.lab.costs import CostLedger
from benchbd.pipeline.evaluate import Accuracy
from benchbd.pipeline.inputs import InputPrints
from benchbd.storage.record_schema import OTHER_SOURCES


class Poisoned(NamedTuple):
    """The facts about the poisoned set that go into the record.

    Attributes:
        facts: count, shares and target of the poison; empty if the attack poisons nothing.
        key: artifact of the poison.
        trigger_key: artifact of the attack's prepared arrays, or None.
        trigger_sha256: of the prepared arrays, or None.
        sha256: of the poison's arrays as stored, or None.
    """

    facts: dict[str, Any]
    key: str
    trigger_key: str | None
    trigger_sha256: str | None
    sha256: str | None = None


class Defended(NamedTuple):
    """The result of a defense that has finished.

    Attributes:
        model_key: artifact of its model.
        own_seconds: wall-clock time of the defense outside all stages.
        charged_seconds: cost of its stages.
        computed: trainings by kind that were not in the store, the attack's and the probe's included.
        other_architecture: spec of the returned model if it is not the row's; None if it is.
        model_sha256: of the model's arrays as stored, or None if the model is a part of an artifact.
    """

    model_key: str
    own_seconds: float
    charged_seconds: float
    computed: Counter[str]
    other_architecture: str | None = None
    model_sha256: str | None = None


class DefenseNotes(NamedTuple):
    """The notes that a defense wrote.

    Attributes:
        notes: by name.
        broken_off: the stage whose training diverged, and its losses by epoch; None if none diverged.
        warnings: lines for the user.
    """

    notes: dict[str, Any]
    broken_off: dict[str, Any] | None
    warnings: tuple[str, ...] = ()


class Measured(NamedTuple):
    """The model's accuracy on the test images.

    Attributes:
        accuracy: CA, ASR, RA, clean ASR.
        train_losses: the model's mean cross-entropy by epoch of its last training.
        test_images: their number.
        triggered_images: number that carry the trigger; None without an attack.
        no_asr: why there is no ASR although there is an attack; None if there is one.
    """

    accuracy: Accuracy
    train_losses: list[float]
    test_images: int
    triggered_images: int | None
    no_asr: str | None = None


@dataclasses.dataclass
class CellResults:
    """The results of a cell so far. The result of a phase that has not finished is None.

    Attributes:
        sources: digest of each component's code.
        other_sources: digests of the code of other plugins that the components used, such as ``model resnet-s``.
        inputs: fingerprints of data and initial weights.
        ledger: costs of the defense's stages.
        poisoned: the poisoned set.
        env: versions, device, precision.
        seconds_not_charged: wall-clock of poisoning, probe and evaluation; complete or None.
        defended: the finished defense.
        defense_notes: the defense's notes.
        trigger_facts: values that the attack measured while it prepared its trigger.
        trigger_png: picture of a poisoned image, base64.
        detection: how well the defense found the poison.
        suspicion: histogram of its scores.
        pools: sizes of the pools that the defense reported, and the poison in them.
        measured: accuracy on the test images.
        probe: notes of the probe.
        rates: its note of rates by epoch.
        curve: accuracies of intermediate models.
        peak_memory: bytes.
        test_transform: what the model does to test images and outputs; None if nothing.
    """

    sources: dict[str, str] | None = None
    other_sources: dict[str, str] = dataclasses.field(default_factory=dict)
    inputs: InputPrints | None = None
    ledger: CostLedger | None = None
    poisoned: Poisoned | None = None
    env: dict[str, Any] | None = None
    seconds_not_charged: dict[str, float] | None = None
    defended: Defended | None = None
    defense_notes: DefenseNotes | None = None
    trigger_facts: dict[str, Any] | None = None
    trigger_png: str | None = None
    detection: dict[str, Any] | None = None
    suspicion: dict[str, Any] | None = None
    pools: list[dict[str, Any]] | None = None
    measured: Measured | None = None
    probe: dict[str, Any] | None = None
    rates: dict[str, Any] | None = None
    curve: list[dict[str, Any]] | None = None
    peak_memory: int | None = None
    test_transform: dict[str, Any] | None = None


def record_of(
    blank: dict[str, Any], results: CellResults, *, status: str, error: str | None, seconds: float
) -> dict[str, Any]:
    """Build the record of a cell, finished or not.

    Args:
        blank: the cell's record without results (:func:`benchbd.storage.records.blank`).
        results: results of the finished phases.
        status: how the cell ended.
        error: the reason in one line; None if the cell is done.
        seconds: wall-clock time of the cell in this process.
    """
    ledger, defended = results.ledger, results.defended
    accuracy = results.measured.accuracy if results.measured else None
    record = {
        **blank,
        "status": status,
        "error": error,
        "ca": accuracy.ca if accuracy else None,
        "asr": accuracy.asr if accuracy else None,
        "ra": accuracy.ra if accuracy else None,
        "clean_asr": accuracy.clean_asr if accuracy else None,
        "triggered": accuracy.triggered if accuracy else None,
        "asr_all": accuracy.asr_all if accuracy else None,
        "ca_non_target": accuracy.ca_non_target if accuracy else None,
        "detection": results.detection,
        "poison": (results.poisoned.facts or None) if results.poisoned else None,
        "time": _time(results, seconds),
        "peak_memory_bytes": results.peak_memory,
        "epochs_trained": ledger.epochs if ledger else None,
        "trainings": ledger.trainings if ledger else {},
        "env": results.env or {},
        "artifacts": _artifacts(results),
        "notes": _notes(results),
        "sources": results.sources or {},
        **({"data": results.inputs.as_json()} if results.inputs else {}),
        **({"test_transform": results.test_transform} if results.test_transform else {}),
        **({OTHER_SOURCES: results.other_sources} if results.other_sources else {}),
    }
    return {**record, "trainings_computed": dict(defended.computed)} if defended else record


def _time(results: CellResults, seconds: float) -> dict[str, Any]:
    """The seconds charged to the cell, by stage and in total, and the seconds not charged to it."""
    ledger, defended = results.ledger, results.defended
    stages = dict(ledger.stages) if ledger else {}
    if defended:
        stages["defense's own"] = defended.own_seconds
    time: dict[str, Any] = {
        "total": defended.charged_seconds + defended.own_seconds if defended else None,
        "own": seconds,
        "stages": stages,
    }
    if ledger:
        time["waited"] = ledger.waited
    if results.seconds_not_charged is not None:
        time["stages_not_charged"] = results.seconds_not_charged
    return time


def _artifacts(results: CellResults) -> dict[str, Any]:
    """Keys of the cell's artifacts in the store, and the sha256 of what lies there."""
    artifacts: dict[str, Any] = {}
    if results.poisoned:
        poisoned = results.poisoned
        artifacts |= {"poisoned_set": poisoned.key, "trigger": poisoned.trigger_key}
        artifacts["trigger_sha256"] = poisoned.trigger_sha256
        if poisoned.sha256 is not None:
            artifacts["poisoned_set_sha256"] = poisoned.sha256
    if results.defended:
        artifacts["model"] = results.defended.model_key
        if results.defended.model_sha256 is not None:
            artifacts["model_sha256"] = results.defended.model_sha256
    if results.ledger:
        artifacts["stages"] = results.ledger.artifacts
    return artifacts


def _notes(results: CellResults) -> dict[str, Any]:
    """The defense's notes and the harness's. The harness's win if names collide."""
    notes: dict[str, Any] = {}
    if results.defense_notes:
        notes |= results.defense_notes.notes
        if results.defense_notes.broken_off is not None:
            notes["broken_off"] = results.defense_notes.broken_off
        if results.defense_notes.warnings:
            notes["warnings"] = list(results.defense_notes.warnings)
    if results.defended and results.defended.other_architecture is not None:
        notes["architecture"] = results.defended.other_architecture
    if results.trigger_facts:
        notes["trigger"] = results.trigger_facts
    if results.trigger_png is not None:
        notes["trigger_png"] = results.trigger_png
    if results.suspicion is not None:
        notes["suspicion"] = results.suspicion
    if results.pools is not None:
        notes["pools"] = results.pools
    if results.measured:
        measured = results.measured
        notes |= {"train_loss": {"model": measured.train_losses}, "test_images": measured.test_images}
        notes["ca_per_class"] = measured.accuracy.per_class
        if measured.triggered_images is not None:
            notes["triggered_test_images"] = measured.triggered_images
        if measured.no_asr is not None:
            notes["no_asr"] = measured.no_asr
    notes |= {**(results.probe or {}), **(results.rates or {})}
    if results.curve is not None:
        notes["curve"] = results.curve
    return notes
