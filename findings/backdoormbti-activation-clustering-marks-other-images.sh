#!/usr/bin/env bash
# backdoormbti 0.2.2: activation clustering hands its marks to other images, so it finds poisoned images by chance.
#
# ActivationClustering lists which images of a training set are clean; BackdoorMBTI computes recall and precision from this
# list and retrains on the images that it keeps. The class goes through a shuffled loader twice: the first pass clusters, the
# second hands out the marks. Each pass has an order of its own, and the list is read in a third, that of the set. A fixed
# order is not enough: each batch is clustered by itself and the clusters of all batches are joined by number, although 0 and 1
# change places from batch to batch. And PCA never runs: only the first ten activations of the layer are clustered. So the
# defense removes poisoned images at the rate at which it removes clean ones, and the backdoor stays where activation
# clustering by hand finds every poisoned image. A table of defenses shows a weak method where it shows chance. There is no
# error and no warning.
#
# Seen with backdoormbti 0.2.2, scikit-learn 1.8.0, torch 2.13.0, Python 3.11 (output of this script; digits of scikit-learn,
# 70 of 1,400 images poisoned, a small network, the default settings, means over three seeds; accuracy and attack success rate
# of a network retrained on what is kept; removing the smaller cluster of each class takes clean images in any case; other
# CPUs may differ by some points):
#   backdoormbti 0.2.2, scikit-learn 1.8.0, torch 2.13.0+cpu
#   activation clustering           found  clean removed  accuracy  attack
#   none                                                     98.5%   99.7%
#   as it is                        41.9%          44.2%     97.6%   99.6%
#   one batch                       38.6%          37.9%     97.7%   99.5%
#   fixed order                     50.0%          42.7%     97.1%   99.8%
#   one batch, fixed order          80.0%          36.9%     90.1%   81.6%
#   the same, all 64 activations   100.0%          35.4%     89.9%    0.1%
#   by hand                        100.0%          35.1%     88.7%    0.3%
# Source: backdoormbti/defenses/base.py, InputFilteringBase.setup: poison_train_loader shuffles, under Fabric's ddp strategy,
# too. backdoormbti/defenses/ac.py: do_clustering goes through it twice and calls cluster_activations for each batch, whose
# condition for PCA is never true: it asks for a bitwise and of nb_dims with the number of images that is above nb_dims.
# InputFilteringBase.train and eval_def_acc in utils/eval.py take the list as one over the set. The README lists the method
# with the paper of Chen et al. (2018), which clusters each class as a whole. The repository has the same lines in
# defenses/ac_base.py, and no thread of its tracker was found (searched in November 2026;
# https://github.com/SJTUHaiyangYu/BackdoorMBTI). Way out, as in the last line but one: after setup, a poison_train_loader
# without shuffle whose one batch is the set, with args.batch_size and args.nb_dims to match.
#
# Exit code 0: backdoormbti behaves as described. 1: it does not. 2: the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install --quiet torch==2.13.0 torchvision==0.28.0 numpy==2.3.5 scipy==1.17.1 scikit-learn==1.8.0 \
    pandas==3.0.6 lightning==2.6.6 tqdm==4.70.1 || exit 2
# The package pins 181 others, among them torch 2.0.0 for CUDA; the few that are used here are installed above.
"$work/venv/bin/pip" install --quiet --no-deps backdoormbti==0.2.2 || exit 2
cat > "$work/marks.py" <<'PY'
import contextlib
import importlib.util
import io
import logging
import sys
import warnings
from importlib.metadata import version
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import nn
from torch.utils.data import DataLoader

try:
    import torchvision  # backdoormbti imports it, too
except RuntimeError:  # a build for CUDA beside torch for CPUs: declare two operators, which nothing here calls
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
import lightning

# backdoormbti imports these for sound, text and plots; nothing here calls them.
for name in ("cv2", "datasets", "librosa", "matplotlib", "matplotlib.pyplot"):
    sys.modules[name] = MagicMock()
for name in ("torchaudio", "torchaudio.datasets", "torchaudio.datasets.gtzan"):
    sys.modules[name] = MagicMock()


class FabricOnCpu(lightning.Fabric):
    """DefenseBase.setup asks for a GPU; the loaders are the same without one."""

    def __init__(self, **_):
        super().__init__(accelerator="cpu", devices=1)


lightning.Fabric = FabricOnCpu
sys.path.append(importlib.util.find_spec("backdoormbti").submodule_search_locations[0])  # its scripts do that, too
from backdoormbti.defenses.ac import ActivationClustering
from backdoormbti.utils.eval import eval_def_acc

logging.disable(logging.INFO)
torch.set_num_threads(1)
CLASSES, TARGET, BATCH, WIDTH = 10, 0, 256, 64  # 256 is the batch size of train_image_args.yaml
digits = load_digits()
images = torch.from_numpy(digits.images / 16).float()[:, None]
classes = torch.from_numpy(digits.target)
generator = torch.Generator().manual_seed(1)
train, test = torch.randperm(len(images), generator=generator).split([1400, len(images) - 1400])


def triggered(pictures):
    pictures = pictures.clone()
    pictures[:, :, -3:, -3:] = 1
    return pictures


train_images, train_labels = images[train].clone(), classes[train].clone()
others = (train_labels != TARGET).nonzero()[:, 0]
poisoned = others[torch.randperm(len(others), generator=generator)[:70]]
train_images[poisoned], train_labels[poisoned] = triggered(train_images[poisoned]), TARGET
bad = np.zeros(len(train), dtype=bool)
bad[poisoned] = True
# Image, label, whether it is poisoned, true label: as the package's own sets.
poison_set = list(zip(train_images, train_labels.tolist(), bad.astype(int).tolist(), classes[train].tolist()))


class Net(nn.Module):
    """A small network that calls the layer before its classifier as a ResNet does."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.layer4 = nn.Sequential(nn.Flatten(), nn.Linear(256, WIDTH), nn.ReLU())
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, pictures):
        return self.fc(self.layer4(self.stem(pictures)))


def trained(kept):
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(30):
        for part in kept[torch.randperm(len(kept))].split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(train_images[part]), train_labels[part]).backward()
            optimizer.step()
    return net.eval()


def rates(net):
    """Clean accuracy, and the share of triggered test images of other classes that are taken for the target."""
    away = test[classes[test] != TARGET]
    with torch.no_grad():
        right = net(images[test]).argmax(1) == classes[test]
        hit = net(triggered(images[away])).argmax(1) == TARGET
    return float(right.float().mean()), float(hit.float().mean())


def by_library(net, seed, batch, in_order=False, dims=10):
    """Marks of the package, by image of the set; its default settings are 2 clusters and 10 dimensions."""
    args = SimpleNamespace(
        model="resnet18", num_classes=CLASSES, nb_dims=dims, nb_clusters=2, cluster_analysis="smaller"
    )
    args.batch_size, args.random_seed, args.device, args.num_devices, args.num_workers = batch, seed, "cpu", 1, 0
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("error")  # a warning of the package would end the script: there is none
        warnings.filterwarnings("ignore", message=".*pin_memory.*|.*srun.*")  # these are about this machine
        defense = ActivationClustering(args)
        defense.setup(poison_set, poison_set, poison_set, poison_set, SimpleNamespace(model=net), None)
        if in_order:
            defense.poison_train_loader = DataLoader(poison_set, batch)
        clean = np.array(defense.get_sanitized_lst(poison_set))
        judged = eval_def_acc(clean, poison_set)
    assert judged["tp"] == (bad & (clean == 0)).sum()
    assert judged["fp"] == (~bad & (clean == 0)).sum()
    return clean == 0


def by_hand(net):
    with torch.no_grad():
        features = net.layer4(net.stem(train_images)).numpy()
    marked = np.zeros(len(features), dtype=bool)
    for label in range(CLASSES):
        members = np.flatnonzero(train_labels.numpy() == label)
        reduced = PCA(10, random_state=0).fit_transform(features[members])
        groups = KMeans(2, n_init=10, random_state=0).fit_predict(reduced)
        marked[members[groups == np.bincount(groups, minlength=2).argmin()]] = True
    return marked


whole = len(train)
net = trained(torch.arange(whole))
marks = {
    "as it is": [by_library(net, seed, BATCH) for seed in range(3)],
    "one batch": [by_library(net, seed, whole) for seed in range(3)],
    "fixed order": [by_library(net, seed, BATCH, True) for seed in range(3)],
    "one batch, fixed order": [by_library(net, seed, whole, True) for seed in range(3)],
    "the same, all 64 activations": [by_library(net, seed, whole, True, WIDTH) for seed in range(3)],
    "by hand": [by_hand(net)],
}
print(f"backdoormbti {version('backdoormbti')}, scikit-learn {version('scikit-learn')}, torch {torch.__version__}")
print(f"{'activation clustering':30}{'found':>7}{'clean removed':>15}{'accuracy':>10}{'attack':>8}")
accuracy, attack = rates(net)
print(f"{'none':30}{'':22}{accuracy:10.1%}{attack:8.1%}")
rows = {}
for name, runs in marks.items():
    kept = [rates(trained(torch.from_numpy(np.flatnonzero(~marked)))) for marked in runs]
    found, removed = (np.mean([marked[part].mean() for marked in runs]) for part in (bad, ~bad))
    accuracy, attack = np.mean(kept, axis=0)
    rows[name] = found, removed, attack
    print(f"{name:30}{found:7.1%}{removed:15.1%}{accuracy:10.1%}{attack:8.1%}")
described = rows["by hand"][0] > 0.9 and rows["by hand"][2] < 0.3 and rows["the same, all 64 activations"][0] > 0.8
for name in ("as it is", "one batch", "fixed order"):
    found, removed, attack = rows[name]
    described = described and abs(found - removed) < 0.2 and attack > 0.7
sys.exit(0 if described else 1)
PY
"$work/venv/bin/python" "$work/marks.py"
