"""A plugin under test: it runs on tiny data, and its results are kept for the checks."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbd.core.images import DatasetInfo, Images
from benchbd.core.paths import data_folder
from benchbd.core.recipe import Recipe
from benchbd.plan.cell import Cell
from benchbd.plugins import registry
from benchbd.plugins.attack import share_of
from benchbd.plugins.identity import part_of
from benchbd.testing.watch import watching

if TYPE_CHECKING:
    import torch

    from benchbd.pipeline.poison import Poison, Poisoner
    from benchbd.plugins.train_set import TrainSet


PLUGINS = Path(__file__).with_name("tiny.py")
ENOUGH = 8
"""Images that an attack must poison to be checked; a share of the tiny set below that is raised to a tenth."""


def register() -> None:
    """Register the tiny plugins."""
    registry.add_plugin_file(str(PLUGINS))


def cell(
    *,
    dataset: str = "tiny",
    model: str = "tiny-net",
    attack: str = "none",
    defense: str = "none",
    seed: int = 0,
    **recipe: Any,
) -> Cell:
    """A cell from four plugin specs, with two epochs by default. Registers the tiny plugins."""
    register()
    given = {"datasets": dataset, "models": model, "attacks": attack, "defenses": defense}
    data, network, attacker, defender = (part_of(registry.make(kind, text)) for kind, text in given.items())
    used = Recipe.parse({"epochs": 2, "batch_size": 32, **recipe}).spec()
    return Cell(data, network, attacker, defender, used, seed, "testing")


def _poisons_few(attack: Any) -> bool:
    """Whether an attack poisons fewer than ``ENOUGH`` images of the tiny set because of its rate."""
    size = cell().components().dataset.info().train
    given = attack.poisons and "rate" in attack.params()
    return bool(given and attack.rate_of == "set" and share_of(attack.rate, size) < ENOUGH)


class PluginUnderTest:
    """One plugin with its ``smoke`` parameters, and the results it has given so far.

    Args:
        kind: ``attacks``, ``defenses``, ``models`` or ``datasets``.
        name: name of the plugin.
        folder: folder for its output (default: a temporary one).
        **given: parameters, which override the plugin's ``smoke`` parameters. An attack whose default rate would
            poison next to nothing of the tiny set is checked at a rate of a tenth.
    """

    def __init__(self, kind: str, name: str, folder: Path | None = None, /, **given: Any) -> None:
        register()
        self.kind, self.name = kind, name
        self.entry = registry.find(kind, name)
        self.cls: type[Any] = registry.load(kind, name)
        self.made: Any = registry.make(kind, name, **{**self.cls.smoke, **given})
        if kind == "attacks" and "rate" not in given and _poisons_few(self.made):
            self.made = dataclasses.replace(self.made, rate=0.1)
        self._poisoners: dict[tuple[str, int], Poisoner] = {}
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="benchbd-check-")
        self.folder = folder or Path(self._temporary.name if self._temporary else "")
        self.accessed: set[str] = set()
        """The needs (``clean``, ``truth``) that the defense has read from the lab."""

    @functools.cached_property
    def root(self) -> str | None:
        """Folder with the data sets."""
        return data_folder(None)

    @functools.cached_property
    def missing(self) -> str | None:
        """One line about the plugin's missing files or packages. None if it has all."""
        own = self.kind in ("defenses", "models")
        return str((self.made.missing() if own else self.made.missing(self.root)) or "") or None

    def poisoner(self, where: str, seed: int = 0) -> Poisoner:
        """A poisoner with this attack on the tiny set, in its own store. Repeated calls return the same one."""
        import torch

        from benchbd.pipeline.poison import Poisoner
        from benchbd.storage.artifacts import Store

        if (where, seed) not in self._poisoners:
            this = dataclasses.replace(cell(seed=seed, epochs=1), attack=part_of(self.made))
            store = Store(self.folder / where)
            poisoner = Poisoner(this, this.components(), store, torch.device("cpu"), lambda event: None, None)
            self._poisoners[where, seed] = poisoner
        return self._poisoners[where, seed]

    @functools.cached_property
    def clean(self) -> tuple[TrainSet, DatasetInfo]:
        """The tiny training set."""
        return self.poisoner("none").train_set()

    @functools.cached_property
    def poisons(self) -> tuple[Poison, Poison]:
        """The same poison made twice, in separate stores."""
        return self.poisoner("one").poison(*self.clean), self.poisoner("two").poison(*self.clean)

    @functools.cached_property
    def triggered(self) -> tuple[Images, torch.Tensor, torch.Tensor]:
        """The tiny test set, and its triggered images with their labels."""
        poisoner = self.poisoner("one")
        test = poisoner.components.dataset.load("test", None)
        return (test, *poisoner.triggered(test, self.clean[1], self.poisons[0]))

    def run(self, where: str, attack: str = "tiny-patch") -> dict[str, Any]:
        """Run a cell with this defense in the folder ``where``, and return its record."""
        from benchbd.pipeline.run_cell import execute

        this = dataclasses.replace(cell(attack=attack), defense=part_of(self.made))
        with watching(self.accessed):
            return execute(this.to_json(), output=self.folder / where, device="cpu")

    @functools.cached_property
    def runs(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same cell run twice, in separate folders."""
        return self.run("one"), self.run("two")
