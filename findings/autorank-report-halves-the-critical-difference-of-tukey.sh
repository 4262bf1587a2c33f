#!/usr/bin/env bash
# autorank 1.3.0: the report after Tukey's HSD calls two methods different at half the critical difference of the test.
#
# For a table with more than two normal columns of equal variance, autorank runs a repeated measures ANOVA and Tukey's HSD.
# The report says which methods differ, and that they do if their confidence intervals do not overlap. Each interval reaches
# half of the critical difference to both sides, so two of them part at the whole of it. The report compares the means with
# the reach of one interval instead: pairs more than half the critical difference apart are called significant, against the
# intervals of the same result and against its own text. Of tables with four equal defenses and a better one, two in five get
# a significant difference between equal ones; the test has at most one in twenty. alpha does not reach the intervals either:
# at 1 % they are those of 5 %. There is no error and no warning. The Nemenyi branch, for columns that are not normal, has its
# critical distance from elsewhere.
#
# Seen with autorank 1.3.0, statsmodels 0.15.0, scipy 1.17.1, Python 3.11 (output of this script; 20 rows and five columns of
# normal noise around the means; pairs of columns that differ significantly, by the printed report, by the intervals in the
# result, by scipy and by the studentized range and the mean variance; by means of 90, 90, 90, 90 and 93 in the last part):
#   autorank 1.3.0, statsmodels 0.15.0, scipy 1.17.1
#   one table, 10 pairs of methods             5%    1%
#     significant, autorank's report             8     8
#     significant, autorank's intervals          5     5
#     significant, scipy.stats.tukey_hsd         5     2
#     significant, by hand                       5     2
#     critical difference, by hand            1.91  2.30
#     smallest that the report calls so       1.49  1.49
#   four equal methods and a better one, 26 tables: two of the four differ significantly
#     autorank's report                         11 tables
#     autorank's intervals                       1 tables
#     scipy.stats.tukey_hsd                      1 tables
#     by hand                                    1 tables
#     report is Tukey with half the difference  25 tables, the other three agree 26
# Source: autorank/_util.py, get_sorted_rank_groups: without a cd, critical_difference is half the length of an interval, which
# rank_multiple_normal_homoscedastic has built as mean +- halfwidths of statsmodels' plot_simultaneous (intervals made to be
# compared with each other); it calls tukeyhsd() without alpha. The docstring of plot_stats promises intervals for the family
# wise significance alpha. A search for threads on it in the tracker found none (November 2026); issue 41
# (https://github.com/sherbold/autorank/issues/41) is about the wording of the same paragraph. Way out: compare ci_lower and
# ci_upper of result.rankdf at 5 %, or call scipy.stats.tukey_hsd.
#
# Exit code 0: autorank behaves as described. 1: it does not. 2: the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install --quiet autorank==1.3.0 baycomp==1.0.3 statsmodels==0.15.0 scipy==1.17.1 numpy==2.3.5 \
    pandas==3.1.1 matplotlib==3.11.2 || exit 2
cat > "$work/groups.py" <<'PY'
import contextlib
import io
import itertools
import re
import sys
import warnings
from importlib.metadata import version

import matplotlib

matplotlib.use("Agg")
import numpy as np
import pandas as pd
from autorank import autorank, create_report
from scipy import stats

warnings.simplefilter("error")  # a warning would end the script: there is none
METHODS = ["none", "prune", "tune", "split", "best"]
PAIRS = list(itertools.combinations(METHODS, 2))
EQUAL = list(itertools.combinations(METHODS[:4], 2))


def table(seed, means, deviation):
    """Accuracies: one row for each of 20 pairs of attack and seed, one column for each method."""
    noise = np.random.default_rng(seed).normal(0, deviation, (20, len(METHODS)))
    return pd.DataFrame(noise + np.array(means), columns=METHODS)


def report(data, alpha=0.05):
    """The result and the pairs that the printed report calls significantly different."""
    with contextlib.redirect_stdout(io.StringIO()):
        result = autorank(data, alpha=alpha)
    with contextlib.redirect_stdout(io.StringIO()) as text:
        create_report(result)
    if result.posthoc != "tukeyhsd" or result.pvalue >= alpha:
        return result, None
    found = re.search(r"within the following groups: (.*)\. All other differences", text.getvalue())
    groups = [set(re.split(r", and | and |, ", group)) for group in found.group(1).split("; ")] if found else []
    return result, {pair for pair in PAIRS if not any(set(pair) <= group for group in groups)}


def by_hand(data, alpha=0.05, share=1.0):
    """Tukey's critical difference of two means, and the pairs beyond this share of it."""
    rows, columns = data.shape
    error = float(data.var(ddof=1).mean())
    critical = stats.studentized_range.ppf(1 - alpha, columns, columns * (rows - 1)) * np.sqrt(error / rows)
    means = data.mean()
    return critical, {(a, b) for a, b in PAIRS if abs(means[a] - means[b]) > share * critical}


def by_scipy(data, alpha=0.05):
    p = stats.tukey_hsd(*data.to_numpy().T).pvalue
    return {(a, b) for a, b in PAIRS if p[METHODS.index(a), METHODS.index(b)] < alpha}


def by_overlap(result):
    """The pairs whose confidence intervals, as autorank returns them, do not overlap."""
    low, high = result.rankdf["ci_lower"], result.rankdf["ci_upper"]
    return {(a, b) for a, b in PAIRS if low[a] > high[b] or low[b] > high[a]}


print(f"autorank {version('autorank')}, statsmodels {version('statsmodels')}, scipy {version('scipy')}")
data = table(3, [90, 90, 91, 92, 94], 2)
means = data.mean()
print(f"one table, {len(PAIRS)} pairs of methods             5%    1%")
results = {alpha: report(data, alpha) for alpha in (0.05, 0.01)}
shown = {
    "autorank's report": [pairs for _, pairs in results.values()],
    "autorank's intervals": [by_overlap(result) for result, _ in results.values()],
    "scipy.stats.tukey_hsd": [by_scipy(data, alpha) for alpha in results],
    "by hand": [by_hand(data, alpha)[1] for alpha in results],
}
for name, pairs in shown.items():
    print(f"  significant, {name:25}{len(pairs[0]):6}{len(pairs[1]):6}")
critical = [by_hand(data, alpha)[0] for alpha in results]
least = [min(abs(means[a] - means[b]) for a, b in pairs) for pairs in shown["autorank's report"]]
print(f"  critical difference, by hand          {critical[0]:6.2f}{critical[1]:6.2f}")
print(f"  smallest that the report calls so     {least[0]:6.2f}{least[1]:6.2f}")
reported, intervals, *right = shown.values()
described = right[0] == right[1] and right[0][0] > right[0][1] and intervals[0] == intervals[1] == right[0][0]
described = described and reported[0] == reported[1] > right[0][0] and least[0] < 0.8 * critical[0] < critical[1]
described = described and reported[0] == by_hand(data, share=0.5)[1]
counts, tables, halved, agree = [0, 0, 0, 0], 0, 0, 0
for seed in range(30):
    data = table(seed, [90, 90, 90, 90, 93], 1)
    result, pairs = report(data)
    if pairs is None:  # not normal, so Friedman's test and Nemenyi's
        continue
    checks = [pairs, by_overlap(result), by_scipy(data), by_hand(data)[1]]
    halved += pairs == by_hand(data, share=0.5)[1]
    agree += checks[1] == checks[2] == checks[3]
    counts = [count + any(pair in check for pair in EQUAL) for count, check in zip(counts, checks)]
    tables += 1
print(f"four equal methods and a better one, {tables} tables: two of the four differ significantly")
for name, count in zip(shown, counts):
    print(f"  {name:38}{count:6} tables")
print(f"  report is Tukey with half the difference{halved:4} tables, the other three agree {agree}")
described = described and tables > 20 and min(halved, agree) > 0.8 * tables
described = described and counts[0] > 0.25 * tables and max(counts[1:]) < 0.15 * tables
sys.exit(0 if described else 1)
PY
"$work/venv/bin/python" "$work/groups.py"
