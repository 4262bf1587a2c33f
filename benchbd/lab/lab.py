"""The workbench of a defense: train, losses, features, logits, all memoised by content.

What a lab does *not* hold is the point: test images, the poison mask, true labels, the trigger, the attack. The harness
loads those only after the defense has returned (:mod:`benchbd.pipeline.evaluate`). The lab's view of the store holds no
poison and leads to no folder (:mod:`benchbd.storage.restricted`). ``clean`` and ``truth`` hold something only for
defenses whose class declares the need.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchbd.core.hashing import canonical, digest, sha_of
from benchbd.core.images import Normalisation
from benchbd.core.pools import Pool, check_number
from benchbd.errors import Diverged, UsageError, one_line, shown
from benchbd.lab.costs import Result
from benchbd.lab.keys import plugin_fingerprint
from benchbd.lab.model_file import ModelFile
from benchbd.lab.stages import Stages
from benchbd.lab.train_request import check_training
from benchbd.plugins import registry
from benchbd.plugins.contract import Defense
from benchbd.plugins.train_set import TrainSet, as_array, positions
from benchbd.plugins.trained import TrainedModel

MOST_WARNINGS = 20
"""Different warnings of a defense that one cell keeps at most."""


@dataclasses.dataclass(frozen=True)
class Suspicion:
    """A defense's verdict on the training samples.

    Attributes:
        scores: float64 (N,), higher is more suspicious.
        flagged: bool (N,), the samples that the defense flags, or None.
        losses: float64 (N,), cross-entropies whose means go into the record, or None.
    """

    scores: np.ndarray
    flagged: np.ndarray | None
    losses: np.ndarray | None = None


class Lab(Stages):
    """The lab that :meth:`benchbd.Defense.train` gets (:class:`benchbd.plugins.handles.Lab`).

    The barrier protects a defense from seeing the truth by accident, and a plugin's author from temptation. Nothing
    that can be reached from a lab through attributes, closures and containers is truth, test image, trigger, or a way
    to the folder where they lie; and while the defense runs, none of them is in memory. It does not stop a plugin that
    wants to cheat. A plugin is code that the user trusts: it runs in the process that poisoned the set, with the user's
    rights, and Python keeps no secret from code that walks the stack, imports the harness's modules, or reads the
    results folder and the data sets by paths of its own. ``benchbd check`` refuses the imports; only a reader can
    refuse the rest.

    Attributes:
        poisoned: the training set, some of whose samples may be poisoned.
        recipe: the matrix's base recipe.
        classes: number of classes.
        size: image height and width in pixels.
        normalisation: mean and standard deviation of each channel, as the row's model takes them.
    """

    def __init__(
        self, poisoned: TrainSet, *, clean: TrainSet | None = None, truth: np.ndarray | None = None, **base: Any
    ) -> None:
        super().__init__(**base)
        self.poisoned = poisoned
        self.normalisation = self._network.pixels
        self._clean, self._truth = clean, truth
        self._base = base
        self._losses: np.ndarray | None = None
        self.suspicion: Suspicion | None = None
        self.notes: dict[str, Any] = {}
        self.pools: list[Pool] = []
        self.warnings: list[str] = []

    def check_handed_out(self) -> None:
        """Raise Misused if a set that the defense got was changed in place."""
        self._intact(self.poisoned, *([] if self._clean is None else [self._clean]))

    def _forget_sets(self) -> None:
        """Let go of the sets, once the defense has returned: the evaluator needs their memory for the test images."""
        vars(self).pop("poisoned", None)
        self._clean = None

    def _around(self) -> str:
        self.check_handed_out()
        declared: list[Any] = []
        if self._clean is not None:
            declared.append(["clean", self._clean.key])
        if self._truth is not None:
            declared.append(["truth", sha_of(self._truth)])
        return digest([self.poisoned.key, self._network.spec(), self.recipe.spec(), *declared])

    @property
    def clean(self) -> TrainSet:
        """Clean training images with true labels; only for defenses that declare ``needs = ("clean",)``."""
        if self._clean is None:
            raise UsageError('this defense has not declared that it needs clean images: needs = ("clean",)')
        return self._clean

    @property
    def truth(self) -> np.ndarray:
        """bool (N,), a copy: which samples are poisoned; only for controls that declare ``needs = ("truth",)``."""
        if self._truth is None:
            raise UsageError(
                'this defense may not see which samples are poisoned; controls say needs = ("truth",) in their class'
            )
        return np.array(self._truth)

    def losses(self, trained: TrainedModel, data: TrainSet) -> np.ndarray:
        """Cross-entropy of each sample, float32 (N,): eval mode, no augmentation, fp32, in the order of ``data``."""
        found = super().losses(trained, data)
        if data.key == self.poisoned.key:
            self._losses = found.astype(np.float64)
        return found

    def read_model(
        self,
        content: bytes,
        form: str,
        *,
        kind: str = "full",
        name: str = "model file",
        epochs: int = 0,
        epoch_losses: Sequence[float] = (),
        **how: Any,
    ) -> TrainedModel:
        """A network from the bytes of a file; see :meth:`benchbd.plugins.handles.Lab.read_model`."""
        check_training(self.poisoned, kind, name)
        file = self._model_file(content, form, **how)
        losses = [float(loss) for loss in epoch_losses]
        key = digest([file.key(), self.poisoned.key, epochs, losses])

        def compute() -> Result:
            state = file.state(self.poisoned.images, self.device)
            return state, {"epoch_losses": losses, "epochs": epochs, "model": canonical(file.spec.spec())}

        found = self._memo("model", name, key, kind, self._unaffected(compute))
        return TrainedModel(key, found.arrays, file.spec, losses, epochs, self._origin)

    def check_model(self, content: bytes, form: str, **how: Any) -> None:
        """Check the bytes of a file; see :meth:`benchbd.plugins.handles.Lab.check_model`."""
        self._model_file(content, form, **how).state(self.poisoned.images, self.device)

    def _model_file(
        self,
        content: bytes,
        form: Any,
        model: str | None = None,
        inputs: Any = "normalised",
        normalisation: Normalisation | None = None,
    ) -> ModelFile:
        """The file with defaults filled in."""
        return ModelFile(
            content=content,
            form=form,
            row=self._network,
            model=self._plan_for(model),
            inputs=inputs,
            normalisation=normalisation or self.normalisation,
        )

    def log(self, line: str) -> None:
        """Write a line to the cell's log."""
        self._on_event({"event": "log", "line": str(line), "quiet": True})

    def suspect(self, scores: Any, flagged: Any = None, losses: Any = None) -> None:
        """Say which samples look poisoned; see :meth:`benchbd.plugins.handles.Lab.suspect`."""
        n = len(self.poisoned)
        values = as_array(scores, "suspect: scores", np.float64).copy()
        if values.shape != (n,):
            raise UsageError(f"suspect: {n} samples but scores of shape {values.shape}")
        wrong = n - int(np.isfinite(values).sum())
        if wrong:
            raise Diverged(f"suspect: {wrong} of {n} scores are not finite")
        mask = None
        if flagged is not None:
            mask = np.zeros(n, bool)
            mask[positions(flagged, n, "suspect: flagged", distinct=True)] = True
        reported = self._losses if losses is None else as_array(losses, "suspect: losses", np.float64).copy()
        if reported is not None and reported.shape != (n,):
            raise UsageError(f"suspect: {n} samples but losses of shape {reported.shape}")
        self.suspicion = Suspicion(values, mask, reported)

    def note(self, name: str, value: Any) -> None:
        """Keep a JSON-serialisable fact in the record (a pruning curve, how many samples were kept per class)."""
        try:
            self.notes[str(name)] = json.loads(json.dumps(value))
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"note {shown(name)}: the value must be JSON-serialisable ({one_line(error)})") from error

    def report_pool(self, name: str, members: Any, epoch: int | None = None) -> None:
        """Report a pool of samples; see :meth:`benchbd.plugins.handles.Lab.report_pool`."""
        check_number(self.pools, name)
        self.pools.append(Pool.of(name, epoch, members, len(self.poisoned)))

    def warn(self, line: str) -> None:
        """Show a warning to the user and keep it in the record; see :meth:`benchbd.plugins.handles.Lab.warn`."""
        if not isinstance(line, str) or not line.strip():
            raise UsageError(f"warn: a warning is a line of text, not {shown(line)}")
        text = one_line(line)
        if text in self.warnings:
            return
        if len(self.warnings) == MOST_WARNINGS:
            raise UsageError(f"warn: {MOST_WARNINGS} different warnings are enough for one cell")
        self.warnings.append(text)
        self._on_event({"event": "warning", "warning": text})

    def flagged_by(self, spec: str) -> int:
        """How many samples another defense flags in the same row and seed. For controls that see the truth.

        Runs that defense up to the point where it names its suspects; its stages are memoised, so nothing is computed
        twice. It gets what it declares to need; for clean images, this defense must declare them too.
        """
        _ = self.truth
        other: Defense = registry.make("defenses", spec)
        if "clean" in other.needs and self._clean is None:
            raise UsageError(f"defense {spec!r} needs clean images, which the control does not declare")
        inner = _Peek(
            self.poisoned,
            clean=self._clean if "clean" in other.needs else None,
            truth=self._truth if "truth" in other.needs else None,
            **{**self._base, "owner": plugin_fingerprint(other)},
        )
        inner._costs = self._costs
        try:
            other.train(inner)
        except _Named as named:
            return named.count
        raise UsageError(f"defense {spec!r} flags no samples, so there is no count to imitate")


class _Named(BaseException):
    """Ends a peeked-at defense once its suspects are known. Not an Exception, so that no plugin swallows it."""

    def __init__(self, count: int) -> None:
        self.count = count


class _Peek(Lab):
    def warn(self, line: str) -> None:
        """Nothing: the defense warns in its own cell."""

    def suspect(self, scores: Any, flagged: Any = None, losses: Any = None) -> None:
        super().suspect(scores, flagged, losses)
        if self.suspicion is not None and self.suspicion.flagged is not None:
            raise _Named(int(self.suspicion.flagged.sum()))
