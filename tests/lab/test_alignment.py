"""Labels, weights, losses, features and logits belong to the image they stand beside."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from benchbd.plugins.train_set import TrainSet


def numbered(count: int) -> TrainSet:
    """Images that say which they are: every pixel of image i has value i."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16).contiguous()
    return TrainSet(images, (torch.arange(count) * 7 + 3) % 4, "cd" * 32)


SEEN: list[tuple[str, torch.Tensor]] = []


@dataclasses.dataclass(frozen=True)
class Look:
    """Writes down which images come in a batch, with their labels."""

    def __call__(self, net, x01, labels):
        SEEN.append(("images", (x01[:, 0, 0, 0] * 255).round().long()))
        SEEN.append(("labels", labels.clone()))
        return x01


@dataclasses.dataclass(frozen=True)
class WeightFunction:
    """Writes down the weights that come with a batch."""

    def __call__(self, losses, weights):
        SEEN.append(("weights", weights.clone()))
        return (losses * weights).mean()


@pytest.mark.parametrize(
    "part", [np.arange(100), np.random.RandomState(3).permutation(100)[:77]], ids=["all", "subset"]
)
def test_labels_and_weights_travel_with_their_images(open_lab, part):
    SEEN.clear()
    lab = open_lab(numbered(100).subset(part))
    weights = part.astype(np.float32) / 100  # image i weighs i / 100, wherever it stands
    lab.train(lab.poisoned, weights=weights, loss=WeightFunction(), perturb=Look(), augment=(), epochs=3)
    seen = {name: torch.cat([t for n, t in SEEN if n == name]) for name in ("images", "labels", "weights")}
    assert len(seen["images"]) == 3 * len(part)
    assert torch.equal(seen["labels"], (seen["images"] * 7 + 3) % 4)
    assert torch.equal(seen["weights"], seen["images"].float() / 100)
    for epoch in seen["images"].view(3, -1):
        assert sorted(epoch.tolist()) == sorted(part.tolist())
        assert epoch.tolist() != part.tolist()  # shuffled: alignment is not for free


def test_losses_features_and_logits_are_in_the_order_of_the_set(open_lab):
    lab = open_lab()
    trained = lab.train(lab.poisoned)
    order = np.random.RandomState(1).permutation(64)[:50]
    part = lab.poisoned.subset(order)
    net = trained.module()
    with torch.no_grad():
        x01 = lab.poisoned.images.float() / 255
        logits = torch.cat([net(x[None]) for x in x01])
        losses = torch.nn.functional.cross_entropy(logits, lab.poisoned.labels, reduction="none")
        features = torch.cat([net.features(x[None]) for x in x01])
    for got, want in (
        (lab.logits(trained, part), logits),
        (lab.losses(trained, part), losses),
        (lab.features(trained, part), features),
    ):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want.numpy()[order], rtol=1e-4, atol=1e-5)
    weight, bias = trained.head()
    np.testing.assert_allclose(
        lab.features(trained, part) @ weight.T + bias, lab.logits(trained, part), rtol=1e-4, atol=1e-4
    )
