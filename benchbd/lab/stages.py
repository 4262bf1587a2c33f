"""Stages of work memoised by content: trainings, passes over a set, prunings, and whatever else a plugin names.

The key of a stage hashes everything that determines its result: data, model, recipe, weights, loss, seed, precision
class, code version. Who asks, under which name and where progress is shown does not count, so that cells share.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from benchbd import engine
from benchbd.core.events import Listener, progress
from benchbd.core.hashing import canonical, digest, sha_of
from benchbd.core.recipe import Recipe
from benchbd.core.seeding import seed_for
from benchbd.engine import passes
from benchbd.errors import Diverged, UsageError, one_line, shown
from benchbd.lab.costs import CostLedger, Frame
from benchbd.lab.keys import cache_key_form
from benchbd.plugins import registry
from benchbd.plugins.identity import part_of
from benchbd.plugins.train_set import TrainSet, positions
from benchbd.plugins.trained import CurvePoint, ModelSpec, TrainedModel, last_filters
from benchbd.storage.checkpoint import Checkpoint

if TYPE_CHECKING:
    from benchbd.engine import Classifier, Loss, Perturb, Precision, TrainingLoop, WeightFunction
    from benchbd.storage.artifacts import Artifact, Store
    from benchbd.storage.restricted import RestrictedStore

CODE_VERSION = 2
"""Part of every stage's key: raise it when the engine or the lab computes something else than before."""
STAGE_KINDS = ("model", "array", "checkpoint")
"""Kinds of artifacts that stages are kept as; a lab's view of the store holds no others."""
MOST_TRACED = 24
"""Networks on the way that the evaluator measures for one cell at most."""
TRAINING_KINDS = ("full", "feature-model", "teacher", "fine-tune")
"""What a training may be counted as."""

Result = tuple[dict[str, np.ndarray], dict[str, Any]]


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
        owner: what counts of the plugin at work for free-form stages (:func:`benchbd.lab.keys.plugin_fingerprint`).

    Attributes:
        traced: networks on the way that the evaluator shall measure.
        broken_off: the stage whose training stopped being finite, and its mean cross-entropy by epoch until then.
    """

    def __init__(
        self,
        store: Store | RestrictedStore,
        network: ModelSpec,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        ledger: CostLedger,
        on_event: Listener,
        checkpoint_every: float = 180.0,
        owner: Any = None,
    ) -> None:
        self._store, self._network, self._seed, self._ledger, self._on_event = store, network, seed, ledger, on_event
        self._checkpoint_every, self._owner = checkpoint_every, owner
        self.recipe, self.device = recipe, device
        self.classes, self.size = network.classes, network.size
        self._seen: set[str] = set()
        self._frames: list[Frame] = []
        self.traced: list[CurvePoint] = []
        self.broken_off: dict[str, Any] | None = None

    def seed_for(self, purpose: str) -> int:
        """A seed for a purpose of the plugin's own, stable for this cell's seed."""
        return seed_for("plugin", self._seed, purpose)

    def _plan_for(self, model: str | None) -> ModelSpec:
        if model is None:
            return self._network
        made = registry.make("models", model)
        return dataclasses.replace(self._network, model=made, part=part_of(made))

    def precision_for(self, plan: ModelSpec) -> Precision:
        """Numbers a network computes in on this device; part of every key."""
        return engine.choose_precision(self.device)

    def _memo(self, kind: str, name: str, key: str, counted_as: str, compute: Callable[[], Result]) -> Artifact:
        """Look a stage up or compute it, and write its cost down; equal stages of one cell are charged once.

        A stage may ask for others while it is computed. Its own cost leaves theirs out, and its artifact names them, so
        that a cell which finds it in the store is charged for them all the same.
        """
        frame = Frame()
        began = time.perf_counter()
        waiting_since: float | None = None

        def tell() -> None:
            nonlocal waiting_since
            waiting_since = time.perf_counter()
            self._on_event({"event": "waiting", "stage": name})

        def measured() -> Result:
            self._waited(waiting_since)
            if waiting_since is not None:  # who computed it gave up or died
                self._on_event({"event": "stage", "stage": name})
            self._frames.append(frame)
            started = time.perf_counter()
            try:
                arrays, facts = compute()
            finally:
                self._frames.pop()
            facts.setdefault("seconds", time.perf_counter() - started - frame.spent)
            return arrays, {**facts, "inner": frame.charges} if frame.charges else facts

        self._on_event({"event": "stage", "stage": name})
        found, now = self._store.memo(kind, key, measured, tell)
        if not now:
            self._waited(waiting_since)
        spent = time.perf_counter() - began
        mine = [name, key, float(found.meta["seconds"]), int(found.meta.get("epochs", 0)), counted_as]
        charges = [*found.meta.get("inner", []), mine]
        if self._frames:
            self._frames[-1].spent += spent
            self._frames[-1].charges += [c for c in charges if c not in self._frames[-1].charges]
        else:
            self._ledger.inside += spent
        for charge in charges:
            self._charge(*charge, now=now and charge is mine)
        return found

    def _waited(self, since: float | None) -> None:
        if since is not None:
            self._ledger.waited += time.perf_counter() - since

    def _charge(self, name: str, key: str, seconds: float, epochs: int, counted_as: str, *, now: bool) -> None:
        if key in self._seen:
            return
        self._seen.add(key)
        ledger = self._ledger
        ledger.charge(name, seconds)
        ledger.epochs += epochs
        free, number = name, 1
        while free in ledger.artifacts:
            number += 1
            free = f"{name} {number}"
        ledger.artifacts[free] = key
        if counted_as:
            ledger.trainings[counted_as] = ledger.trainings.get(counted_as, 0) + 1
            if now:
                ledger.computed[counted_as] = ledger.computed.get(counted_as, 0) + 1

    def _recipe(self, changes: dict[str, Any], name: str) -> Recipe:
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in changes.items()}
        if "augment" in plain:
            plain["augment"] = plain["augment"] or ()
        return Recipe.parse({**self.recipe.spec(), **plain}, f"{name}: the recipe") if plain else self.recipe

    def train(
        self,
        data: TrainSet,
        *,
        kind: str = "full",
        name: str = "train",
        model: str | None = None,
        weights: Any = None,
        scorer: TrainedModel | None = None,
        weight_fn: WeightFunction | None = None,
        loss: Loss | None = None,
        perturb: Perturb | None = None,
        training_loop: TrainingLoop | None = None,
        start: TrainedModel | None = None,
        repeat: int = 0,
        trace: bool = False,
        **changes: Any,
    ) -> TrainedModel:
        """Train a network on a set, or return the stored one that the same call made before.

        Args:
            data: images and labels.
            kind: how the plan counts it: ``full``, ``feature-model``, ``teacher`` or ``fine-tune``.
            name: the stage's name in the record.
            model: another model's spec (``resnet-s(stem=2)``); the cell's where not given.
            weights: float32 (N,), one per sample of ``data``, multiplied into its loss.
            scorer: a frozen network that scores each epoch's augmented views before they are trained on; with
                ``weight_fn``.
            weight_fn: a frozen dataclass, called each epoch with the scorer's cross-entropies float32 (N,) in the order
                of ``data``; returns that epoch's weights, float32 (N,).
            loss: a frozen dataclass, called with per-sample losses (B,) and weights (B,); returns what is minimised.
            perturb: a frozen dataclass, called with network, images (B, 3, H, W) in [0, 1] and labels after
                augmentation; returns the images to train on.
            training_loop: a frozen dataclass that does each epoch's steps itself
                (:class:`benchbd.engine.TrainingLoop`), without weights, scorer, loss and perturb. The plugin's version
                and source are in the key then.
            start: network to start from; a fresh initialisation where not given.
            repeat: another initialisation and batch order for the same data.
            trace: also :meth:`trace` the result, under the stage's name.
            **changes: entries of the recipe to change (``epochs=5, augment=()``).

        Raises:
            Diverged: the loss stopped being finite, or a weight is not; the message begins with the stage's name.
            UsageError: what is asked for makes no sense.
        """
        data.check()
        if len(data) == 0:
            raise UsageError(f"{name}: there is no sample to train on")
        if kind not in TRAINING_KINDS:
            raise UsageError(f"{name}: kind must be one of {', '.join(TRAINING_KINDS)}, not {shown(kind)}")
        plan = start._plan if start is not None and model is None else self._plan_for(model)
        if start is not None and plan.spec() != start._plan.spec():
            raise UsageError(f"{name}: {plan.part.text} cannot start from a {start._plan.part.text}")
        recipe = self._recipe(changes, name)
        values = None if weights is None else _weights(weights, len(data), name)
        if (scorer is None) != (weight_fn is None) or (scorer is not None and weights is not None):
            raise UsageError(f"{name}: scorer and weight_fn go together, and without weights")
        if training_loop is not None and any(given is not None for given in (weights, scorer, loss, perturb)):
            raise UsageError(
                f"{name}: a training loop makes its own loss and takes no weights, scorer, loss and perturb"
            )
        precision = self.precision_for(plan)
        own = [] if scorer is None else [[scorer.key, cache_key_form(weight_fn, f"{name}: weight_fn"), self._owner]]
        if training_loop is not None:
            own.append(["routine", cache_key_form(training_loop, f"{name}: training_loop"), self._owner])
        key = digest(
            [
                "train",
                CODE_VERSION,
                data.key,
                plan.spec(),
                recipe.decisive(),
                None if values is None else sha_of(values),
                cache_key_form(loss, f"{name}: loss"),
                cache_key_form(perturb, f"{name}: perturb"),
                None if start is None else start.key,
                [self._seed, repeat],
                precision.name,
                *own,
            ]
        )

        def compute() -> Result:
            net = plan.build(seed_for("init", self._seed, repeat))
            if start is not None:
                net.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in start._state.items()})
            how: dict[str, Any] = {
                "device": self.device,
                "precision": precision,
                "seed": seed_for("batches", self._seed, repeat),
                "on_progress": lambda facts: self._on_event(progress(name, facts)),
                "checkpoint": Checkpoint(self._store, key, self._checkpoint_every),
            }
            if training_loop is not None:
                fit = engine.fit_with_loop(training_loop, net, data.images, data.labels, recipe, **how)
            else:
                fit = engine.fit(
                    net,
                    data.images,
                    data.labels,
                    recipe,
                    weights=None if values is None else torch.from_numpy(values),
                    epoch_weights=None
                    if scorer is None or weight_fn is None
                    else engine.PerEpochWeights(scorer.module(), weight_fn),
                    loss=loss,
                    perturb=perturb,
                    on_epoch=self._watcher(key),
                    **how,
                )
            state = {k: v.detach().cpu().numpy() for k, v in net.state_dict().items()}
            facts = {"epoch_losses": fit.epoch_losses, "epochs": recipe.epochs, "seconds": fit.seconds}
            return state, {**facts, "model": canonical(plan.spec())}

        try:
            found = self._memo("model", name, key, kind, compute)
        except Diverged as error:
            self._store.drop("checkpoint", key)
            self.broken_off = {"stage": name, "epoch_losses": getattr(error, "epoch_losses", [])}
            raise Diverged(f"{name}: {error}") from error
        # Only now that the weights are stored: a kill in between must not cost the training.
        self._store.drop("checkpoint", key)
        trained = TrainedModel(key, found.arrays, plan, list(found.meta["epoch_losses"]), int(found.meta["epochs"]))
        if trace:
            self.trace(name, trained)
        return trained

    def _watcher(self, key: str) -> Callable[[int, Classifier], None] | None:
        """What to call after each epoch of a training; :mod:`benchbd.pipeline.probe_training` overrides it."""
        return None

    def _pass(self, kind: str, trained: TrainedModel, data: TrainSet) -> np.ndarray:
        data.check()
        key = digest([kind, CODE_VERSION, passes.VERSION, trained.key, data.key, self.device.type])

        def compute() -> Result:
            net = trained.module()
            if kind == "losses":
                out = engine.losses_of(net, data.images, data.labels, device=self.device)
            elif kind == "features":
                out = engine.features_of(net, data.images, device=self.device)
            else:
                out = engine.logits_of(net, data.images, device=self.device)
            return {kind: out}, {}

        return self._memo("array", kind, key, "", compute).arrays[kind]

    def losses(self, trained: TrainedModel, data: TrainSet) -> np.ndarray:
        """Cross-entropy of each sample, float32 (N,): eval mode, no augmentation, fp32, in the order of ``data``."""
        return self._pass("losses", trained, data)

    def features(self, trained: TrainedModel, data: TrainSet) -> np.ndarray:
        """Penultimate features, float32 (N, D): eval mode, no augmentation, fp32, in the order of ``data``."""
        return self._pass("features", trained, data)

    def logits(self, trained: TrainedModel, data: TrainSet) -> np.ndarray:
        """Logits, float32 (N, C): eval mode, no augmentation, fp32, in the order of ``data``."""
        return self._pass("logits", trained, data)

    def prune(self, trained: TrainedModel, channels: Any, at: Literal["output", "filters"] = "output") -> TrainedModel:
        """The network with some penultimate channels silenced; nothing is trained.

        Args:
            trained: the network; itself where there is no channel to silence.
            channels: positions (M,) among the D penultimate channels, in any order, or a mask bool (D,).
            at: ``output``: masked to zero there, weights stay. ``filters``: the last convolution's filters of these
                channels and their batch norm are set to zero; what a shortcut brings past them stays.

        Raises:
            Impossible: ``filters`` of a network that does not say which its last convolution is.
        """
        where = np.unique(positions(channels, len(trained._state["channel_mask"]), "prune"))
        if not len(where):
            return trained
        key = digest(["prune", CODE_VERSION, trained.key, sha_of(where), *([] if at == "output" else [at])])

        def compute() -> Result:
            state = {k: np.array(v) for k, v in trained._state.items()}
            for name in ("channel_mask",) if at == "output" else last_filters(trained.module()):
                state[name][where] = 0
            return state, {"epoch_losses": trained.epoch_losses, "epochs": 0}

        found = self._memo("model", "prune", key, "", compute)
        return TrainedModel(key, found.arrays, trained._plan, trained.epoch_losses, 0)

    def trace(self, name: str, trained: TrainedModel, channels: Any = ()) -> None:
        """Have a network on the way measured: clean accuracy and attack success go into the record's ``notes.curve``.

        The evaluator does so once the defense has returned; nothing of it can be seen here. It is charged to nobody,
        but each network costs a pass over the test images; all prunings of one network share theirs.

        Args:
            name: of the point on the curve.
            trained: the network.
            channels: penultimate channels masked in it, as for :meth:`prune`, for prunings that need not be stored.

        Raises:
            UsageError: there are as many points as may be, or no such channels.
        """
        if len(self.traced) == MOST_TRACED:
            raise UsageError(f"trace {shown(name)}: {MOST_TRACED} networks are traced already; choose fewer")
        where = np.unique(positions(channels, len(trained._state["channel_mask"]), "trace: channels"))
        self.traced.append(CurvePoint(str(name), trained, where))

    def _around(self) -> str:
        """Key of the data that free-form stages are about."""
        raise NotImplementedError

    def stage(
        self, name: str, params: dict[str, Any], compute: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """A memoised stage of the plugin's own. The plugin's version and source and the data are in its key already.

        Args:
            name: the stage.
            params: everything else that determines the result, JSON-able: keys of the models that go in, settings.
            compute: returns arrays by name; nothing random but from :meth:`seed_for`.
        """
        try:
            spelt = canonical(params)
        except (TypeError, ValueError) as error:
            raise UsageError(f"stage {shown(name)}: params must be JSON-able ({one_line(error)})") from error
        key = digest(["stage", CODE_VERSION, self._owner, self._around(), name, spelt, self._seed, self.device.type])
        return self._memo("array", name, key, "", lambda: (compute(), {})).arrays


def _weights(given: Any, count: int, name: str) -> np.ndarray:
    values = np.ascontiguousarray(np.asarray(given, np.float32))
    if values.shape != (count,):
        raise UsageError(f"{name}: {count} samples but weights of shape {values.shape}")
    wrong = count - int(np.isfinite(values).sum())
    if wrong:
        raise Diverged(f"{name}: {wrong} of {count} weights are not finite")
    return values
