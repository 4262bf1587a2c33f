"""What every plugin promises, as checks: the contract tests run them, and so does ``benchbd check NAME``.

The checks themselves are in :mod:`benchbd.testing_checks`. They work on tiny plugins (:mod:`benchbd.testing_plugins`)
and need a second or two each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbd import registry
from benchbd.cell import Cell, part_of
from benchbd.components import DatasetInfo, Images
from benchbd.datafolder import data_folder
from benchbd.errors import BenchbdError, one_line
from benchbd.recipe import Recipe
from benchbd.scan import told
from benchbd.testing_barrier import watching
from benchbd.testing_checks import CHECKS, Check

if TYPE_CHECKING:
    import torch

    from benchbd.poison import Poison, Poisoner
    from benchbd.trained import TrainSet

PLUGINS = Path(__file__).with_name("testing_plugins.py")
LIMIT = 120.0
"""Seconds that one check may take: everything it works on is tiny."""


class Late(BaseException):
    """A check took too long. Not an Exception, so that no plugin swallows it."""


def register() -> None:
    """Make the tiny plugins known."""
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
    """A cell out of four specs, two epochs long unless told otherwise. Makes the tiny plugins known."""
    register()
    given = {"datasets": dataset, "models": model, "attacks": attack, "defenses": defense}
    data, network, attacker, defender = (part_of(registry.make(kind, text)) for kind, text in given.items())
    used = Recipe.parse({"epochs": 2, "batch_size": 32, **recipe}).spec()
    return Cell(data, network, attacker, defender, used, seed, "testing")


class Bench:
    """One plugin with its ``smoke`` parameters, and what has been made with it so far.

    Args:
        kind: ``attacks``, ``defenses``, ``models`` or ``datasets``.
        name: the plugin's.
        folder: for what is written; a temporary one where not given.
        **given: parameters that win over the plugin's ``smoke`` ones.
    """

    def __init__(self, kind: str, name: str, folder: Path | None = None, /, **given: Any) -> None:
        register()
        self.kind, self.name = kind, name
        self.entry = registry.find(kind, name)
        self.cls: type[Any] = registry.load(kind, name)
        self.made: Any = registry.make(kind, name, **{**self.cls.smoke, **given})
        self._poisoners: dict[tuple[str, int], Poisoner] = {}
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="benchbd-check-")
        self.folder = folder or Path(self._temporary.name if self._temporary else "")
        self.asked: set[str] = set()
        """What of the lab's ``clean`` and ``truth`` the defense has looked at."""

    @functools.cached_property
    def root(self) -> str | None:
        """Folder of the data sets."""
        return data_folder(None)

    @functools.cached_property
    def missing(self) -> str | None:
        """For data sets: what files are missing, one line; None where all is there."""
        return str(self.made.missing(self.root) or "") or None if self.kind == "datasets" else None

    def poisoner(self, where: str, seed: int = 0) -> Poisoner:
        """The attack at work on the tiny set, in a store of its own; the same one whenever asked for."""
        import torch

        from benchbd.poison import Poisoner
        from benchbd.store import Store

        if (where, seed) not in self._poisoners:
            this = dataclasses.replace(cell(seed=seed, epochs=1), attack=part_of(self.made))
            store = Store(self.folder / where)
            made = Poisoner(this, this.made(), store, torch.device("cpu"), lambda event: None, None)
            self._poisoners[where, seed] = made
        return self._poisoners[where, seed]

    @functools.cached_property
    def clean(self) -> tuple[TrainSet, DatasetInfo]:
        """The tiny training set."""
        return self.poisoner("none").train_set()

    @functools.cached_property
    def poisons(self) -> tuple[Poison, Poison]:
        """The same poison made twice, without anything shared."""
        return self.poisoner("one").poison(*self.clean), self.poisoner("two").poison(*self.clean)

    @functools.cached_property
    def triggered(self) -> tuple[Images, torch.Tensor, torch.Tensor]:
        """The tiny test set, and its triggered images with their labels."""
        poisoner = self.poisoner("one")
        test = poisoner.made.dataset.load("test", None)
        return (test, *poisoner.triggered(test, self.clean[1], self.poisons[0]))

    def run(self, where: str, attack: str = "tiny-patch") -> dict[str, Any]:
        """The record of a cell with this defense, run in a folder."""
        from benchbd.execute import execute

        this = dataclasses.replace(cell(attack=attack), defense=part_of(self.made))
        with watching(self.asked):
            return execute(this.to_json(), output=self.folder / where, device="cpu")

    @functools.cached_property
    def runs(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same cell run twice, without anything shared."""
        return self.run("one"), self.run("two")


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise :class:`Late` in here after so many seconds, where the system has an alarm and this is the main thread."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, ring)
    left, every = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, every)
        signal.signal(signal.SIGALRM, before)


def faults(bench: Bench, check: Check, limit: float = LIMIT) -> list[str]:
    """What one check finds wrong; what it raises, and taking more than ``limit`` seconds, counts as found."""
    register()
    try:
        with _limited(limit):
            return list(check(bench))
    except Late:
        return [f"has not come to its end on the tiny set within {limit:g} seconds"]
    except BenchbdError as error:
        return [one_line(error)]
    except (Exception, SystemExit) as error:
        return [told(error, bench.entry.file)]


def check(kind: str, name: str, limit: float = LIMIT, /, **given: Any) -> list[str]:
    """Run every check on a plugin.

    Args:
        kind: ``attacks``, ``defenses``, ``models`` or ``datasets``.
        name: the plugin's.
        limit: seconds that one check may take.
        **given: parameters that win over the plugin's ``smoke`` ones.

    Returns:
        One line for each thing that is wrong, with the plugin and where it is; empty where all is well.

    Raises:
        UsageError: there is no such plugin, or it cannot be loaded.
    """
    bench = Bench(kind, name, **given)
    where = f"{kind[:-1]} {name!r} ({bench.entry.origin})"
    if bench.missing:
        return [f"{where}: not checked: {bench.missing}"]
    return [f"{where}: {one.__name__}: {line}" for one in CHECKS[kind] for line in faults(bench, one, limit)]


def names(kind: str) -> list[str]:
    """Every plugin of a kind that can be listed, the tiny one included."""
    tiny = {"datasets": "tiny", "attacks": "tiny-patch", "defenses": "tiny-filter", "models": "tiny-net"}[kind]
    return sorted({tiny, *(entry.name for entry in registry.entries(kind) if not entry.error)})
