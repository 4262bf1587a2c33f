"""What noise cannot touch: reads of device values and operations per step, counted."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchbd.core.recipe import Recipe
from benchbd.engine import Precision, fit
from benchbd.engine.augment import draw_epoch
from benchbd.engine.state import make_optimizer
from benchbd.engine.step import Step

CPU = torch.device("cpu")
# Operations that wait for a GPU: a value read back, or a shape that depends on values.
WAITS = ("_local_scalar_dense", "item", "equal", "nonzero", "masked_select", "unique", "is_nonzero", "is_same_size")
# Operations that only look at memory in another way: nothing is launched on a GPU.
VIEWS = (
    "detach",
    "view",
    "t",
    "permute",
    "unfold",
    "expand",
    "unsqueeze",
    "select",
    "slice",
    "unbind",
    "alias",
    "empty",
)


class CostLedger(TorchDispatchMode):
    """Counts every operation by name, those of the backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))

    def launches(self) -> int:
        return sum(n for name, n in self.counts.items() if name not in VIEWS and not name.startswith("profiler::"))

    def waits(self) -> int:
        return sum(n for name, n in self.counts.items() if name.split(".")[0] in WAITS or name.startswith("unique"))


def counted(net, data, batch_size, epochs=1):
    recipe = Recipe(epochs=epochs, batch_size=batch_size)
    more = {"precision": Precision("cpu-fp32", graph=False), "on_progress": lambda note: None}
    with CostLedger() as ledger:
        fit(net, *data, recipe, device=CPU, seed=1, **more)
    return ledger


def test_the_ledger_sees_a_read():
    with CostLedger() as ledger:
        _ = torch.ones(3).sum().item()
    assert ledger.waits() == 1


def test_no_step_waits_for_the_device(make_net, toy_set):
    """Three batches or thirty, the number of reads is the same."""
    few, many = counted(make_net(), toy_set, 50), counted(make_net(), toy_set, 5)
    assert few.waits() == many.waits()


def test_a_bare_step_reads_nothing(make_net, toy_set):
    for dtype in (None, torch.bfloat16):
        net, recipe = make_net(), Recipe()
        optimizer = make_optimizer(net, recipe, CPU)
        step = Step(net, optimizer, *toy_set, torch.ones(150), recipe, Precision("test", dtype))
        rows = draw_epoch(1, 0, 150)[:64]
        with CostLedger() as ledger:
            step(rows)
        assert ledger.waits() == 0
        assert ledger.counts["convolution_backward"] == 2


def test_launches_per_step_are_bounded(make_net, toy_set):
    """Whatever the batch; the toy network's 2 convolutions, 2 norms and so on are 30 of them."""
    few, many = counted(make_net(), toy_set, 50), counted(make_net(), toy_set, 5)
    per_step = (many.launches() - few.launches()) / (30 - 3)
    assert per_step <= 60
    # One optimiser call for all weights, one gathering of pixels, one of crops.
    assert many.counts["_fused_adam_"] == 30
    assert many.counts["index"] == 30
    assert many.counts["convolution"] == 60


def test_epochs_cost_a_constant_number_of_reads(make_net, toy_set):
    one, three = counted(make_net(), toy_set, 50), counted(make_net(), toy_set, 50, epochs=3)
    assert three.waits() - one.waits() <= 2 * 2
