"""The paper's claims about losses and features by model capacity (sections 3, 5.3 and 5.4; Figures 1, 2, 6 and 7)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from benchbd.report.labels import Variant
from benchbd.report.paper.evidence import Claim, Evidence, Finding, noted, number
from benchbd.report.probes import (
    SCORED_EPOCH,
    SMALLER,
    Curve,
    Points,
    curves,
    points,
    purity,
    without_clean_target,
)
from benchbd.report.wording import joined

Measure = Callable[[Curve], float | None]
"""A number of a curve at the scored epoch; None if the curve lacks it."""


class Match(NamedTuple):
    """Curves of the same training on a network and on its low-capacity counterpart."""

    large: Curve
    small: Curve


def matches(found: list[Curve], large: str) -> list[Match]:
    """Pair the curves of a network and of its small counterpart on the same data, attack, recipe and numerics."""

    def key(curve: Curve) -> tuple[Variant, str, str, Variant]:
        return (curve.scale.dataset, curve.scale.recipe, curve.scale.numerics, curve.attack)

    small = {key(c): c for c in found if c.scale.model.name == SMALLER[large]}
    return [Match(c, small[key(c)]) for c in found if c.scale.model.name == large and key(c) in small]


def gap(curve: Curve, epoch: int = SCORED_EPOCH) -> float | None:
    """Clean minus poisoned mean loss at an epoch, or at the last one before it; None if there is none."""
    place = curve.at(epoch)
    return None if place is None else curve.clean[place] - curve.poison[place]


def target_gap(curve: Curve, epoch: int = SCORED_EPOCH) -> float | None:
    """The same gap from the clean samples with the target's label: what only the trigger explains."""
    place = curve.at(epoch)
    return None if place is None or not curve.clean_target else curve.clean_target[place] - curve.poison[place]


def _lower_loss(evidence: Evidence) -> list[Finding]:
    """On every attack, the poisoned mean loss is below the clean one at each probed epoch up to the scored one."""
    by_scale: dict[object, list[Curve]] = {}
    for curve in curves(evidence.groups):
        if curve.scale.model.name == "resnet18":
            by_scale.setdefault(curve.scale, []).append(curve)
    findings = []
    for found in by_scale.values():
        held, shown = [], []
        for curve in found:
            last = curve.at(SCORED_EPOCH)
            if last is None:
                continue
            against = [i for i in range(last + 1) if curve.poison[i] >= curve.clean[i]]
            held.append(not against)
            place = against[0] if against else last
            of_target = f"target's label {number(curve.clean_target[place])} " if curve.clean_target else ""
            shown.append(
                f"{evidence.labels(curve.attack)} clean {number(curve.clean[place])} {of_target}"
                f"poisoned {number(curve.poison[place])} at epoch {curve.epochs[place]}"
            )
        if held:
            shown.append(without_clean_target(found, evidence.labels))
            text = noted(joined(*shown), *(curve.measured for curve in found))
            findings.append(Finding(all(held), text, found[0].scale))
    return findings


def _wider_gap(evidence: Evidence, large: str) -> list[Finding]:
    """On every attack, the gap between clean and poisoned loss at the scored epoch is larger on the small network."""
    measures: dict[str, Measure] = {"loss gap": gap, "from the clean samples with the target's label": target_gap}
    return _over_matches(evidence, large, measures, lambda big, small: small > big)


def _fewer_above_mean(evidence: Evidence) -> list[Finding]:
    def over(curve: Curve, counts: Callable[[Curve], Sequence[float]]) -> float | None:
        place = curve.at(SCORED_EPOCH)
        value = math.nan if place is None or not counts(curve) else counts(curve)[place]
        return None if math.isnan(value) else value

    measures: dict[str, Measure] = {
        "poisoned above the clean mean": partial(over, counts=lambda curve: curve.over_count),
        "above that of the clean samples with the target's label": partial(
            over, counts=lambda curve: curve.over_target_count
        ),
    }
    return _over_matches(evidence, "resnet18", measures, lambda big, small: small < big)


def _over_matches(
    evidence: Evidence, large: str, measures: dict[str, Measure], rule: Callable[[float, float], bool]
) -> list[Finding]:
    """A finding for each scale. The first measure decides; the other is stated beside it where it was measured."""
    decisive = next(iter(measures.values()))
    by_scale: dict[object, list[Match]] = {}
    for match in matches(curves(evidence.groups), large):
        if _both(match, decisive):
            by_scale.setdefault(match.large.scale, []).append(match)
    findings = []
    for found in by_scale.values():
        texts = []
        for quantity, measure in measures.items():
            rows = [(m, *values) for m in found if (values := _both(m, measure))]
            shown = "; ".join(f"{evidence.labels(m.large.attack)} {number(b)} and {number(s)}" for m, b, s in rows)
            when = f" at epoch {SCORED_EPOCH} on {large} and {SMALLER[large]}" if measure is decisive else ""
            texts += [f"{quantity}{when}: {shown}"] if rows else []
        every = [curve for match in found for curve in match]
        texts.append(without_clean_target(every, evidence.labels))
        text = noted(joined(*texts), *(curve.measured for curve in every))
        held = all(rule(*values) for match in found if (values := _both(match, decisive)))
        findings.append(Finding(held, text, found[0].large.scale, large))
    return findings


def _both(match: Match, measure: Measure) -> tuple[float, float] | None:
    """A measure of the large and of the small network; None unless both have it."""
    big, small = measure(match.large), measure(match.small)
    return None if big is None or small is None else (big, small)


def _mixes_classes(evidence: Evidence) -> list[Finding]:
    """By neighbours in the t-SNE picture, ResNet-S mixes clean classes more, while poisoned samples stay together."""
    pictures = points(evidence.groups)

    def key(p: Points) -> tuple[Variant, str, str, Variant]:
        return (p.scale.dataset, p.scale.recipe, p.scale.numerics, p.attack)

    small = {key(p): p for p in pictures if p.scale.model.name == "resnet-s"}
    findings = []
    for picture in pictures:
        other = small.get(key(picture))
        if picture.scale.model.name == "resnet18" and other is not None:
            findings.append(_clusters(evidence, picture, other))
    return findings


def _clusters(evidence: Evidence, large: Points, small: Points) -> Finding:
    (clean_l, poison_l), (clean_s, poison_s) = purity(large), purity(small)
    text = (
        f"{evidence.labels(large.attack)}: like samples among 10 neighbours, clean {number(clean_l)} on resnet18 and "
        f"{number(clean_s)} on resnet-s, poisoned {number(poison_l)} and {number(poison_s)}"
    )
    text = noted(text, large.measured, small.measured)
    return Finding(clean_s < clean_l and poison_s > 0.5, text, large.scale)


def claims() -> list[Claim]:
    """The claims, in the order of the figures."""
    plot = "shown as a plot"
    all_claims = [
        Claim(
            "Figure 1",
            f"Poisoned samples have lower losses than clean ones early on (ResNet-18, to epoch {SCORED_EPOCH})",
            plot,
            _lower_loss,
        ),
        Claim(
            "Figure 1",
            "ResNet-S separates clean and poisoned losses more than ResNet-18",
            plot,
            partial(_wider_gap, large="resnet18"),
        ),
        Claim(
            "Figure 2",
            "Fewer poisoned samples lie above the clean mean loss on ResNet-S than on ResNet-18",
            plot,
            _fewer_above_mean,
        ),
    ]
    for large in ("vgg11", "lenet", "mobilenetv2"):
        text = f"{SMALLER[large]} separates clean and poisoned losses more than {large}"
        all_claims.append(Claim("Figure 6", text, plot, partial(_wider_gap, large=large)))
    text = (
        "At epoch 20, ResNet-S mixes clean classes that ResNet-18 separates; poison stays clustered (rule: over half)"
    )
    return [*all_claims, Claim("Figure 7", text, plot, _mixes_classes)]
