"""Other names of the built-in plugins: those of papers, BackdoorBench and backdoor-toolbox.

Matrices, ``--filter``, ``--set`` and ``benchbd describe`` take them. A cell has the plugin's own name, so its identity
does not depend on the alias. A plugin that a user adds under such a name wins over the alias.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "attacks": {
        "badnets": ("bn-g", "bn-w"),
        "badnet": ("bn-g", "bn-w"),
        "badnets-grid": ("bn-g",),
        "badnets-white": ("bn-w",),
        "badnet-a2a": ("bn-a2a",),
        "badnets-a2a": ("bn-a2a",),
        "all-to-all": ("bn-a2a",),
        "a2a": ("bn-a2a",),
        "blended": ("blend",),
        "trojan": ("tj-sq", "tj-wm"),
        "trojannn": ("tj-sq", "tj-wm"),
        "trojan-square": ("tj-sq",),
        "trojan-sq": ("tj-sq",),
        "trojan-watermark": ("tj-wm",),
        "trojan-wm": ("tj-wm",),
        "label-consistent": ("cl",),
        "clean-label": ("cl",),
        "lc": ("cl",),
        "sinusoidal": ("sig",),
        "input-aware": ("dynamic",),
        "input-aware-dynamic": ("dynamic",),
        "iad": ("dynamic",),
        "adaptive-blend": ("adap-blend",),
        "adaptive-patch": ("adap-patch",),
        "bppattack": ("bpp",),
        "clean": ("none",),
        "benign": ("none",),
        "no-attack": ("none",),
    },
    "defenses": {
        "activation-clustering": ("ac",),
        "anti-backdoor-learning": ("abl",),
        "fp": ("fine-pruning",),
        "spectral-signature": ("spectral",),
        "spectral-signatures": ("spectral",),
        "ss": ("spectral",),
        "learning-from-distinction": ("lfd",),
        "no-defense": ("none",),
        "nofense": ("none",),
        "undefended": ("none",),
    },
    "models": {
        "lenet5": ("lenet",),
        "mobilenet-v2": ("mobilenetv2",),
        "preact-resnet18": ("preactresnet18",),
        "vgg11-bn": ("vgg11",),
        "wrn16-1": ("wrn-16-1",),
    },
    "datasets": {
        "imagenette2": ("imagenette",),
    },
}
"""For each kind, its aliases, each with the names that it may mean."""


def plain(name: str) -> str:
    """A name without what spellings differ in: its case, hyphens and underscores."""
    return re.sub(r"[-_]", "", name.lower())


def meanings(kind: str, name: str, known: Iterable[str]) -> list[str]:
    """The plugins that a name may mean: itself if it is known, else by its alias or spelling; empty if none.

    Args:
        kind: ``attacks``, ``defenses``, ``models`` or ``datasets``.
        name: what a user wrote.
        known: the names of the plugins of this kind.
    """
    names = [*known]
    if name in names:
        return [name]
    wanted = plain(name)
    found = [each for each in names if plain(each) == wanted]
    for alias, canonical in ALIASES.get(kind, {}).items():
        if plain(alias) == wanted:
            found += [each for each in canonical if each in names]
    return list(dict.fromkeys(found))


def aliases_of(kind: str, name: str) -> list[str]:
    """The aliases that mean a plugin, alone or among others."""
    return [alias for alias, names in ALIASES.get(kind, {}).items() if name in names]
