"""The training engine of every model: data stays on the device, batches are augmented whole, the loop never waits."""

from __future__ import annotations

from benchbd import deprecated
from benchbd.core.seeding import seed_for
from benchbd.engine.epoch_weights import PerEpochWeights, WeightFunction
from benchbd.engine.epochs import Checkpoint, Fit
from benchbd.engine.fit import fit
from benchbd.engine.network import Classifier, build, trial_fault
from benchbd.engine.passes import features_of, logits_of, losses_of
from benchbd.engine.precision import Precision, choose_precision
from benchbd.engine.state_gap import state_gap
from benchbd.engine.step import Loss, Perturb, weighted_mean
from benchbd.engine.training_loop import LoopContext, TrainingLoop, fit_with_loop

__all__ = [
    "Checkpoint",
    "Classifier",
    "Fit",
    "LoopContext",
    "Loss",
    "PerEpochWeights",
    "Perturb",
    "Precision",
    "TrainingLoop",
    "WeightFunction",
    "build",
    "choose_precision",
    "features_of",
    "fit",
    "fit_with_loop",
    "logits_of",
    "losses_of",
    "seed_for",
    "state_gap",
    "trial_fault",
    "weighted_mean",
]

deprecated.old_names(
    __name__,
    Run="LoopContext",
    Routine="TrainingLoop",
    Reweigh="PerEpochWeights",
    Weigh="WeightFunction",
    fit_by="fit_with_loop",
)
deprecated.old_attributes(LoopContext, number="epoch", beside="extra_module")
deprecated.old_attributes(PerEpochWeights, judge="scorer", weigh="weight_fn")
deprecated.old_keywords(PerEpochWeights, judge="scorer", weigh="weight_fn")
