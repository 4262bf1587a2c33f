"""What attacks may not return or ask for."""

from __future__ import annotations

import pytest
from poison_steps import make

from benchbd.errors import UsageError
from benchbd.plugins import registry


@pytest.mark.parametrize("attack", ["bad-shape", "bad-type", "bad-none", "bad-prepare"])
def test_attacks_that_return_something_else_are_told_so_in_one_line(poisoner, attack):
    with pytest.raises(UsageError, match=f"attack '{attack}': ") as caught:
        make(poisoner(attack))
    assert "\n" not in str(caught.value)


def test_indices_are_told_only_to_attacks_that_declare_it(poisoner, monkeypatch):
    assert len(make(poisoner("watch-chosen"))[2].trigger["indices"]) == 20
    drawn = registry.load("attacks", "watch-drawn")
    monkeypatch.setattr(drawn, "prepare", lambda self, workshop: {"indices": workshop.indices})
    with pytest.raises(UsageError, match="prepared_from_poison"):
        make(poisoner("watch-drawn"))
