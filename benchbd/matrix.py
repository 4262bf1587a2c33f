"""A matrix file: YAML in, a plan of fully resolved cells out.

Nothing here reads images or imports torch. Lists inside parameters expand, duplicates collapse, cells that cannot exist
are kept as ``skipped`` with the reason.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchbd import params, registry
from benchbd.cell import Cell, Part, part_of
from benchbd.components import UNDEFENDED, Attack, Training
from benchbd.errors import Impossible, UsageError, did_you_mean
from benchbd.recipe import Recipe
from benchbd.spec import parse_spec

MAX_CELLS = 100_000
MAX_BYTES = 1_000_000
TOP = ("name", "description", "seeds", "recipe", "gate", "plugins", "blocks", "exclude")
BLOCK = ("dataset", "model", "attacks", "defenses", "seeds", "recipe", "exclude")
AXES = ("dataset", "model", "attack", "defense", "seed")


class Skipped(NamedTuple):
    """A cell that cannot exist, and why."""

    cell: Cell
    reason: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """A resolved matrix."""

    name: str
    description: str
    gate: float
    cells: tuple[Cell, ...]
    skipped: tuple[Skipped, ...]
    source: str


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases (bombs) and with duplicate keys refused."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise UsageError("YAML aliases (*name) are not allowed in a matrix; write the values out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float, bool, type(None))):
                raise UsageError(f"line {key_node.start_mark.line + 1}: a key must be a word")
            if key in seen:
                raise UsageError(f"line {key_node.start_mark.line + 1}: {key!r} is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def shipped() -> list[str]:
    """Names of the matrices that come with benchbd."""
    return sorted(f.name[:-5] for f in resources.files("benchbd.matrices").iterdir() if f.name.endswith(".yaml"))


def read(matrix: str) -> tuple[str, str]:
    """The text of a matrix and where it was found; ``matrix`` is a path or a shipped name (a path wins)."""
    if "\0" in matrix or len(matrix) > 4000:
        raise UsageError("matrix: that is neither a file nor the name of a shipped matrix")
    path = Path(matrix).expanduser()
    try:
        if path.is_file():
            if path.stat().st_size > MAX_BYTES:
                raise UsageError(f"matrix {matrix}: larger than {MAX_BYTES} bytes; is it a matrix?")
            return path.read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"matrix {matrix}: cannot be read ({error})") from error
    if matrix in shipped():
        return (resources.files("benchbd.matrices") / f"{matrix}.yaml").read_text(encoding="utf-8"), f"shipped matrix {matrix}"
    if path.is_dir():
        raise UsageError(f"matrix {matrix}: is a folder; name the YAML file in it")
    raise UsageError(f"matrix {matrix[:200]!r}: no such file, and no shipped matrix has that name{did_you_mean(matrix[:80], shipped())}")


def parse(text: str, where: str) -> dict[str, Any]:
    """YAML to a checked mapping. Raises UsageError with the line for anything that is not a matrix."""
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader subclass
    except UsageError as error:
        raise UsageError(f"matrix {where}: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"matrix {where}{line}: not YAML ({getattr(error, 'problem', None) or 'unreadable'})") from error
    except (ValueError, RecursionError, OverflowError) as error:
        raise UsageError(f"matrix {where}: not YAML ({error})") from error
    if data is None:
        raise UsageError(f"matrix {where}: is empty; it needs blocks with dataset, model, attacks and defenses")
    if not isinstance(data, dict):
        raise UsageError(f"matrix {where}: must be a mapping with blocks, not {type(data).__name__}")
    allowed = (*TOP, *BLOCK) if "blocks" not in data else TOP
    _known(data, allowed, f"matrix {where}")
    return data


def _known(data: dict[Any, Any], allowed: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in allowed:
            raise UsageError(f"{where}: unknown key {key!r}{did_you_mean(str(key), allowed)}")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _seeds(value: Any, where: str) -> list[int]:
    found = [_seed(v, where) for v in _list(value)]
    seeds = [s for group in found for s in group]
    if not seeds:
        raise UsageError(f"{where}: seeds is empty; write seeds: [0, 1, 2]")
    return list(dict.fromkeys(seeds))


def _seed(value: Any, where: str) -> list[int]:
    match = re.fullmatch(r"(\d{1,9})-(\d{1,9})", value) if isinstance(value, str) else None
    if match and 0 <= int(match[2]) - int(match[1]) < 10_000:
        return list(range(int(match[1]), int(match[2]) + 1))
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value):
        return [int(value)]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise UsageError(f"{where}: a seed is a whole number from 0 on, or a range such as 0-4, not {value!r}")
    return [value]


def parse_seeds(text: str) -> list[int]:
    """``0-2`` or ``0,3,7`` from the command line."""
    return _seeds([part.strip() for part in text.split(",")], "--seeds")


class _Setting(NamedTuple):
    """One ``--set``: whose parameter (a component kind, a name, or recipe), which, and the value."""

    owner: str
    key: str
    value: Any


def parse_set(text: str) -> _Setting:
    """``epochs=2``, ``recipe.lr=0.01``, ``dataset.train=1000``, ``lfd.alpha=0.2``, ``model=resnet18(width=8)``."""
    left, equals, right = text.partition("=")
    left = left.strip()
    if not equals or not left:
        raise UsageError(f"--set {text[:60]!r}: write --set key=value, such as --set epochs=2 or --set lfd.alpha=0.2")
    try:
        value = yaml.load(right, Loader=_Loader) if not re.match(r"\s*[A-Za-z][\w.-]*\s*\(", right) else right.strip()
    except (yaml.YAMLError, UsageError, ValueError, RecursionError) as error:
        raise UsageError(f"--set {text[:60]!r}: cannot read the value") from error
    owner, dot, key = left.rpartition(".")
    if not dot and left in ("dataset", "model"):
        return _Setting(left, "", value)
    return _Setting(owner or "recipe", key, value)


class _Settings:
    """All ``--set`` of one command; remembers which applied, so that a typo is an error and not a silence."""

    def __init__(self, texts: list[str]) -> None:
        self.items = [parse_set(t) for t in texts]
        self.texts = texts
        self.used = [False] * len(texts)

    def recipe(self) -> dict[str, Any]:
        found = {}
        for i, s in enumerate(self.items):
            if s.owner == "recipe":
                found[s.key], self.used[i] = s.value, True
        return found

    def spec(self, kind: str) -> Any | None:
        found = None
        for i, s in enumerate(self.items):
            if s.owner == kind and not s.key:
                found, self.used[i] = s.value, True
        return found

    def params(self, kind: str, name: str) -> dict[str, Any]:
        found = {}
        for i, s in enumerate(self.items):
            if not s.key:
                continue
            if s.owner == name:
                found[s.key], self.used[i] = s.value, True
            elif s.owner == kind and s.key in {p.name for p in params.schema(registry.load(f"{kind}s", name))}:
                found[s.key], self.used[i] = s.value, True
        return found

    def check(self) -> None:
        for text, used in zip(self.texts, self.used):
            if not used:
                raise UsageError(f"--set {text[:60]!r}: nothing in this matrix is called that")


def _variants(given: Any, kind: str, settings: _Settings, where: str) -> Iterator[tuple[Any, Part]]:
    """Instances of one spec, lists in its parameters expanded (a list-typed parameter takes a list of lists)."""
    name, inner = parse_spec(given, kind)
    cls = registry.load(f"{kind}s", name)
    inner = {**inner, **settings.params(kind, name)}
    wants_list = {p.name for p in params.schema(cls) if p.type.startswith("list")}
    axes = []
    for key, value in inner.items():
        spread = isinstance(value, list) and (key not in wants_list or any(isinstance(v, list) for v in value))
        if spread and not value:
            raise UsageError(f"{where}: {kind} {name!r}: {key} is an empty list")
        axes.append([(key, v) for v in value] if spread else [(key, value)])
    for combination in itertools.product(*axes):
        made = cls(**params.resolve(cls, dict(combination), f"{kind} {name!r}"))
        yield made, part_of(made)


def _count(given: Any) -> int:
    """Upper bound of the variants of one spec, before any is built."""
    total = 1
    if isinstance(given, dict):
        for inner in given.values():
            for value in (inner or {}).values() if isinstance(inner, dict) else ():
                if isinstance(value, list):
                    total *= max(1, len(value))
    return total


def _excluded(rules: list[Any], where: str) -> list[tuple[dict[str, str], str]]:
    found = []
    for rule in _list(rules):
        if not isinstance(rule, dict):
            raise UsageError(f"{where}: an exclude rule is a mapping such as {{attack: cl, defense: ac, reason: why}}")
        _known(rule, (*AXES, "reason"), f"{where}: exclude")
        reason = rule.get("reason")
        if not isinstance(reason, str) or not reason.strip():
            raise UsageError(f"{where}: exclude needs a reason")
        found.append(({k: str(v) for k, v in rule.items() if k != "reason"}, reason))
    return found


def _facts(cell: Cell) -> dict[str, str]:
    return {
        "dataset": cell.dataset.name,
        "model": cell.model.name,
        "attack": cell.attack.name,
        "defense": cell.defense.name,
        "seed": str(cell.seed),
        "label": cell.label,
        "id": cell.id,
    }


def _matches(facts: dict[str, str], key: str, glob: str, cell: Cell) -> bool:
    part = getattr(cell, key, None)
    return fnmatch.fnmatchcase(facts[key], glob) or (isinstance(part, Part) and fnmatch.fnmatchcase(part.text, glob))


def select(cells: tuple[Cell, ...], filters: list[str], excludes: list[str] | None = None) -> tuple[Cell, ...]:
    """Cells that pass every ``k=glob,k!=glob`` of ``--filter`` and no ``--exclude``.

    Raises:
        UsageError: an expression cannot be read, or nothing is left.
    """
    keys = ("dataset", "model", "attack", "defense", "seed", "label", "id")

    def terms(text: str, flag: str) -> list[tuple[str, bool, str]]:
        found = []
        for term in text.split(","):
            match = re.fullmatch(r"\s*(\w+)\s*(!?=)\s*(.+?)\s*", term)
            if match is None:
                raise UsageError(f"{flag} {text[:60]!r}: write key=glob or key!=glob, such as defense=lfd*,attack!=none")
            if match[1] not in keys:
                raise UsageError(f"{flag} {text[:60]!r}: unknown key {match[1]!r}{did_you_mean(match[1], keys)}")
            found.append((match[1], match[2] == "=", match[3]))
        return found

    wanted = [terms(t, "--filter") for t in filters]
    unwanted = [terms(t, "--exclude") for t in excludes or []]
    kept = []
    for cell in cells:
        facts = _facts(cell)

        def holds(group: list[tuple[str, bool, str]], cell: Cell = cell, facts: dict[str, str] = facts) -> bool:
            return all(_matches(facts, k, g, cell) == equal for k, equal, g in group)

        if all(holds(g) for g in wanted) and not any(holds(g) for g in unwanted):
            kept.append(cell)
    if cells and not kept and (filters or excludes):
        raise UsageError(f"no cell is left after {'; '.join([*filters, *(excludes or [])])[:200]} ({len(cells)} in the matrix)")
    return tuple(kept)


def resolve(data: dict[str, Any], where: str, *, sets: list[str] | None = None, seeds: list[int] | None = None, smoke: bool = False) -> Plan:
    """A checked mapping to a plan.

    Args:
        data: what :func:`parse` returned.
        where: the matrix, for messages.
        sets: ``--set`` texts, which win over the file.
        seeds: ``--seeds``, which win over the file.
        smoke: shrink every cell to seconds, to find mistakes before a long run.

    Raises:
        UsageError: anything in it is wrong.
    """
    settings = _Settings(sets or [])
    for plugin in _list(data.get("plugins") or []):
        base = Path(where).parent if Path(where).is_file() else Path()
        registry.add_plugin_file(str(base / str(plugin)))
    name = data.get("name", Path(where).stem if Path(where).suffix else "matrix")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", name):
        raise UsageError(f"matrix {where}: name must be a word (letters, digits, - _ .), not {str(name)[:60]!r}")
    gate = data.get("gate", 0.5)
    if isinstance(gate, bool) or not isinstance(gate, (int, float)) or not 0 <= gate <= 1:
        raise UsageError(f"matrix {where}: gate is an ASR in [0, 1], not {gate!r}")
    blocks = data["blocks"] if "blocks" in data else [{k: v for k, v in data.items() if k in BLOCK and k not in ("seeds", "recipe", "exclude")}]
    if not isinstance(blocks, list) or not blocks:
        raise UsageError(f"matrix {where}: blocks must be a list with at least one block")
    for number, block in enumerate(blocks, 1):
        here = f"matrix {where}, block {number}"
        if not isinstance(block, dict):
            raise UsageError(f"{here}: must be a mapping with dataset, model, attacks and defenses")
        _known(block, BLOCK, here)
        for key in ("dataset", "model", "attacks", "defenses"):
            if not block.get(key):
                raise UsageError(f"{here}: {key} is missing")
    size = sum(_block_size(b, data, seeds) for b in blocks)
    if size > MAX_CELLS:
        raise UsageError(f"matrix {where}: {size:,} cells, more than {MAX_CELLS:,}; is a list in the wrong place?")
    cells: dict[str, Cell] = {}
    skipped: dict[str, Skipped] = {}
    for number, block in enumerate(blocks, 1):
        for cell, reason in _block(block, data, f"matrix {where}, block {number}", settings, seeds, smoke, name):
            if reason is None:
                cells.setdefault(cell.id, cell)
            else:
                skipped.setdefault(cell.id, Skipped(cell, reason))
    settings.check()
    return Plan(name, str(data.get("description") or ""), float(gate), tuple(cells.values()), tuple(s for i, s in skipped.items() if i not in cells), where)


def _block_size(block: dict[str, Any], data: dict[str, Any], seeds: list[int] | None) -> int:
    total = len(seeds) if seeds else len(_seeds(block.get("seeds", data.get("seeds", [0])), "matrix"))
    for key in ("dataset", "model", "attacks", "defenses"):
        total *= sum(_count(g) for g in _list(block[key]))
    return total


def _block(
    block: dict[str, Any], data: dict[str, Any], here: str, settings: _Settings, seeds: list[int] | None, smoke: bool, name: str
) -> Iterator[tuple[Cell, str | None]]:
    recipe_given = {**(data.get("recipe") or {}), **(block.get("recipe") or {})} if _mappings(data, block, here) else {}
    recipe_given.update(settings.recipe())
    if smoke:
        recipe_given["epochs"] = 1
    recipe = Recipe.parse(recipe_given, f"{here}: recipe").spec()
    chosen = seeds or _seeds(block.get("seeds", data.get("seeds", [0])), here)
    rules = _excluded([*_list(data.get("exclude") or []), *_list(block.get("exclude") or [])], here)
    axes: dict[str, list[tuple[Any, Part]]] = {}
    for kind, key in (("dataset", "dataset"), ("model", "model"), ("attack", "attacks"), ("defense", "defenses")):
        given = settings.spec(kind) or block[key]
        axes[kind] = [v for g in _list(given) for v in _variants(_smoked(g, kind) if smoke else g, kind, settings, here)]
    for (ds, ds_part), (mo, mo_part) in itertools.product(axes["dataset"], axes["model"]):
        info = ds.info()
        model_reason = _reason(lambda mo=mo, info=info: mo.check(info))
        for at, at_part in axes["attack"]:
            attack_reason = model_reason or _reason(lambda at=at, info=info: at.check(info))
            for de, de_part in axes["defense"]:
                reason = attack_reason or _reason(lambda de=de, info=info, at=at: de.check(info, at))
                for seed in chosen:
                    cell = Cell(ds_part, mo_part, at_part, de_part, recipe, seed, name)
                    yield cell, reason or _rule(rules, cell)


def _mappings(data: dict[str, Any], block: dict[str, Any], here: str) -> bool:
    for source in (data, block):
        if not isinstance(source.get("recipe") or {}, dict):
            raise UsageError(f"{here}: recipe must be a mapping such as {{epochs: 20}}")
        for key in source.get("recipe") or {}:
            if not isinstance(key, str):
                raise UsageError(f"{here}: recipe keys are words, not {key!r}")
    return True


def _smoked(given: Any, kind: str) -> dict[str, Any]:
    """A spec with the plugin's own ``smoke`` parameters, which make it run in seconds."""
    name, inner = parse_spec(given, kind)
    return {name: {**inner, **registry.load(f"{kind}s", name).smoke}}


def _reason(check: Any) -> str | None:
    try:
        check()
    except Impossible as error:
        return str(error)
    return None


def _rule(rules: list[tuple[dict[str, str], str]], cell: Cell) -> str | None:
    if not rules:
        return None
    facts = _facts(cell)
    for terms, reason in rules:
        if all(_matches(facts, k, g, cell) for k, g in terms.items()):
            return f"excluded: {reason}"
    return None


def load(matrix: str, *, sets: list[str] | None = None, seeds: list[int] | None = None, smoke: bool = False) -> Plan:
    """Read, check and resolve a matrix: a path or a shipped name."""
    text, where = read(matrix)
    return resolve(parse(text, where), where, sets=sets, seeds=seeds, smoke=smoke)


def trainings(cells: tuple[Cell, ...]) -> dict[tuple[str, Training], list[Cell]]:
    """The distinct trainings a set of cells asks for, each with the cells that share it (first one pays).

    Keys are (row, training): the row hashes data set, attack, model, recipe and seed.
    """
    found: dict[tuple[str, Training], list[Cell]] = {}
    for cell in cells:
        made = cell.made()
        for training in made.defense.trainings(made.attack):
            found.setdefault((cell.row_key, training), []).append(cell)
        if made.attack.trains():
            found.setdefault(_surrogate(cell, made.attack), []).append(cell)
    return found


def _surrogate(cell: Cell, attack: Attack) -> tuple[str, Training]:
    """The clean row's undefended training at the trigger's seed, which trained triggers start from."""
    clean = dataclasses.replace(cell, attack=part_of(registry.make("attacks", "none")), seed=attack.trigger_seed)
    return clean.row_key, UNDEFENDED
