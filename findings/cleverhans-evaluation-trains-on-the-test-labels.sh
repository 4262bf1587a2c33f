#!/usr/bin/env bash
# cleverhans 4.0.0 (PyTorch): measuring robustness between two training steps trains the model on the test labels.
#
# fast_gradient_method, and projected_gradient_descent on top of it, gets the gradient of the picture by loss.backward().
# That also adds the gradient of the attack's loss to .grad of all parameters, once an iteration, and nothing removes it.
# A loop that calls zero_grad() after optimizer.step(), as many trainers do, hands the leftovers of an evaluation to its next
# step: adversarial training on the test set, with its true labels and one more gradient for each iteration of the attack.
# model.eval() does not help. In adversarial training with zero_grad() in front of the attack, the step is the sum over all
# iterations: a learning rate many times as large as the one that is reported.
# There is no error and no warning.
#
# Seen with cleverhans 4.0.0, torch 2.13.0, Python 3.11 (output of this script; test labels are random, so that chance is
# 10 % for any model that has not seen them; other CPUs may differ by some points):
#   cleverhans 4.0.0, torch 2.13.0+cpu
#   test accuracy, never evaluated while training           10.2%
#   test accuracy, robustness measured after each step      100.0%
#   the same with frozen parameters in the attack           10.2%
#   adversarial training, zero_grad() before the attack     gradient 10.5 times as long
# Source: cleverhans/torch/attacks/fast_gradient_method.py: loss.backward() where torch.autograd.grad(loss, x) would leave the
# parameters alone. The docstrings do not mention .grad, and the tracker has no thread on it (searched in November 2026). For
# another library the leftovers were asked about (https://github.com/BorealisAI/advertorch/issues/113); it has a context against
# them.
# Way out: zero_grad() right before each training backward pass, or requires_grad_(False) on the parameters in an attack.
#
# Exit code 0: cleverhans behaves as described. 1: it does not. 2: the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5 || exit 2
"$work/venv/bin/pip" install --quiet --no-deps cleverhans==4.0.0 || exit 2  # its PyTorch part needs these two only
cat > "$work/labels.py" <<'PY'
import sys
import warnings
from importlib.metadata import version

import numpy as np
import torch
from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent
from torch import nn

warnings.simplefilter("ignore")
torch.set_num_threads(1)
ITERATIONS = 10
generator = torch.Generator().manual_seed(0)
train, test = torch.randn(256, 64, generator=generator), torch.randn(256, 64, generator=generator)
train_labels, test_labels = (torch.randint(0, 10, (256,), generator=generator) for _ in range(2))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def attack(net, images, labels):
    return projected_gradient_descent(net, images, 0.1, 0.02, ITERATIONS, np.inf, y=labels)


def evaluate(net, freeze):
    """Robust accuracy, as one measures it: in eval mode, and the pictures are detached."""
    net.eval().requires_grad_(not freeze)
    pictures = attack(net, test, test_labels).detach()
    net.train().requires_grad_(True)
    with torch.no_grad():
        return float((net(pictures).argmax(1) == test_labels).float().mean())


def accuracy(evaluations, freeze=False):
    """Clean accuracy on the random test labels after 200 steps on the training images."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(200):
        nn.functional.cross_entropy(net(train), train_labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        if evaluations:
            evaluate(net, freeze)
    with torch.no_grad():
        return float((net(test).argmax(1) == test_labels).float().mean())


def gradient(zero_first):
    """Length of the gradient of one step of adversarial training."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    if zero_first:
        optimizer.zero_grad()
    pictures = attack(net, train, train_labels).detach()
    if not zero_first:
        optimizer.zero_grad()
    nn.functional.cross_entropy(net(pictures), train_labels).backward()
    return float(torch.cat([p.grad.flatten() for p in net.parameters()]).norm())


never, after, frozen = accuracy(False), accuracy(True), accuracy(True, freeze=True)
factor = gradient(zero_first=True) / gradient(zero_first=False)
print(f"cleverhans {version('cleverhans')}, torch {torch.__version__}")
print(f"test accuracy, never evaluated while training           {never:.1%}")
print(f"test accuracy, robustness measured after each step      {after:.1%}")
print(f"the same with frozen parameters in the attack           {frozen:.1%}")
print(f"adversarial training, zero_grad() before the attack     gradient {factor:.1f} times as long")
sys.exit(0 if never < 0.2 and frozen == never and after > 0.6 and ITERATIONS * 0.7 < factor < ITERATIONS + 2 else 1)
PY
"$work/venv/bin/python" "$work/labels.py"
