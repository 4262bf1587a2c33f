#!/usr/bin/env bash
# advsecurenet 0.2.3: where the Carlini-Wagner attack fails, it returns no picture, and the failure counts as a success.
#
# The attack moves each picture into another variable, arctanh of its values scaled to -1..1, where 0 is -7.2 and 1 is +7.2.
# It keeps the best result for each picture, and the one to start from is this variable instead of the picture. A picture for
# which no step finds another class is returned as it stands in that variable, with values from -7.2 to 7.2. Networks often
# take it for another class, so the success rate of the library counts a failure of the attack as a success. With the default
# settings (10 steps) the attack finds nothing here, and the table shows 68 % and 72 %, the higher one for the network that
# gives way less often once the attack has more steps. Small networks without batch normalization showed 12 to 19 % where
# nothing was found. The more often a defense makes the attack fail, the more of its success rate is made of such pictures.
# The mean distance of the same table is too large by a factor of 50 and more. There is no error and no warning.
#
# Seen with advsecurenet 0.2.3, torch 2.13.0, Python 3.11 (output of this script; digits of scikit-learn, a small network with
# batch normalization, 200 test pictures; success and L2 from the evaluators of the library; outside: returned pictures with
# values below 0 or above 1; repaired: the same evaluators after these are replaced by the pictures as they were; counted:
# pictures inside the range that get another class, of those that were classified rightly; other CPUs may differ by some points):
#   advsecurenet 0.2.3, torch 2.13.0+cpu
#   network, attack                            success    L2  outside 0..1  repaired    L2  counted
#   plain training, defaults                     68.0%  42.6         98.5%      0.0%  0.00     0.0%
#   plain training, c up to 10, 50 steps         81.2%  22.1         50.0%     49.2%  0.25    49.2%
#   training with noise, defaults                71.8%  40.7         94.0%      0.0%  0.00     0.0%
#   training with noise, c up to 10, 50 steps    75.0%  26.8         61.0%     35.1%  0.15    35.1%
# Source: advsecurenet/attacks/gradient_based/cw.py, CWAttack.attack: image is the result of _initialize_x, and best_adv_images
# starts as its clone; a row is replaced only where an attack succeeded. The docstring promises adversarial examples. The
# distance that picks the best result is taken between the two variables, too. AttackSuccessRateEvaluator and
# PerturbationDistanceEvaluator do not look at the range. A search for threads on it in the tracker of
# https://github.com/melihcatal/advsecurenet found none (November 2026). Way out: put the original picture back wherever a
# value is below 0 or above 1, as the column "repaired" does.
#
# Exit code 0: advsecurenet behaves as described. 1: it does not. 2: the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install --quiet advsecurenet==0.2.3 torch==2.13.0 torchvision==0.28.0 scikit-learn==1.8.0 numpy==2.4.6 \
    scikit-image==0.26.0 opencv-python==5.0.0.93 || exit 2
cat > "$work/failures.py" <<'PY'
import contextlib
import io
import sys
import warnings
from importlib.metadata import version

import torch

try:
    import torchvision  # advsecurenet imports it, too
except RuntimeError:  # a build for CUDA beside torch for CPUs: declare two operators, which nothing here calls
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
from advsecurenet.attacks import CWAttack
from advsecurenet.evaluation.evaluators import AttackSuccessRateEvaluator, PerturbationDistanceEvaluator
from advsecurenet.models.base_model import BaseModel
from advsecurenet.shared.types.configs.attack_configs import CWAttackConfig
from sklearn.datasets import load_digits
from torch import nn

warnings.simplefilter("error")  # a warning would end the script: there is none
torch.set_num_threads(1)
digits = load_digits()
order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
pictures = torch.tensor(digits.images / 16, dtype=torch.float32)[order, None]
classes = torch.tensor(digits.target)[order]
train, images, labels = (pictures[:1400], classes[:1400]), pictures[1400:1600], classes[1400:1600]


class Network(BaseModel):
    """A small network in the form that the library asks for."""

    def load_model(self):
        first = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
        second = [nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
        self.model = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(128, 10))

    def models(self):
        return []


def trained(noise):
    """A network after 15 epochs on pictures with normal noise of this deviation."""
    torch.manual_seed(0)
    net = Network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.005)
    for _ in range(15):
        for part in torch.randperm(len(train[0])).split(50):
            x = train[0][part]
            optimizer.zero_grad()
            nn.functional.cross_entropy(net((x + noise * torch.randn_like(x)).clamp(0, 1)), train[1][part]).backward()
            optimizer.step()
    return net.eval()


def attacked(net, **options):
    """The pictures that the attack returns, in batches of 50."""
    with contextlib.redirect_stdout(io.StringIO()):
        attack = CWAttack(CWAttackConfig(**options))
        return torch.cat([attack.attack(net, x, y) for x, y in zip(images.split(50), labels.split(50))])


@torch.no_grad()
def evaluated(net, returned):
    """The library's success rate and mean distance of the pictures that the attack returned."""
    success, distance = AttackSuccessRateEvaluator(), PerturbationDistanceEvaluator()
    success.update(net, images, labels, returned)
    distance.update(images, returned)
    return success.get_results(), distance.get_results()["L2"]


@torch.no_grad()
def counted(net, returned, failed):
    """The share of the rightly classified pictures that got another class from a picture with values from 0 to 1."""
    right = net(images).argmax(1) == labels
    return float((right & ~failed & (net(returned).argmax(1) != labels)).sum() / right.sum()), bool(right[failed].all())


print(f"advsecurenet {version('advsecurenet')}, torch {torch.__version__}")
print(f"{'network, attack':42}{'success':>8}{'L2':>6}{'outside 0..1':>14}{'repaired':>10}{'L2':>6}{'counted':>9}")
rows, described = {}, True
for title, noise in {"plain training": 0.0, "training with noise": 0.3}.items():
    net = trained(noise)
    for name, options in {"defaults": {}, "c up to 10, 50 steps": {"c_upper": 10.0, "max_iterations": 50}}.items():
        returned = attacked(net, **options)
        failed = ((returned < 0) | (returned > 1)).flatten(1).any(1)
        repaired = torch.where(failed[:, None, None, None], images, returned)
        share, only_right = counted(net, returned, failed)
        (rate, length), (true_rate, true_length) = evaluated(net, returned), evaluated(net, repaired)
        outside = float(failed.float().mean())
        print(f"{f'{title}, {name}':42}{rate:8.1%}{length:6.1f}{outside:14.1%}{true_rate:10.1%}{true_length:6.2f}{share:9.1%}")
        inner = torch.atanh((2 * images[failed] - 1) * 0.999999)  # the variable that the attack optimizes, at its start
        described = described and only_right and torch.allclose(returned[failed], inner, atol=1e-3)
        described = described and abs(true_rate - share) < 1e-6 and length > 10 * true_length and rate > share + 0.15
        rows[title, name] = rate, outside, share
for rate, outside, share in (row for (_, name), row in rows.items() if name == "defaults"):
    described = described and share < 0.05 and rate > 0.4 and outside > 0.8
sys.exit(0 if described else 1)
PY
"$work/venv/bin/python" "$work/failures.py"
