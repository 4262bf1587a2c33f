"""What the tests of the core share: toy plugins, a registry that forgets them, a watch on what is written where."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from torch_threads import one_thread  # noqa: F401  (a fixture)

from benchbd.core.images import Normalisation
from benchbd.core.recipe import Recipe
from benchbd.plugins import registry
from benchbd.plugins.contract import Dataset

if TYPE_CHECKING:
    from benchbd.lab.lab import Lab
    from benchbd.plugins.train_set import TrainSet

HELPERS = Path(__file__).parent / "helpers"
"""Modules that tests import by their plain names (``pythonpath`` in pyproject.toml)."""
ZOO = Path(__file__).parent / "zoo"
"""Plugins that tests register by file, as a user would."""

if os.environ.get("BENCHBD_TEST_BF16"):
    # As on a CPU with bf16 units (1) or without (0), here and in every process that a test starts. See the module.
    sys.path.insert(0, str(Path(__file__).parent / "bf16"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))
    sys.modules.pop("sitecustomize", None)
    import sitecustomize  # noqa: F401


@pytest.fixture(scope="module", autouse=True)
def _cheap_collections() -> None:
    """Garbage collections skip what is in memory when a module begins: each cell asks for a full one."""
    gc.collect()
    gc.freeze()


LONGEST = "test_torture.py"
"""Takes minutes on one core: it begins first, so that no other core waits for it at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest test first; the others keep their order."""
    items.sort(key=lambda item: item.path.name != LONGEST)


_watched: list[list[str]] = []
_PATHS = {"os.mkdir": 0, "os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.symlink": 1, "os.link": 1, "os.truncate": 0}


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched:
        return
    if event == "open":
        path, mode, flags = arguments
        if not (set(mode or "") & set("wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
    elif event in _PATHS:
        path = arguments[_PATHS[event]]
    elif event in ("subprocess.Popen", "os.system"):
        path = f"command {arguments[0]}"
    else:
        return
    if not isinstance(path, int):
        _watched[-1].append(os.fsdecode(path))


@pytest.fixture(scope="session")
def _audit() -> None:
    sys.addaudithook(_hook)


@pytest.fixture
def writes_nothing_outside(_audit: None) -> Callable[[Path], AbstractContextManager[None]]:
    """A context in which every write, rename, removal or command outside a folder is a failure."""

    @contextlib.contextmanager
    def watch(folder: Path) -> Iterator[None]:
        seen: list[str] = []
        _watched.append(seen)
        try:
            yield
        finally:
            _watched.remove(seen)
        inside = (str(folder), os.devnull)
        ours = ("__pycache__", ".hypothesis")  # Python's and the test tool's own
        assert [p for p in seen if not p.startswith(inside) and not any(word in p for word in ours)] == []

    return watch


@pytest.fixture
def fresh_registry() -> Iterator[None]:
    """Plugin files made known in the test are forgotten after it, entry points looked for anew."""
    before = set(registry.plugin_files())
    registry._installed.cache_clear()
    registry._by_name.cache_clear()
    yield
    for file in set(registry.plugin_files()) - before:
        registry.forget_plugin_file(file)
    registry._installed.cache_clear()
    registry._by_name.cache_clear()


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync does nothing: it guards against power cuts, which no test causes, and takes most of a test's time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def lab_over(tmp_path: Path) -> Callable[..., Lab]:
    """A lab over a set of four classes, 16 pixels: ``lab_over(data, recipe, model="tiny-net", seed=1, ...)``."""
    import torch

    from benchbd.lab.costs import CostLedger
    from benchbd.lab.lab import Lab
    from benchbd.plugins.identity import part_of
    from benchbd.plugins.trained import ModelSpec
    from benchbd.storage.artifacts import Store

    def build(
        data: TrainSet,
        recipe: Recipe,
        model: str = "tiny-net",
        *,
        classes: int = 4,
        normalisation: Normalisation = Dataset.normalisation,
        **given: Any,
    ) -> Lab:
        made = registry.make("models", model)
        base: dict[str, Any] = {
            "store": Store(tmp_path / "store"),
            "network": ModelSpec(made, part_of(made), classes, 16, normalisation),
            "recipe": recipe,
            "seed": 0,
            "device": torch.device("cpu"),
            "ledger": CostLedger(),
            "on_event": lambda event: None,
        }
        return Lab(data, **{**base, **given})

    return build


@pytest.fixture
def plugin_file(tmp_path: Path, fresh_registry: None) -> Callable[..., Path]:
    """Write a plugin file; what every plugin imports is put before its text."""

    def write(text: str, name: str = "mine.py") -> Path:
        head = (
            "from __future__ import annotations\n"
            "from benchbd.plugins.contract import *\n"
            "from benchbd.plugins.contract import attack, dataset, defense, model\n"
        )
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + textwrap.dedent(text))
        return path

    return write


@pytest.fixture
def zoo(fresh_registry: None) -> Callable[[str], Path]:
    """Register a file of ``tests/zoo`` until the test ends: ``zoo("spies")``; returns its path."""

    def register(name: str) -> Path:
        path = ZOO / f"{name}.py"
        registry.add_plugin_file(str(path))
        return path

    return register


@pytest.fixture
def toys(zoo: Callable[[str], Path]) -> Path:
    """The toy plugins (toy-images, toy-attack, toy-clean, toy-defense, toy-net), registered."""
    return zoo("toys")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The stand-in for ``benchbd.pipeline.run_cell``, importable here and in worker processes, its plugins known."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(HELPERS), os.environ.get("PYTHONPATH")])))
    import run_fakes

    known = dict(registry._plugin_files)
    registry.add_plugin_file(str(run_fakes.PLUGIN))
    yield run_fakes
    registry._plugin_files.clear()
    registry._plugin_files.update(known)
    registry._by_name.cache_clear()
