#!/usr/bin/env bash
# torchattacks 3.5.1: measuring robustness with APGD, FAB, Square or AutoAttack reseeds the training around it.
#
# These attacks take a seed, documented as that of their starting point. They set it with torch.manual_seed at each call, so
# the default generator of the whole process restarts at 0, the default seed, and the training goes on from there. One
# evaluation of the model that a defense starts from turns the runs with seeds 1 to 5 into the same run, to the last bit: a
# table shows a deviation of 0.00 over five seeds that are one. FAB draws nothing further, so with an evaluation after each
# epoch all epochs shuffle the data in one order and repeat the dropout masks, too. PGD of the same package draws without a
# seed and does neither. AutoAttack's default seed is the time of day: torch.manual_seed no longer makes a training repeatable.
# There is no error and no warning.
#
# Seen with torchattacks 3.5.1, torch 2.13.0, Python 3.11 (output of this script; five epochs of fine-tuning one checkpoint,
# evaluation before the first and after each, or only before; other CPUs may differ in the accuracies):
#   torchattacks 3.5.1, torch 2.13.0+cpu
#   evaluation                orders in 5 epochs  networks of 5 seeds  accuracy, deviation
#   none                                       5                    5                 1.93
#   PGD                                        5                    5                 1.94
#   APGD                                       5                    1                 0.00
#   APGD, only before                          5                    1                 0.00
#   FAB                                        1                    1                 0.00
#   Square                                     4                    1                 0.00
#   APGD inside fork_rng                       5                    5                 1.93
#   seed 1 twice, PGD: the same trainings
#   seed 1 twice, AutoAttack: two different trainings
# Source: torchattacks/attacks/apgd.py, apgdt.py, fab.py and square.py: perturb calls torch.random.manual_seed(self.seed) and
# torch.cuda.random.manual_seed(self.seed); autoattack.py: get_seed returns time.time() if no seed is given. The original
# AutoAttack has the same two lines (https://github.com/fra31/auto-attack, autoattack/square.py); its tracker has a thread on
# which seed to choose (issue 54) and none on this (searched in November 2026).
# Way out: call the attack inside torch.random.fork_rng(), or give the data loader a generator of its own (dropout and
# augmentation still restart).
#
# Exit code 0: torchattacks behaves as described. 1: it does not. 2: the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5 scipy==1.17.1 tqdm==4.70.1 || exit 2
"$work/venv/bin/pip" install --quiet --no-deps torchattacks==3.5.1 || exit 2  # it pins a version of requests and uses none
cat > "$work/reseed.py" <<'PY'
import contextlib
import copy
import statistics
import sys
import time
from importlib.metadata import version

import torch
import torchattacks
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
SEEDS, EPOCHS = (1, 2, 3, 4, 5), 5
generator = torch.Generator().manual_seed(7)
centres = torch.rand(10, 3, 4, 4, generator=generator)
labels = torch.arange(1500) % 10
images = (centres[labels] + 0.4 * torch.randn(1500, 3, 4, 4, generator=generator)).clamp(0, 1)
train, test = slice(0, 500), slice(500, 1500)
torch.manual_seed(0)
CHECKPOINT = nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))


def run(seed, attack=None, guard=contextlib.nullcontext, after=True, epochs=EPOCHS):
    """Fine-tunes the checkpoint. Returns the order of the data in each epoch, the weights and the test accuracy (%)."""
    net = copy.deepcopy(CHECKPOINT)
    attack = attack and attack(net)
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def evaluate():
        if attack:
            with guard():
                attack(images[test][:20], labels[test][:20])

    evaluate()
    loader, orders = DataLoader(TensorDataset(images[train], labels[train], torch.arange(500)), 50, shuffle=True), []
    for _ in range(epochs):
        net.train()
        order = []
        for batch, targets, indices in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(batch), targets).backward()
            optimizer.step()
            order += indices.tolist()
        orders.append(tuple(order))
        if after:
            evaluate()
    net.eval()
    with torch.no_grad():
        accuracy = 100 * float((net(images[test]).argmax(1) == labels[test]).float().mean())
    return orders, tuple(nn.utils.parameters_to_vector(net.parameters()).tolist()), accuracy


def measure(attack=None, guard=contextlib.nullcontext, after=True):
    """Different orders in the epochs of a run, different trained networks of the seeds, deviation of their accuracy."""
    orders, networks, accuracies = zip(*(run(seed, attack, guard, after) for seed in SEEDS))
    return len(set(orders[0])), len(set(networks)), statistics.stdev(accuracies)


def square(net):
    return torchattacks.Square(net, n_queries=20)


print(f"torchattacks {version('torchattacks')}, torch {torch.__version__}")
print(f"{'evaluation':24}{'orders in 5 epochs':>20}{'networks of 5 seeds':>21}{'accuracy, deviation':>21}")
found = {}
for name, arguments in (
    ("none", {}),
    ("PGD", {"attack": torchattacks.PGD}),
    ("APGD", {"attack": torchattacks.APGD}),
    ("APGD, only before", {"attack": torchattacks.APGD, "after": False}),
    ("FAB", {"attack": torchattacks.FAB}),
    ("Square", {"attack": square}),
    ("APGD inside fork_rng", {"attack": torchattacks.APGD, "guard": torch.random.fork_rng}),
):
    orders, networks, deviation = found[name] = measure(**arguments)
    print(f"{name:24}{orders:20}{networks:21}{deviation:21.2f}")
repeats = {}
for name, attack in (("PGD", torchattacks.PGD), ("AutoAttack", torchattacks.AutoAttack)):
    first = run(1, attack, epochs=1)
    time.sleep(1.1)
    repeats[name] = run(1, attack, epochs=1) == first
    print(f"seed 1 twice, {name}: {'the same' if repeats[name] else 'two different'} trainings")
described = (
    all(found[name][:2] == (5, 5) and found[name][2] > 0 for name in ("none", "PGD", "APGD inside fork_rng"))
    and all(found[name][1:] == (1, 0) for name in ("APGD", "APGD, only before", "FAB", "Square"))
    and found["FAB"][0] == 1
    and repeats == {"PGD": True, "AutoAttack": False}
)
sys.exit(0 if described else 1)
PY
"$work/venv/bin/python" "$work/reseed.py"
