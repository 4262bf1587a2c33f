#!/usr/bin/env bash
# quanda 0.5.0: the score of mislabeling detection depends on where in the training set the wrong labels are.
#
# MislabelingDetectionMetric ranks the training images by self-influence and returns the area under the curve of wrong labels
# found from the top. Before it sorts, it adds 0.0001 times the position of each image, so that ties keep an order. The term
# does not follow the scale of the scores. It reaches 0.5 for 5,000 images and 5 for 50,000, and where self-influences are
# small, the images at the end of the set come first. Poisoned images put behind the clean ones are then found by any method,
# random scores included, and the same images in front are found by none. In random places, as in quanda's own benchmark of
# this name, a perfect method falls towards the 0.5 of a random one. A constant factor is enough: TracIn multiplies by the
# learning rate of a checkpoint, and the same network and gradients go from 0.95 at a rate of 1 to 0.53 at 0.001. A
# comparison of methods is one of their scales. There is no error and no warning.
#
# Seen with quanda 0.5.0, captum 0.8.0, torch 2.13.0, Python 3.11 (output of this script; 5,000 training samples with 500 wrong
# labels, a trained network; right: the same area from a sort of squared gradients from a loop over autograd, or of the random
# scores; found: wrong labels among the first 500 of the ranking; other CPUs may differ in the last digits):
#   quanda 0.5.0, captum 0.8.0, torch 2.13.0+cpu
#   wrong labels, scores                quanda   right   quanda, found   right, found
#   first, TracInCP, rate 1              0.949   0.950           98.8%          98.8%
#   first, TracInCP, rate 0.01           0.345   0.950            0.0%          98.8%
#   first, TracInCP, rate 0.001          0.056   0.950            0.0%          98.8%
#   first, random scores                 0.050   0.486            0.0%          10.4%
#   anywhere, TracInCP, rate 1           0.950   0.950           98.0%          98.2%
#   anywhere, TracInCP, rate 0.01        0.744   0.950           38.8%          98.2%
#   anywhere, TracInCP, rate 0.001       0.531   0.950           13.6%          98.2%
#   anywhere, random scores              0.502   0.517            9.8%           9.8%
#   last, TracInCP, rate 1               0.950   0.950           99.8%          99.8%
#   last, TracInCP, rate 0.01            0.950   0.950          100.0%          99.8%
#   last, TracInCP, rate 0.001           0.950   0.950          100.0%          99.8%
#   last, random scores                  0.950   0.476           99.8%          10.8%
# Source: quanda/explainers/global_ranking/self_influence_ranking.py: SelfInfluenceRanking.get_global_rank sorts
# self_influence + indices * 1e-4. A TODO beside it says that sorting is not stable, but the sort is called with stable=True.
# The docstrings do not mention the term. The benchmark MislabelingDetection uses the same metric. The tracker of
# https://github.com/dilyabareeva/quanda has no thread on it (searched in November 2026). Way out: take the scores from
# metric.global_ranker.get_self_influence() and sort them yourself.
#
# Exit code 0: quanda behaves as described. 1: it does not. 2: the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
# omegaconf is imported by quanda and not in its requirements; captum needs numpy 1, which later releases of pyarrow refuse.
"$work/venv/bin/pip" install --quiet quanda==0.5.0 captum==0.8.0 torch==2.13.0 torchvision==0.28.0 numpy==1.26.4 \
    omegaconf==2.4.0 datasets==5.2.0 pyarrow==24.0.0 pandas==3.0.6 transformers==5.24.0 lightning==2.6.6 \
    kronfluence==1.0.1 dattri==0.3.0 || exit 2
cat > "$work/ranking.py" <<'PY'
import logging
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

try:
    import torchvision  # quanda imports it, too
except RuntimeError:  # a build for CUDA beside torch for CPUs: declare two operators, which nothing here calls
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
from quanda.explainers.wrappers import CaptumTracInCP
from quanda.metrics.downstream_eval import MislabelingDetectionMetric
from torch import nn
from torch.utils.data import TensorDataset

logging.disable(logging.INFO)
torch.set_num_threads(1)
CHECKPOINT = str(Path(sys.argv[1]) / "checkpoint.pt")
COUNT, WRONG = 5000, 500
generator = torch.Generator().manual_seed(0)
classes = torch.randint(0, 10, (COUNT,), generator=generator)
samples = 2 * torch.randn(10, 16, generator=generator)[classes] + torch.randn(COUNT, 16, generator=generator)
samples = nn.functional.normalize(samples, dim=1)
noise = torch.rand(COUNT, generator=generator) / 1000
places = {
    "first": torch.arange(WRONG),
    "anywhere": torch.randperm(COUNT, generator=generator)[:WRONG],
    "last": torch.arange(COUNT - WRONG, COUNT),
}


def trained(labels):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        for part in torch.randperm(COUNT).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(samples[part]), labels[part]).backward()
            optimizer.step()
    return net.eval()


def loop(net, labels):
    """Squared length of each training sample's gradient in the last layer, one backward pass a sample."""
    found = []
    for sample, label in zip(samples, labels):
        loss = nn.functional.cross_entropy(net(sample[None]), label[None])
        found.append(sum(float(part.square().sum()) for part in torch.autograd.grad(loss, net[2].parameters())))
    return np.array(found)


def judged(scores, wrong):
    """Area under the curve of wrong labels found from the highest score down, and the share found in the first 500."""
    hits = np.isin(np.argsort(-scores, kind="stable"), wrong)
    curve = hits.cumsum() / WRONG
    return float((curve[1:] + curve[:-1]).sum() / 2 / COUNT), float(hits[:WRONG].mean())


def explained(net, labels, wrong, rate):
    """The metric for TracInCP at the last layer, whose self-influence is the rate times the squared length."""

    def load(net, path):
        net.load_state_dict(torch.load(path))
        return rate

    options = {"layers": ["2"], "batch_size": 250}
    data = TensorDataset(samples, labels)
    return MislabelingDetectionMetric(net, data, wrong.tolist(), CaptumTracInCP, options, [CHECKPOINT], load)


print(f"quanda {version('quanda')}, captum {version('captum')}, torch {torch.__version__}")
print(f"{'wrong labels, scores':34}{'quanda':>8}{'right':>8}{'quanda, found':>16}{'right, found':>15}")
rows, exact = {}, []
for place, wrong in places.items():
    labels = classes.clone()
    labels[wrong] = (labels[wrong] + 1) % 10
    net = trained(labels)
    torch.save(net.state_dict(), CHECKPOINT)
    lengths = loop(net, labels)
    for rate in (1.0, 0.01, 0.001, None):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning would end the script: there is none
            if rate is None:
                data = TensorDataset(samples, labels)
                metric = MislabelingDetectionMetric(net, data, wrong.tolist(), precomputed_self_influence=noise)
            else:
                metric = explained(net, labels, wrong, rate)
            result = metric.compute()
        if rate == 0.01:
            exact.append(np.allclose(metric.explainer.self_influence().numpy(), rate * lengths, rtol=1e-3, atol=1e-6))
        score, found = result["score"], float(result["success_arr"][:WRONG].float().mean())
        right, right_found = judged(noise.numpy() if rate is None else lengths, wrong)
        rows[place, rate] = score, right, found, right_found
        name = f"{place}, {'random scores' if rate is None else f'TracInCP, rate {rate:g}'}"
        print(f"{name:34}{score:8.3f}{right:8.3f}{found:16.1%}{right_found:15.1%}")
described = all(exact) and len(exact) == len(places)
for (place, rate), (score, right, *_) in rows.items():
    described = described and abs(right - (0.5 if rate is None else 0.95)) < 0.03
    described = described and (rate != 1.0 or abs(score - right) < 0.01)
described = described and rows["first", 0.001][0] < 0.2 and rows["anywhere", 0.001][0] < 0.6
described = described and rows["first", None][0] < 0.1 and rows["last", None][0] > 0.9
sys.exit(0 if described else 1)
PY
"$work/venv/bin/python" "$work/ranking.py" "$work"
