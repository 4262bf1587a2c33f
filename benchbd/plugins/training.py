"""Trainings that plugins declare before anything runs, so that plans can count them and cells can share them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from benchbd import deprecated

if TYPE_CHECKING:
    from benchbd.core.images import DatasetInfo
    from benchbd.core.recipe import Recipe

COUNTED = ("full", "feature-model", "teacher", "fine-tune")
"""The kinds of trainings that records count."""


class Training(NamedTuple):
    """One training that a defense or an attack will run.

    Attributes:
        kind: ``full`` (the base recipe on the student), ``feature-model``, ``teacher`` or ``fine-tune``. Attacks can
            also use ``loop``, for a training loop of their own, which records do not count.
        shared: hashable values that determine the training besides the row and the seed. Trainings with equal tuples
            run once. For a ``loop``, the tuple holds what variants of the attack with the same ``trigger_seed`` have in
            common, and is () if the result of the loop is the trigger.
        recipe: changed entries of the recipe, such as ``(("epochs", 5),)``, which count as if the matrix had changed
            them. All other changes belong in ``shared``.
    """

    kind: Literal["full", "feature-model", "teacher", "fine-tune", "loop"]
    shared: tuple[Any, ...]
    recipe: tuple[tuple[str, Any], ...] = ()


class Work(NamedTuple):
    """How much one training computes, for estimates of its time.

    Attributes:
        images: images that pass forward and backward, in all epochs together. Count an image once per pass.
        forward: images that only pass forward. A backward pass to the images alone counts as one more.
        model: spec of the network (``resnet-s(stem=2)``); the cell's where not given.
        operations: further operations, of networks that are no models of the registry. A multiply-add counts as two.
            They are taken to run at the rate of the network, and the estimate says that this is less sure.
        loop: spec of the defense in whose own training loop the images pass (``dp-sgd(batch=500)``), if their speed is
            another there than in the usual training. The plan measures it with the defense's ``timed_loop``. Leave out
            parameters that do not change the speed, so that variants share the measurement.
    """

    images: float
    forward: float = 0.0
    model: str | None = None
    operations: float = 0.0
    loop: str | None = None


def usual_work(training: Training, recipe: Recipe, info: DatasetInfo) -> Work | None:
    """The work of a training that follows the recipe on the whole training set; None for kinds that do not."""
    if training.kind not in ("full", "feature-model"):
        return None
    return Work(float(dict(training.recipe).get("epochs", recipe.epochs)) * info.train)


deprecated.old_attributes(Training, what="kind")
deprecated.old_keywords(Training, what="kind")

UNDEFENDED = Training("full", ("undefended",))
"""The base recipe on the whole set of the row: the model of the cell without a defense."""
