"""Activation clustering: split each class's features in two, drop the suspicious cluster, train on the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchbd import Attack, Defense, Diverged, Training, UsageError, defense
from benchbd.defenses._clusters import Analysis, Clusters, Reduction, Scope, Settings, cluster

if TYPE_CHECKING:
    import torch

    from benchbd import Lab, TrainedModel, TrainSet

PRESETS: dict[str, tuple[Scope, Reduction, Analysis]] = {
    "trojanzoo": ("predicted", "ica", "silhouette"),
    "per-class": ("label", "pca", "size"),
    "global": ("all", "ica", "size"),
}
"""Scope, reduction and analysis of each preset."""


@defense("ac", version=2)
class Ac(Defense):
    """Activation clustering (2018): split each class's features into two clusters, retrain without the suspicious ones.

    Sources: Chen et al. (2018); LfD section 5.1, which names the toolbox trojanzoo. ART and BackdoorBench drop the
    smaller cluster of every class instead, which takes up to half of a clean set. Cost: two trainings, one of them
    shared with ``spectral``.
    """

    preset: Literal["per-class", "trojanzoo", "global"] = "trojanzoo"
    """trojanzoo: FastICA of predicted classes, drop small clusters if the split is clear. per-class: PCA, drop each
    class's smaller cluster (ART, BackdoorBench). global: FastICA, one split of all samples, keep the larger part (LfD's
    text)."""
    scope: Literal["label", "predicted", "all"] | None = None
    """Samples to cluster together: those with the same label or prediction, or all of them. Default: the preset's."""
    reduce: Literal["pca", "ica", "none"] | None = None
    """Reduction before K-means. Default: the preset's."""
    dims: int = 10
    """Dimensions after the reduction."""
    features: Literal["pooled", "map"] = "pooled"
    """Features to cluster: the head's input, or the last feature map before pooling, flattened."""
    analysis: Literal["size", "relative-size", "silhouette", "distance"] | None = None
    """Clusters to drop: the smaller one; those below max_share; those below max_share if the split's silhouette exceeds
    min_silhouette; those nearer to another group's mean. Default: the preset's."""
    max_share: float = 0.35
    """relative-size, silhouette: share of its group below which a cluster is suspicious."""
    min_silhouette: float = 0.1
    """silhouette: value above which a split counts as clear."""

    def __post_init__(self) -> None:
        how = self.settings()
        if how.scope == "all" and how.analysis == "distance":
            raise UsageError("ac: analysis distance compares classes, so it needs scope label or predicted")
        if self.dims < 1 or not 0.0 < self.max_share <= 1.0 or not -1.0 <= self.min_silhouette <= 1.0:
            raise UsageError("ac: dims must be >= 1, max_share in (0, 1], min_silhouette in [-1, 1]")

    def settings(self) -> Settings:
        """The preset's settings, replaced by the parameters that are set."""
        scope, reduce, analysis = PRESETS[self.preset]
        return Settings(
            self.scope or scope,
            self.reduce or reduce,
            self.analysis or analysis,
            self.dims,
            self.max_share,
            self.min_silhouette,
        )

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """The feature model, which all variants share, and the training on the kept samples."""
        return (
            Training("feature-model", ("no augmentation",)),
            Training("full", ("ac", self.features, *self.settings())),
        )

    def train(self, lab: Lab) -> TrainedModel:
        """Train a feature model without augmentation, cluster, retrain from scratch on the kept samples.

        Raises:
            Diverged: no sample is kept.
        """
        how, data = self.settings(), lab.poisoned
        model = lab.train(data, kind="feature-model", name="feature model", augment=())
        labels = data.labels.numpy()
        groups = np.zeros_like(labels) if how.scope == "all" else labels
        if how.scope == "predicted":
            groups = lab.logits(model, data).argmax(1)
        pooled = lab.features(model, data) if self.features == "pooled" else None

        def compute() -> dict[str, np.ndarray]:
            features = flat_maps(lab, model, data) if pooled is None else pooled
            found = cluster(features, groups, how, lab.seed_for("ac") % 2**32)
            return {"removed": found.removed, "scores": found.scores, "groups": found.groups}

        inputs = {**how._asdict(), "features": self.features, "model": model.key, "data": data.key}
        found = Clusters(**lab.stage("clusters", inputs, compute))
        lab.note(
            "ac",
            {
                "kept_per_class": np.bincount(labels[~found.removed], minlength=lab.classes).tolist(),
                "removed_per_class": np.bincount(labels[found.removed], minlength=lab.classes).tolist(),
                "groups": [
                    {
                        "group": int(name),
                        "sizes": [int(one), int(other)],
                        "silhouette": None if np.isnan(silhouette) else float(silhouette),
                        "pca_instead_of_ica": bool(fell_back),
                    }
                    for name, one, other, silhouette, fell_back in found.groups
                ],
            },
        )
        lab.losses(model, data)  # for the record, which shows their means over clean and poisoned samples
        lab.suspect(found.scores, found.removed)
        if found.removed.all():
            raise Diverged("ac: every sample is in a suspicious cluster; none is left to train on")
        return lab.train(data.subset(np.flatnonzero(~found.removed)))


def flat_maps(lab: Lab, trained: TrainedModel, data: TrainSet) -> np.ndarray:
    """A network's last feature map (C, h, w) before pooling, flattened: float32 (N, C h w)."""
    import torch

    from benchbd.engine.precision import arithmetic

    seen: dict[str, torch.Tensor] = {}

    def keep(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[-1] > 1:
            seen["last"] = output

    net = trained.module().to(lab.device)
    hooks = [module.register_forward_hook(keep) for module in net.modules()]
    rows = []
    with arithmetic(lab.device, strict=False, search=False), torch.inference_mode():
        for start in range(0, len(data), 256):
            images = data.images[start : start + 256]
            net.features(images.to(lab.device).float() / 255)
            rows.append(seen.pop("last").flatten(1).float().cpu())
    for hook in hooks:
        hook.remove()
    maps: np.ndarray = torch.cat(rows).numpy()
    return maps
