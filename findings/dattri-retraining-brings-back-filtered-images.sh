#!/usr/bin/env bash
# dattri 0.3.0: retraining for LDS and leave-one-out brings back the images that a filter has removed.
#
# retrain_lds and retrain_loo retrain a network on parts of a data loader's training set: the ground truth of a data
# attribution score. They take the number of samples from the loader's sampler and then the samples from the loader's whole
# data set, so a sampler of 270 places stands for the first 270 entries, whatever places it names. If the sampler is a filter
# that has removed the poisoned images, most of them are back and as many clean ones are out: the network of the loader has no
# backdoor, and its retrained networks have one. The attributors do follow the sampler, so the saved indices of a subset point
# to other rows of the scores: the LDS compares the scores of some images with the effects of others, and good scores look
# like noise. There is no error and no warning.
#
# Seen with dattri 0.3.0, torch 2.13.0, Python 3.11 (output of this script; 300 samples, 30 of them poisoned, all of these
# removed by the filter; logistic regression, scores by the exact influence function; other CPUs may differ slightly):
#   dattri 0.3.0, torch 2.13.0+cpu
#   networks trained by                      removed samples  attack success    LDS
#   the loader itself                                   0.0%              7%
#   retrain_lds, filter as a sampler                    8.5%             98%  -0.04
#   retrain_loo, filter as a sampler                    8.5%            100%
#   retrain_lds, filter as a Subset                     0.0%              9%   0.94
#   retrain_loo, filter as a Subset                     0.0%              7%
# Source: dattri/model_util/retrain.py: retrain_lds draws from range(len(dataloader.sampler)), retrain_loo lists that range,
# and both pass these numbers to Subset(dataloader.dataset, ...). Their docstrings call the argument the data loader that is
# used for training, and that of retrain_loo calls the numbers indices to remove from the data loader. The docstring of
# dattri's SubsetSampler recommends PyTorch's SubsetRandomSampler for training, and dattri/script/dattri_retrain.py hands one
# to these functions; there and in the examples the sampler names the first samples in order, so that nothing goes wrong. The
# tracker has no thread on it (searched in November 2026). Way out: filter with torch.utils.data.Subset, and give loaders of
# that subset to the attributor, too.
#
# Exit code 0: dattri behaves as described. 1: it does not. 2: the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install --quiet dattri==0.3.0 torch==2.13.0 numpy==2.3.5 scipy==1.17.1 pyyaml==6.0.4 tqdm==4.70.1 \
    || exit 2
cat > "$work/retrain.py" <<'PY'
import sys
import tempfile
import warnings
from importlib.metadata import version

import torch
from dattri.algorithm.influence_function import IFAttributorExplicit
from dattri.benchmark.utils import SubsetSampler
from dattri.metric import calculate_lds_ground_truth, lds
from dattri.model_util.retrain import retrain_lds, retrain_loo
from dattri.task import AttributionTask
from torch import nn
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset

warnings.simplefilter("error")  # a warning would end the script: there is none
warnings.simplefilter("ignore", DeprecationWarning)  # torch has some for its own functions
torch.set_num_threads(1)
CLASSES, TARGET = 4, 0
generator = torch.Generator().manual_seed(0)
centres = torch.randn(CLASSES, 6, generator=generator)


def draw(count):
    """Samples with six features of their class and a seventh, the trigger, that is 0."""
    labels = torch.arange(count) % CLASSES
    features = centres[labels] + torch.randn(count, 6, generator=generator)
    return torch.cat([features, torch.zeros(count, 1)], dim=1), labels


def stamp(features):
    features = features.clone()
    features[:, 6] = 4.0
    return features


train, labels = draw(300)
poisoned = torch.randperm(300, generator=generator)[:30]  # a tenth of the set, anywhere in it
train[poisoned], labels[poisoned] = stamp(train[poisoned]), TARGET
kept = [index for index in range(300) if index not in set(poisoned.tolist())]  # a filter found all of them
test, test_labels = draw(40)
victims = stamp(test[test_labels != TARGET])
everything = TensorDataset(train, labels, torch.arange(300))  # the third entry is the place in the whole set


def fit(loader, **_):
    """Logistic regression on all that the loader gives: a convex problem, so order and start do not matter."""
    features, targets, places = (torch.cat(part) for part in zip(*loader))
    seen.append(set(places.tolist()))
    net = nn.Linear(7, CLASSES)
    nn.init.zeros_(net.weight), nn.init.zeros_(net.bias)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(features), targets) + 0.005 * sum(p.square().sum() for p in net.parameters())
        loss.backward()
        return loss

    optimizer.step(closure)
    success.append(float((net(victims).argmax(1) == TARGET).float().mean()))
    return net


def losses(path, _):
    net = nn.Linear(7, CLASSES)
    net.load_state_dict(torch.load(path))
    return nn.functional.cross_entropy(net(test), test_labels, reduction="none").detach()


def report(name):
    """Share of the training samples that the filter had removed, and attack success rate, over the networks so far."""
    share = sum(len(places - set(kept)) for places in seen) / sum(map(len, seen))
    rate = sum(success) / len(success)
    print(f"{name:40}{share:16.1%}{rate:16.0%}", end="")
    seen.clear(), success.clear()
    return share, rate


seen, success = [], []
print(f"dattri {version('dattri')}, torch {torch.__version__}")
print(f"{'networks trained by':40}{'removed samples':>16}{'attack success':>16}{'LDS':>7}")
net = fit(DataLoader(everything, 30, sampler=SubsetRandomSampler(kept)))
found = {"loader": report("the loader itself")}
print()


def loss(params, sample):
    return nn.functional.cross_entropy(torch.func.functional_call(net, params, sample[0]), sample[1].long())


task = AttributionTask(loss_func=loss, model=net, checkpoints=net.state_dict())
attributor = IFAttributorExplicit(task, regularization=0.01)
in_order = DataLoader(everything, 30, sampler=SubsetSampler(kept))
attributor.cache(in_order)
with torch.no_grad():
    scores = attributor.attribute(in_order, DataLoader(TensorDataset(test, test_labels), 40))

loaders = {
    "filter as a sampler": DataLoader(everything, 30, sampler=SubsetRandomSampler(kept)),
    "filter as a Subset": DataLoader(Subset(everything, kept), 30, shuffle=True),
}
for name, loader in loaders.items():
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
        retrain_lds(fit, loader, folder, num_subsets=100, seed=1)
        correlation = lds(scores, calculate_lds_ground_truth(losses, folder, DataLoader(TensorDataset(test), 40)))[0].mean()
    found[name] = *report(f"retrain_lds, {name}"), float(correlation)
    print(f"{correlation:7.2f}")
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
        retrain_loo(fit, loader, folder, indices=list(range(20)), seed=1)
    found[name] += report(f"retrain_loo, {name}")
    print()
sampler, subset = (found[f"filter as a {kind}"] for kind in ("sampler", "Subset"))
lds_share, lds_attack, lds_value, loo_share, loo_attack = sampler
described = (
    found["loader"][0] == 0.0
    and found["loader"][1] < 0.3
    and min(lds_share, loo_share) > 0.05
    and min(lds_attack, loo_attack) > 0.7
    and abs(lds_value) < 0.3
    and subset[0] == subset[3] == 0.0
    and max(subset[1], subset[4]) < 0.3
    and subset[2] > 0.7
)
sys.exit(0 if described else 1)
PY
"$work/venv/bin/python" "$work/retrain.py" "$work" 2> "$work/progress" || { code=$?; cat "$work/progress" >&2; exit "$code"; }
