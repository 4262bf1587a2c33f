"""A matrix with nothing wrong in it, and ways to spoil it."""

from __future__ import annotations

from typing import Any

import yaml

GOOD = """
dataset: digits
model: resnet18(width=2)
attacks: [none, {blend: {alpha: 0.2}}]
defenses: [none, {lfd: {beta: [0, 1.0e-3]}}]
"""


class Plain(yaml.SafeDumper):
    """Writes what is there twice twice, not as an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def block(**changes: Any) -> str:
    data = {**yaml.safe_load(GOOD), **changes}
    return yaml.dump({k: v for k, v in data.items() if v is not KeyError}, Dumper=Plain)
