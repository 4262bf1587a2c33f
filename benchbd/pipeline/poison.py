"""Poisoning: choosing and stamping training images, the only place where attacks meet data.

The poisoned set depends only on (data set, attack, seed), so every defense of a row gets the same one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from benchbd import engine
from benchbd.core import allocator
from benchbd.core.events import Event, Listener
from benchbd.core.hashing import digest
from benchbd.core.images import DatasetInfo, Images
from benchbd.core.seeding import seed_for, surrogate_seed
from benchbd.errors import Impossible, UsageError, counted
from benchbd.lab.costs import CostLedger
from benchbd.lab.keys import code_of, plugin_fingerprint
from benchbd.lab.unaffected import unaffected
from benchbd.pipeline.handed_out import blamed, no_change_in
from benchbd.pipeline.poison_facts import facts_of, measured_by
from benchbd.pipeline.ready_poison import (
    TriggeredImages,
    facts_about,
    ready_poison,
    ready_triggered,
)
from benchbd.pipeline.selection import select_cover, select_poison, select_triggered, targets
from benchbd.pipeline.unchanged import unchanged
from benchbd.pipeline.workshop import Workshop
from benchbd.plan.cell import Cell, Components
from benchbd.plugins import registry
from benchbd.plugins.attack import poisoned_twice, trigger_seed_of
from benchbd.plugins.component import Component
from benchbd.plugins.contract import BUDGET, Attack, StampContext
from benchbd.plugins.identity import part_of
from benchbd.plugins.part import Part
from benchbd.plugins.train_set import TrainSet
from benchbd.plugins.trained import ModelSpec
from benchbd.storage.artifacts import Store

__all__ = [
    *("CODE_VERSION", "Poison", "Poisoner", "Trigger", "apply", "clean_set", "fingerprint", "poisoned_labels"),
    "stamp_seed",
]

Computed = TypeVar("Computed")
CODE_VERSION = 1
"""Part of every poison's key. Raise it when the selection of images or the stamping changes."""

KEEP_FROM = 5.0
"""Seconds of stamping above which the store keeps triggered test images; most attacks need far less."""
FACT_SIZE = 16
"""Largest number of values in a prepared array that a record includes."""


class Trigger(NamedTuple):
    """The arrays that an attack prepared.

    Attributes:
        key: artifact key, or None if the attack prepares nothing.
        arrays: the arrays by name.
        sha256: hash of the arrays as stored, or None.
        warnings: one line for each warning of the attack during preparation.
    """

    key: str | None
    arrays: dict[str, np.ndarray]
    sha256: str | None
    warnings: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Measurements made during preparation (small float arrays, to 6 digits), and the warnings.

        Small arrays with dots in their names (``mask.9.bias``) are a network's weights and are left out.
        """
        found: dict[str, Any] = {}
        for name, array in self.arrays.items():
            if array.dtype.kind == "f" and 0 < array.size <= FACT_SIZE and "." not in name:
                rounded = np.array([float(f"{v:.6g}") for v in array.ravel()]).reshape(array.shape)
                found[name] = rounded.item() if rounded.size == 1 else rounded.tolist()
        return {**found, "warnings": list(self.warnings)} if self.warnings else found


class Poison(NamedTuple):
    """The changes that an attack makes to a training set, without the unchanged images.

    Attributes:
        indices: int64 (P,), positions of the changed images, ascending.
        images: uint8 (P, 3, H, W), the changed images.
        labels: int64 (P,), their labels in the poisoned set.
        facts: count, share_of_set, share_of_target_class and target. For attacks with several targets the last two are
            None, and ``targets`` holds the target of each class. If there are any, ``cover``, ``off_target`` and
            ``unchanged`` count the covers, the poisoned samples whose label is not their target, and the poisoned
            samples that are pixel-identical to their originals; ``measured`` has the attack's own numbers.
        prepared: the arrays that the attack prepared.
        key: artifact key of the poison, or the clean set's key if nothing is poisoned.
        flags: bool (P,), False for changed images that are not poison (covers, which keep their true label).
        data_key: key of the poisoned training set: a hash of its content, which does not lead to the artifact.
        pace: seconds of stamping per image.
        sha256: of the artifact's arrays as stored; None if nothing is poisoned.
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
    sha256: str | None = None

    @property
    def trigger(self) -> dict[str, np.ndarray]:
        """Arrays that the attack prepared."""
        return self.prepared.arrays

    @property
    def trigger_sha256(self) -> str | None:
        """sha256 of the prepared arrays, or None if there are none."""
        return self.prepared.sha256

    def truth(self, count: int) -> np.ndarray:
        """Which images of a training set of ``count`` images are poisoned, bool (count,)."""
        poisoned = np.zeros(count, bool)
        poisoned[self.indices[self.flags]] = True
        return poisoned


def fingerprint(data: Images) -> str:
    """sha256 of all labels and images, which differs if two copies of a data set differ in a single pixel."""
    sha = hashlib.sha256(f"{tuple(data.images.shape)}".encode())
    for part in (data.labels, data.images):
        sha.update(part.contiguous().numpy().reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def clean_set(part: Part, data: Images, sha256: str | None = None) -> TrainSet:
    """The clean training set, with a key derived from its content, whose fingerprint may be given."""
    return TrainSet.keyed(data.images, data.labels, digest(["clean", part.spec(), sha256 or fingerprint(data)]))


def _same(images: np.ndarray, clean: TrainSet, where: np.ndarray, flags: np.ndarray) -> int:
    """How many of the images (P, 3, H, W) with flags are pixel-identical to the clean ones at ``where`` (P,)."""
    return int(unchanged(torch.from_numpy(images), clean.images, where)[flags].sum())


def _checked(attack: Attack, out: Any, shape: torch.Size) -> torch.Tensor:
    """Check that stamped images are uint8 and have the given shape."""
    if not isinstance(out, torch.Tensor) or out.dtype != torch.uint8 or out.shape != shape:
        got = f"{getattr(out, 'dtype', type(out).__name__)} {tuple(getattr(out, 'shape', ()))}"
        raise UsageError(f"attack {attack.name!r}: stamp returned {got}, not a torch.uint8 tensor {tuple(shape)}")
    return out


def _relabelled(attack: Attack, labels: np.ndarray, info: DatasetInfo, context: StampContext) -> np.ndarray:
    """The attack's labels, checked to be int64 (P,) and valid classes."""
    out = attack.relabel(labels, targets(attack, info), context)
    if not isinstance(out, np.ndarray) or out.dtype != np.int64 or out.shape != labels.shape:
        got = f"{getattr(out, 'dtype', type(out).__name__)} {tuple(getattr(out, 'shape', ()))}"
        raise UsageError(f"attack {attack.name!r}: relabel returned {got}, not an int64 array {labels.shape}")
    if len(out) and not 0 <= out.min() <= out.max() < info.classes:
        seen = f"{out.min()}..{out.max()}"
        raise UsageError(f"attack {attack.name!r}: relabel returned {seen}, classes are 0..{info.classes - 1}")
    return out


def _built_in(plugin: Component) -> bool:
    return registry.find(plugin.kind, plugin.name).module.startswith(f"benchbd.{plugin.kind}.")


def stamp_seed(attack: Attack, dataset: Part, seed: int) -> int:
    """Seed of the random numbers that an attack draws while stamping, in a cell with this seed."""
    return seed_for("stamp", dataset.name, attack.name, trigger_seed_of(attack, seed))


@dataclasses.dataclass(frozen=True)
class Poisoner:
    """Computes the poison of a cell's row, or loads it from the store.

    Attributes:
        cell: the cell.
        components: the cell's plugins.
        store: the artifact store.
        device: device for the attack's trainings.
        on_event: called with progress events.
        root: folder of the data sets.
        ledger: records the cost of the attack's trainings.
    """

    cell: Cell
    components: Components
    store: Store
    device: torch.device
    on_event: Listener
    root: str | None
    ledger: CostLedger = dataclasses.field(default_factory=CostLedger)
    _warned: set[str] = dataclasses.field(default_factory=set, init=False, compare=False)
    _prints: list[str] = dataclasses.field(default_factory=list, init=False, compare=False)

    @property
    def owns_images(self) -> bool:
        """Whether :func:`apply` may overwrite the images of :meth:`train_set`, because nothing else can hold them.

        The built-in data sets read or map them from their files in every call, and no built-in attack keeps any, nor
        a built-in defense that it consults. A plugin of a user may keep them.
        """
        parts = (self.components.dataset, self.components.attack)
        return all(map(_built_in, parts)) and all(map(_built_in, self.components.attack.consults()))

    def train_set(self) -> tuple[TrainSet, DatasetInfo]:
        """Read the clean training set and the data set's sizes and classes.

        Raises:
            UsageError: the images or labels differ from those of the call before.
        """
        dataset = self.components.dataset
        data = dataset.load("train", self.root)
        self._prints.append(fingerprint(data))
        if self._prints[-1] != self._prints[0]:
            raise UsageError(f"data set {dataset.name!r}: its images changed while the cell ran; run the cell again")
        return clean_set(self.cell.dataset, data, self.train_print), dataset.info()

    @property
    def train_print(self) -> str | None:
        """Fingerprint of the clean training set; None until it is read."""
        return self._prints[0] if self._prints else None

    def poison(self, clean: TrainSet, info: DatasetInfo) -> Poison:
        """Select the images, prepare the trigger and stamp; or load the stored poison."""
        attack, cell = self.components.attack, self.cell
        if why := poisoned_twice(attack, info):
            raise Impossible(why)
        if not attack.poisons:
            empty = np.zeros((0, 3, info.size, info.size), np.uint8)
            none = np.zeros(0, np.int64)
            return Poison(none, empty, none, {}, Trigger(None, {}, None), clean.key, np.zeros(0, bool), clean.key)
        labels = clean.labels.numpy()
        file = attack.poisoned_set(self.root)
        if file is None:
            indices = select_poison(attack, info, labels, cell.seed, cell.dataset)
            trigger = self.prepare(clean, info, indices)
            made_from = [cell.attack.spec(), cell.seed, trigger.sha256, plugin_fingerprint(attack), *self._threads()]
        else:
            trigger, made_from = Trigger(None, {}, None), [file.facts.sha256]
        key = digest(["poison", CODE_VERSION, clean.key, *made_from])

        def compute() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            if file is not None:
                return ready_poison(file, clean), {}
            with blamed(f"attack {attack.name!r}"):
                made = self._make(clean, info, indices, trigger.arrays)
                clean.check()
            return made, {}

        found, _ = self.store.memo("poison", key, self._unaffected(compute), self._wait("poison"))
        where, flags = found.arrays["indices"], found.arrays["poison"]
        wanted = targets(attack, info)
        facts = facts_of(labels, where[flags], wanted)
        if file is not None:
            facts = facts_about(file, facts)
        if not flags.all():
            facts["cover"] = int((~flags).sum())
        if off_target := int((found.arrays["labels"] != wanted[labels[where]])[flags].sum()):
            facts["off_target"] = off_target
        if not info.poisoned and (same := _same(found.arrays["images"], clean, where, flags)):
            facts["unchanged"] = same
            if same == facts["count"]:
                self._warn(f"attack {attack.name!r} changes no pixel of the {counted(same, 'image')} that it poisons")
        if numbers := measured_by(attack, trigger.arrays):
            facts["measured"] = numbers
        data_key = digest(["poisoned", clean.key, found.sha256])
        images, labels = found.arrays["images"], found.arrays["labels"]
        pace = float(found.meta["seconds"]) / max(1, len(where))
        return Poison(where, images, labels, facts, trigger, key, flags, data_key, pace, found.sha256)

    def triggered_test(self, test: Images, info: DatasetInfo, poison: Poison) -> TriggeredImages | None:
        """The triggered test images; None if nothing is poisoned, or if the file of a poisoned set has none."""
        attack = self.components.attack
        if not attack.poisons:
            return None
        if (file := attack.poisoned_set(self.root)) is not None:
            return ready_triggered(file, test)
        images, labels = self.triggered(test, info, poison)
        return TriggeredImages(
            images,
            labels,
            targets(attack, info)[labels.numpy()],
            select_triggered(attack, info, test.labels.numpy()),
            self.triggered_of_target(test, info, poison),
        )

    def _warn(self, line: str) -> None:
        """Emit a warning, once per cell."""
        if line not in self._warned:
            self._warned.add(line)
            self.on_event({"event": "warning", "warning": line})

    def _threads(self) -> list[str]:
        """The cell's threads in the keys of what an attack computes on the CPU: nothing for one thread."""
        return [f"t{self.cell.threads}"] if self.cell.threads > 1 else []

    def _unaffected(self, compute: Callable[[], Computed]) -> Callable[[], Computed]:
        """A computation of the attack, which cells with other models and defenses share.

        Raises:
            UsageError: a plugin of the cell has changed the process, as a file may do when it is imported.
        """
        computed = unaffected(compute, self.cell.threads if self.device.type == "cpu" else None)
        return blamed("a plugin of the cell")(computed)

    def _wait(self, stage: str) -> Callable[[], None]:
        return lambda: self.on_event({"event": "waiting", "stage": stage})

    def _make(
        self, clean: TrainSet, info: DatasetInfo, indices: np.ndarray, trigger: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        attack = self.components.attack
        seed = stamp_seed(attack, self.cell.dataset, self.cell.seed)
        # Indexing copies the images, so an attack that stamps in place changes only this copy.
        chosen = clean.images[torch.from_numpy(indices)]
        context = StampContext("train", indices, trigger, seed)
        with no_change_in({"indices": indices}), no_change_in(trigger):
            images = [_checked(attack, attack.stamp(chosen, context), chosen.shape)]
            labels = _relabelled(attack, clean.labels.numpy()[indices], info, context)
        cover, partners = select_cover(attack, info, indices, len(clean), self.cell.seed, self.cell.dataset)
        if len(cover):
            chosen, others = (clean.images[torch.from_numpy(i)] for i in (cover, partners))
            context = StampContext("train", cover, trigger, seed)
            with no_change_in({"indices": cover}), no_change_in(trigger):
                images.append(_checked(attack, attack.cover(chosen, others, context), chosen.shape))
        del chosen
        where = np.concatenate([indices, cover])
        order = np.argsort(where)
        whole = images.pop() if len(images) == 1 else torch.cat(images)
        return {
            "indices": where[order],
            "images": whole.numpy() if np.array_equal(order, np.arange(len(order))) else whole.numpy()[order],
            "labels": np.concatenate([labels, clean.labels.numpy()[cover]])[order],
            "poison": (np.arange(len(where)) < len(indices))[order],
        }

    def trigger(
        self, clean: TrainSet, info: DatasetInfo, indices: np.ndarray
    ) -> tuple[str | None, dict[str, np.ndarray], str | None]:
        """Key, arrays and sha256 of the trigger that :meth:`prepare` returns."""
        return self.prepare(clean, info, indices)[:3]

    def prepare(self, clean: TrainSet, info: DatasetInfo, indices: np.ndarray) -> Trigger:
        """Let the attack prepare its trigger, or load the stored one. Both emit the attack's warnings as events."""
        attack = self.components.attack
        if type(attack).prepare is Attack.prepare:
            return Trigger(None, {}, None)
        network = ModelSpec(
            self.components.model, self.cell.model, info.classes, info.size, self.components.dataset.normalisation
        )
        trigger_seed = trigger_seed_of(attack, self.cell.seed)
        spec = self.cell.attack.spec()
        # Two cells with the same seed of the trigger share it, whether or not it follows their own seeds.
        spec = {**spec, "params": {**spec["params"], "trigger_seed": trigger_seed}}
        if not (attack.prepared_from_poison or attack.prepared_from_budget):
            # The number of poisoned images does not change the trigger, so all budgets share one.
            spec = {**spec, "params": {k: v for k, v in spec["params"].items() if k not in BUDGET}}
        precision = engine.choose_precision(self.device, *self.cell.numerics).name
        surrogate = [network.spec(), self.cell.recipe, precision, surrogate_seed(trigger_seed)]
        trained = surrogate if attack.trainings() else None
        selected = hashlib.sha256(indices.tobytes()).hexdigest() if attack.prepared_from_poison else None
        # The attack's file with its helpers, and prepare itself, which may be inherited from a file in another folder.
        code = [plugin_fingerprint(attack), code_of(type(attack).prepare)]
        with blamed(f"attack {attack.name!r}"):
            code += [[*plugin_fingerprint(other), part_of(other).params] for other in attack.consults()]
        key = digest(["trigger", CODE_VERSION, clean.key, spec, trained, selected, code, *self._threads()])
        warned: list[str] = []

        def listen(event: Event) -> None:
            if event.get("warning"):
                warned.append(str(event["warning"]))
            self.on_event(event)

        workshop = Workshop(
            clean,
            info,
            attack.resolved_target(info),
            trigger_seed,
            indices if attack.prepared_from_poison else None,
            [self.cell.dataset.name, attack.name],
            store=self.store,
            network=network,
            recipe=self.components.recipe,
            device=self.device,
            ledger=self.ledger,
            on_event=listen,
            owner=plugin_fingerprint(attack),
            numerics=self.cell.numerics,
        )

        def compute() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            self.on_event({"event": "stage", "stage": "trigger"})
            with blamed(f"attack {attack.name!r}"):
                arrays = attack.prepare(workshop)
                workshop.check_handed_out()
            if not isinstance(arrays, dict):
                got = type(arrays).__name__
                raise UsageError(f"attack {attack.name!r}: prepare returned {got}, not a dict of arrays by name")
            return arrays, {"warnings": warned}

        found, _ = self.store.memo("trigger", key, self._unaffected(compute), self._wait("trigger"))
        allocator.give_back()
        warnings = tuple(found.meta.get("warnings", ()))
        for line in warnings:
            self._warn(line)
        return Trigger(key, found.arrays, found.sha256, warnings)

    def triggered(self, data: Images, info: DatasetInfo, poison: Poison) -> tuple[torch.Tensor, torch.Tensor]:
        """Stamp the test images whose class is not their target.

        Every cell of the row needs them, so the store keeps them if stamping is slow.

        Returns:
            The triggered images, uint8 (M, 3, H, W), and their true labels, int64 (M,).
        """
        where = select_triggered(self.components.attack, info, data.labels.numpy())
        return self._triggered(data, info, poison, where)

    def triggered_of_target(self, data: Images, info: DatasetInfo, poison: Poison) -> tuple[torch.Tensor, torch.Tensor]:
        """Stamp the other test images, whose class is their target, as :meth:`triggered` does those."""
        where = select_triggered(self.components.attack, info, data.labels.numpy())
        others = np.setdiff1d(np.arange(len(data.labels)), where)
        return self._triggered(data, info, poison, others, "of the target class")

    def _triggered(
        self, data: Images, info: DatasetInfo, poison: Poison, where: np.ndarray, *part: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stamp the test images at ``where`` int64 (M,); ``part`` tells the stored ones from others of the row."""
        attack = self.components.attack
        index = torch.from_numpy(where)
        seed = stamp_seed(attack, self.cell.dataset, self.cell.seed)

        def stamp() -> torch.Tensor:
            images = data.images[index]
            context = StampContext("test", where, poison.trigger, seed)
            if not len(where):
                return images
            with blamed(f"attack {attack.name!r}"), no_change_in({"indices": where}), no_change_in(poison.trigger):
                return _checked(attack, attack.stamp(images, context), images.shape)

        if poison.pace * len(where) < KEEP_FROM:
            return stamp(), data.labels[index]
        target = attack.resolved_target(info)
        inputs = [
            fingerprint(data),
            target,
            self.cell.attack.spec(),
            poison.trigger_sha256,
            seed,
            plugin_fingerprint(attack),
            *self._threads(),
            *part,
        ]
        key = digest(["triggered", CODE_VERSION, *inputs])
        found, _ = self.store.memo("triggered", key, lambda: ({"images": stamp().numpy()}, {}), self._wait("evaluate"))
        return torch.from_numpy(found.arrays["images"]), data.labels[index]


def apply(clean: TrainSet, poison: Poison, *, in_place: bool = False) -> TrainSet:
    """The training set that the defender gets: the clean set with the poisoned images and labels written into it.

    Args:
        clean: the clean set.
        poison: the changes.
        in_place: write into the memory of the clean images. The clean set must not be used afterwards. If the images
            are mapped from a file, the process copies only the changed ones, and the file does not change.
    """
    if not len(poison.indices):
        return clean
    where = torch.from_numpy(poison.indices)
    images = clean.images if in_place else clean.images.clone()
    images[where] = torch.from_numpy(poison.images)
    return TrainSet.keyed(images, poisoned_labels(clean, poison), poison.data_key)


def poisoned_labels(clean: TrainSet, poison: Poison) -> torch.Tensor:
    """The labels that the defender sees, int64 (N,), a copy."""
    labels = clean.labels.clone()
    labels[torch.from_numpy(poison.indices)] = torch.from_numpy(poison.labels)
    return labels
