"""The three doors, and plugins that are broken."""

from __future__ import annotations

import importlib.machinery
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchbd.errors import Impossible, UsageError
from benchbd.plugins import registry, scan
from benchbd.plugins.contract import Attack, Component

PLAIN = '''
@attack("mine", version=4)
class Mine(Attack):
    """My own attack.

    More words.
    """

    power: float = 0.5
'''


def refused(file: Path) -> str:
    """The message with which a plugin file is refused; afterwards it must be as if it had never been named."""
    before = registry.entries()
    with pytest.raises(UsageError) as caught:
        registry.add_plugin_file(str(file))
    assert registry.entries() == before
    assert str(file.resolve()) not in registry.plugin_files()
    return str(caught.value)


# -- the first door: the folders


def test_every_built_in_plugin_is_found_with_version_and_summary_and_can_be_made() -> None:
    names = {kind: {e.name for e in registry.entries(kind)} for kind in ("datasets", "attacks", "defenses", "models")}
    assert names["datasets"] >= {"digits", "cifar10", "gtsrb", "imagenet-subset"}
    assert names["attacks"] >= {"none", "bn-g", "bn-w", "blend", "tj-sq", "tj-wm", "dynamic", "cl", "sig", "l2"}
    assert names["defenses"] >= {"none", "fine-pruning", "ac", "abl", "lfd", "oracle", "random-filter"}
    assert names["models"] >= {"resnet18", "resnet34", "resnet-s", "resnet-s1", "resnet-s2", "vgg11", "vgg-s"}
    for entry in registry.entries():
        assert entry.error is None, entry
        assert entry.summary, entry
        made = registry.make(entry.kind, entry.name)
        assert isinstance(made, Component)
        assert (made.name, made.kind, made.version) == (entry.name, entry.kind, entry.version)


def test_listing_imports_no_plugin() -> None:
    code = (
        "import sys; from benchbd import registry; registry.entries(); registry.find('attacks', 'blend');"
        "print([m for m in sys.modules if m.startswith(('benchbd.attacks.', 'benchbd.defenses.', 'benchbd.models.'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_unknown_names_get_a_suggestion_or_the_list() -> None:
    with pytest.raises(UsageError, match=r"^no attack is called 'blen'; did you mean 'blend'\?$"):
        registry.find("attacks", "blen")
    with pytest.raises(
        UsageError, match=r"^no defense is called 'xyz'; known: abl, ac, .*name that file with --plugin$"
    ):
        registry.load("defenses", "xyz")
    with pytest.raises(UsageError) as caught:
        registry.find("models", "r" * 10_000)
    assert len(str(caught.value)) < 500


def test_make_takes_text_and_keywords_whatever_these_are_called() -> None:
    assert registry.make("attacks", "blend(alpha=0.3)", rate=0.2).params()["rate"] == 0.2
    for word in ("kind", "text", "self"):
        with pytest.raises(UsageError, match=f"attack 'blend' has no parameter '{word}'"):
            registry.make("attacks", "blend", **{word: 1})


def test_the_source_digest_covers_helpers_of_helpers(plugin_file: Callable[..., Path]) -> None:
    deepest = plugin_file("X = 1\n", "_deepest.py")
    plugin_file("import _deepest\n", "_helper.py")
    other = plugin_file("Y = 1\n", "_other.py")
    registry.add_plugin_file(str(plugin_file("# not _other\ndef needs():\n    import _helper\n" + PLAIN)))
    first = registry.source_digest("attacks", "mine")
    edits = ((other, "Y = 2\n", True), (deepest, "X = 1  # as before\n", True), (deepest, "X = 2\n", False))
    for file, text, same in edits:
        plugin_file(text, file.name)
        registry.source_digest.cache_clear()
        assert (registry.source_digest("attacks", "mine") == first) == same


# -- the second door: entry points


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_registry: None) -> Iterator[Callable[..., None]]:
    """Pretend that a package with entry points is installed."""

    def install(modules: dict[str, str], points: str) -> None:
        site = tmp_path / "site"
        for name, text in modules.items():
            path = site / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        info = site / "theirs-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(points)
        monkeypatch.syspath_prepend(site)
        registry._installed.cache_clear()
        registry._by_name.cache_clear()

    yield install
    for name in [m for m in sys.modules if m.partition(".")[0] == "theirs"]:
        del sys.modules[name]


THEIRS = "from benchbd.plugins.contract import Attack, attack\n\n\n" + PLAIN.replace("mine", "theirs")


def test_entry_points_are_a_door(package: Callable[..., None]) -> None:
    package(
        {"theirs/__init__.py": "LOADED = True", "theirs/sub/__init__.py": "", "theirs/sub/deep.py": THEIRS},
        "[benchbd.attacks]\ntheirs = theirs.sub.deep:Mine\n",
    )
    entry = registry.find("attacks", "theirs")
    assert (entry.version, entry.summary, entry.error) == (4, "My own attack.", None)
    assert entry.origin == "package theirs (theirs.sub.deep:Mine)"
    assert "theirs" not in sys.modules, "listing imported the package"
    assert registry.make("attacks", "theirs(power=0.25)").power == 0.25
    assert len(registry.source_digest("attacks", "theirs")) == len("code:") + 64


def test_the_quick_look_at_our_own_files_finds_what_parsing_them_finds() -> None:
    found = []
    for kind in ("attacks", "datasets", "defenses", "models"):
        for file in sorted((Path(__file__).parents[2] / kind).glob("*.py")):
            whole = scan.scan(file, "m", "here")
            assert scan.scan(file, "m", "here", own=True) == whole
            found += whole
    assert len(found) > 40
    assert all(entry.version and entry.summary and not entry.error for entry in found)


def test_entry_points_in_a_zip_file_are_a_door_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_registry: None
) -> None:
    with zipfile.ZipFile(tmp_path / "theirs.zip", "w") as file:
        file.writestr("theirs.py", THEIRS)
        file.writestr("theirs-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
        file.writestr("theirs-1.0.dist-info/entry_points.txt", "[benchbd.attacks]\ntheirs = theirs:Mine\n")
    monkeypatch.syspath_prepend(tmp_path / "theirs.zip")
    registry._installed.cache_clear()
    registry._by_name.cache_clear()
    assert registry.find("attacks", "theirs").origin == "package theirs (theirs:Mine)"


def test_entry_points_are_searched_only_where_there_may_be_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site"
    monkeypatch.setattr(sys, "path", [str(folder), str(tmp_path / "missing")])
    monkeypatch.setattr(sys, "meta_path", [importlib.machinery.PathFinder])
    for name, points in {
        "a-1.0.dist-info": "[console_scripts]\na = a:main\n[benchbd_other]\nb = a:B\n",
        "b-1.0.egg-info": "",
    }.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "entry_points.txt").write_text(points)
    assert not scan.may_be_installed()
    (folder / "b-1.0.egg-info" / "entry_points.txt").write_text("[benchbd.models]\nb = b:B\n")
    assert scan.may_be_installed()
    monkeypatch.setattr(sys, "path", [])
    assert not scan.may_be_installed()

    class Theirs:
        def find_distributions(self, context: object = None) -> list[object]:
            return []

    monkeypatch.setattr(sys, "meta_path", [importlib.machinery.PathFinder, Theirs()])
    assert scan.may_be_installed(), "another package's finder may know more"


@pytest.mark.parametrize(
    ("modules", "target", "words"),
    [
        ({}, "nowhere:Mine", "no module named 'nowhere'"),
        ({"theirs/__init__.py": ""}, "theirs.missing:Mine", "no module named 'theirs.missing'"),
        ({"theirs/__init__.py": "def broken(:\n"}, "theirs:Mine", "SyntaxError: invalid syntax (line 1)"),
        ({"theirs/__init__.py": THEIRS}, "theirs", "must be module:Class"),
    ],
)
def test_a_broken_entry_point_is_unavailable_and_breaks_nothing_else(
    package: Callable[..., None], modules: dict[str, str], target: str, words: str
) -> None:
    package(modules, f"[benchbd.attacks]\ntheirs = {target}\n")
    entry = registry.find("attacks", "theirs")
    assert entry.error is not None
    assert words in entry.error
    with pytest.raises(UsageError) as caught:
        registry.make("attacks", "theirs")
    assert words in str(caught.value)
    assert isinstance(registry.make("attacks", "blend"), Attack)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise RuntimeError('no GPU today')", "RuntimeError: no GPU today (line 1)"),
        ("import a_module_that_is_not_there", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("x = 1", "AttributeError"),
        ("Mine = int", "does not define attack 'theirs' with the @attack decorator"),
        (THEIRS.replace('"theirs"', '"other"'), "does not define attack 'theirs'"),
    ],
)
def test_an_entry_point_whose_module_fails_says_so_when_it_is_used(
    package: Callable[..., None], text: str, words: str
) -> None:
    package({"theirs/__init__.py": text}, "[benchbd.attacks]\ntheirs = theirs:Mine\n")
    assert {e.name for e in registry.entries("attacks")} >= {"theirs", "blend"}
    with pytest.raises(UsageError) as caught:
        registry.load("attacks", "theirs")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_entry_point_that_takes_a_built_in_name_is_a_clash_that_names_both(package: Callable[..., None]) -> None:
    package({"theirs/__init__.py": THEIRS}, "[benchbd.attacks]\nblend = theirs:Mine\n")
    with pytest.raises(UsageError) as caught:
        registry.make("attacks", "blend")
    assert "attacks/blend.py:" in str(caught.value)
    assert "package theirs (theirs:Mine)" in str(caught.value)
    assert [e.error for e in registry.entries("attacks") if e.name == "bn-g"] == [None]


# -- the third door: files


def test_a_plugin_file_is_a_door(plugin_file: Callable[..., Path]) -> None:
    file = plugin_file(PLAIN)
    before = registry.plugin_files()
    registry.add_plugin_file(str(file))
    entry = registry.find("attacks", "mine")
    assert (entry.version, entry.summary) == (4, "My own attack.")
    assert entry.origin == f"{file}:{file.read_text().splitlines().index('class Mine(Attack):') + 1}"
    assert registry.make("attacks", "mine(power=1)").power == 1.0
    assert registry.plugin_files() == [*before, str(file)]
    assert not (file.parent / "__pycache__").exists()
    registry.add_plugin_file(str(file))
    assert registry.plugin_files() == [*before, str(file)], "naming a file twice is naming it once"


def test_the_name_may_be_given_as_a_keyword_and_the_decorator_by_its_module(plugin_file: Callable[..., Path]) -> None:
    text = """
    import benchbd as c

    @c.defense(version=1, name="by-keyword")
    class Mine(c.Defense):
        pass
    """
    registry.add_plugin_file(str(plugin_file(text)))
    assert registry.make("defenses", "by-keyword").version == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def broken(:\n", "SyntaxError: invalid syntax (line 4)"),
        (PLAIN + "1 / 0\n", "ZeroDivisionError: division by zero (line 13)"),
        (PLAIN + "import a_module_that_is_not_there\n", "ModuleNotFoundError"),
        (PLAIN + "import sys\nsys.exit(0)\n", "SystemExit: 0"),
        ("x = 1\n", 'defines no plugin; decorate a class with one of @dataset("name"), @attack("name")'),
        ("class Mine(Attack):\n    pass\n", "defines no plugin"),
        (PLAIN.replace("(Attack)", "(Defense)"), "needs a subclass of Attack"),
        (PLAIN.replace("(Attack)", ""), "needs a subclass of Attack"),
        (PLAIN.replace("version=4", "version=0"), "version must be 1 or more"),
        (PLAIN.replace("version=4", ""), "missing 1 required keyword-only argument: 'version'"),
        (PLAIN.replace("= 0.5", "= 'much'"), "default of parameter 'power' must be float, not 'much'"),
        (PLAIN.replace("= 0.5", ""), "parameter 'power' needs a plain default"),
        (PLAIN.replace("float", "dict"), "parameter 'power' has the type dict"),
        (PLAIN.replace("float", "Unknown"), "NameError: name 'Unknown' is not defined"),
        (PLAIN + PLAIN, "attack 'mine' is defined twice, in"),
    ],
)
def test_a_broken_file_is_refused_whole(plugin_file: Callable[..., Path], text: str, words: str) -> None:
    message = refused(plugin_file(text))
    assert words in message
    assert "\n" not in message
    assert isinstance(registry.make("attacks", "blend"), Attack)


def test_a_clash_names_both_files(plugin_file: Callable[..., Path]) -> None:
    first = plugin_file(PLAIN, "first.py")
    second = plugin_file(PLAIN, "second.py")
    registry.add_plugin_file(str(first))
    message = refused(second)
    assert str(first) in message
    assert str(second) in message
    assert registry.make("attacks", "mine").power == 0.5
    message = refused(plugin_file(PLAIN.replace('"mine"', '"blend"'), "third.py"))
    assert "attacks/blend.py:" in message
    assert "third.py:" in message


def test_files_that_are_none(tmp_path: Path, plugin_file: Callable[..., Path]) -> None:
    assert "no such file" in refused(tmp_path / "missing.py")
    assert "is a folder; name a Python file" in refused(tmp_path)
    binary = tmp_path / "binary.py"
    binary.write_bytes(os.urandom(64) + b"\0\xff")
    assert refused(binary).startswith(f"plugin '{binary}': ")
    deep = tmp_path / "deep.py"
    deep.write_text("x = " + "(" * 5000 + ")" * 5000)
    assert refused(deep).startswith(f"plugin '{deep}': ")
    odd = plugin_file(PLAIN, "mine.txt")
    assert "must end in .py" in refused(odd)


def test_listing_keeps_a_broken_file_as_unavailable_and_never_runs_one(plugin_file: Callable[..., Path]) -> None:
    broken = plugin_file("def broken(:\n", "broken.py")
    raising = plugin_file(PLAIN + "raise RuntimeError\n", "raising.py")
    registry.add_plugin_file(str(broken), load=False)
    registry.add_plugin_file(str(raising), load=False)
    errors = {e.name: e.error for e in registry.entries() if e.name in ("broken", "mine")}
    assert errors == {"broken": "SyntaxError: invalid syntax (line 4)", "mine": None}
    with pytest.raises(UsageError, match=r"no attack is called 'broke'.*1 plugin file cannot be read.*line 4"):
        registry.find("attacks", "broke")
    with pytest.raises(UsageError, match=r"attack 'mine' .* RuntimeError \(line 13\)$"):
        registry.load("attacks", "mine")


# -- plugins whose code raises later


def test_a_plugin_that_raises_is_blamed_by_name_and_line(plugin_file: Callable[..., Path]) -> None:
    file = plugin_file(PLAIN + "\n    def __post_init__(self):\n        self.params()['nothing']\n")
    registry.add_plugin_file(str(file))
    line = file.read_text().splitlines().index("        self.params()['nothing']") + 1
    with pytest.raises(UsageError, match=rf"^attack 'mine' in .* raised KeyError: 'nothing' \(line {line}\)$"):
        registry.make("attacks", "mine")


def test_what_plugins_raise_on_purpose_passes_through() -> None:
    with pytest.raises(Impossible, match=r"^no$"), registry.blame("attacks", "blend"):
        raise Impossible("no")


def test_a_plugin_that_leaves_is_blamed_and_ctrl_c_is_not() -> None:
    with pytest.raises(UsageError, match=r"^attack 'blend' in attacks/blend.py:\d+ raised SystemExit: 7$"):  # noqa: SIM117
        with registry.blame("attacks", "blend"):
            raise SystemExit(7)
    with pytest.raises(KeyboardInterrupt), registry.blame("attacks", "blend"):
        raise KeyboardInterrupt


# -- what plugins say of themselves

DATA = '''
@dataset("mine", version=1)
class Mine(Dataset):
    """Images."""

    source = SOURCE

    def info(self) -> DatasetInfo:
        return INFO
'''


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("smoke = [1]", "smoke must be a mapping of parameters such as {'epochs': 1}, not [1]"),
        ("smoke = None", "smoke must be a mapping of parameters"),
        ("smoke = {'powr': 1}", "smoke has no parameter 'powr'; did you mean 'power'?"),
        ("smoke = {'power': 'x'}", "smoke: power must be float, not 'x'"),
        ("smoke = {3: 1}", "smoke has no parameter 3"),
        ("younger = 'power'", "younger must be a tuple of parameters such as ('epochs',), not 'power'"),
        ("younger = (3,)", "younger must be a tuple of parameters"),
        ("younger = ('powr',)", "younger names no parameter: 'powr'; did you mean 'power'?"),
        ("poisons = 1", "poisons must be True or False, not 1"),
        ("clean_label = None", "clean_label must be True or False, not None"),
    ],
)
def test_what_a_class_says_of_itself_is_checked_with_the_file(
    plugin_file: Callable[..., Path], text: str, words: str
) -> None:
    message = refused(plugin_file(PLAIN + f"\n    {text}\n"))
    assert message.startswith("attack 'mine' in ")
    assert words in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("needs = None", "needs must be a tuple of words such as ('clean',), not None"),
        ("needs = 'clean'", "needs must be a tuple of words such as ('clean',), not 'clean'"),
        ("needs = {'clean'}", "needs must be a tuple of words"),
        ("needs = ('clean', 3)", "needs must be a tuple of words such as ('clean',), not ('clean', 3)"),
        ("control = 'yes'", "control must be True or False, not 'yes'"),
        ("clean_share = True", "clean_share must be a number, not True"),
        ("clean_share = '5%'", "clean_share must be a number, not '5%'"),
    ],
)
def test_what_a_defense_says_of_itself(plugin_file: Callable[..., Path], text: str, words: str) -> None:
    text = f"@defense('mine', version=1)\nclass Mine(Defense):\n    {text}\n"
    assert words in refused(plugin_file(text))


def test_a_version_is_a_whole_number(plugin_file: Callable[..., Path]) -> None:
    assert "version must be a whole number, not 1.5" in refused(plugin_file(PLAIN.replace("=4", "=1.5")))
    assert "version must be a whole number, not True" in refused(plugin_file(PLAIN.replace("=4", "=True")))


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ("None", "info() must return a DatasetInfo, not None"),
        ("(4, 8, 8, 4, None, 1)", "info() must return a DatasetInfo, not (4, 8, 8, 4, None, 1)"),
        ("DatasetInfo(0, 8, 8, 4, None, 0)", "info(): classes must be an int of at least 1, not 0"),
        ("DatasetInfo(4, 8.0, 8, 4, None, 1)", "info(): size must be an int of at least 1, not 8.0"),
        ("DatasetInfo(4, 8, '8', 4, None, 1)", "info(): train must be an int of at least 1, not '8'"),
        ("DatasetInfo(4, 8, 8, True, None, 1)", "info(): test must be an int of at least 1, not True"),
        ("DatasetInfo(4, 8, 8, 4, None, -1)", "info(): target must be an int of at least 0, not -1"),
        ("DatasetInfo(4, 8, 8, 4, 8, 1)", "info(): class_counts must be a tuple of ints or None, not 8"),
        ("DatasetInfo(4, 8, 8, 4, (2, 2, 2, None), 1)", "info(): class_counts must be a tuple of ints or None"),
        ("DatasetInfo(4, 8, 8, 4, (4, 4), 1)", "info(): class_counts has 2 entries for 4 classes"),
    ],
)
def test_an_info_that_nobody_could_reckon_with(plugin_file: Callable[..., Path], info: str, words: str) -> None:
    registry.add_plugin_file(str(plugin_file(DATA.replace("INFO", info).replace("SOURCE", "''"))))
    with pytest.raises(UsageError) as caught:
        registry.make("datasets", "mine")
    assert str(caught.value).startswith("dataset 'mine' in ")
    assert words in str(caught.value)


def test_an_info_that_refuses_on_purpose_is_asked_again(plugin_file: Callable[..., Path]) -> None:
    text = DATA.replace("return INFO", "from benchbd.errors import Impossible; raise Impossible('no')")
    registry.add_plugin_file(str(plugin_file(text.replace("SOURCE", "''"))))
    made = registry.make("datasets", "mine")
    with pytest.raises(Impossible, match=r"^no$"):
        made.info()


def test_a_source_is_text(plugin_file: Callable[..., Path]) -> None:
    assert "source must be text, not 3" in refused(plugin_file(DATA.replace("SOURCE", "3")))


@pytest.mark.parametrize("taken", ["kind", "params", "trainings"])
def test_a_parameter_must_not_hide_what_the_harness_uses(plugin_file: Callable[..., Path], taken: str) -> None:
    file = plugin_file(PLAIN.replace("power: float = 0.5", f"{taken}: int = 0"))
    assert f"{taken!r} cannot be a parameter: it is an attribute of every plugin; rename it" in refused(file)


# -- helper files beside a plugin file

HELPED = """
from . import _deep
from ._helper import POWER

@attack("NAME", version=1)
class Helped(Attack):
    \"\"\"With helpers.\"\"\"

    power: float = POWER + _deep.MORE
"""


def helped(plugin_file: Callable[..., Path], folder: str, power: int) -> Path:
    """A plugin of its own folder's name, which takes its parameter's default from two helpers."""
    plugin_file("from ._deep import MORE\nPOWER = 1.0\n", f"{folder}/_helper.py")
    plugin_file(f"MORE = {power}\n", f"{folder}/_deep.py")
    return plugin_file(HELPED.replace("NAME", folder), f"{folder}/mine.py")


def test_a_plugin_file_imports_the_helpers_beside_it_and_no_others(plugin_file: Callable[..., Path]) -> None:
    one, two = helped(plugin_file, "one", 1), helped(plugin_file, "two", 2)
    for file in (one, two):
        registry.add_plugin_file(str(file))
    assert [registry.make("attacks", name).params()["power"] for name in ("one", "two")] == [2.0, 3.0]
    assert not list(one.parent.glob("__pycache__"))
    assert not [name for name in sys.modules if name in ("_helper", "_deep")]
    first = registry.source_digest("attacks", "one")
    registry.forget_plugin_file(str(one))
    helped(plugin_file, "one", 4)
    registry.add_plugin_file(str(one))
    assert registry.make("attacks", "one").params()["power"] == 5.0, "a helper is read again with its plugin"
    assert registry.source_digest("attacks", "one") != first
    assert registry.make("attacks", "two").params()["power"] == 3.0


@pytest.mark.parametrize(
    ("line", "file", "words"),
    [
        ("import _beside", "_beside.py", "the file beside the plugin is imported as `from ._beside import ...`"),
        ("import beside", "beside.py", "imported as `from ._beside import ...`, once it is called _beside.py"),
        ("import Beside", "Beside.py", "imported as `from ._beside import ...`, once it is called _beside.py"),
        ("from .beside import X", "beside.py", "call beside.py _beside.py, and import it as `from ._beside import"),
        ("from ._Beside import X", "_Beside.py", "call _Beside.py _beside.py, and import it as `from ._beside import"),
        ("from ._beside import X", "other.py", "there is no file _beside.py beside the plugin"),
    ],
)
def test_other_imports_of_neighbors_say_what_to_write(
    plugin_file: Callable[..., Path], line: str, file: str, words: str
) -> None:
    plugin_file("X = 1\n", file)
    assert words in refused(plugin_file(line + "\n" + PLAIN))


def test_a_syntax_error_of_a_helper_names_its_file(plugin_file: Callable[..., Path]) -> None:
    plugin_file("X = 1\n\nX = (\n", "_beside.py")
    said = refused(plugin_file("from ._beside import X\n" + PLAIN))
    assert "SyntaxError: '(' was never closed (line 6 of _beside.py)" in said
    assert "(line 5)" in refused(plugin_file("\nX = (\n"))
