"""Stages of work memoised by content: trainings, passes over a set, prunings, and whatever else a plugin names.

The key of a stage hashes everything that determines its result: data, model, recipe, weights, loss, seed, precision
class, code version. It excludes the caller, the stage's name and the progress display, so that cells share stages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from benchbd import engine
from benchbd.core import allocator
from benchbd.core.events import Listener, progress
from benchbd.core.hashing import canonical, digest, sha_of
from benchbd.core.numerics import USUAL, Numerics
from benchbd.core.pools import Pool
from benchbd.core.recipe import Recipe
from benchbd.core.seeding import seed_for
from benchbd.core.transform import TestTransform
from benchbd.deprecated import renamed_keywords
from benchbd.engine import passes
from benchbd.engine.outside_state import load_outside_state, renamed_state, state_tensors
from benchbd.errors import BenchbdError, Diverged, Misused, UsageError, one_line, shown
from benchbd.lab import keys
from benchbd.lab.costs import CostLedger, Result, StageCosts
from benchbd.lab.guarded import Guarded
from benchbd.lab.packed_training import PackedRequest
from benchbd.lab.stored_state import proved_state
from benchbd.lab.train_request import TrainRequest
from benchbd.lab.unaffected import unaffected
from benchbd.plugins import registry
from benchbd.plugins.identity import part_of
from benchbd.plugins.train_set import TrainSet, positions
from benchbd.plugins.trained import CurvePoint, ModelSpec, TrainedModel, last_filters
from benchbd.storage.checkpoint import Checkpoint

if TYPE_CHECKING:
    from benchbd.engine import Classifier, Loss, Perturb, Precision, TrainingLoop, WeightFunction
    from benchbd.storage.artifacts import Artifact, Store
    from benchbd.storage.restricted import RestrictedStore

STAGE_KINDS = ("model", "array", "checkpoint")
"""Kinds of artifacts that stages are kept as; a lab's view of the store holds no others."""
MOST_TRACED = 24
"""Intermediate models that the evaluator measures for one cell at most."""


class Stages(Guarded):
    """Memoised stages over a store; the base of the lab and of the attacks' workshop.

    The methods that plugins call are described in :class:`benchbd.plugins.handles.Workbench`.

    Args:
        store: holds the artifacts.
        network: the cell's model.
        recipe: the base recipe.
        seed: seed of initialisation and batch order.
        device: computes trainings and passes.
        ledger: gets the costs.
        on_event: gets progress and other events.
        checkpoint_every: seconds between checkpoints of a running training.
        owner: identifies the plugin at work in the keys of its own stages
            (:func:`benchbd.lab.keys.plugin_fingerprint`).
        numerics: the precision and threads that the cell asks for.

    Attributes:
        traced: intermediate models for the evaluator to measure.
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
        numerics: Numerics = USUAL,
    ) -> None:
        super().__init__()
        self._store, self._network, self._seed, self._ledger, self._on_event = store, network, seed, ledger, on_event
        self._checkpoint_every, self._owner, self._numerics = checkpoint_every, owner, numerics
        self._costs = StageCosts(ledger)
        self._plans: dict[str, ModelSpec] = {}
        self.recipe, self.device = recipe, device
        self.classes, self.size = network.classes, network.size
        self.traced: list[CurvePoint] = []
        self.broken_off: dict[str, Any] | None = None

    def seed_for(self, purpose: str) -> int:
        """A seed for a purpose of the plugin's own, stable for this cell's seed."""
        return seed_for("plugin", self._seed, purpose)

    @property
    def model(self) -> str:
        """The row's model as a spec, such as ``resnet18(width=16)``, to build others from or to name in messages."""
        return self._network.part.text

    def _plan_for(self, model: str | None) -> ModelSpec:
        if model is None:
            return self._network
        if model not in self._plans:  # kept, since a user's model is built to see what it starts from
            network = registry.make("models", model)
            self._plans[model] = dataclasses.replace(self._network, model=network, part=part_of(network))
        return self._plans[model]

    def precision_for(self, plan: ModelSpec) -> Precision:
        """Numbers a network computes in on this device; part of every training's key."""
        return engine.choose_precision(self.device, *self._numerics)

    def _recipe(self, changes: dict[str, Any], name: str, plan: ModelSpec) -> Recipe:
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in changes.items()}
        own = plan.part.spec() == self._network.part.spec()
        base = self.recipe if own else self.recipe.for_another_model()
        return base.changed(plain, f"{name}: the recipe") if plain else base

    def _unaffected(self, compute: Callable[[], Result]) -> Callable[[], Result]:
        """A computation of the harness, which other cells share; see :func:`benchbd.lab.unaffected.unaffected`."""
        return unaffected(compute, self._numerics.threads if self.device.type == "cpu" else None)

    def _memo(self, kind: str, name: str, key: str, counted_as: str, compute: Callable[[], Result]) -> Artifact:
        """Look a stage up or compute it, and charge it (:class:`benchbd.lab.costs.StageClock`)."""
        clock = self._costs.start()

        def wait() -> None:
            clock.wait()
            self._on_event({"event": "waiting", "stage": name})

        def measured() -> Result:
            if clock.waited():  # the process that computed it gave up or died
                self._on_event({"event": "stage", "stage": name})
            return clock.measure(compute)

        self._on_event({"event": "stage", "stage": name})
        found, now = self._store.memo(kind, key, measured, wait)
        if now:
            allocator.give_back()
        else:
            clock.waited()
        clock.charge(name, key, found.meta, counted_as, now=now)
        return found

    # jscpd:ignore-start  the signature is that of the interface, Workbench.train
    @renamed_keywords(what="kind", judge="scorer", weigh="weight_fn", routine="training_loop")
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
        """Train a network, or return the stored one; see :meth:`benchbd.plugins.handles.Workbench.train`."""
        # jscpd:ignore-end
        self._intact(data)
        for what, given in (("start", start), ("scorer", scorer)):
            if given is not None:
                self._own(given, f"{name}: {what}")
        if dataclasses.is_dataclass(training_loop):
            for field in dataclasses.fields(training_loop):
                if isinstance(held := getattr(training_loop, field.name), TrainedModel):
                    self._own(held, f"{name}: training_loop.{field.name}")
        if start is not None:
            self._plain(start, f"{name}: start")
        plan = start._plan if start is not None and model is None else self._plan_for(model)
        request = TrainRequest(
            data=data,
            kind=kind,
            name=name,
            model=plan,
            recipe=self._recipe(changes, name, plan),
            seed=self._seed,
            precision=self.precision_for(plan),
            owner=self._owner,
            weights=weights,
            scorer=scorer,
            weight_fn=weight_fn,
            loss=loss,
            perturb=perturb,
            training_loop=training_loop,
            start=start,
            repeat=repeat,
        )
        key = request.key()
        found = self._trained(name, key, kind, lambda: self._fit(request, key), request)
        losses, epochs = list(found.meta["epoch_losses"]), int(found.meta["epochs"])
        pools = tuple(Pool.from_json(values) for values in found.meta.get("pools", ()))
        trained = TrainedModel(key, found.arrays, plan, losses, epochs, self._origin, pools)
        if trace:
            self.trace(name, trained)
        return trained

    @renamed_keywords(what="kind")
    def train_packed(
        self,
        data: TrainSet,
        *,
        repeats: Sequence[int],
        kind: str = "teacher",
        name: str = "teachers",
        model: str | None = None,
        **changes: Any,
    ) -> list[TrainedModel]:
        """Train one model from several seeds at once; see :meth:`benchbd.plugins.handles.Workbench.train_packed`."""
        self._intact(data)
        plan = self._plan_for(model)
        request = PackedRequest(
            data=data,
            kind=kind,
            name=name,
            model=plan,
            recipe=self._recipe(changes, name, plan),
            seed=self._seed,
            precision=self.precision_for(plan),
            repeats=tuple(int(number) for number in repeats),
        )
        key = request.key()

        def compute() -> Result:
            return self._checked(
                plan, lambda: request.fit(self.device, self._progress(name)), lambda: self._intact(data)
            )

        return request.unpacked(key, self._trained(name, key, kind, compute), self._origin)

    def _trained(
        self, name: str, key: str, kind: str, compute: Callable[[], Result], request: TrainRequest | None = None
    ) -> Artifact:
        """The artifact of a training. One that stops being finite is remembered in ``broken_off``.

        ``request`` is None for a pack; :mod:`benchbd.pipeline.watched_lab` needs it.
        """
        try:
            found = self._memo("model", name, key, kind, self._unaffected(compute))
        except Misused:
            self._store.drop("checkpoint", key)
            raise
        except Diverged as error:
            self._store.drop("checkpoint", key)
            self.broken_off = {"stage": name, "epoch_losses": getattr(error, "epoch_losses", [])}
            raise Diverged(f"{name}: {error}") from error
        # Only now that the weights are stored: a kill in between must not cost the training.
        self._store.drop("checkpoint", key)
        return found

    def _checked(self, model: ModelSpec, train: Callable[[], Result], check: Callable[[], None]) -> Result:
        """Train and check that the key still names what was trained on. If the model is to blame, say how."""
        try:
            found = train()
        except Exception as error:
            if isinstance(error, BenchbdError) and not isinstance(error, Diverged):
                raise
            check()
            if fault := model.fault():
                raise UsageError(fault) from error
            raise
        check()
        return found

    def _fit(self, request: TrainRequest, key: str) -> Result:
        """Train what a request asks for, from its checkpoint if there is one.

        Raises:
            Misused: the set, or what goes into the key, was changed while the training ran.
            UsageError: the model cannot be trained, or its state does not describe it.
        """

        def check() -> None:
            self._intact(request.data)
            if request.key() != key:
                raise Misused(f"{request.name}: the fields of its loss, perturb, weight_fn or loop changed in training")

        return self._checked(request.model, lambda: self._fit_unchecked(request, key, check), check)

    def _fit_unchecked(self, request: TrainRequest, key: str, check: Callable[[], None]) -> Result:
        net = request.network()
        data, recipe = request.data, request.recipe
        how: dict[str, Any] = {
            "device": self.device,
            "precision": request.precision,
            "seed": request.batch_seed(),
            "on_progress": self._progress(request.name),
            "on_epoch": self._watcher(key, recipe.epochs),
            "checkpoint": Checkpoint(self._store, key, self._checkpoint_every, check),
        }
        if request.training_loop is not None:
            fit = engine.fit_with_loop(request.training_loop, net, data.images, data.labels, recipe, **how)
        else:
            fit = engine.fit(
                net,
                data.images,
                data.labels,
                recipe,
                weights=None if request.weights is None else torch.from_numpy(request.weights),
                epoch_weights=request.epoch_weights(),
                loss=request.loss,
                perturb=request.perturb,
                **how,
            )
        state = proved_state(net, request.model, data.images, self.device)
        facts: dict[str, Any] = {"epoch_losses": fit.epoch_losses, "epochs": recipe.epochs, "seconds": fit.seconds}
        if fit.pools:
            facts["pools"] = [pool.as_json() for pool in fit.pools]
        return state, {**facts, "model": canonical(request.model.spec())}

    def _progress(self, name: str) -> Callable[[dict[str, Any]], None]:
        return lambda facts: self._on_event(progress(name, facts))

    def _watcher(self, key: str, epochs: int = 0) -> Callable[[int, Classifier], None] | None:
        """What to call after each of a training's epochs; :mod:`benchbd.pipeline.probe_training` overrides it."""
        return None

    def _pass(self, kind: str, trained: TrainedModel, data: TrainSet) -> np.ndarray:
        self._own(trained, f"{kind}: trained")
        self._intact(data)
        device = keys.pass_device(self.device, self._numerics.threads)
        key = digest([kind, keys.CODE_VERSION, passes.VERSION, trained.key, data.key, device])

        def compute() -> Result:
            net = trained.module()
            if kind == "losses":
                out = engine.losses_of(net, data.images, data.labels, device=self.device)
            elif kind == "features":
                out = engine.features_of(net, data.images, device=self.device)
            else:
                out = engine.logits_of(net, data.images, device=self.device)
            self._intact(data)
            return {kind: out}, {}

        return self._memo("array", kind, key, "", self._unaffected(compute)).arrays[kind]

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
        """Silence penultimate channels; see :meth:`benchbd.plugins.handles.Workbench.prune`."""
        where = np.unique(
            positions(channels, len(self._own(trained, "prune: trained")._state["channel_mask"]), "prune")
        )
        self._plain(trained, "prune")
        if not len(where):
            return trained
        key = digest(["prune", keys.CODE_VERSION, trained.key, sha_of(where), *([] if at == "output" else [at])])

        def compute() -> Result:
            state = {k: np.array(v) for k, v in trained._state.items()}
            for name in ("channel_mask",) if at == "output" else last_filters(trained.module()):
                state[name][where] = 0
            return state, {"epoch_losses": trained.epoch_losses, "epochs": 0}

        found = self._memo("model", "prune", key, "", self._unaffected(compute))
        return TrainedModel(key, found.arrays, trained._plan, trained.epoch_losses, 0, self._origin)

    def adopt(self, state: Mapping[str, Any], *, model: str | None = None, name: str = "adopt") -> TrainedModel:
        """A network with weights made elsewhere; see :meth:`benchbd.plugins.handles.Workbench.adopt`."""
        plan = self._plan_for(model)
        net = plan.build(0)
        misfit = f"{name}: the state does not fit {plan.part.text} for {self.classes} classes"
        load_outside_state(net, renamed_state(state_tensors(state, name), net), misfit)
        arrays = {k: np.array(v.detach().cpu().numpy()) for k, v in net.state_dict().items()}
        key = digest(["adopt", keys.CODE_VERSION, plan.spec(), {k: sha_of(v) for k, v in sorted(arrays.items())}])

        def compute() -> Result:
            return arrays, {"epoch_losses": [], "epochs": 0, "model": canonical(plan.spec())}

        found = self._memo("model", name, key, "", compute)
        return TrainedModel(key, found.arrays, plan, [], 0, self._origin)

    def with_test_transform(self, trained: TrainedModel, transform: TestTransform) -> TrainedModel:
        """The model with a test transform; see :meth:`benchbd.plugins.handles.Workbench.with_test_transform`."""
        self._plain(self._own(trained, "with_test_transform: trained"), "with_test_transform")
        if not isinstance(transform, TestTransform):
            raise UsageError(f"with_test_transform: {shown(transform)} is not a TestTransform")
        fitting = transform.checked(self.classes, self.size)
        key = digest(["test transform", keys.CODE_VERSION, trained.key, fitting.spec()])

        def compute() -> Result:
            state = {k: np.array(v) for k, v in trained._state.items()}
            return state, {"epoch_losses": trained.epoch_losses, "epochs": 0, "test_transform": fitting.spec()}

        found = self._memo("model", "test transform", key, "", self._unaffected(compute))
        return TrainedModel(
            key, found.arrays, trained._plan, trained.epoch_losses, 0, self._origin, test_transform=fitting
        )

    def _plain(self, trained: TrainedModel, what: str) -> None:
        if trained.test_transform is not None:
            raise UsageError(f"{what}: the model has a test transform, which comes last; use the model without it")

    def trace(self, name: str, trained: TrainedModel, channels: Any = ()) -> None:
        """Have an intermediate model measured; see :meth:`benchbd.plugins.handles.Workbench.trace`."""
        if len(self.traced) == MOST_TRACED:
            raise UsageError(f"trace {shown(name)}: {MOST_TRACED} networks are traced already; choose fewer")
        width = len(self._own(trained, f"trace {shown(name)}: trained")._state["channel_mask"])
        where = np.unique(positions(channels, width, "trace: channels"))
        self.traced.append(CurvePoint(str(name), trained, where))

    def _around(self) -> str:
        """Key of the data that the plugin's own stages are about. Raises Misused if a set was changed in place."""
        raise NotImplementedError

    def stage(
        self, name: str, params: dict[str, Any], compute: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """A memoised stage of the plugin's own; see :meth:`benchbd.plugins.handles.Workbench.stage`."""
        try:
            spelt = canonical(params)
        except (TypeError, ValueError) as error:
            raise UsageError(f"stage {shown(name)}: params must be JSON-serialisable ({one_line(error)})") from error
        device = keys.stage_device(self.precision_for(self._network), self._numerics.threads)
        key = digest(["stage", keys.CODE_VERSION, self._owner, self._around(), name, spelt, self._seed, device])

        def checked() -> Result:
            found = compute()
            self._around()  # raises if compute, or something else meanwhile, changed a set
            return found, {}

        return self._memo("array", name, key, "", checked).arrays
