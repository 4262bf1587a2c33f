"""``--set`` and ``--seeds``: the command line's changes to a matrix."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from benchbd.core import params
from benchbd.core.numerics import NUMERICS, Numerics
from benchbd.errors import UsageError, did_you_mean, shown
from benchbd.plan.matrix_file import BLOCK, TOP, as_list, parse_yaml
from benchbd.plugins import registry

MAX_SEEDS = 10_000
_CALL = re.compile(r"\s*[A-Za-z][\w.-]*\s*\(")


def seeds_of(value: Any, where: str) -> list[int]:
    """Parse ``0``, ``0-4`` or a list of these, without duplicates. Raises UsageError for anything else."""
    seeds: dict[int, None] = {}
    for item in as_list(value):
        seeds.update(dict.fromkeys(_seed(item, where)))
        if len(seeds) > MAX_SEEDS:
            raise UsageError(f"{where}: more than {MAX_SEEDS:,} seeds; is that a typo?")
    if not seeds:
        raise UsageError(f"{where}: seeds is empty; write seeds: [0, 1, 2]")
    return list(seeds)


def _seed(value: Any, where: str) -> range:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*", value, re.ASCII)
        if match:
            first, last = int(match[1]), int(match[2] or match[1])
            if first <= last < first + MAX_SEEDS:
                return range(first, last + 1)
    elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
        return range(value, value + 1)
    rule = f"a seed must be a whole number of at least 0 or a range such as 0-4 (at most {MAX_SEEDS:,} seeds)"
    raise UsageError(f"{where}: {rule}, not {shown(value)}")


def one_seed(value: Any) -> str:
    """A line for ``seeds: 3``, which is one seed and may be meant as three; '' for any other value."""
    if not isinstance(value, int) or isinstance(value, bool) or not 2 <= value <= MAX_SEEDS:
        return ""
    listed = str(list(range(value))) if value <= 4 else f"0-{value - 1}"
    return f"seeds: {value} is one seed, number {value}; for {value} seeds write seeds: {listed}"


def parse_seeds(text: str) -> list[int]:
    """Parse ``0-2`` or ``0,3,7`` from the command line."""
    return seeds_of(text.split(","), "--seeds")


SETTABLE = ("dataset", "model", "recipe", *NUMERICS)
"""Keys of a matrix that ``--set`` replaces."""
INSTEAD = {
    **{key: "change it in the matrix file" for key in (*TOP, *BLOCK) if key not in SETTABLE},
    **{
        name: f"--filter {kind}=GLOB chooses some of the matrix's, and --set NAME.parameter=VALUE changes one"
        for kind in ("attack", "defense")
        for name in (kind, f"{kind}s")
    },
    "exclude": "--exclude K=GLOB leaves out cells",
    "gate": "change it in the matrix file, or give --gate to benchbd leaderboard",
    "plugins": "--plugin FILE loads a plugin",
    "probe": "name one entry, such as probe.losses=true",
    "seeds": "--seeds LIST names seeds",
}
"""What to do instead of setting a key of a matrix as a whole."""


class Override(NamedTuple):
    """One ``--set``: the owner of the parameter (a component kind, a name, or recipe), its key, and the value.

    The key is empty if the value replaces the owner itself.
    """

    owner: str
    key: str
    value: Any


def parse_set(text: str) -> Override:
    """Parse a ``--set``, such as ``epochs=2``, ``recipe.lr=0.01``, ``lfd.alpha=0.2`` or ``model=resnet18(width=8)``."""
    left, equals, right = text.partition("=")
    left = left.strip()
    owner, dot, key = left.rpartition(".")
    if not equals or not left or (dot and not (owner and key)):
        raise UsageError(f"--set {shown(text)}: write --set key=value, such as --set epochs=2 or --set lfd.alpha=0.2")
    if not dot and left in INSTEAD:
        raise UsageError(f"--set {shown(text)}: {left} is not a setting; {INSTEAD[left]}")
    try:
        value = right.strip() if _CALL.match(right) else parse_yaml(right)
    except UsageError as error:
        raise UsageError(f"--set {shown(text)}: cannot read the value ({error})") from error
    if not dot and left in ("dataset", "model"):
        if not isinstance(value, (str, dict, list)) or not value:
            raise UsageError(f"--set {shown(text)}: name a {left}, such as {left}=NAME")
        return Override(left, "", value)
    if not dot and left == "recipe":
        if not isinstance(value, str):
            raise UsageError(f"--set {shown(text)}: name a preset, such as recipe=fast, or one entry, such as epochs=2")
        return Override("recipe", "preset", value)
    if not dot and left in NUMERICS:
        if value is None:
            raise UsageError(f"--set {shown(text)}: give a value, such as precision=fp32 or threads=2")
        return Override(left, "", value)
    return Override(owner or "recipe", key, value)


class Overrides:
    """All ``--set`` options of one command, and its ``--precision`` and ``--threads``, which win over them.

    It remembers which options applied, so that a typo is an error and not silently ignored.

    Raises:
        UsageError: an option cannot be read.
    """

    def __init__(self, texts: list[str], precision: str | None = None, threads: int | None = None) -> None:
        flags = {"precision": precision, "threads": threads}
        Numerics.parse(flags, "--")
        self._flags = {key: value for key, value in flags.items() if value is not None}
        self.texts = texts
        self.items = [parse_set(t) for t in texts]
        self.used = [False] * len(texts)
        self.seen: dict[str, set[str]] = {"recipe": set(), "probe": set()}
        """For each owner found in the matrix, its parameters."""

    def recipe(self) -> dict[str, Any]:
        """The overrides of the recipe."""
        return self._of("recipe", None)

    def probe(self) -> dict[str, Any]:
        """The overrides of the probe."""
        return self._of("probe", None)

    def spec(self, kind: str) -> Any | None:
        """What replaces the matrix's data set, model, precision or threads, or None."""
        found = None
        for i, item in enumerate(self.items):
            if item.owner == kind and not item.key:
                found, self.used[i] = item.value, True
        return found

    def numerics(self) -> dict[str, Any]:
        """The precision and the threads that replace the matrix's."""
        return {key: value for key in NUMERICS if (value := self.spec(key)) is not None} | self._flags

    def params(self, kind: str, name: str) -> dict[str, Any]:
        """The overrides of one component: those of its kind (``attack.rate``), then those of its name (``cl.rate``)."""
        if not self.items:
            return {}
        cls: type = registry.load(f"{kind}s", name)
        fields = set(params.defaults(cls))
        for owner in (kind, name):
            self.seen.setdefault(owner, set()).update(fields)
        # An override of all attacks leaves the clean row alone: its identity is shared across matrices.
        by_kind = self._of(kind, fields) if getattr(cls, "poisons", True) else {}
        return {**by_kind, **self._of(name, fields, kind)}

    def _of(self, owner: str, fields: set[str] | None, kind: str = "") -> dict[str, Any]:
        """The values for an owner; with its kind, also those given under an alias of its name."""
        found = {}
        for i, item in enumerate(self.items):
            mine = item.owner == owner or (kind and item.key and owner in registry.named(f"{kind}s", item.owner))
            if mine and item.key and (fields is None or item.key in fields):
                found[item.key], self.used[i] = item.value, True
        return found

    def check(self) -> None:
        """Raise UsageError for an override that applied to nothing."""
        for text, item, used in zip(self.texts, self.items, self.used, strict=True):
            if used:
                continue
            if item.owner in self.seen:
                hint = did_you_mean(item.key, self.seen[item.owner])
                raise UsageError(f"--set {shown(text)}: {item.owner} has no parameter {shown(item.key)}{hint}")
            hint = did_you_mean(item.owner, self.seen)
            raise UsageError(f"--set {shown(text)}: nothing in this matrix is called {shown(item.owner)}{hint}")
