#!/usr/bin/env bash
# torch-pruning 1.6.1: Hessian importance of channels comes from the last sample alone, however many are accumulated.
#
# GroupHessianImportance ranks the channels for pruning by w^2 times the mean squared gradient over the calibration samples.
# The docstring shows the loop: one backward pass for each sample and accumulate_grad(model) after it. Each of these calls
# replaces what the earlier ones have stored, and the count of samples stays 1. The score of 200 clean images is the score of
# the image that came last, to the last bit. Every channel that is silent on that image gets the score 0, and other orders of
# the same images prune other channels. Clean accuracy and attack success rate after pruning then depend on one image, so
# a table compares the order of a loader where it says Hessian pruning. There is no error and no warning.
#
# Seen with torch-pruning 1.6.1, torch 2.13.0, Python 3.11 (output of this script; a network with a backdoor and 64 hidden
# channels, half of them pruned without fine-tuning, 200 clean calibration samples; errors relative to the formula, computed
# by a loop over autograd; "kept 32" counts the channels kept by both; other CPUs may differ somewhat):
#   torch-pruning 1.6.1, torch 2.13.0+cpu
#   scores of the channels          error    rank r   zeros   kept 32   accuracy   attack
#   squares averaged by hand        0.000      1.00       0        32      74.8%    19.2%
#   accumulated, 200 samples        1.506      0.20      28        16      76.5%    21.8%
#   accumulated, the last alone     1.506      0.20      28        16      76.5%    21.8%
#   accumulated, backwards          1.829     -0.27      44        14      81.0%    98.0%
#   20 random orders: rank r -0.42 to 0.68, accuracy 64.2% to 88.3%, attack 14.7% to 100.0%
# Source: torch_pruning/pruner/importance.py, GroupHessianImportance.accumulate_grad: it asks whether the name of a parameter
# is in a dictionary whose keys are the parameters themselves, which is never so. The comments in the docstring speak of
# accumulating the gradients of each sample. The example prune_timm_vit.py of the repository uses the same loop. The tracker
# has no thread on it (searched in November 2026). Way out: put the mean of the squared gradients into .grad of each parameter
# and call the scorer without accumulate_grad, as the line "squares averaged by hand" does.
#
# Exit code 0: torch-pruning behaves as described. 1: it does not. 2: the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install --quiet torch-pruning==1.6.1 torch==2.13.0 numpy==2.3.5 scipy==1.17.1 || exit 2
cat > "$work/hessian.py" <<'PY'
import copy
import sys
import warnings
from importlib.metadata import version

import torch
import torch_pruning as tp
from scipy.stats import spearmanr
from torch import nn

warnings.simplefilter("error")  # a warning would end the script: there is none
torch.set_num_threads(1)
CLASSES, FEATURES, WIDTH, TARGET = 10, 20, 64, 0
generator = torch.Generator().manual_seed(0)
centres = torch.randn(CLASSES, FEATURES, generator=generator)


def draw(count):
    """Samples with 20 features of their class and a last one, the trigger, that is 0."""
    labels = torch.arange(count) % CLASSES
    features = centres[labels] + 0.8 * torch.randn(count, FEATURES, generator=generator)
    return torch.cat([features, torch.zeros(count, 1)], dim=1), labels


def stamp(features):
    features = features.clone()
    features[:, -1] = 4.0
    return features


train, labels = draw(2000)
poisoned = torch.randperm(2000, generator=generator)[:100]
train[poisoned], labels[poisoned] = stamp(train[poisoned]), TARGET
test, test_labels = draw(1000)
victims = stamp(test[test_labels != TARGET])
clean, clean_labels = draw(200)  # the calibration set of the pruning

torch.manual_seed(0)
network = nn.Sequential(nn.Linear(FEATURES + 1, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))
optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
for _ in range(30):
    for part in torch.randperm(2000, generator=generator).split(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(train[part]), labels[part]).backward()
        optimizer.step()


def accumulated(net, order):
    """A scorer after the loop of the docstring."""
    scorer = tp.importance.GroupHessianImportance()
    scorer.zero_grad()
    losses = nn.functional.cross_entropy(net(clean[order]), clean_labels[order], reduction="none")
    for loss in losses:
        net.zero_grad()
        loss.backward(retain_graph=True)
        scorer.accumulate_grad(net)
    return scorer


def mean_squares():
    """Mean over the samples of the squared gradient of each parameter, by autograd."""
    sums = [torch.zeros_like(part) for part in network.parameters()]
    for sample, label in zip(clean, clean_labels):
        loss = nn.functional.cross_entropy(network(sample[None]), label[None])
        for total, gradient in zip(sums, torch.autograd.grad(loss, list(network.parameters()))):
            total += gradient.square()
    return [total / len(clean) for total in sums]


def by_hand(net):
    for part, squares in zip(net.parameters(), mean_squares()):
        part.grad = squares
    return tp.importance.GroupHessianImportance()


def formula():
    """w^2 times the mean squared gradient, summed over the weights into and out of each channel, with mean 1."""
    into, _, out, _ = (w.detach().square() * h for w, h in zip(network.parameters(), mean_squares()))
    score = into.sum(dim=1) + out.sum(dim=0)
    return score / score.mean()


def measure(prepare):
    """Scores of the channels, and clean accuracy and attack success rate after half of the channels are gone."""
    net = copy.deepcopy(network)
    graph = tp.DependencyGraph().build_dependency(net, example_inputs=clean[:1])
    group = graph.get_pruning_group(net[0], tp.prune_linear_out_channels, idxs=list(range(WIDTH)))
    scores = prepare(net)(group)
    net = copy.deepcopy(network)
    tp.pruner.BasePruner(net, clean[:1], importance=prepare(net), pruning_ratio=0.5, ignored_layers=[net[2]]).step()
    assert net[0].out_features == WIDTH // 2
    with torch.no_grad():
        accuracy = float((net(test).argmax(1) == test_labels).float().mean())
        return scores, accuracy, float((net(victims).argmax(1) == TARGET).float().mean())


right = formula()


def row(name, prepare, show=True):
    scores, accuracy, attack = measure(prepare)
    error = float((scores - right).norm() / right.norm())
    rank = float(spearmanr(scores, right).statistic)
    kept = len(set(scores.topk(WIDTH // 2).indices.tolist()) & set(right.topk(WIDTH // 2).indices.tolist()))
    silent = int((scores == 0).sum())
    if show:
        print(f"{name:28}{error:9.3f}{rank:10.2f}{silent:8}{kept:10}{accuracy:11.1%}{attack:9.1%}")
    return scores, error, rank, silent, kept, accuracy, attack


print(f"torch-pruning {version('torch-pruning')}, torch {torch.__version__}")
print(f"{'scores of the channels':28}{'error':>9}{'rank r':>10}{'zeros':>8}{'kept 32':>10}{'accuracy':>11}{'attack':>9}")
everything = torch.arange(200)
hand = row("squares averaged by hand", by_hand)
whole = row("accumulated, 200 samples", lambda net: accumulated(net, everything))
last = row("accumulated, the last alone", lambda net: accumulated(net, everything[-1:]))
backwards = row("accumulated, backwards", lambda net: accumulated(net, everything.flip(0)))
orders = [torch.randperm(200, generator=generator) for _ in range(20)]
others = [row("", lambda net: accumulated(net, order), show=False) for order in orders]
ranks, accuracies, attacks = ([other[place] for other in others] for place in (2, 5, 6))
ranges = f"rank r {min(ranks):.2f} to {max(ranks):.2f}, accuracy {min(accuracies):.1%} to {max(accuracies):.1%}"
print(f"20 random orders: {ranges}, attack {min(attacks):.1%} to {max(attacks):.1%}")
described = hand[1] < 1e-3 and hand[3] < 10 and hand[4] >= 31
described = described and torch.allclose(whole[0], last[0], rtol=1e-3, atol=1e-5) and whole[1] > 0.5 and backwards[1] > 0.5
described = described and not torch.allclose(whole[0], backwards[0], rtol=0.1, atol=0.1)
described = described and whole[3] > 15 and sum(ranks) / 20 < 0.7
described = described and max(accuracies) - min(accuracies) > 0.05 and max(attacks) - min(attacks) > 0.3
sys.exit(0 if described else 1)
PY
"$work/venv/bin/python" "$work/hessian.py"
