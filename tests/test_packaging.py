"""The wheel: one top-level name, and everything in it that an installed benchbd needs."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchbd.plan import matrix

ROOT = Path(__file__).parents[1]
PLUGIN_FOLDERS = ("attacks", "datasets", "defenses", "models", "matrices")
DATA = (".yaml", ".csv", ".html", ".css", ".js")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: building leaves files in the tree it builds from."""
    source = tmp_path_factory.mktemp("source") / "benchbd"
    source.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("benchbd", *PLUGIN_FOLDERS):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(target), "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_only_top_level_name_is_benchbd(names: list[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"benchbd"}
    assert len(tops) == 2


def test_every_module_and_data_file_of_the_tree_is_in_it(names: list[str]) -> None:
    wanted = {
        f"benchbd/{path.relative_to(ROOT)}" if top != "benchbd" else str(path.relative_to(ROOT))
        for top in ("benchbd", *PLUGIN_FOLDERS)
        for path in (ROOT / top).rglob("*")
        if path.suffix in (".py", *DATA) and "__pycache__" not in path.parts
    }
    assert wanted - set(names) == set()
    assert "benchbd/matrices/quickstart.yaml" in names
    assert [name for name in names if name.endswith(".csv")]


def test_no_tests_and_no_caches_are_in_it(names: list[str]) -> None:
    words = ("/test_", "/tests/", "/conftest", "__pycache__", ".pyc", ".egg-info")
    assert [n for n in names if any(word in n for word in words)] == []


def test_it_works_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    """Unpacked somewhere else, it lists plugins and plans shipped matrices; the checkout is not looked at."""
    place = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    code = (
        f"import sys; sys.path = [{str(place)!r}] + [p for p in sys.path if p not in ('', {str(ROOT)!r})];"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in str(getattr(f, '__module__', ''))];"
        "import benchbd; assert benchbd.__file__.startswith(sys.path[0]), benchbd.__file__;"
        "from benchbd.cli import main; sys.exit(main(['plan', 'quickstart']) or main(['list', 'matrices']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "quickstart: " in done.stdout
    for name in matrix.shipped():
        assert f"\n  {name} " in done.stdout


def test_metadata(wheel: Path, names: list[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [n for n in names if n.endswith(".dist-info/METADATA")]
        metadata = archive.read(path).decode()
        (path,) = [n for n in names if n.endswith(".dist-info/entry_points.txt")]
        points = archive.read(path).decode()
    assert "\nName: benchbd\n" in metadata
    assert "\nLicense-Expression: MIT\n" in metadata
    assert "benchbd = benchbd.cli:main" in points


def test_arrows_point_one_way() -> None:
    """The harness imports no plugin by name, and plugins of one kind never those of another."""
    wrong = []
    for path in [*(ROOT / "benchbd").rglob("*.py"), *(p for f in PLUGIN_FOLDERS for p in (ROOT / f).glob("*.py"))]:
        mine = path.parent.name if path.parent.parent == ROOT and path.parent.name in PLUGIN_FOLDERS else ""
        others = tuple(f"benchbd.{folder}." for folder in PLUGIN_FOLDERS if folder != mine)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            wrong += [f"{path.relative_to(ROOT)}: {name}" for name in found if f"{name}.".startswith(others)]
    assert wrong == []
