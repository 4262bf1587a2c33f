"""CBD: weights by hand, the two trainings' settings, the information term against a plain computation."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchbd.defenses.cbd import BiasedLosses, Cbd, Deconfounded, WithInformation, deconfounded
from benchbd.errors import UsageError
from benchbd.plugins import registry


def test_weights_are_quotients_of_losses_with_a_mean_of_one():
    biased, losses = torch.tensor([1.0, 3.0, 0.0]), torch.tensor([1.0, 1.0, 2.0])
    # 1/2, 3/4 and 0 sum to 5/4; times 3 / (5/4).
    assert deconfounded(biased, losses).tolist() == pytest.approx([1.2, 1.8, 0.0], abs=1e-6)
    assert torch.isfinite(deconfounded(torch.zeros(2), torch.zeros(2))).all()


def test_the_loss_has_no_gradient_through_its_weights():
    biased = torch.tensor([1.0, 3.0, 0.0])
    losses = torch.tensor([1.0, 1.0, 2.0], requires_grad=True)
    value = Deconfounded()(losses, torch.from_numpy(BiasedLosses()(biased.numpy())))
    value.backward()
    assert value.item() == pytest.approx((1.2 + 1.8) / 3, abs=1e-6)
    assert losses.grad.tolist() == pytest.approx([0.4, 0.6, 0.0], abs=1e-6)


@pytest.mark.usefixtures("one_thread")
def test_the_biased_network_has_initial_weights_and_a_batch_order_of_its_own(small_lab, banded, monkeypatch):
    from benchbd.lab.train_request import TrainRequest

    data, _, _ = banded
    orders, fresh, real = [], [], TrainRequest.network

    def network(self):
        net = real(self)
        orders.append(self.batch_seed())
        fresh.append(next(net.parameters()).detach().clone())
        return net

    monkeypatch.setattr(TrainRequest, "network", network)
    Cbd(biased_epochs=1, epochs=1).train(small_lab(data))
    assert len(set(orders)) == 2
    assert not torch.equal(*fresh)


@pytest.mark.parametrize(("epochs", "rates"), [(1, [0.1]), (2, [0.1, 0.001]), (3, [0.1, 0.01, 0.001])])
def test_a_short_training_starts_at_the_full_rate(fake_lab, epochs, rates):
    lab = fake_lab(np.arange(40) % 4, losses=np.arange(40))
    Cbd(epochs=epochs).train(lab)
    last = lab.calls[-1].settings
    recipe = lab.recipe.but(**{k: v for k, v in last.items() if k in type(lab.recipe).__dataclass_fields__})
    assert [recipe.lr_at(epoch) for epoch in range(epochs)] == pytest.approx(rates)


def test_both_trainings_are_those_of_the_authors_code(fake_lab):
    lab = fake_lab(np.arange(40) % 4, losses=np.arange(40))
    Cbd().train(lab)
    first, second = lab.calls
    sgd = {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4, "lr": 0.1, "batch_size": 64}
    assert (sgd | {"epochs": 5, "schedule": "constant", "kind": "fine-tune"}).items() <= first.settings.items()
    steps = {"epochs": 100, "schedule": "steps", "milestones": (20, 70), "decay": 0.1}
    assert (sgd | steps).items() <= second.settings.items()
    assert second.settings["scorer"].key == "trained 1"
    assert second.settings["loss"] == Deconfounded()
    assert "start" not in second.settings
    assert "augment" not in first.settings | second.settings
    recipe = lab.recipe.but(**{k: second.settings[k] for k in (*sgd, *steps)})
    assert [recipe.lr_at(epoch) for epoch in (0, 19, 20, 69, 70, 99)] == pytest.approx(
        [0.1, 0.1, *[0.01] * 2, *[0.001] * 2]
    )
    np.testing.assert_array_equal(lab.scores, -np.arange(40.0))


@pytest.mark.usefixtures("one_thread", "fresh_registry")
class TestInformation:
    def made(self):
        from benchbd.defenses._information import Information
        from benchbd.engine import build
        from benchbd.testing.plugin_under_test import register

        register()
        model = registry.make("models", "tiny-net", width=3)
        from benchbd.core.images import Normalisation

        net = build(model, 4, 16, Normalisation((0.5,) * 3, (0.25,) * 3), 0)
        torch.manual_seed(0)
        return net, Information(net, {k: v.clone() for k, v in net.state_dict().items()})

    def test_the_estimate_is_the_difference_of_two_means(self):
        _, information = self.made()
        information.eval()  # without dropout
        one, two = torch.randn(5, 24), torch.randn(5, 24)

        def value(a, b):
            hidden = torch.cat([a, b]).numpy() @ information.inner.weight.numpy().T + information.inner.bias.numpy()
            hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
            return float(hidden @ information.outer.weight.numpy()[0] + information.outer.bias.numpy()[0])

        matching = np.mean([value(one[i], two[i]) for i in range(5)])
        mismatched = np.mean([value(one[i], two[(i + 1) % 5]) for i in range(5)])
        assert information(one, two).item() == pytest.approx(0.01 * (matching - mismatched), abs=1e-6)

    def test_norms_are_bounded_step_by_step(self):
        from benchbd.defenses._information import root_norm

        rng = np.random.default_rng(0)
        matrix = (rng.normal(size=(6, 4)) @ np.diag([3, 1, 0.1, 0.1])).astype(np.float32)
        assert root_norm(torch.from_numpy(matrix)).item() == pytest.approx(np.linalg.norm(matrix, 2) ** 0.5, rel=1e-2)
        vector = rng.normal(size=5).astype(np.float32)
        assert root_norm(torch.from_numpy(vector)).item() == pytest.approx(np.linalg.norm(vector) ** 0.5, rel=1e-5)

    def test_the_critic_learns_by_adam_and_keeps_its_moments_between_epochs(self):
        _, information = self.made()
        information.eval()
        plain = [p.detach().clone().requires_grad_(True) for p in information.critic()]
        adam = torch.optim.Adam(plain, lr=0.2)
        torch.manual_seed(1)
        batches = [(torch.randn(8, 24), torch.randn(8, 24)) for _ in range(4)]
        for epoch in range(2):
            ours = information.optimizer(epoch)
            for one, two in batches[2 * epoch : 2 * epoch + 2]:
                information.sharpen(ours, one, two)

                def estimate(a, b):
                    hidden = F.leaky_relu(F.linear(torch.cat([a, b], 1), plain[0], plain[1]))
                    return F.linear(hidden, plain[2], plain[3]).mean()

                adam.zero_grad()
                (-0.01 * (estimate(one, two) - estimate(one, two.roll(-1, 0)))).backward()
                adam.step()
                with torch.no_grad():
                    for p in plain:
                        u, w = torch.ones(p[0].numel() if p.ndim > 1 else 1), p if p.ndim > 1 else p[:, None]
                        for _ in range(5):
                            v = w @ u / (w @ u).norm()
                            u = v @ w / (v @ w).norm()
                        p /= (v @ w @ u) ** 0.5
        for ours, theirs in zip(information.critic(), plain, strict=True):
            torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-4, atol=1e-5)

    def test_rates_of_the_critic_fall_every_20_epochs(self):
        _, information = self.made()
        rates = [information.optimizer(epoch).param_groups[0]["lr"] for epoch in (0, 18, 19, 38, 39)]
        assert rates == pytest.approx([0.2, 0.2, 0.02, 0.02, 0.002])

    def test_the_networks_own_optimiser_trains_neither_critic_nor_biased_network(self):
        net, information = self.made()
        assert not any(p.requires_grad for p in information.parameters())
        information(torch.randn(4, 24), net.features(torch.rand(4, 3, 16, 16))).backward()
        assert net.net.first.weight.grad.abs().sum() > 0
        assert all(p.grad is None for p in information.parameters())


@pytest.mark.usefixtures("one_thread", "fresh_registry")
def test_without_a_critic_both_ways_train_the_same_network(small_lab, banded, monkeypatch):
    """The loop of the information term, its estimate zero, against the engine's own training; the order differs."""
    from benchbd.defenses import _information

    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    data, _, _ = banded
    lab = small_lab(data)
    biased = lab.train(data, epochs=1)
    state = biased.module().state_dict()
    loop = WithInformation(tuple(state), tuple(v.numpy() for v in state.values()))
    monkeypatch.setattr(_information, "SCALE", 0.0)
    # The whole set in a batch, so that its order does not matter.
    how = {"epochs": 6, "batch_size": 240, "optimizer": "sgd", "lr": 0.05}
    one = lab.train(data, training_loop=loop, **how)
    two = lab.train(data, scorer=biased, weight_fn=BiasedLosses(), loss=Deconfounded(), **how)
    new = lab.train(data, epochs=0)
    plain = lab.train(data, **how)

    def apart(first, second):
        """Distance of the weights; statistics of batch norm see each image twice as often in the loop."""
        skipped = ("running_mean", "running_var", "num_batches_tracked")
        pairs = [(first._state[name], second._state[name]) for name in first._state if not name.endswith(skipped)]
        return np.sqrt(sum(((a.astype(np.float64) - b) ** 2).sum() for a, b in pairs))

    assert apart(one, two) < 0.1 * apart(one, new)
    assert apart(one, two) < 0.5 * apart(plain, two)


@pytest.mark.learning
@pytest.mark.usefixtures("one_thread", "fresh_registry")
@pytest.mark.parametrize("information", [False, True])
def test_it_learns_the_classes(small_lab, banded, monkeypatch, information):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    data, poison, true = banded
    lab = small_lab(data)
    model = Cbd(biased_epochs=1, epochs=8, batch=24, lr=0.05, information=information).train(lab)
    right = lab.logits(model, data).argmax(1) == true
    assert right[~poison].mean() > 0.6  # chance is 0.25
    assert lab._ledger.trainings == {"fine-tune": 1, "full": 1}


def test_predicted_sharing():
    one, other = Cbd().trainings(None), Cbd(information=True).trainings(None)
    assert one[0] == other[0]
    assert one[1] != other[1]
    assert Cbd(biased_epochs=3).trainings(None)[0] != one[0]


@pytest.mark.parametrize("how", ["epochs=0", "biased_epochs=0", "batch=1", "lr=0.0"])
def test_numbers_that_mean_nothing_are_refused(how):
    with pytest.raises(UsageError, match="cbd: "):
        registry.make("defenses", f"cbd({how})")
