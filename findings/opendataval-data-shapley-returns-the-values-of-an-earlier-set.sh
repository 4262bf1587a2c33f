#!/usr/bin/env bash
# opendataval 1.3.0: Data Shapley in a loop over data sets can return the values of an earlier set.
#
# The samplers behind DataShapley, BetaShapley and DataBanzhafMargContrib keep the marginal contributions of a run in a
# dictionary of their class. The default key is the address of the sampler, id(self). The entry outlives the sampler, and the
# memory of a sampler that is gone can go to a new one. The new one then finds an entry under its key and returns the marginal
# contributions of another data set, model and seed; nothing is trained. A loop that calls gc.collect() after each round meets
# this the most, since an evaluator and its sampler refer to each other and only the collector frees them; without that call,
# two runs over 40 sets met it twice and once. If both sets have the same number of samples, the result looks like any other.
# These values know nothing of the wrong labels of the new set, so the AUROC is that of a random ranking, and a mean over
# seeds or attacks falls for no reason of the method. There is no error and no warning; only the lines on the progress are
# missing.
#
# Seen with opendataval 1.3.0, torch 2.13.0, Python 3.11 (output of this script; 80 sets of 30 digits of scikit-learn with 4
# wrong labels each, seven random orders; sets whose values equal those of an earlier set to the last bit, and the mean AUROC
# of low values for wrong labels; the first count depends on the memory and differs from run to run):
#   opendataval 1.3.0, torch 2.13.0+cpu
#   80 sets in a loop                      earlier values  AUROC of these  of the others
#   library, gc.collect() after each                   30            0.47           0.85
#   library, cache_name=None                            0                           0.85
#   by hand                                             0                           0.86
# Source: opendataval/dataval/margcontrib/sampler.py: GrTMCSampler, TMCSampler and MonteCarloSampler have a CACHE of the class
# and the key cache_name or id(self); compute_marginal_contribution looks there before all else. The docstring says that the
# default of cache_name is set to a unique value for an object, which an address is only while the object lives. The repository
# has the same lines, and no thread of its tracker was found (searched in November 2026;
# https://github.com/opendataval/opendataval). Way out: cache_name=None, or a name for each set, model and seed.
#
# Exit code 0: opendataval behaves as described. 1: it does not. 2: the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5 scipy==1.17.1 scikit-learn==1.8.0 pandas==3.0.6 \
    tqdm==4.70.1 || exit 2
# The package asks for torch 2.1 and numpy 1, and for packages that nothing here calls.
"$work/venv/bin/pip" install --quiet --no-deps opendataval==1.3.0 || exit 2
cat > "$work/earlier.py" <<'PY'
import contextlib
import gc
import io
import sys
import warnings
from importlib.metadata import version
from unittest.mock import MagicMock

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

# opendataval imports these for text, pictures, downloads, plots and LAVA; nothing here calls them.
for name in ("geomloss", "matplotlib", "matplotlib.axes", "mpl_toolkits", "mpl_toolkits.axes_grid1", "typer"):
    sys.modules[name] = MagicMock()
for name in ("mpl_toolkits.axes_grid1.axes_divider", "pandera", "PIL", "requests", "transformers"):
    sys.modules[name] = MagicMock()
for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"):
    sys.modules[name] = MagicMock()
from opendataval.dataval import DataShapley
from opendataval.dataval.margcontrib import GrTMCSampler
from opendataval.metrics import accuracy
from opendataval.model import Model

torch.set_num_threads(1)
SETS, COUNT, WRONG, ROUNDS = 80, 30, 4, 7
digits = load_digits()
pictures = torch.from_numpy(digits.data / 16).float()[np.isin(digits.target, (3, 8))]
eights = torch.from_numpy(digits.target[np.isin(digits.target, (3, 8))] == 8)


class NearestCentre(Model):
    """Two classes, each with the mean of its samples as its centre."""

    def clone(self):
        return NearestCentre()

    def fit(self, samples, labels, *_, **__):
        samples = torch.stack([samples[i] for i in range(len(samples))])
        labels = torch.stack([labels[i] for i in range(len(labels))])
        self.centres = torch.stack([samples[labels[:, c] == 1].mean(0).nan_to_num(100) for c in (0, 1)])
        return self

    def predict(self, samples):
        return -torch.cdist(samples, self.centres)


def a_set(seed):
    """Training samples and labels, validation samples and labels (one-hot), and which training labels are wrong."""
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(pictures)))
    labels = torch.stack([~eights[order], eights[order]], dim=1).float()
    wrong = np.zeros(COUNT, dtype=bool)
    wrong[:WRONG] = True
    wrong = np.random.RandomState(seed).permutation(wrong)
    labels[:COUNT][wrong] = labels[:COUNT][wrong].flip(1)
    samples = pictures[order]
    return samples[:COUNT], labels[:COUNT], samples[COUNT:], labels[COUNT:], wrong


def by_library(seed, **options):
    *data, wrong = a_set(seed)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")  # a warning would end the script: there is none
        evaluator = DataShapley(max_mc_epochs=1, models_per_epoch=ROUNDS, random_state=seed, **options)
        evaluator.input_model_metric(NearestCentre(), accuracy).input_data(*data)
        return evaluator.train_data_values().evaluate_data_values(), wrong


def by_hand(seed):
    """Mean change of the accuracy when a sample joins those before it in a random order, from the sixth on."""
    samples, labels, tests, truth, wrong = (np.asarray(part) for part in a_set(seed))
    generator, values = np.random.RandomState(seed), np.zeros(COUNT)
    for _ in range(ROUNDS):
        order, before = generator.permutation(COUNT), None
        for size in range(5, COUNT + 1):
            part = order[:size]
            centres = [samples[part][labels[part, c] == 1] for c in (0, 1)]
            far = [((tests - (mine.mean(0) if len(mine) else 100)) ** 2).sum(1) for mine in centres]
            now = (np.argmin(far, axis=0) == truth.argmax(1)).mean()
            if before is not None:
                values[order[size - 1]] += (now - before) / ROUNDS
            before = now
    return values, wrong


def loop(value, collect=False):
    """Which sets got the values of an earlier one, to the last bit, and the AUROC of low values for wrong labels."""
    GrTMCSampler.CACHE.clear()
    found, old, scores = [], [], []
    for seed in range(SETS):
        values, wrong = value(seed)
        old.append(any(np.array_equal(values, one) for one in found))
        scores.append(roc_auc_score(wrong, -values))
        found.append(values)
        if collect:
            gc.collect()
    old, scores = np.array(old), np.array(scores)
    return int(old.sum()), scores[old].mean() if old.any() else None, scores[~old].mean()


print(f"opendataval {version('opendataval')}, torch {torch.__version__}")
print(f"{'80 sets in a loop':38}{'earlier values':>15}{'AUROC of these':>16}{'of the others':>15}")
rows = {
    "library, gc.collect() after each": loop(by_library, collect=True),
    "library, cache_name=None": loop(lambda seed: by_library(seed, cache_name=None)),
    "by hand": loop(by_hand),
}
for name, (old, bad, good) in rows.items():
    print(f"{name:38}{old:15}{'' if bad is None else f'{bad:.2f}':>16}{good:15.2f}")
old, bad, good = rows["library, gc.collect() after each"]
described = old >= 3 and bad < 0.75 and good > 0.75 and rows["by hand"][2] > 0.75
described = described and rows["library, cache_name=None"][0] == 0 and rows["by hand"][0] == 0
sys.exit(0 if described else 1)
PY
"$work/venv/bin/python" "$work/earlier.py"
