"""Poisoning: which training images, stamped how; the one place where attacks meet data.

The poisoned set depends on (data set, attack, seed) and nothing else, so every defense of a row is handed the same one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from benchbd import engine
from benchbd.core.events import Event, Listener
from benchbd.core.hashing import digest
from benchbd.core.images import DatasetInfo, Images
from benchbd.core.seeding import seed_for
from benchbd.errors import UsageError
from benchbd.lab.costs import CostLedger
from benchbd.lab.keys import code_of, plugin_fingerprint
from benchbd.pipeline.selection import select_cover, select_poison, targets
from benchbd.pipeline.workshop import Workshop
from benchbd.plan.cell import Cell, Components
from benchbd.plugins.contract import BUDGET, Attack, StampContext
from benchbd.plugins.part import Part
from benchbd.plugins.train_set import TrainSet
from benchbd.plugins.trained import ModelSpec
from benchbd.storage.artifacts import Store

__all__ = ["CODE_VERSION", "Poison", "Poisoner", "Trigger", "apply", "clean_set", "fingerprint", "stamp_seed"]

CODE_VERSION = 1
"""Part of every poison's key: raise it when the drawing or stamping changes."""

KEEP_FROM = 5.0
"""Seconds of stamping from which triggered test images are kept in the store; most attacks need far less."""
FACT_SIZE = 16
"""Values in a prepared array at most that a record tells."""


class Trigger(NamedTuple):
    """What an attack prepared.

    Attributes:
        key: artifact key, or None where it prepares nothing.
        arrays: by name.
        sha256: of the arrays as stored, or None.
        warnings: lines the attack warned with while it prepared them.
    """

    key: str | None
    arrays: dict[str, np.ndarray]
    sha256: str | None
    warnings: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What was measured while preparing (small float arrays, to 6 digits), and the warnings.

        Networks name their small arrays with dots (``mask.9.bias``): those are weights.
        """
        found: dict[str, Any] = {}
        for name, array in self.arrays.items():
            if array.dtype.kind == "f" and 0 < array.size <= FACT_SIZE and "." not in name:
                rounded = np.array([float(f"{v:.6g}") for v in array.ravel()]).reshape(array.shape)
                found[name] = rounded.item() if rounded.size == 1 else rounded.tolist()
        return {**found, "warnings": list(self.warnings)} if self.warnings else found


class Poison(NamedTuple):
    """A poisoning, apart from the images it was made for.

    Attributes:
        indices: int64 (P,), positions of the changed images, ascending.
        images: uint8 (P, 3, H, W), what they became.
        labels: int64 (P,), the labels they carry.
        facts: count, share_of_set, share_of_target_class and target; for attacks with several targets the last two are
            None, and ``targets`` has each class's. ``cover`` and ``off_target`` (poisoned samples that carry another
            label than their target) where there are any.
        prepared: what the attack prepared.
        key: artifact key of the poison; the clean set's where nothing is poisoned.
        flags: bool (P,), False for changed images that are no poison (covers, which keep their true label).
        data_key: key of the poisoned training set: hash of its content, from which the artifact cannot be found.
        pace: seconds that stamping took for each image.
    """

    indices: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    facts: dict[str, Any]
    prepared: Trigger
    key: str
    flags: np.ndarray
    data_key: str
    pace: float = 0.0

    @property
    def trigger(self) -> dict[str, np.ndarray]:
        """Arrays that the attack prepared."""
        return self.prepared.arrays

    @property
    def trigger_sha256(self) -> str | None:
        """sha256 of the prepared arrays, or None where there are none."""
        return self.prepared.sha256

    def truth(self, count: int) -> np.ndarray:
        """bool (count,): which images of a training set of that many are poisoned."""
        poisoned = np.zeros(count, bool)
        poisoned[self.indices[self.flags]] = True
        return poisoned


def _facts(labels: np.ndarray, hit: np.ndarray, wanted: np.ndarray) -> dict[str, Any]:
    """What a record tells of a poison: true labels (N,), positions (P,) poisoned, and each class's target (K,)."""
    facts: dict[str, Any] = {"count": len(hit), "share_of_set": len(hit) / len(labels)}
    target = int(wanted[0])
    if (wanted != target).any():
        return {**facts, "share_of_target_class": None, "target": None, "targets": wanted.tolist()}
    share = float((labels[hit] == target).sum() / max(1, (labels == target).sum()))
    return {**facts, "share_of_target_class": share, "target": target}


def fingerprint(data: Images) -> str:
    """sha256 over all labels and images: tells two copies of a data set apart that differ in one pixel."""
    sha = hashlib.sha256(f"{tuple(data.images.shape)}".encode())
    for part in (data.labels, data.images):
        sha.update(part.contiguous().numpy().reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def clean_set(part: Part, data: Images) -> TrainSet:
    """The clean training images under the key of their content."""
    return TrainSet(data.images, data.labels, digest(["clean", part.spec(), fingerprint(data)]))


def _checked(attack: Attack, out: Any, shape: torch.Size) -> torch.Tensor:
    """Hold an attack to its word: uint8, same shape."""
    if not isinstance(out, torch.Tensor) or out.dtype != torch.uint8 or out.shape != shape:
        got = f"{getattr(out, 'dtype', type(out).__name__)} {tuple(getattr(out, 'shape', ()))}"
        raise UsageError(f"attack {attack.name!r}: stamp returned {got}, not a torch.uint8 tensor {tuple(shape)}")
    return out


def _relabelled(attack: Attack, labels: np.ndarray, info: DatasetInfo, context: StampContext) -> np.ndarray:
    """Hold an attack to its word: int64, one for each image, all of them classes."""
    out = attack.relabel(labels, targets(attack, info), context)
    if not isinstance(out, np.ndarray) or out.dtype != np.int64 or out.shape != labels.shape:
        got = f"{getattr(out, 'dtype', type(out).__name__)} {tuple(getattr(out, 'shape', ()))}"
        raise UsageError(f"attack {attack.name!r}: relabel returned {got}, not an int64 array {labels.shape}")
    if len(out) and not 0 <= out.min() <= out.max() < info.classes:
        seen = f"{out.min()}..{out.max()}"
        raise UsageError(f"attack {attack.name!r}: relabel returned {seen}, classes are 0..{info.classes - 1}")
    return out


def stamp_seed(attack: Attack, dataset: Part) -> int:
    """Seed of what an attack draws while stamping."""
    return seed_for("stamp", dataset.name, attack.name, attack.trigger_seed)


@dataclasses.dataclass(frozen=True)
class Poisoner:
    """Makes one row's poison, from the store where it was made before.

    Attributes:
        cell: whose row.
        components: the cell's plugins.
        store: artifacts.
        device: for what must be trained first.
        on_event: told of progress.
        root: folder of the data sets.
        ledger: is told of the trainings that the attack needs.
    """

    cell: Cell
    components: Components
    store: Store
    device: torch.device
    on_event: Listener
    root: str | None
    ledger: CostLedger = dataclasses.field(default_factory=CostLedger)
    _warned: set[str] = dataclasses.field(default_factory=set, init=False, compare=False)

    def train_set(self) -> tuple[TrainSet, DatasetInfo]:
        """The clean training set, read now."""
        data = self.components.dataset.load("train", self.root)
        return clean_set(self.cell.dataset, data), self.components.dataset.info()

    def poison(self, clean: TrainSet, info: DatasetInfo) -> Poison:
        """Draw, prepare and stamp; or load what was made before."""
        attack, cell = self.components.attack, self.cell
        if not attack.poisons:
            empty = np.zeros((0, 3, info.size, info.size), np.uint8)
            none = np.zeros(0, np.int64)
            return Poison(none, empty, none, {}, Trigger(None, {}, None), clean.key, np.zeros(0, bool), clean.key)
        labels = clean.labels.numpy()
        indices = select_poison(attack, info, labels, cell.seed, cell.dataset)
        trigger = self.prepare(clean, info, indices)
        key = digest(
            [
                "poison",
                CODE_VERSION,
                clean.key,
                cell.attack.spec(),
                cell.seed,
                trigger.sha256,
                plugin_fingerprint(attack),
            ]
        )

        def compute() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            return self._make(clean, info, indices, trigger.arrays), {}

        found, _ = self.store.memo("poison", key, compute, self._wait("poison"))
        where, flags = found.arrays["indices"], found.arrays["poison"]
        wanted = targets(attack, info)
        facts = _facts(labels, where[flags], wanted)
        if not flags.all():
            facts["cover"] = int((~flags).sum())
        if astray := int((found.arrays["labels"] != wanted[labels[where]])[flags].sum()):
            facts["off_target"] = astray
        data_key = digest(["poisoned", clean.key, found.sha256])
        images, labels = found.arrays["images"], found.arrays["labels"]
        pace = float(found.meta["seconds"]) / max(1, len(where))
        return Poison(where, images, labels, facts, trigger, key, flags, data_key, pace)

    def _wait(self, stage: str) -> Callable[[], None]:
        return lambda: self.on_event({"event": "waiting", "stage": stage})

    def _make(
        self, clean: TrainSet, info: DatasetInfo, indices: np.ndarray, trigger: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        attack: Any = self.components.attack
        seed = stamp_seed(attack, self.cell.dataset)
        # Indexing copies, so an attack that stamps in place changes nothing but its own images.
        chosen = clean.images[torch.from_numpy(indices)]
        context = StampContext("train", indices, trigger, seed)
        images = [_checked(attack, attack.stamp(chosen, context), chosen.shape)]
        labels = _relabelled(attack, clean.labels.numpy()[indices], info, context)
        cover, partners = select_cover(attack, info, indices, len(clean), self.cell.seed, self.cell.dataset)
        if len(cover):
            here, there = (clean.images[torch.from_numpy(i)] for i in (cover, partners))
            images.append(
                _checked(attack, attack.cover(here, there, StampContext("train", cover, trigger, seed)), here.shape)
            )
        where = np.concatenate([indices, cover])
        order = np.argsort(where)
        return {
            "indices": where[order],
            "images": torch.cat(images).numpy()[order],
            "labels": np.concatenate([labels, clean.labels.numpy()[cover]])[order],
            "poison": (np.arange(len(where)) < len(indices))[order],
        }

    def trigger(
        self, clean: TrainSet, info: DatasetInfo, indices: np.ndarray
    ) -> tuple[str | None, dict[str, np.ndarray], str | None]:
        """What :meth:`prepare` gives, as key, arrays and their sha256."""
        return self.prepare(clean, info, indices)[:3]

    def prepare(self, clean: TrainSet, info: DatasetInfo, indices: np.ndarray) -> Trigger:
        """Have the attack prepare its trigger; or load what it prepared before. Its warnings are told either way."""
        attack = self.components.attack
        if type(attack).prepare is Attack.prepare:
            return Trigger(None, {}, None)
        network = ModelSpec(
            self.components.model, self.cell.model, info.classes, info.size, self.components.dataset.normalisation
        )
        spec = self.cell.attack.spec()
        if not (attack.prepared_from_poison or attack.prepared_from_budget):
            # How many images are poisoned does not change the trigger: one serves all budgets.
            spec = {**spec, "params": {k: v for k, v in spec["params"].items() if k not in BUDGET}}
        precision = engine.choose_precision(self.device).name
        trained = [network.spec(), self.cell.recipe, precision] if attack.trains() else None
        drawn = hashlib.sha256(indices.tobytes()).hexdigest() if attack.prepared_from_poison else None
        # The attack's file with its helpers, and prepare itself, which may be inherited from a file of another folder.
        code = [plugin_fingerprint(attack), code_of(type(attack).prepare)]
        key = digest(["trigger", CODE_VERSION, clean.key, spec, trained, drawn, code])
        warned: list[str] = []

        def listen(event: Event) -> None:
            if event.get("warning"):
                warned.append(str(event["warning"]))
            self.on_event(event)

        workshop = Workshop(
            clean,
            info,
            attack.resolved_target(info),
            attack.trigger_seed,
            indices if attack.prepared_from_poison else None,
            [self.cell.dataset.name, attack.name],
            store=self.store,
            network=network,
            recipe=self.components.recipe,
            device=self.device,
            ledger=self.ledger,
            on_event=listen,
            owner=plugin_fingerprint(attack),
        )

        def compute() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            self.on_event({"event": "stage", "stage": "trigger"})
            made = attack.prepare(workshop)
            if not isinstance(made, dict):
                raise UsageError(f"attack {attack.name!r}: prepare returned {type(made).__name__}, not arrays by name")
            return made, {"warnings": warned}

        found, _ = self.store.memo("trigger", key, compute, self._wait("trigger"))
        warnings = tuple(found.meta.get("warnings", ()))
        for line in warnings:
            if line not in self._warned:
                self._warned.add(line)
                self.on_event({"event": "warning", "warning": line})
        return Trigger(key, found.arrays, found.sha256, warnings)

    def triggered(self, data: Images, info: DatasetInfo, poison: Poison) -> tuple[torch.Tensor, torch.Tensor]:
        """Test images that are not of their target class, with the trigger, uint8 (M, 3, H, W), and true labels (M,).

        Every cell of the row needs them: where stamping is slow, they are kept.
        """
        attack, labels = self.components.attack, data.labels.numpy()
        where = np.flatnonzero(labels != targets(attack, info)[labels]).astype(np.int64)
        index = torch.from_numpy(where)
        seed = stamp_seed(attack, self.cell.dataset)

        def stamp() -> torch.Tensor:
            images = data.images[index]
            context = StampContext("test", where, poison.trigger, seed)
            return _checked(attack, attack.stamp(images, context), images.shape) if len(where) else images

        if poison.pace * len(where) < KEEP_FROM:
            return stamp(), data.labels[index]
        target = attack.resolved_target(info)
        of = [
            fingerprint(data),
            target,
            self.cell.attack.spec(),
            poison.trigger_sha256,
            seed,
            plugin_fingerprint(attack),
        ]
        key = digest(["triggered", CODE_VERSION, *of])
        found, _ = self.store.memo("triggered", key, lambda: ({"images": stamp().numpy()}, {}), self._wait("evaluate"))
        return torch.from_numpy(found.arrays["images"]), data.labels[index]


def apply(clean: TrainSet, poison: Poison) -> TrainSet:
    """The training set as the defender gets it: the clean one with the poisoned images and labels written in."""
    if not len(poison.indices):
        return clean
    where = torch.from_numpy(poison.indices)
    images, labels = clean.images.clone(), clean.labels.clone()
    images[where] = torch.from_numpy(poison.images)
    labels[where] = torch.from_numpy(poison.labels)
    return TrainSet(images, labels, poison.data_key)
