"""Interrupted trainings end as if nothing had happened."""

from __future__ import annotations

import pytest
import torch
from killed_training import Kept, Killed

from benchbd.core.recipe import Recipe
from benchbd.engine import choose_precision, fit
from benchbd.engine.state import make_optimizer, restore, set_lr, snapshot

CPU = torch.device("cpu")


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("kill_at", [1, 4, 5, 8, 14])
def test_resume_is_bit_identical(make_net, toy_set, optimizer, kill_at):
    """Killed within an epoch, at its last step and at its end; with dropout, in the layout trainings really use."""
    recipe = Recipe(epochs=3, batch_size=32, lr=0.01, optimizer=optimizer, weight_decay=1e-4)
    precision = choose_precision(CPU)
    whole = make_net(dropout=True)
    told = []

    def train(net, checkpoint, **more):
        return fit(net, *toy_set, recipe, device=CPU, precision=precision, seed=2, checkpoint=checkpoint, **more)

    expected = train(whole, None)
    shelf = Kept(kill_at)
    with pytest.raises(Killed):
        train(make_net(dropout=True), shelf)
    kept = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in shelf.state.items()}
    resumed = make_net(seed=99, dropout=True)
    shelf.kill_at = None
    result = train(resumed, shelf, on_progress=told.append)
    assert result.epoch_losses == expected.epoch_losses
    assert result.steps == expected.steps == 15
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    for name, value in kept.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(shelf.state[name])), f"{name} was changed in place"
    assert told[0]["epoch"] == (kill_at + 0) // 5 + 1
    assert result.seconds > float(kept["seconds"]) > 0


def test_a_finished_training_asks_for_no_checkpoint(make_net, toy_set):
    shelf = Kept(None)
    recipe = Recipe(epochs=2, batch_size=50)
    fit(make_net(), *toy_set, recipe, device=CPU, precision=choose_precision(CPU), seed=2, checkpoint=shelf)
    assert shelf.asked == 5


def test_a_snapshot_restores_in_place(make_net):
    """Same addresses and layout: a graph and the fused optimiser read them."""
    net = make_net().to(memory_format=torch.channels_last)
    optimizer = make_optimizer(net, Recipe(), CPU)
    saved = snapshot(net, optimizer)
    addresses = [p.data_ptr() for p in net.parameters()]
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    moved = snapshot(net, optimizer)
    assert not torch.equal(moved["net.net.first.weight"], saved["net.net.first.weight"])
    assert float(moved["optimizer.step.net.first.weight"]) == 1
    restore(net, optimizer, saved)
    assert [p.data_ptr() for p in net.parameters()] == addresses
    after = snapshot(net, optimizer)
    assert all(torch.equal(after[name], saved[name]) for name in saved)
    weight = net.net.first.weight
    assert optimizer.state[weight]["exp_avg"].stride() == weight.stride()


def test_a_checkpoint_of_another_network_is_refused(make_net, toy_set):
    net = make_net()
    optimizer = make_optimizer(net, Recipe(), CPU)
    saved = snapshot(net, optimizer)
    saved["net.net.first.weight"] = saved["net.net.first.weight"][:2]
    with pytest.raises(KeyError, match="another training"):
        restore(net, optimizer, saved)
    with pytest.raises(KeyError):
        restore(net, optimizer, {})


def test_state_is_allocated_as_torch_would(make_net):
    """Pre-made Adam and SGD state gives the first steps that torch's own lazy state gives."""
    for name in ("adam", "sgd"):
        recipe = Recipe(optimizer=name, lr=0.05, weight_decay=0.01)
        net, other = make_net(), make_net()
        ours = make_optimizer(net, recipe, CPU)
        theirs = (
            torch.optim.Adam(other.parameters(), 0.05, weight_decay=0.01)
            if name == "adam"
            else torch.optim.SGD(other.parameters(), 0.05, 0.9, weight_decay=0.01)
        )
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            for p, q in zip(net.parameters(), other.parameters(), strict=True):
                p.grad = torch.randn(p.shape, generator=generator)
                q.grad = p.grad.clone()
            ours.step()
            theirs.step()
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_the_learning_rate_changes_in_place_where_a_graph_reads_it():
    weight = torch.nn.Parameter(torch.zeros(2))
    lr = torch.tensor(0.5)
    for_graphs, plain = torch.optim.SGD([weight], lr), torch.optim.SGD([weight], 0.5)
    for optimizer in (for_graphs, plain):
        set_lr(optimizer, 0.25)
        assert float(optimizer.param_groups[0]["lr"]) == 0.25
    assert for_graphs.param_groups[0]["lr"] is lr
