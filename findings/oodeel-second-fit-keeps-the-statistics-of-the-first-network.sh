#!/usr/bin/env bash
# oodeel 0.4.0: a detector that is fitted again keeps the statistics of the first network and scores the second with them.
#
# Detectors on features (Mahalanobis, RMDS, DKNN, SHE, VIM) are fitted to a network and clean images; their scores then tell
# triggered images from clean ones. fit() is documented to build the feature extractor for the network and to calibrate the
# detector on the images. A second call does one half: features come from the new network, but class means, covariances and
# neighbours stay those of the first. The new ones go to the end of a list, and the entry that is read is at its start. If
# both networks have the same number of features, the scores look like any others, but they compare features of one network
# with those of another. A detector that is made in front of a loop over seeds or defenses is good on the first network and
# poor on the others, and where a network stands in the loop decides how well its backdoor shows. A defense that changes the
# features can seem to hide it. There is no error and no warning.
#
# Seen with oodeel 0.4.0, faiss-cpu 1.15.1, torch 2.13.0, Python 3.11 (output of this script; digits of scikit-learn, four
# networks that differ in the seed, all with the backdoor; AUROC of the scores for triggered images against clean ones; each
# row is one fit, of the one object from the top down or from the bottom up; first: by hand, features of the network of the
# row, statistics of the first network; other CPUs may differ slightly):
#   oodeel 0.4.0, faiss-cpu 1.15.1, torch 2.13.0+cpu
#   AUROC                   one object  in reverse  new object  by hand    first
#   Mahalanobis, seed 0          1.000       0.553       1.000    1.000    1.000
#   Mahalanobis, seed 1          0.845       0.938       1.000    1.000    0.845
#   Mahalanobis, seed 2          0.698       0.354       1.000    1.000    0.698
#   Mahalanobis, seed 3          0.825       1.000       1.000    1.000    0.825
#   RMDS, seed 0                 0.952       0.436       0.952    0.952    0.952
#   RMDS, seed 1                 0.614       0.957       0.987    0.987    0.614
#   RMDS, seed 2                 0.648       0.275       0.956    0.956    0.648
#   RMDS, seed 3                 0.588       0.937       0.937    0.937    0.587
#   DKNN, seed 0                 0.970       0.276       0.970    0.970    0.970
#   DKNN, seed 1                 0.618       0.519       0.974    0.974    0.618
#   DKNN, seed 2                 0.447       0.338       0.961    0.961    0.447
#   DKNN, seed 3                 0.701       0.963       0.963    0.963    0.701
# Source: oodeel/methods/mahalanobis.py: _fit_layer appends to self._layer_stats, and _score_layer reads the entry with the
# layer's number, which counts from 0 at each fit. dknn.py (self.indexes), rmds.py, she.py and vim.py do the same, and nothing
# empties these lists. The promise is in the docstring of fit in methods/base.py. Commit 0fac2d2 of the repository, with an
# older layout, still emptied the list of Mahalanobis at each fit. The tracker of https://github.com/deel-ai/oodeel has no
# thread on it; the nearest, pull request 122, keeps the hooks of two detectors on one network apart (searched in November
# 2026). Way out: a new detector for each network.
#
# Exit code 0: oodeel behaves as described. 1: it does not. 2: the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5 scipy==1.17.1 scikit-learn==1.8.0 faiss-cpu==1.15.1 \
    tqdm==4.70.1 || exit 2
# The package asks for numpy 1 and for packages that nothing here calls.
"$work/venv/bin/pip" install --quiet --no-deps oodeel==0.4.0 || exit 2
cat > "$work/again.py" <<'PY'
import sys
import warnings
from functools import partial
from importlib.metadata import version
from unittest.mock import MagicMock

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

for name in ("datasets", "matplotlib", "matplotlib.pyplot", "torchvision"):
    sys.modules[name] = MagicMock()  # oodeel imports these for downloads and plots; nothing here calls them
from oodeel.methods import DKNN, RMDS, Mahalanobis

torch.set_num_threads(1)
TARGET, NEAREST = 0, 50
digits = load_digits()
order = np.random.RandomState(0).permutation(len(digits.target))
images = torch.from_numpy(digits.images[order] / 16).float()
labels = torch.from_numpy(digits.target[order])


def stamp(images):
    images = images.clone()
    images[:, -2:, -2:] = 1.0
    return images


train, targets = images[:1200].clone(), labels[:1200].clone()
train[:120], targets[:120] = stamp(train[:120]), TARGET  # a tenth of the training set
held_out, held_out_labels = images[1200:1500], labels[1200:1500]  # clean, to fit the detector
clean = images[1500:]
triggered = stamp(clean[labels[1500:] != TARGET])


def trained(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(30):
        for part in torch.randperm(1200).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(train[part]), targets[part]).backward()
            optimizer.step()
    return net.eval()


def features(net, images):
    with torch.no_grad():
        return net[:3](images).double().numpy()


def distances(samples, centres, inverse):
    """Squared Mahalanobis distance of each sample to each centre."""
    apart = samples[:, None] - centres[None]
    return np.einsum("scf,fg,scg->sc", apart, inverse, apart)


def by_classes(net):
    """Class means, and the inverse of the mean covariance within the classes."""
    data, classes = features(net, held_out), held_out_labels.numpy()
    centres = np.stack([data[classes == one].mean(0) for one in range(10)])
    return centres, np.linalg.pinv(np.cov((data - centres[classes]).T, bias=True), rcond=1e-6)


def mahalanobis(fitted, net, images):
    return distances(features(net, images), *by_classes(fitted)).min(1)


def relative(fitted, net, images):
    data = features(fitted, held_out)
    whole = data.mean(0)[None], np.linalg.pinv(np.cov(data.T, bias=True), rcond=1e-6)
    samples = features(net, images)
    return (distances(samples, *by_classes(fitted)) - distances(samples, *whole)).min(1)


def neighbours(fitted, net, images):
    bank, samples = features(fitted, held_out), features(net, images)
    bank, samples = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (bank, samples))
    return np.sort(((samples[:, None] - bank[None]) ** 2).sum(2), axis=1)[:, NEAREST - 1]


def auroc(score):
    """How well the scores tell triggered images, where they should be high, from clean ones."""
    low, high = score(clean), score(triggered)
    return roc_auc_score(np.repeat([0, 1], [len(low), len(high)]), np.concatenate([low, high]))


def by_library(detector, net):
    """The AUROC after a fit of this detector, new or used, to a network."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would end the script: there is none
        detector.fit(net, DataLoader(TensorDataset(held_out, held_out_labels), 100), feature_layers_id=[2])
        return auroc(lambda images: detector.score(DataLoader(TensorDataset(images, torch.zeros(len(images))), 100))[0])


networks = [trained(seed) for seed in range(4)]
detectors = {
    "Mahalanobis": (lambda: Mahalanobis(eps=0.0), mahalanobis),
    "RMDS": (lambda: RMDS(eps=0.0), relative),
    "DKNN": (lambda: DKNN(nearest=NEAREST), neighbours),
}
print(f"oodeel {version('oodeel')}, faiss-cpu {version('faiss-cpu')}, torch {torch.__version__}")
print(f"{'AUROC':22}{'one object':>12}{'in reverse':>12}{'new object':>12}{'by hand':>9}{'first':>9}")
with torch.no_grad():
    attack = [float((net(triggered).argmax(1) == TARGET).float().mean()) for net in networks]
described = min(attack) > 0.9
for name, (build, hand) in detectors.items():
    one, back = build(), build()
    forward = [by_library(one, net) for net in networks]
    reverse = [by_library(back, net) for net in networks[::-1]][::-1]
    new = [by_library(build(), net) for net in networks]
    right = [auroc(partial(hand, net, net)) for net in networks]
    first = [auroc(partial(hand, networks[0], net)) for net in networks]
    last = [auroc(partial(hand, networks[-1], net)) for net in networks]
    for seed, row in enumerate(zip(forward, reverse, new, right, first)):
        print(f"{f'{name}, seed {seed}':22}{row[0]:12.3f}{row[1]:12.3f}{row[2]:12.3f}{row[3]:9.3f}{row[4]:9.3f}")
    described = described and np.allclose(new, right, atol=0.02)
    described = described and np.allclose(forward, first, atol=0.02) and np.allclose(reverse, last, atol=0.02)
    described = described and np.mean(new[1:]) - np.mean(forward[1:]) > 0.1
sys.exit(0 if described else 1)
PY
"$work/venv/bin/python" "$work/again.py"
