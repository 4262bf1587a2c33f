"""One training engine for every model: data on the device, batched augmentation, no synchronisation in the loop."""

from __future__ import annotations

from benchbd.core.seeding import seed_for
from benchbd.engine.fit import Checkpoint, Fit, fit
from benchbd.engine.network import Classifier, build
from benchbd.engine.passes import features_of, logits_of, losses_of
from benchbd.engine.precision import Precision, choose_precision
from benchbd.engine.reweigh import Reweigh, Weigh
from benchbd.engine.routine import Routine, Run, fit_by
from benchbd.engine.step import Loss, Perturb, weighted_mean

__all__ = [
    "Checkpoint",
    "Classifier",
    "Fit",
    "Loss",
    "Perturb",
    "Precision",
    "Reweigh",
    "Routine",
    "Run",
    "Weigh",
    "build",
    "choose_precision",
    "features_of",
    "fit",
    "fit_by",
    "logits_of",
    "losses_of",
    "seed_for",
    "weighted_mean",
]
