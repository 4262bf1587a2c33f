"""What each cell of a plan computes, in passes of images through networks, as its plugins declare it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from benchbd.core.hashing import canonical
from benchbd.core.images import DatasetInfo
from benchbd.core.numerics import Numerics
from benchbd.errors import UsageError, counted, shown
from benchbd.plan.cell import Cell
from benchbd.plan.shared_work import Key, made_first
from benchbd.plan.trainings import attack_trainings, planned_trainings
from benchbd.plugins import registry
from benchbd.plugins.identity import part_of
from benchbd.plugins.part import Part
from benchbd.plugins.training import Training, Work


class Network(NamedTuple):
    """What decides the operations of an image.

    Attributes:
        model: canonical JSON of the model's name and parameters.
        classes: number of classes.
        size: image height and width in pixels.
    """

    model: str
    classes: int
    size: int


class Pace(NamedTuple):
    """What decides, with the device, how long an image takes.

    Attributes:
        network: the network.
        numerics: precision and threads that the cell asks for.
        loop: canonical JSON of the name and parameters of the defense whose own training loop the image passes; ''
            for the usual training.
    """

    network: Network
    numerics: Numerics
    loop: str = ""


class Piece(NamedTuple):
    """A part of a cell's computation: a training, an attack's own loop, or the evaluation.

    Attributes:
        key: equal keys are computed once. The loops of a trigger have one key together.
        kind: of the training; ``loop`` or ``evaluation``.
        label: the work for people: kind, model and data set, or the plugin that does not say how much it is.
        pace: the network and the numerics.
        recipe: canonical JSON of the recipe that the network trains with.
        work: how much it is; None if the plugin does not say.
    """

    key: Key
    kind: str
    label: str
    pace: Pace
    recipe: str
    work: Work | None


class CellWork(NamedTuple):
    """The pieces of one cell, in the order in which they are computed.

    Attributes:
        attack: trainings and loops of the attack.
        defense: trainings of the defense.
        evaluation: the passes over clean and triggered test images.
    """

    attack: tuple[Piece, ...]
    defense: tuple[Piece, ...]
    evaluation: Piece


def work_of(cells: Iterable[Cell]) -> Iterator[tuple[Cell, CellWork]]:
    """Every cell with its pieces of work."""
    # Plugins are asked once per distinct pair and row, as in planned_trainings.
    of_pair: dict[tuple[str, ...], tuple[Work | None, ...]] = {}
    of_row: dict[str, tuple[Piece, ...]] = {}
    for cell, planned in planned_trainings(cells):
        made = cell.components()
        info = made.dataset.info()
        pair = (cell.dataset.json, cell.attack.json, cell.defense.json, canonical(cell.recipe))
        if pair not in of_pair:
            with registry.blame("defenses", cell.defense.name):
                given = made.defense.training_work(made.attack, made.recipe, info)
                of_pair[pair] = _checked(given, [training for _, training in planned.defense])
        if cell.row_key not in of_row:
            keys = [("training", *key) for key in planned.attack]
            of_row[cell.row_key] = tuple(_attack_pieces(cell, info, keys))
        defense = tuple(
            _piece(cell, info, ("training", *key), key[1].kind, cell.defense.name, work)
            for key, work in zip(planned.defense, of_pair[pair], strict=True)
        )
        # The clean test images, and those of other classes with the trigger.
        tested = Work(0, info.test * (2 if made.attack.poisons else 1))
        evaluation = _piece(cell, info, ("evaluation", cell.id), "evaluation", cell.defense.name, tested)
        yield cell, CellWork(of_row[cell.row_key], defense, evaluation)


def _attack_pieces(cell: Cell, info: DatasetInfo, keys: Sequence[Key]) -> Iterator[Piece]:
    made, trainings = cell.components(), attack_trainings(cell)
    with registry.blame("attacks", cell.attack.name):
        works = _checked(made.attack.training_work(made.recipe, info), trainings)
    counted = [work for training, work in zip(trainings, works, strict=True) if training.kind != "loop"]
    for key, work in zip(keys, counted, strict=True):
        yield _piece(cell, info, key, key[2].kind, cell.attack.name, work)
    for key, numbers in made_first(cell).items():
        for number in numbers:
            yield _piece(cell, info, key, "loop", cell.attack.name, works[number])


def _piece(cell: Cell, info: DatasetInfo, key: Key, kind: str, plugin: str, work: Work | None) -> Piece:
    part, recipe = cell.model, cell.components().recipe
    if work is not None and work.model is not None:
        part = part_of(registry.make("models", work.model))
        if part.json != cell.model.json:
            recipe = recipe.for_another_model()
    network, loop = network_of(part, info), ""
    label = f"{kind} of {plugin}" if work is None else f"{kind}, {part.text} on {cell.dataset.text}"
    if work is not None and work.loop is not None:
        try:
            owner = part_of(registry.make("defenses", work.loop))
        except UsageError as error:
            raise UsageError(f"{plugin}: training_work(): loop {shown(work.loop)}: {error}") from error
        loop, label = _spec(owner), f"{kind} of {owner.name}, {part.text} on {cell.dataset.text}"
    return Piece(key, kind, label, Pace(network, cell.numerics, loop), canonical(recipe.spec()), work)


def network_of(part: Part, info: DatasetInfo) -> Network:
    """The network that a model builds for a data set."""
    return Network(_spec(part), info.classes, info.size)


def _spec(part: Part) -> str:
    """Canonical JSON of a component's name and parameters."""
    return canonical({"name": part.name, "params": part.params})


def _checked(given: Any, trainings: Sequence[Training]) -> tuple[Work | None, ...]:
    """What ``training_work`` returned.

    Raises:
        TypeError: it is not one Work or None for each training.
        ValueError: a number of images is negative or not finite.
    """
    works = tuple(given)
    if len(works) != len(trainings):
        raise TypeError(
            f"training_work() must return a Work for each of {counted(len(trainings), 'training')}, not {len(works)}"
        )
    for work in works:
        if work is None:
            continue
        if not isinstance(work, Work):
            raise TypeError(f"training_work() must return Work objects or None, not {shown(work)}")
        if work.loop is not None and not isinstance(work.loop, str):
            raise TypeError(f"training_work(): loop must be the spec of a defense, not {shown(work.loop)}")
        if not all(math.isfinite(number) and number >= 0 for number in (work.images, work.forward, work.operations)):
            raise ValueError(f"training_work(): numbers of images and operations must be 0 or more, not {shown(work)}")
    return works


def model_spec(network: Network) -> tuple[str, dict[str, Any]]:
    """Name and parameters of a network's model."""
    spec = json.loads(network.model)
    return spec["name"], spec["params"]
