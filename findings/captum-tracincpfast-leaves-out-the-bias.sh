#!/usr/bin/env bash
# captum 0.9.0: TracInCPFast leaves out the bias of the last layer, so helpful training images can come out as harmful.
#
# TracInCPFast computes influence from the last fully-connected layer alone and is documented to give exactly the scores of
# back-propagation through that layer. That holds for a layer without a bias. nn.Linear has one by default, and its gradient
# adds 1 to the product of the features of a training and a test image: (x.x' + 1) g.g', where TracInCPFast returns
# (x.x') g.g'. On wide positive features the 1 is small. On features of length one, as in linear probes and cosine heads, no
# product is above 1, so most of a score is missing, and each score with x.x' below 0 has the wrong sign. Anyone who looks for
# the poisoned images behind a prediction gets other suspects than from TracInCP(layers=[...]) of the same layer.
# There is no error and no warning.
#
# Seen with captum 0.9.0, torch 2.13.0, Python 3.11 (output of this script; 500 training and 100 test samples, a trained
# network, one checkpoint; errors relative to a loop over autograd; other CPUs may differ in the last digits):
#   captum 0.9.0, torch 2.13.0+cpu
#   features, last layer             TracInCP  TracInCPFast  wrong signs  top 10 found
#   ReLU                                0.000         0.022         0.0%         99.5%
#   tanh                                0.000         0.161         8.0%         94.8%
#   unit length                         0.000         0.695        48.0%         79.7%
#   unit length, no bias                0.000         0.000         0.0%        100.0%
#   unit length, constant, no bias      0.000         0.000         0.0%        100.0%
# Source: captum/influence/_core/tracincp_fast_rand_proj.py: _basic_computation_tracincp_fast returns the inputs of the layer
# and the gradients of its output, and the scores are products of these two; the word bias is not in the file. The class
# TracInCPFastRandProj builds on the same two. The tracker has no thread on it (searched in November 2026).
# Way out: TracInCP(layers=["name of the layer"]), or put a constant feature 1 in front of a last layer without a bias.
#
# Exit code 0: captum behaves as described. 1: it does not. 2: the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install --quiet captum==0.9.0 torch==2.13.0 numpy==2.3.5 || exit 2
cat > "$work/influence.py" <<'PY'
import sys
from pathlib import Path

import captum
import torch
from captum.influence import TracInCP, TracInCPFast
from torch import nn
from torch.utils.data import TensorDataset

torch.set_num_threads(1)
CHECKPOINT = Path(sys.argv[1]) / "checkpoint.pt"
generator = torch.Generator().manual_seed(0)
labels = torch.randint(0, 10, (600,), generator=generator)
samples = torch.randn(10, 8, generator=generator)[labels] + torch.randn(600, 8, generator=generator)
train, test = slice(0, 500), slice(500, 600)


class UnitLength(nn.Module):
    def forward(self, features):
        return nn.functional.normalize(features, dim=1)


class Constant(nn.Module):
    """Appends a feature that is always 1."""

    def forward(self, features):
        return nn.functional.pad(features, (0, 1), value=1.0)


def trained(*layers, bias=True):
    """A classifier after 60 epochs: a hidden layer, what is done to the features, and the last layer."""
    torch.manual_seed(0)
    width = 17 if any(isinstance(layer, Constant) for layer in layers) else 16
    net = nn.Sequential(nn.Sequential(nn.Linear(8, 16), *layers), nn.Linear(width, 10, bias=bias))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        for part in torch.arange(500).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(samples[part]), labels[part]).backward()
            optimizer.step()
    return net.eval()


def loop(net):
    """Product of the last layer's gradients of each test and each training sample, one backward pass a sample."""
    rows = []
    for sample, label in zip(samples, labels):
        loss = nn.functional.cross_entropy(net(sample[None]), label[None])
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, net[1].parameters())]))
    rows = torch.stack(rows)
    return rows[test] @ rows[train].T


def load(net, path):
    net.load_state_dict(torch.load(path))
    return 1.0  # the learning rate of the checkpoint


def measure(net):
    """Errors of both, and the share of wrong signs and of the ten strongest proponents found by the fast one."""
    torch.save(net.state_dict(), CHECKPOINT)
    data = TensorDataset(samples[train], labels[train])
    common = {"checkpoints": [str(CHECKPOINT)], "checkpoints_load_func": load, "batch_size": 100}
    slow = TracInCP(net, data, layers=["1"], loss_fn=nn.CrossEntropyLoss(reduction="none"), **common)
    fast = TracInCPFast(net, net[1], data, loss_fn=nn.CrossEntropyLoss(reduction="sum"), **common)
    right = loop(net)
    slow, fast = (method.influence((samples[test], labels[test])) for method in (slow, fast))
    errors = [float((found - right).norm() / right.norm()) for found in (slow, fast)]
    both = [set(a.tolist()) & set(b.tolist()) for a, b in zip(fast.topk(10).indices, right.topk(10).indices)]
    return *errors, float((fast * right < 0).float().mean()), sum(map(len, both)) / (10 * len(both))


print(f"captum {captum.__version__}, torch {torch.__version__}")
print(f"{'features, last layer':31}{'TracInCP':>10}{'TracInCPFast':>14}{'wrong signs':>13}{'top 10 found':>14}")
found = {}
for name, net in (
    ("ReLU", trained(nn.ReLU())),
    ("tanh", trained(nn.Tanh())),
    ("unit length", trained(UnitLength())),
    ("unit length, no bias", trained(UnitLength(), bias=False)),
    ("unit length, constant, no bias", trained(UnitLength(), Constant(), bias=False)),
):
    slow, fast, signs, top = found[name] = measure(net)
    print(f"{name:31}{slow:10.3f}{fast:14.3f}{signs:13.1%}{top:14.1%}")
unit = found["unit length"]
described = all(row[0] < 1e-4 for row in found.values())
described = described and all(found[name][1] < 1e-4 for name in found if name.endswith("no bias"))
described = described and found["ReLU"][1] > 0.005 and found["tanh"][1] > 0.05
described = described and unit[1] > 0.4 and unit[2] > 0.2 and unit[3] < 0.9
sys.exit(0 if described else 1)
PY
"$work/venv/bin/python" "$work/influence.py" "$work"
