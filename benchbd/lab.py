"""The workbench a defense is handed: train, losses, features, logits, all memoised by content.

What is *not* here is the point: no test images, no poison mask, no true labels, no trigger, no attack. The harness loads
those only after the defense has returned (:mod:`benchbd.evaluate`). ``clean`` and ``truth`` hold something only for
defenses whose class declares the need.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchbd import engine, registry
from benchbd.cell import Part, canonical, digest, part_of
from benchbd.components import Model, Normalisation
from benchbd.errors import UsageError
from benchbd.recipe import Recipe
from benchbd.seeding import seed_for
from benchbd.store import Store

if TYPE_CHECKING:
    from benchbd.engine import Classifier, Loss, Perturb, Precision

CODE_VERSION = 1
"""Part of every stage's key: raise it when the engine or the lab computes something else than before."""

STAGE_KINDS = ("model", "array", "checkpoint")


def _sha(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()


class TrainSet:
    """Labelled training images with the key of their content.

    Attributes:
        images: uint8 (N, 3, H, W), CPU.
        labels: int64 (N,), CPU; as the defender sees them.
        key: hash of everything that determined them.
    """

    __slots__ = ("images", "key", "labels")

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, key: str) -> None:
        self.images, self.labels, self.key = images, labels, key

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Any) -> TrainSet:
        """The samples at ``indices`` (int (M,) positions or bool (N,) mask), in the order given."""
        where = np.asarray(indices)
        where = np.flatnonzero(where) if where.dtype == bool else where.astype(np.int64)
        if len(where) == len(self) and np.array_equal(where, np.arange(len(self))):
            return self
        if len(where) and not (0 <= where.min() and where.max() < len(self)):
            raise UsageError(f"subset: positions reach from {where.min()} to {where.max()}, the set has {len(self)} samples")
        index = torch.from_numpy(where)
        return TrainSet(self.images[index], self.labels[index], digest(["subset", self.key, _sha(where)]))


class Trained:
    """A trained (or pruned) network: its artifact, and what it cost.

    Attributes:
        key: artifact key of the weights.
        epoch_losses: mean cross-entropy of each training epoch, as seen in training.
        epochs: epochs of this training alone.
    """

    def __init__(self, key: str, state: dict[str, np.ndarray], network: NetworkPlan, epoch_losses: list[float], epochs: int) -> None:
        self.key, self.epoch_losses, self.epochs = key, epoch_losses, epochs
        self._state, self._plan = state, network

    def module(self) -> Classifier:
        """The network in eval mode on the CPU; a new copy each time."""
        net = self._plan.build(0)
        net.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in self._state.items()})
        return net.eval()

    def head(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights (C, D) and biases (C,) of the final linear layer, float32."""
        head = self.module().net.head
        return head.weight.detach().numpy().copy(), head.bias.detach().numpy().copy()


@dataclasses.dataclass(frozen=True)
class NetworkPlan:
    """What is needed to build a network: model plugin, classes, image size, normalisation."""

    model: Model
    part: Part
    classes: int
    size: int
    normalisation: Normalisation

    def build(self, seed: int) -> Classifier:
        """A freshly initialised network."""
        return engine.build(self.model, self.classes, self.size, self.normalisation, seed)

    def spec(self) -> dict[str, Any]:
        """What of it counts for a key."""
        return {"model": self.part.spec(), "classes": self.classes, "size": self.size, "normalisation": [list(v) for v in self.normalisation]}


@dataclasses.dataclass
class Ledger:
    """What a cell's stages cost: seconds by stage name (as if computed alone), what was computed now, counts."""

    stages: dict[str, float] = dataclasses.field(default_factory=dict)
    own: float = 0.0
    waited: float = 0.0
    inside: float = 0.0
    epochs: int = 0
    trainings: dict[str, int] = dataclasses.field(default_factory=dict)
    computed: dict[str, int] = dataclasses.field(default_factory=dict)
    artifacts: dict[str, str] = dataclasses.field(default_factory=dict)

    def charge(self, name: str, seconds: float) -> None:
        """Add to a stage's cost."""
        self.stages[name] = self.stages.get(name, 0.0) + seconds


class Stages:
    """Memoised stages over a store; the base of the lab and of the attacks' workshop.

    Args:
        store: where artifacts lie.
        network: the cell's model.
        recipe: the base recipe.
        seed: seed of initialisation and batch order.
        device: where to compute.
        ledger: is told the costs.
        on_event: told of progress.
        checkpoint_every: seconds between checkpoints of a running training.
    """

    def __init__(
        self,
        store: Store,
        network: NetworkPlan,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        ledger: Ledger,
        on_event: Callable[[dict[str, Any]], None],
        checkpoint_every: float = 180.0,
    ) -> None:
        self._store, self._network, self._seed, self._ledger, self._on_event = store, network, seed, ledger, on_event
        self._checkpoint_every = checkpoint_every
        self.recipe, self.device = recipe, device
        self.classes, self.size = network.classes, network.size
        self._seen: set[str] = set()

    def seed_for(self, purpose: str) -> int:
        """A seed for a purpose of the plugin's own, stable for this cell's seed."""
        return seed_for("plugin", self._seed, purpose)

    def _plan_for(self, model: str | None) -> NetworkPlan:
        if model is None:
            return self._network
        made = registry.make("models", model)
        return dataclasses.replace(self._network, model=made, part=part_of(made))

    def precision_for(self, plan: NetworkPlan) -> Precision:
        """Numbers a network computes in on this device; part of every key."""
        return engine.choose_precision(self.device)

    def _memo(self, kind: str, name: str, key: str, what: str, compute: Callable[[], tuple[dict[str, np.ndarray], dict[str, Any]]]) -> Any:
        """Look a stage up or compute it, and write its cost down; equal stages of one cell are charged once."""
        began = time.perf_counter()
        waiting: list[float] = []

        def tell() -> None:
            waiting.append(time.perf_counter())
            self._on_event({"event": "stage", "stage": f"{name} (another worker computes it)"})

        self._on_event({"event": "stage", "stage": name})
        found, now = self._store.memo(kind, key, compute, tell)
        spent = time.perf_counter() - began
        self._ledger.inside += spent
        if key not in self._seen:
            self._seen.add(key)
            self._ledger.charge(name, float(found.meta["seconds"]))
            self._ledger.epochs += int(found.meta.get("epochs", 0))
            self._ledger.artifacts[name] = key
            if what:
                self._ledger.trainings[what] = self._ledger.trainings.get(what, 0) + 1
                if now:
                    self._ledger.computed[what] = self._ledger.computed.get(what, 0) + 1
        if now:
            self._ledger.own += float(found.meta["seconds"])
        return found

    def train(
        self,
        data: TrainSet,
        *,
        what: str = "full",
        name: str = "train",
        model: str | None = None,
        weights: Any = None,
        loss: Loss | None = None,
        perturb: Perturb | None = None,
        start: Trained | None = None,
        repeat: int = 0,
        **changes: Any,
    ) -> Trained:
        """Train a network on a set, or return the stored one that the same call made before.

        Args:
            data: images and labels.
            what: how the plan counts it: ``full``, ``feature-model``, ``teacher`` or ``fine-tune``.
            name: the stage's name in the record.
            model: another model's spec (``resnet-s(stem=2)``); the cell's where not given.
            weights: float32 (N,), one per sample of ``data``, multiplied into its loss.
            loss: called with per-sample losses (B,) and weights (B,); returns what is minimised. Its repr is in the key.
            perturb: called with network, images (B, 3, H, W) in [0, 1] and labels after augmentation. Its repr is in the key.
            start: network to start from; a fresh initialisation where not given.
            repeat: another initialisation and batch order for the same data.
            **changes: entries of the recipe to change (``epochs=5, augment=()``).

        Raises:
            Diverged: the loss stopped being finite.
        """
        if len(data) == 0:
            raise UsageError(f"{name}: there is no sample to train on")
        plan = start._plan if start is not None and model is None else self._plan_for(model)
        recipe = self.recipe.but(**changes)
        values = None if weights is None else np.ascontiguousarray(np.asarray(weights, np.float32))
        if values is not None and values.shape != (len(data),):
            raise UsageError(f"{name}: {len(data)} samples but weights of shape {values.shape}")
        precision = self.precision_for(plan)
        key = digest(
            [
                "train",
                CODE_VERSION,
                data.key,
                plan.spec(),
                {**recipe.spec(), "horizon": recipe.horizon or recipe.epochs},
                None if values is None else _sha(values),
                None if loss is None else repr(loss),
                None if perturb is None else repr(perturb),
                None if start is None else start.key,
                [self._seed, repeat],
                precision.name,
            ]
        )

        def compute() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            net = plan.build(seed_for("init", self._seed, repeat))
            if start is not None:
                net.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in start._state.items()})
            checkpoint = Checkpoint(self._store, key, self._checkpoint_every)
            fit = engine.fit(
                net,
                data.images,
                data.labels,
                recipe,
                device=self.device,
                precision=precision,
                seed=seed_for("batches", self._seed, repeat),
                weights=None if values is None else torch.from_numpy(values),
                loss=loss,
                perturb=perturb,
                on_progress=lambda facts: self._on_event({"event": "progress", "stage": name, **facts}),
                checkpoint=checkpoint,
            )
            checkpoint.clear()
            state = {k: v.detach().cpu().numpy() for k, v in net.state_dict().items()}
            facts = {"epoch_losses": fit.epoch_losses, "epochs": recipe.epochs, "seconds": checkpoint.earlier + fit.seconds, "model": canonical(plan.spec())}
            return state, facts

        found = self._memo("model", name, key, what, compute)
        return Trained(key, found.arrays, plan, list(found.meta["epoch_losses"]), int(found.meta["epochs"]))

    def _pass(self, kind: str, trained: Trained, data: TrainSet) -> np.ndarray:
        key = digest([kind, CODE_VERSION, trained.key, data.key, self.device.type])

        def compute() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            net = trained.module()
            if kind == "losses":
                out = engine.losses_of(net, data.images, data.labels, device=self.device)
            elif kind == "features":
                out = engine.features_of(net, data.images, device=self.device)
            else:
                out = engine.logits_of(net, data.images, device=self.device)
            return {kind: out}, {}

        return self._memo("array", kind, key, "", compute).arrays[kind]  # type: ignore[no-any-return]

    def losses(self, trained: Trained, data: TrainSet) -> np.ndarray:
        """Cross-entropy of each sample, float32 (N,): eval mode, no augmentation, fp32, in the order of ``data``."""
        return self._pass("losses", trained, data)

    def features(self, trained: Trained, data: TrainSet) -> np.ndarray:
        """Penultimate features, float32 (N, D): eval mode, no augmentation, fp32, in the order of ``data``."""
        return self._pass("features", trained, data)

    def logits(self, trained: Trained, data: TrainSet) -> np.ndarray:
        """Logits, float32 (N, C): eval mode, no augmentation, fp32, in the order of ``data``."""
        return self._pass("logits", trained, data)

    def prune(self, trained: Trained, channels: Any) -> Trained:
        """The network with some penultimate channels masked to zero; weights stay, nothing is trained."""
        where = np.asarray(channels, np.int64)
        key = digest(["prune", CODE_VERSION, trained.key, _sha(where)])

        def compute() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            state = {k: np.array(v) for k, v in trained._state.items()}
            state["channel_mask"][where] = 0
            return state, {"epoch_losses": trained.epoch_losses, "epochs": 0}

        found = self._memo("model", "prune", key, "", compute)
        return Trained(key, found.arrays, trained._plan, trained.epoch_losses, 0)

    def stage(self, name: str, params: dict[str, Any], compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """A memoised stage of the plugin's own.

        Args:
            name: the stage.
            params: everything that determines the result, JSON-able (keys of the sets and models that go in).
            compute: returns arrays by name.
        """
        key = digest(["stage", CODE_VERSION, name, params, self._seed, self.device.type])
        return self._memo("array", name, key, "", lambda: (compute(), {})).arrays  # type: ignore[no-any-return]


class Lab(Stages):
    """What :meth:`benchbd.Defense.train` is handed.

    Attributes:
        poisoned: the training set, some of whose samples may be poisoned.
        recipe: the matrix's base recipe.
        classes: number of classes.
        size: image height and width in pixels.
    """

    def __init__(self, poisoned: TrainSet, *, clean: TrainSet | None = None, truth: np.ndarray | None = None, **base: Any) -> None:
        super().__init__(**base)
        self.poisoned = poisoned
        self._clean, self._truth = clean, truth
        self._base = base
        self.suspicion: Suspicion | None = None
        self.notes: dict[str, Any] = {}

    @property
    def clean(self) -> TrainSet:
        """Clean training images with true labels; only for defenses that declare ``needs = ("clean",)``."""
        if self._clean is None:
            raise UsageError('this defense declares no need of clean images; say needs = ("clean",) in its class')
        return self._clean

    @property
    def truth(self) -> np.ndarray:
        """bool (N,): which samples are poisoned; only for controls that declare ``needs = ("truth",)``."""
        if self._truth is None:
            raise UsageError('this defense may not see which samples are poisoned; controls say needs = ("truth",) in their class')
        return self._truth

    def suspect(self, scores: Any, flagged: Any = None) -> None:
        """Tell which samples look poisoned; the evaluator turns it into AUROC, precision and recall.

        Args:
            scores: float (N,), higher is more suspicious, in the order of ``poisoned``.
            flagged: the samples acted upon: bool (N,) or positions.
        """
        values = np.asarray(scores, np.float64)
        if values.shape != (len(self.poisoned),):
            raise UsageError(f"suspect: {len(self.poisoned)} samples but scores of shape {values.shape}")
        mask = None
        if flagged is not None:
            given = np.asarray(flagged)
            mask = np.zeros(len(self.poisoned), bool)
            mask[given if given.dtype == bool else given.astype(np.int64)] = True
        self.suspicion = Suspicion(values, mask)

    def note(self, name: str, value: Any) -> None:
        """Keep a JSON-able fact in the record (a pruning curve, what was kept per class)."""
        canonical(value)
        self.notes[name] = value

    def flagged_by(self, spec: str) -> int:
        """How many samples another defense acts upon in this very row and seed. For controls that see the truth.

        Runs that defense up to the point where it names its suspects; its stages are memoised, so nothing is done twice.
        """
        _ = self.truth
        other = registry.make("defenses", spec)
        inner = _Peek(self.poisoned, clean=None, truth=None, **self._base)
        inner._seen = self._seen
        try:
            other.train(inner)
        except _Named as named:
            return named.count
        raise UsageError(f"defense {spec!r} flags no samples, so nothing can be dropped in its stead")


class _Named(Exception):
    """Ends a peeked-at defense once its suspects are known."""

    def __init__(self, count: int) -> None:
        self.count = count


class _Peek(Lab):
    def suspect(self, scores: Any, flagged: Any = None) -> None:
        super().suspect(scores, flagged)
        if self.suspicion is not None and self.suspicion.flagged is not None:
            raise _Named(int(self.suspicion.flagged.sum()))


@dataclasses.dataclass(frozen=True)
class Suspicion:
    """A defense's verdict on the training samples: ``scores`` float64 (N,), ``flagged`` bool (N,) or None."""

    scores: np.ndarray
    flagged: np.ndarray | None


class Checkpoint:
    """Saves a running training every so often, so that a killed one goes on where it was.

    Attributes:
        earlier: seconds spent before the last resume.
    """

    def __init__(self, store: Store, key: str, every: float) -> None:
        self._store, self._key, self._every = store, key, every
        self._last = self._began = time.perf_counter()
        self.earlier = 0.0

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.perf_counter() - self._last >= self._every

    def save(self, state: dict[str, Any]) -> None:
        """Save tensors and plain numbers."""
        arrays = {k: v.detach().cpu().numpy() for k, v in state.items() if isinstance(v, torch.Tensor)}
        plain = {k: v for k, v in state.items() if not isinstance(v, torch.Tensor)}
        self._store.put("checkpoint", self._key, arrays, {"plain": plain, "seconds": self.earlier + time.perf_counter() - self._began})
        self._last = time.perf_counter()

    def load(self) -> dict[str, Any] | None:
        """What was saved last, or None."""
        found = self._store.get("checkpoint", self._key)
        if found is None:
            return None
        self.earlier = float(found.meta["seconds"])
        return {**{k: torch.from_numpy(np.array(v)) for k, v in found.arrays.items()}, **found.meta["plain"]}

    def clear(self) -> None:
        """Forget it: the training is complete."""
        self._store.drop("checkpoint", self._key)


