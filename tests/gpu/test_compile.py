"""torch.compile on a GPU. It comes last in `make gpu`, since compiling takes its time."""

from __future__ import annotations

import pytest


def test_compiled_and_captured_trains(make_net, train, machine):
    if machine.type != "cuda":
        pytest.skip("torch.compile is used on CUDA only")
    compiled, graphed = make_net(), make_net()
    one, other = train(compiled, "fp32-compile"), train(graphed, "fp32-strict")
    assert one.epoch_losses == pytest.approx(other.epoch_losses, rel=1e-2)
