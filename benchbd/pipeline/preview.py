"""Pictures of attacks: clean image, poisoned image, amplified difference, and the norms of the difference."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchbd.core.events import Listener
from benchbd.core.numerics import USUAL, Numerics
from benchbd.core.recipe import Recipe
from benchbd.errors import UsageError
from benchbd.pipeline.poison import Poisoner, stamp_seed
from benchbd.pipeline.selection import select_poison, targets
from benchbd.pipeline.trigger_image import amplified
from benchbd.plan.cell import Cell, Components
from benchbd.plugins import registry
from benchbd.plugins.contract import NO_DEFENSE, StampContext
from benchbd.plugins.identity import part_of
from benchbd.storage.artifacts import Store


class Norms(NamedTuple):
    """Size of a difference between two uint8 images.

    Attributes:
        l2: Euclidean norm in [0, 1] units.
        largest: largest absolute difference of a value, 0..255.
        pixels: pixels in which some channel differs.
    """

    l2: float
    largest: int
    pixels: int


class Shown(NamedTuple):
    """A few training images before and after an attack.

    Attributes:
        attack: its spec.
        clean: uint8 (N, 3, H, W).
        poisoned: uint8 (N, 3, H, W).
        labels: text for each image: its true class, and the class it is labelled as if that is another.
    """

    attack: str
    clean: np.ndarray
    poisoned: np.ndarray
    labels: tuple[str, ...]


def norms(clean: np.ndarray, poisoned: np.ndarray) -> Norms:
    """Norms of the difference of two uint8 (3, H, W) images."""
    difference = poisoned.astype(np.int64) - clean.astype(np.int64)
    l2 = float(np.sqrt(np.square(difference / 255).sum()))
    return Norms(l2, int(np.abs(difference).max()), int(difference.any(0).sum()))


def poisoner_for(
    attack: str,
    dataset: str,
    model: str,
    recipe: Recipe,
    *,
    seed: int,
    store: Path,
    device: torch.device,
    root: str | None,
    on_event: Listener,
    numerics: Numerics = USUAL,
) -> Poisoner:
    """The poisoner that makes an attack's triggers and poison on a data set.

    Args:
        attack: spec of the attack.
        dataset: spec of the data set.
        model: spec of the surrogates' model.
        recipe: the surrogates' recipe.
        seed: selects the images to poison.
        store: folder of artifacts, shared with runs of the same data, model and recipe.
        device: trains what the attack must train first.
        root: folder of the data sets.
        on_event: called with progress and other events.
        numerics: precision and threads of the surrogates' trainings.
    """
    components = Components(
        registry.make("datasets", dataset),
        registry.make("models", model),
        registry.make("attacks", attack),
        registry.make("defenses", NO_DEFENSE),
        recipe,
    )
    cell = Cell(
        part_of(components.dataset),
        part_of(components.model),
        part_of(components.attack),
        part_of(components.defense),
        recipe.spec(),
        seed,
        numerics=numerics,
    )
    info = components.dataset.info()
    components.model.check(info)
    components.attack.check(info)
    return Poisoner(cell, components, Store(store), device, on_event, root)


def _varied(indices: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Positions of the first images of as many classes as possible, ascending."""
    seen: dict[int, int] = {}
    rank = []
    for label in labels[indices].tolist():
        rank.append(seen.get(label, 0))
        seen[label] = rank[-1] + 1
    return np.sort(indices[np.argsort(rank, kind="stable")[:count]])


def show(poisoner: Poisoner, count: int) -> Shown:
    """Poison a few of the images that the attack poisons under this seed.

    Only these are stamped and given adversarial noise. Triggers and generators are those of a run.
    """
    attack, names = poisoner.components.attack, poisoner.components.dataset.class_names
    clean, info = poisoner.train_set()
    true = clean.labels.numpy()
    if not attack.poisons:
        chosen = np.arange(min(count, len(clean)))
        images = clean.images[torch.from_numpy(chosen)]
        stamped, carried = images, true[chosen]
    elif attack.poisoned_set(poisoner.root) is not None:
        poison = poisoner.poison(clean, info)
        chosen = _varied(poison.indices[poison.flags], true, count)
        images, at = clean.images[torch.from_numpy(chosen)], np.searchsorted(poison.indices, chosen)
        stamped, carried = torch.from_numpy(poison.images[at]), poison.labels[at]
    else:
        chosen = _varied(select_poison(attack, info, true, poisoner.cell.seed, poisoner.cell.dataset), true, count)
        images = clean.images[torch.from_numpy(chosen)]
        _, trigger, _ = poisoner.trigger(clean, info, chosen)
        context = StampContext("train", chosen, trigger, stamp_seed(attack, poisoner.cell.dataset, poisoner.cell.seed))
        stamped, carried = attack.stamp(images, context), attack.relabel(true[chosen], targets(attack, info), context)

    def name(label: int) -> str:
        return names[label] if label < len(names) else f"class {label}"

    pairs = zip(true[chosen].tolist(), carried.tolist(), strict=True)
    labels = tuple(name(was) if was == now else f"{name(was)} → {name(now)}" for was, now in pairs)
    return Shown(poisoner.cell.attack.text, images.numpy(), stamped.numpy(), labels)


def draw_sheet(shown: list[Shown], path: Path, *, gain: float, across: int, title: str = "") -> None:
    """Draw clean image, poisoned image and difference side by side, norms under them, one attack after the other.

    Args:
        shown: the images of each attack.
        path: image file; its suffix names the format.
        gain: factor of the differences.
        across: poisoned images in a row of the sheet.
        title: heading.

    Raises:
        UsageError: the file cannot be written or its suffix is not an image format.
    """
    from matplotlib.figure import Figure

    lines = [
        (one, range(start, min(start + across, len(one.clean))))
        for one in shown
        for start in range(0, len(one.clean), across)
    ]
    # Inches: a column of names, a heading, then lines of three pictures an image with a line of text below.
    left, top, bottom, line = 1.15, 0.4, 0.22, 1.22
    width, height = left + 3.2 * across, top + bottom + line * len(lines)
    figure = Figure(figsize=(width, height), dpi=110)
    figure.text(0.5, 1 - 0.2 / height, title, fontsize=9, ha="center", va="center")
    grid = figure.add_gridspec(
        len(lines),
        4 * across,  # narrow empty columns keep images apart
        width_ratios=[1, 1, 1, 0.12] * across,
        left=left / width,
        right=0.995,
        top=1 - top / height,
        bottom=bottom / height,
        wspace=0.04,
        hspace=0.2,
    )
    for row, (one, places) in enumerate(lines):
        for column, place in enumerate(places):
            clean, poisoned = one.clean[place], one.poisoned[place]
            size = norms(clean, poisoned)
            pictures = [
                (clean, one.labels[place]),
                (poisoned, f"L2 {size.l2:.2f}   L∞ {size.largest}/255"),
                (amplified(clean, poisoned, gain), f"x{gain:g}   {size.pixels} px"),
            ]
            for offset, (picture, below) in enumerate(pictures):
                axes = figure.add_subplot(grid[row, 4 * column + offset])
                axes.imshow(picture.transpose(1, 2, 0), interpolation="nearest")
                axes.set_xticks([])
                axes.set_yticks([])
                axes.set_xlabel(below, fontsize=5.5, labelpad=2)
                if place == 0 and offset == 0:
                    name, _, parameters = one.attack.rstrip(")").partition("(")
                    axes.text(-0.08, 0.6, name, transform=axes.transAxes, fontsize=8, ha="right", va="bottom")
                    wrapped = parameters.replace(",", "\n")
                    axes.text(-0.08, 0.54, wrapped, transform=axes.transAxes, fontsize=5.5, ha="right", va="top")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())[:160]
        raise UsageError(f"cannot write the picture {path}: {why}") from error


def check_picture(path: Path) -> None:
    """Check that a picture can be written, before anything is trained. Raises UsageError if it cannot."""
    if path.is_dir():
        raise UsageError(f"cannot write the picture {path}: it is a folder; name a file in it with -o")
    from matplotlib.backend_bases import FigureCanvasBase

    ending, known = path.suffix.removeprefix(".").lower(), FigureCanvasBase.get_supported_filetypes()
    if ending and ending not in known:
        raise UsageError(f"cannot write the picture {path}: .{ending} is not one of {', '.join(sorted(known))}")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        why = "cannot be written to" if folder.is_dir() else "is not a folder"
        raise UsageError(f"cannot write the picture {path}: {folder} {why}; name another place with -o")
