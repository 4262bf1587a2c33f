"""Poisoning: which training images, stamped how; the one place where attacks meet data.

The poisoned set depends on (data set, attack, seed) and nothing else, so every defense of a row is handed the same one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from benchbd.cell import Cell, Made, Part, digest
from benchbd.components import Attack, DatasetInfo, Images, Stamp
from benchbd.errors import Impossible, UsageError
from benchbd.lab import Ledger, NetworkPlan, TrainSet
from benchbd.seeding import seed_for
from benchbd.store import Store
from benchbd.workshop import Workshop

CODE_VERSION = 1
"""Part of every poison's key: raise it when the drawing or stamping changes."""

_BUDGET = ("rate", "rate_of", "pool")


class Poison(NamedTuple):
    """A poisoning, apart from the images it was made for.

    Attributes:
        indices: int64 (P,), positions of the poisoned images, ascending.
        images: uint8 (P, 3, H, W), what they became.
        labels: int64 (P,), the labels they carry.
        facts: count, share_of_set, share_of_target_class, target.
        trigger: arrays that the attack prepared.
        key: key of the poisoned set.
        trigger_sha256: sha256 of the prepared arrays, or None where there are none.
    """

    indices: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    facts: dict[str, Any]
    trigger: dict[str, np.ndarray]
    key: str
    trigger_sha256: str | None


def fingerprint(data: Images) -> str:
    """sha256 over all labels and up to 4,096 evenly spaced images: tells two copies of a data set apart."""
    step = max(1, len(data.labels) // 4096)
    sha = hashlib.sha256(data.labels.numpy().tobytes())
    sha.update(str(tuple(data.images.shape)).encode())
    sha.update(data.images[::step].contiguous().numpy().tobytes())
    return sha.hexdigest()


def clean_set(part: Part, data: Images) -> TrainSet:
    """The clean training images under the key of their content."""
    return TrainSet(data.images, data.labels, digest(["clean", part.spec(), fingerprint(data)]))


def draw(attack: Attack, info: DatasetInfo, labels: np.ndarray, seed: int, dataset: Part) -> np.ndarray:
    """Choose the images to poison.

    Args:
        attack: whose budget counts.
        info: of the data set.
        labels: int64 (N,) true labels.
        seed: the cell's seed; with data set and attack it fixes the draw.
        dataset: for the seed.

    Returns:
        int64 (P,), ascending.

    Raises:
        Impossible: the budget cannot be met on the data as found.
    """
    target = attack.resolved_target(info)
    counts = tuple(int(c) for c in np.bincount(labels, minlength=info.classes))
    budget = attack.budget(info._replace(train=len(labels)), counts)
    if budget is None:
        raise Impossible("the budget cannot be worked out from the data found")
    if attack.clean_label:
        pool = np.flatnonzero(labels == target)
    elif attack.pool == "non-target":
        pool = np.flatnonzero(labels != target)
    else:
        pool = np.arange(len(labels))
    rng = np.random.default_rng(seed_for("poison", dataset.spec(), attack.name, seed))
    return np.sort(rng.permutation(pool)[: budget.count]).astype(np.int64)


def _stamp(attack: Attack, images: torch.Tensor, how: Stamp) -> torch.Tensor:
    """Stamp and hold the attack to its word: uint8, same shape, input untouched."""
    out = attack.stamp(images, how)
    if out.dtype != torch.uint8 or out.shape != images.shape:
        raise UsageError(f"attack {attack.name!r}: stamp returned {out.dtype} {tuple(out.shape)}, not uint8 {tuple(images.shape)}")
    return out


def stamp_seed(attack: Attack, dataset: Part) -> int:
    """Seed of what an attack draws while stamping."""
    return seed_for("stamp", dataset.name, attack.name, attack.trigger_seed)


@dataclasses.dataclass(frozen=True)
class Poisoner:
    """Makes one row's poison, from the store where it was made before.

    Attributes:
        cell: whose row.
        made: its components.
        store: artifacts.
        device: for what must be trained first.
        on_event: told of progress.
        root: folder of the data sets.
    """

    cell: Cell
    made: Made
    store: Store
    device: torch.device
    on_event: Callable[[dict[str, Any]], None]
    root: str | None

    def train_set(self) -> tuple[TrainSet, DatasetInfo]:
        """The clean training set, read now."""
        data = self.made.dataset.load("train", self.root)
        return clean_set(self.cell.dataset, data), self.made.dataset.info()

    def poison(self, clean: TrainSet, info: DatasetInfo) -> Poison:
        """Draw, prepare and stamp; or load what was made before."""
        attack, cell = self.made.attack, self.cell
        if not attack.poisons:
            empty = np.zeros((0, 3, info.size, info.size), np.uint8)
            return Poison(np.zeros(0, np.int64), empty, np.zeros(0, np.int64), {}, {}, clean.key, None)
        labels = clean.labels.numpy()
        indices = draw(attack, info, labels, cell.seed, cell.dataset)
        trigger_key, trigger, sha = self.trigger(clean, info, indices)
        key = digest(["poison", CODE_VERSION, clean.key, cell.attack.spec(), cell.seed, trigger_key])

        def compute() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            return self._make(clean, info, indices, trigger), {}

        found, _ = self.store.memo("poison", key, compute)
        where, given = found.arrays["indices"], found.arrays["labels"]
        flags = found.arrays["poison"]
        target = attack.resolved_target(info)
        facts = {
            "count": int(flags.sum()),
            "share_of_set": float(flags.sum() / len(labels)),
            "share_of_target_class": float((labels[where[flags]] == target).sum() / max(1, (labels == target).sum())),
            "target": target,
        }
        if not flags.all():
            facts["cover"] = int((~flags).sum())
        return Poison(where, found.arrays["images"], given, facts, trigger, key, sha)

    def _make(self, clean: TrainSet, info: DatasetInfo, indices: np.ndarray, trigger: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        attack = self.made.attack
        how = Stamp("train", indices, trigger, stamp_seed(attack, self.cell.dataset))
        chosen = torch.from_numpy(indices)
        images = _stamp(attack, clean.images[chosen], how).numpy()
        labels = clean.labels[chosen].numpy().copy()
        if not attack.clean_label:
            labels[:] = attack.resolved_target(info)
        return {"indices": indices, "images": images, "labels": labels, "poison": np.ones(len(indices), bool)}

    def trigger(self, clean: TrainSet, info: DatasetInfo, indices: np.ndarray) -> tuple[str | None, dict[str, np.ndarray], str | None]:
        """What the attack prepares: key, arrays and their sha256; (None, {}, None) for attacks that prepare nothing."""
        attack = self.made.attack
        if type(attack).prepare is Attack.prepare:
            return None, {}, None
        network = NetworkPlan(self.made.model, self.cell.model, info.classes, info.size, self.made.dataset.normalisation)
        spec = self.cell.attack.spec()
        if not attack.prepared_from_poison:
            # How many images are poisoned does not change the trigger: one serves all budgets.
            spec = {**spec, "params": {k: v for k, v in spec["params"].items() if k not in _BUDGET}}
        trained = [network.spec(), self.cell.recipe, self.device.type] if attack.trains() else None
        drawn = hashlib.sha256(indices.tobytes()).hexdigest() if attack.prepared_from_poison else None
        key = digest(["trigger", CODE_VERSION, clean.key, spec, trained, drawn])
        shop = Workshop(
            clean,
            info,
            attack.resolved_target(info),
            attack.trigger_seed,
            indices if attack.prepared_from_poison else None,
            [self.cell.dataset.name, attack.name],
            store=self.store,
            network=network,
            recipe=self.made.recipe,
            device=self.device,
            ledger=Ledger(),
            on_event=self.on_event,
        )
        found, _ = self.store.memo("trigger", key, lambda: (dict(attack.prepare(shop)), {}))
        meta = self.store.path("trigger", key) / "meta.json"
        return key, found.arrays, str(json.loads(meta.read_bytes())["sha256"])

    def triggered(self, data: Images, info: DatasetInfo, poison: Poison) -> tuple[torch.Tensor, torch.Tensor]:
        """Test images of every other class with the trigger, uint8 (M, 3, H, W), and their true labels (M,)."""
        attack = self.made.attack
        where = np.flatnonzero(data.labels.numpy() != attack.resolved_target(info)).astype(np.int64)
        how = Stamp("test", where, poison.trigger, stamp_seed(attack, self.cell.dataset))
        index = torch.from_numpy(where)
        return _stamp(attack, data.images[index], how), data.labels[index]


def apply(clean: TrainSet, poison: Poison) -> TrainSet:
    """The training set as the defender gets it: the clean one with the poisoned images and labels written in."""
    if not len(poison.indices):
        return clean
    where = torch.from_numpy(poison.indices)
    images, labels = clean.images.clone(), clean.labels.clone()
    images[where] = torch.from_numpy(poison.images)
    labels[where] = torch.from_numpy(poison.labels)
    return TrainSet(images, labels, poison.key)
