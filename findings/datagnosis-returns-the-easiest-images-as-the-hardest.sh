#!/usr/bin/env bash
# datagnosis 0.0.3: the n hardest images are the n easiest ones for methods whose high scores mean hard.
#
# A fitted method hands out images by extract_datapoints(method="top_n", hardness="hard" or "easy", n=n). It is documented to
# return the top n, hard or easy by choice. It returns the n lowest scores for both choices. EL2N, GraNd, forgetting, large
# loss, VoG and prototypicality have hard_direction() "high": their hardest images come out as the easiest. Who removes the
# hardest images to get rid of wrong labels removes clean ones and keeps the wrong ones. For AUM, confident learning,
# Data-IQ and Data Maps, where low is hard, the images that are asked for as easy are the hardest. The scores
# themselves are right. The way by threshold does not compare scores with it: it takes those further below the highest score
# than the threshold, or above the highest score by more than that. The second kind does not exist, so hardness="hard" is
# empty for high scores and hardness="easy" for low ones. There is no error and no warning.
#
# Seen with datagnosis 0.0.3, torch 2.13.0, Python 3.11 (output of this script; 1,200 digits of scikit-learn, 120 of them with
# a wrong label; wrong labels among the 120 images that are returned; by threshold: how many images are returned for the
# median score as the threshold, by hand those on the side of the median that hard_direction() names; other CPUs may differ
# slightly):
#   datagnosis 0.0.3, torch 2.13.0+cpu
#                                         wrong, hardest    wrong, easiest    hard by threshold    easy by threshold
#   method, hard scores are      AUROC   library    hand   library    hand      library    hand      library    hand
#   aum, low                     0.994       93%     93%       93%      0%         1193     600            0     600
#   confident_learning, low      0.992       92%     92%       92%      0%          116     600            0     600
#   el2n, high                   0.993        0%     93%        0%      0%            0     600         1198     600
#   large_loss, high             0.992        0%     91%        0%      0%            0     600         1199     600
# Source: datagnosis/plugins/core/plugin.py, _extract_datapoints_by_top_n: all four branches on hardness and hard_direction()
# are np.argsort(extraction_scores)[:n] (lines 458 to 465), and _extract_datapoints_by_threshold uses np.max(...) - threshold
# and np.max(...) + threshold. The docstring of extract_datapoints says that hardness chooses between hard and easy, and the
# README gives the direction of each method. Commit 1da3f89 of its repository has the same lines. A search for an issue
# found none (November 2026). Way out: sort hcm.scores by hand in the direction of hcm.hard_direction(), or use
# threshold_range, which is compared with the scores.
#
# Exit code 0: datagnosis behaves as described. 1: it does not. 2: the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install --quiet --no-compile torch==2.13.0 numpy==2.3.5 scipy==1.17.1 scikit-learn==1.9.1 \
    pandas==3.0.6 pillow==13.0.0 pydantic==2.14.4 loguru==0.7.3 cloudpickle==3.1.3 || exit 2
# The packages ask for torchvision, augly and seaborn, which nothing here calls.
"$work/venv/bin/pip" install --quiet --no-compile --no-deps datagnosis==0.0.3 aum==1.0.2 || exit 2
cat > "$work/hardest.py" <<'PY'
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn

for name in ("augly", "augly.image", "matplotlib", "matplotlib.pyplot", "seaborn", "torchvision", "torchvision.transforms"):
    sys.modules[name] = MagicMock()  # datagnosis imports them; nothing here calls them
from datagnosis.plugins.core.datahandler import DataHandler
from datagnosis.plugins.generic.plugin_aum import AUMPlugin
from datagnosis.plugins.generic.plugin_confident_learning import ConfidentLearningPlugin
from datagnosis.plugins.generic.plugin_el2n import EL2NPlugin
from datagnosis.plugins.generic.plugin_large_loss import LargeLossPlugin
from loguru import logger

warnings.simplefilter("error", UserWarning)  # a warning would end the script: there is none
logged = []
logger.remove()
logger.add(logged.append, level="WARNING")
torch.set_num_threads(1)
work = Path(sys.argv[1])
COUNT = 120
digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))[:1200]
images = torch.from_numpy(digits.images[order] / 16).float().flatten(1)
labels = torch.from_numpy(digits.target[order])
wrong = torch.arange(1200) % 10 == 0
steps = torch.randint(1, 10, (1200,), generator=torch.Generator().manual_seed(0))
given = torch.where(wrong, (labels + steps) % 10, labels)


def fitted(method):
    data = DataHandler(images, given, batch_size=50)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    hcm = method(net, nn.CrossEntropyLoss(), optimizer, lr=3e-3, epochs=10, num_classes=10)
    return hcm.fit(data, use_caches_if_exist=False, workspace=work / method.name())


print(f"datagnosis {version('datagnosis')}, torch {torch.__version__}")
print(f"{'':26}{'':8}{'wrong, hardest':>18}{'wrong, easiest':>18}{'hard by threshold':>21}{'easy by threshold':>21}")
heads = f"{'AUROC':>8}" + f"{'library    hand':>18}" * 2 + f"{'library    hand':>21}" * 2
print(f"{'method, hard scores are':26}{heads}")
described = True
for method in (AUMPlugin, ConfidentLearningPlugin, EL2NPlugin, LargeLossPlugin):
    hcm = fitted(method)
    high = hcm.hard_direction() == "high"
    hardness = hcm.scores if high else -hcm.scores
    ranked, median = np.argsort(-hardness, kind="stable"), float(np.median(hcm.scores))
    own = {"hard": ranked[:COUNT], "easy": ranked[-COUNT:]}
    sides = {"hard": int((hardness > np.median(hardness)).sum()), "easy": int((hardness < np.median(hardness)).sum())}
    found, shares, returned = {}, {}, {}
    for kind in ("hard", "easy"):
        (_, _, places), _ = hcm.extract_datapoints("top_n", hardness=kind, n=COUNT)
        found[kind] = {int(place) for place in places}
        chosen = float(wrong[list(found[kind])].float().mean())
        shares[kind] = chosen, float(wrong[own[kind].copy()].float().mean())
        returned[kind] = len(hcm.extract_datapoints("threshold", hardness=kind, threshold=median)[1])
    area = roc_auc_score(wrong, hardness)
    row = "".join(f"{shares[kind][0]:10.0%}{shares[kind][1]:8.0%}" for kind in shares)
    row += "".join(f"{returned[kind]:13}{sides[kind]:8}" for kind in shares)
    print(f"{f'{hcm.name()}, {hcm.hard_direction()}':26}{area:8.3f}{row}")
    described = described and area > 0.95 and found["hard"] == found["easy"] == set(own["easy" if high else "hard"].tolist())
    described = described and shares["hard"][1] > 0.8 and shares["easy"][1] < 0.05
    described = described and sides == {"hard": 600, "easy": 600} and returned["hard" if high else "easy"] == 0
    described = described and returned["easy" if high else "hard"] == int((hcm.scores < hcm.scores.max() - median).sum())
sys.exit(0 if described and not logged else 1)
PY
"$work/venv/bin/python" "$work/hardest.py" "$work"
