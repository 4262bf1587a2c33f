"""Memoised trainings of several small networks at once, for plugins that want one model from several seeds.

teachers = train_packed(lab, lab.poisoned, repeats=range(8), model="resnet-s", epochs=20, augment=())
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchbd.core.events import progress
from benchbd.core.hashing import canonical, digest
from benchbd.core.seeding import seed_for
from benchbd.engine.packed import fit_several
from benchbd.errors import UsageError
from benchbd.lab.stages import CODE_VERSION, TRAINING_KINDS, Result, Stages
from benchbd.plugins.train_set import TrainSet
from benchbd.plugins.trained import TrainedModel

VERSION = 1
"""Part of every pack's key: raise it when packed trainings compute something else than before."""


def train_packed(
    lab: Stages,
    data: TrainSet,
    *,
    repeats: Sequence[int],
    kind: str = "teacher",
    name: str = "teachers",
    model: str | None = None,
    **changes: Any,
) -> list[TrainedModel]:
    """Train one model from several seeds in one, or return what the same call stored before.

    A pack is one artifact, under a key of its own: it equals what :meth:`Stages.train` makes with each ``repeat`` up to
    rounding, and the two are never taken for one another. It is charged as one training.

    Args:
        lab: the cell's lab.
        data: images and labels.
        repeats: numbers of the initialisations and batch orders, as ``repeat`` of :meth:`Stages.train`.
        kind: how the plan counts it.
        name: the stage's name in the record.
        model: another model's spec; the cell's where not given. Of convolutions and batch norms up to its head.
        **changes: entries of the recipe to change.

    Returns:
        The models, in the order of ``repeats``.

    Raises:
        Diverged: a model of the pack is not finite.
        UsageError: what is asked for makes no sense, or this model cannot be packed.
    """
    data.check()
    numbers = [int(number) for number in repeats]
    if not numbers or len(set(numbers)) < len(numbers) or len(data) == 0 or kind not in TRAINING_KINDS:
        raise UsageError(f"{name}: a pack needs samples, different repeats and a known kind")
    plan, recipe = lab._plan_for(model), lab._recipe(changes, name)
    precision = lab.precision_for(plan)
    seeds = [lab._seed, numbers]
    code = ["packed", VERSION, CODE_VERSION]
    key = digest([*code, data.key, plan.spec(), recipe.decisive(), seeds, f"{precision.name}-packed"])

    def compute() -> Result:
        nets = [plan.build(seed_for("init", lab._seed, number)) for number in numbers]
        try:
            fits = fit_several(
                nets,
                [data.images] * len(nets),
                [data.labels] * len(nets),
                recipe,
                device=lab.device,
                precision=precision,
                seeds=[seed_for("batches", lab._seed, number) for number in numbers],
                on_progress=lambda facts: lab._on_event(progress(name, facts)),
            )
        except ValueError as error:
            raise UsageError(f"{name}: {plan.part.text}: {error}") from error
        arrays = {
            f"{at}.{entry}": tensor.detach().cpu().numpy()
            for at, net in enumerate(nets)
            for entry, tensor in net.state_dict().items()
        }
        facts = {"epochs": recipe.epochs * len(nets), "seconds": sum(fit.seconds for fit in fits)}
        return arrays, {**facts, "epoch_losses": [fit.epoch_losses for fit in fits], "model": canonical(plan.spec())}

    found = lab._memo("model", name, key, kind, compute)
    trained = []
    for at, losses in enumerate(found.meta["epoch_losses"]):
        prefix = f"{at}."
        state = {k.removeprefix(prefix): v for k, v in found.arrays.items() if k.startswith(prefix)}
        trained.append(TrainedModel(digest([key, at]), state, plan, list(losses), recipe.epochs))
    return trained
