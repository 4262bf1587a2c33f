"""Attacks that are watched, at work on the tiny set."""

from __future__ import annotations

import pytest
import torch
from poison_steps import calls

from benchbd import testing
from benchbd.lab.costs import CostLedger
from benchbd.pipeline.poison import Poisoner
from benchbd.storage.artifacts import Store


@pytest.fixture(autouse=True)
def _watched(zoo):
    zoo("watched")
    calls().clear()


@pytest.fixture
def poisoner(tmp_path):
    """``poisoner(attack, defense=..., seed=..., where=...)`` at work on the tiny set."""

    def build(attack: str, *, where: str = "store", ledger: CostLedger | None = None, **given) -> Poisoner:
        given = {"dataset": "tiny(train=200,test=40,size=16)", **given}
        this = testing.cell(attack=attack, **given)
        store = Store(tmp_path / where)
        more = [ledger] if ledger else []
        return Poisoner(this, this.components(), store, torch.device("cpu"), lambda event: None, None, *more)

    return build
