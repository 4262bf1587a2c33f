"""The answer to a reader's first question: which defense is best, how sure that is, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from benchbd.errors import agrees, counted
from benchbd.report.labels import Variant
from benchbd.report.overview import Line, Overview
from benchbd.report.ranking import Ranking
from benchbd.report.wording import TIMES, listed, percent

NAMED = 6
"""Defenses that a sentence lists; the rest are only counted."""


class Headline(NamedTuple):
    """The answer for one data set, model and recipe.

    Attributes:
        sentence: which defense is best, or why none can be called so.
        certainty: what the sentence rests on.
        leaders: the lines of the defenses that it names, best first.
        undefended: the line of no defense; None if there is none.
        by_asr: which defenses are significantly better by ASR alone than the first one by DER; empty if none is.
    """

    sentence: str
    certainty: str
    leaders: tuple[Line, ...]
    undefended: Line | None
    by_asr: str = ""


def headline(given: Overview) -> Headline:
    """Read the answer off the ranking of an overview."""
    undefended = next((line for line in given.lines if line.defense.name == "none"), None)
    ranking, measured = given.ranking, _measured(given)
    if not ranking.order:
        sentence, leaders = "No defense can be called best.", _highest(given)
        if leaders:
            highest = given.short(leaders[0].defense)
            sentence = f"{highest} has the highest mean DER, but no defense can be called best."
        return Headline(sentence, f"{given.refusal} {measured}".strip(), leaders, undefended)
    first, *others = ranking.order
    near = [other for other in others if set(ranking.groups[other]) & set(ranking.groups[first])]
    by_defense = {line.defense: line for line in given.lines}
    leaders = tuple(by_defense[defense] for defense in (first, *near))
    name = given.short(first)
    if near:
        names = _enumerated([given.short(other) for other in near])
        leads = "leads by" if _has_best_mean((first, *near), ranking) else "has the most significant wins by"
        verb = agrees(len(near), "is", "are")
        sentence = f"{name} {leads} {ranking.measure.upper()}; {names} {verb} not significantly different."
    elif all(ranking.duels[first, other].better == 1 for other in others):
        rivals = f"{'each of ' * (len(others) > 1)}{counted(len(others), 'other ranked defense')}"
        sentence = f"{name} is best: significantly better by {ranking.measure.upper()} than {rivals}."
    else:
        sentence = f"{name} leads by {ranking.measure.upper()}."
    by_asr = "" if ranking.measure == "asr" else _better_by_asr(leaders[0], by_defense, given)
    return Headline(sentence, f"{_tests(ranking)} {measured}".strip(), leaders, undefended, by_asr)


def _better_by_asr(first: Line, by_defense: Mapping[Variant, Line], given: Overview) -> str:
    """The defenses with a significantly lower ASR than the first by DER, and the CA of each; empty if there is none."""
    ranking = given.rankings["asr"]

    def accuracy(line: Line) -> str:
        return f"{given.ca.heading} {percent(line.ca.mean, 1)} %" if line.ca else "no CA"

    better = []
    for rival in ranking.order:
        duel = ranking.duels.get((rival, first.defense))
        if duel and duel.better == 1:
            lower = f"lower on {duel.wins} of {counted(duel.pairs, 'attack')}"
            better.append(f"{given.short(rival)} ({lower}, {accuracy(by_defense[rival])})")
    if not better:
        return ""
    verb = "are" if len(better) > 1 else "is"
    named = f"{given.short(first.defense)} ({accuracy(first)})"
    return f"By ASR alone, {_enumerated(better)} {verb} significantly better than {named}."


def _enumerated(names: list[str]) -> str:
    """``lfd``, ``lfd, dbd and abl``, or the first of very many and the number of the others."""
    if len(names) > NAMED:
        return listed(names, NAMED)
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _has_best_mean(leaders: tuple[Variant, ...], ranking: Ranking) -> bool:
    """Whether the first leader has the best mean, too. The order is by significant wins less losses."""
    sign = -1 if ranking.measure == "asr" else 1
    means = [sign * ranking.means[leader] for leader in leaders]
    return means[0] == max(means)


def facts(answer: Headline, given: Overview) -> list[str]:
    """The numbers behind a headline and what it rests on, a line each, for media without a layout of their own."""
    lines = [*answer.leaders[:NAMED], *([answer.undefended] if answer.leaders and answer.undefended else [])]
    found = [f"{line.name}: {_numbers(line, given)}" for line in lines]
    found += [answer.by_asr] if answer.by_asr else []
    words = "DER weighs the ASR that a defense takes away against the CA that it costs." * ("DER" in answer.sentence)
    return [*found, *([rest] if (rest := f"{words} {answer.certainty}".strip()) else [])]


def _numbers(line: Line, given: Overview) -> str:
    """CA, ASR with the worst attack, DER and cost of a defense, in words."""
    rates = ((given.ca.heading, line.ca), (given.asr.heading, line.asr), ("DER", line.der))
    parts = {heading: f"{heading} {percent(rate.mean, 1)} %" for heading, rate in rates if rate}
    if line.worst and given.asr.heading in parts:
        parts[given.asr.heading] += f" (worst: {percent(line.worst.asr, 1)} %, {given.short(line.worst.attack)})"
    cost = f"{line.cost:.2f} {TIMES} the time of no defense" if line.cost is not None else "time unknown"
    return ", ".join([*parts.values(), *([cost] if line.defense.name != "none" else [])])


def _highest(given: Overview) -> tuple[Line, ...]:
    """The line with the highest mean DER, if two or more defenses have one over the same attacks."""
    lines = [line for line in given.lines if line.comparable and line.der is not None]
    if len(lines) < 2:
        return ()
    return (max(lines, key=lambda line: line.der.mean if line.der else 0.0),)


def _tests(ranking: Ranking) -> str:
    """How defenses were compared."""
    few, many = ranking.pairs or (0, 0)
    over = counted(many, "attack") if few == many else f"{few} to {many} attacks"
    return (
        f"{counted(len(ranking.order), 'defense')} compared over {over} by Wilcoxon's signed-rank test at 5 %, with "
        "Holm's correction."
    )


def _measured(given: Overview) -> str:
    """How many seeds the numbers rest on."""
    if not given.usual_seeds:
        return ""
    where = "in most cells" if given.seeds_differ(given.ca, given.asr) else "a cell"
    return f"{counted(given.usual_seeds, 'seed')} {where}."
