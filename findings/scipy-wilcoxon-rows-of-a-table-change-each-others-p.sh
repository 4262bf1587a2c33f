#!/usr/bin/env bash
# scipy 1.17.1: a p-value of `scipy.stats.wilcoxon(table, axis=1)` depends on the other rows of the table.
#
# The usual call compares many pairs of defenses at once: one row for each pair, one column for each attack and seed. The
# default method="auto" promises the exact distribution for rows of up to 50 differences without zeros and ties. It looks
# for zeros and ties in the whole table though and takes one method for all rows. One zero difference or one tie in any row
# moves every row of 14 to 50 columns to the normal approximation, with no warning. Accuracies over a few thousand test
# images tie often, so a further defense in the comparison can turn another pair from significant to not significant.
# Rows of up to 13 columns are safe: there the fallback is a full permutation test, which agrees with the exact one.
#
# Seen with scipy 1.17.1, numpy 2.3.5, Python 3.11 (output of this script; the first row is the same in each line):
#   scipy 1.17.1, Holm's first threshold for ten defenses: 0.001111
#   counted over all sign patterns  p = 0.000366  significant
#   alone                           p = 0.000366  significant
#   with another row                p = 0.000366  significant
#   that row has one zero           p = 0.001523  not significant
#   that row has one tie            p = 0.001523  not significant
# Source: scipy/stats/_wilcoxon.py. _wilcoxon_iv counts zeros with axis=None, _wilcoxon_statistic reduces the ties of all
# rows to one truth value (has_ties), and _wilcoxon_nd chooses the method from these two. The documentation of `axis` says
# that each slice gives one element of the output; that of `method` speaks of one sample. Checked against all 2**14 sign
# patterns. It is not the known subtlety that rounding decides whether a sample has ties (see
# https://github.com/scipy/scipy/pull/26091): here all differences are integers. Way out: name the method, or call
# wilcoxon for each row.
#
# Exit code 0: scipy behaves as described. 1: it does not. 2: the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install --quiet scipy==1.17.1 numpy==2.3.5 || exit 2
cat > "$work/rows.py" <<'PY'
import itertools
import sys
import warnings

import numpy as np
import scipy
from scipy.stats import wilcoxon

warnings.simplefilter("error")  # a warning would end the script: there is none

# Differences between two defenses in correctly classified images, over 14 pairs of attack and seed.
pair = np.array([31, 12, -9, 57, 23, 88, 5, 40, 19, 64, 73, 15, 36, 27])
other = np.array([-8, 14, 3, -21, 44, 6, -17, 30, 11, -2, 25, -39, 10, 52])
with_zero = np.where(other == 3, 0, other)
with_tie = np.where(other == 3, 14, other)

# Exact by enumeration: the share of sign patterns at least as far from the centre of the rank sum.
ranks = np.abs(pair).argsort().argsort() + 1
signs = np.array(list(itertools.product((0, 1), repeat=len(pair))))
centre = ranks.sum() / 2
counted = (np.abs(signs @ ranks - centre) >= abs(ranks[pair > 0].sum() - centre)).mean()

alone = wilcoxon(pair).pvalue
beside = {
    "with another row": wilcoxon(np.stack([pair, other]), axis=1).pvalue[0],
    "that row has one zero": wilcoxon(np.stack([pair, with_zero]), axis=1).pvalue[0],
    "that row has one tie": wilcoxon(np.stack([pair, with_tie]), axis=1).pvalue[0],
}
columns = slice(0, 13)
few = [wilcoxon(pair[columns]).pvalue, wilcoxon(np.stack([pair[columns], with_zero[columns]]), axis=1).pvalue[0]]
holm = 0.05 / 45  # the first threshold of Holm's method for the 45 pairs of ten defenses

print(f"scipy {scipy.__version__}, Holm's first threshold for ten defenses: {holm:.6f}")
for name, p in {"counted over all sign patterns": counted, "alone": alone, **beside}.items():
    print(f"{name:31} p = {p:.6f}  {'significant' if p < holm else 'not significant'}")
same = np.isclose([alone, beside["with another row"]], counted, rtol=1e-9, atol=0).all()
moved = all(beside[f"that row has one {what}"] > 3 * counted for what in ("zero", "tie"))
flips = counted < 0.5 * holm and beside["that row has one zero"] > 1.2 * holm
sys.exit(0 if same and moved and flips and np.isclose(*few, rtol=1e-9) else 1)
PY
"$work/venv/bin/python" "$work/rows.py"
