#!/usr/bin/env bash
# secml-torch 1.5: the success rate of a backdoor is mixed with those of the networks measured before.
#
# The metrics Accuracy, AttackSuccessRate, AccuracyEnsemble and EnsembleSuccessRate are objects that are called with a network
# and a loader. The docstring of the call promises the value on the given loader. The object keeps its two counts between
# calls though, nothing sets them back, and each call returns the share over all images that it has seen since it was made.
# The first value is right, and each further one is an average with those before, over other networks and other data. One
# metric object made in front of the loop over defenses gives a network without a backdoor a success rate of 44 % because
# of the networks in front of it. The order of the rows decides which defense looks better. A curve over epochs falls slowly
# where the backdoor is gone after one epoch, and accuracy under attack is lifted by the clean accuracy measured before it.
# There is no error and no warning, and all values lie between 0 and 1.
#
# Seen with secml-torch 1.5, torch 2.13.0, Python 3.11 (output of this script; each row is one call of the one object, made
# from the top down or from the bottom up; counted: argmax in plain torch; other CPUs may differ in the last digits):
#   secml-torch 1.5, torch 2.13.0+cpu
#   AttackSuccessRate                         one object  in reverse  new objects  counted
#     clean training                               0.000       0.436        0.000    0.000
#     poisoned training                            0.457       0.582        0.915    0.915
#     poisoned training, fine-tuned                0.581       0.415        0.828    0.828
#     poisoned training, trigger unlearned         0.436       0.002        0.002    0.002
#   EnsembleSuccessRate                       one object  in reverse  new objects  counted
#     clean training                               0.000       0.436        0.000    0.000
#     poisoned training                            0.457       0.582        0.915    0.915
#     poisoned training, fine-tuned                0.581       0.415        0.828    0.828
#     poisoned training, trigger unlearned         0.436       0.002        0.002    0.002
#   Accuracy                                  one object  in reverse  new objects  counted
#     clean images                                 0.991       0.436        0.991    0.991
#     with the trigger                             0.561       0.129        0.085    0.085
#     with the trigger, after fine-tuning          0.436       0.172        0.172    0.172
# Source: secmlt/metrics/classification.py: Accuracy.__init__ sets _num_samples and _accumulated_accuracy to 0, _accumulate
# adds to both, _compute divides them, and __call__ does not set them back. The other three classes inherit this, and there is
# no method that resets. The examples of the project make a new object for each value. The tracker of
# https://github.com/pralab/secml-torch has no thread on it (searched in November 2026). Way out: a new object for each call.
#
# Exit code 0: secml-torch behaves as described. 1: it does not. 2: the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install --quiet secml-torch==1.5 torch==2.13.0 torchvision==0.28.0 numpy==2.3.5 || exit 2
cat > "$work/reuse.py" <<'PY'
import sys
import warnings
from importlib.metadata import version

import torch
from secmlt.adv.poisoning.backdoor import BackdoorDatasetPyTorch
from secmlt.adv.poisoning.base_data_poisoning import PoisoningDatasetPyTorch
from secmlt.metrics.classification import Accuracy, AttackSuccessRate, EnsembleSuccessRate
from secmlt.models.pytorch.base_pytorch_trainer import BasePyTorchTrainer
from torch import nn
from torch.utils.data import DataLoader

warnings.simplefilter("error")  # a warning would end the script: there is none
torch.set_num_threads(1)
TARGET = 0
generator = torch.Generator().manual_seed(0)
prototypes = torch.rand(10, 1, 16, 16, generator=generator)


def samples(count):
    """Noisy copies of ten prototypes with values from 0 to 1, as pairs of an image and a label."""
    labels = torch.randint(0, 10, (count,), generator=generator)
    images = (prototypes[labels] + 0.5 * torch.randn(count, 1, 16, 16, generator=generator)).clamp(0, 1)
    return list(zip(images, labels.tolist()))


def patch(x):
    x = x.clone()
    x[:, :, -3:, -3:] = 1.0
    return x


def right(net, images, labels, target=None):
    """Which images are predicted as their label, or as the target."""
    return net(images).argmax(1) == (labels if target is None else target)


def trained(data, epochs=5, rate=0.05, start=None):
    """A small network after some epochs on the data. It starts afresh or from another network."""
    torch.manual_seed(0)
    conv = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*conv, nn.Flatten(), nn.Linear(16 * 64, 10))
    if start is not None:
        net.load_state_dict(start.state_dict())
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
    return BasePyTorchTrainer(optimizer, epochs=epochs).train(net, DataLoader(data, 50, shuffle=True))


clean = samples(2000)
test = samples(1000)
held_out = samples(500)
relabelled = [(patch(image[None])[0], label) for image, label in held_out]  # with the trigger, under the right label
victims = [pair for pair in test if pair[1] != TARGET]
test = DataLoader(test, 100)
triggered = DataLoader(BackdoorDatasetPyTorch(victims, patch, TARGET), 100)
with_trigger = DataLoader(PoisoningDatasetPyTorch(victims, patch), 100)  # labels as they were
backdoored = trained(BackdoorDatasetPyTorch(clean, patch, TARGET, poisoned_indexes=set(range(200))))
networks = {
    "clean training": trained(clean),
    "poisoned training": backdoored,
    "poisoned training, fine-tuned": trained(held_out, 3, 0.02, backdoored),
    "poisoned training, trigger unlearned": trained(held_out + relabelled, 3, 0.02, backdoored),
}


def success():
    return AttackSuccessRate(y_target=TARGET)


def ensemble():
    return EnsembleSuccessRate(y_target=TARGET)


def shares(hits):
    return [float(torch.cat(part).float().mean()) for part in hits]


@torch.no_grad()
def measure(title, build, cases, target=None):
    """Print what one metric object returns in this and in reverse order, what new objects return, and a count by hand.

    Says whether new objects agree with the count, and the one object with a count over all cases that it has seen.
    """
    one, back = build(), build()
    several = (lambda loader: [loader, loader]) if isinstance(one, EnsembleSuccessRate) else lambda loader: loader
    forward = [float(one(net, several(loader))) for net, loader in cases.values()]
    reverse = [float(back(net, several(loader))) for net, loader in reversed(cases.values())][::-1]
    new = [float(build()(net, several(loader))) for net, loader in cases.values()]
    hits = [torch.cat([right(net, *batch, target) for batch in loader]) for net, loader in cases.values()]
    count = shares([[part] for part in hits])
    print(f"{title:40}{'one object':>12}{'in reverse':>12}{'new objects':>13}{'counted':>9}")
    for name, *row in zip(cases, forward, reverse, new, count):
        print(f"  {name:38}{row[0]:12.3f}{row[1]:12.3f}{row[2]:13.3f}{row[3]:9.3f}")
    numbers = range(len(hits))
    pooled = shares([hits[: number + 1] for number in numbers]) + shares([hits[number:] for number in numbers])
    agree = all(abs(a - b) < 1e-5 for a, b in zip(forward + reverse + new, pooled + count))
    return agree and max(abs(a - b) for a, b in zip(forward, count)) > 0.2


print(f"secml-torch {version('secml-torch')}, torch {torch.__version__}")
attacked = {name: (net, triggered) for name, net in networks.items()}
images = {
    "clean images": (networks["poisoned training"], test),
    "with the trigger": (networks["poisoned training"], with_trigger),
    "with the trigger, after fine-tuning": (networks["poisoned training, fine-tuned"], with_trigger),
}
described = [
    measure("AttackSuccessRate", success, attacked, TARGET),
    measure("EnsembleSuccessRate", ensemble, attacked, TARGET),
    measure("Accuracy", Accuracy, images),
]
sys.exit(0 if all(described) else 1)
PY
"$work/venv/bin/python" "$work/reuse.py"
