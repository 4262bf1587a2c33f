"""The reference of matrix files: every key with its type, default, meaning and an example.

``benchbd describe matrix`` prints it, and ``tools/matrix_page.py`` makes docs/matrix.md from it.
"""

from __future__ import annotations

from typing import NamedTuple

from benchbd.errors import UsageError, did_you_mean, shown

TOP_LEVEL, BLOCKS, BOTH = "at the top", "in a block", "at the top or in a block"
"""Where a key may stand."""


class MatrixKey(NamedTuple):
    """One key of a matrix file.

    Attributes:
        name: the key.
        place: where it may stand: ``TOP_LEVEL``, ``BLOCKS`` or ``BOTH``. In a matrix without ``blocks``, the keys of a
            block stand at the top.
        type: its type as text.
        default: what holds without it, as text.
        meaning: what it does; code stands between backticks, as in Markdown.
        example: YAML that can be pasted into a matrix.
    """

    name: str
    place: str
    type: str
    default: str
    meaning: str
    example: str


KEYS = (
    MatrixKey(
        "name",
        TOP_LEVEL,
        "word of letters, digits, - _ . (at most 64)",
        "the file's name",
        "Title of tables and summaries. It is not part of a cell's identity.",
        "name: my-study",
    ),
    MatrixKey(
        "description",
        TOP_LEVEL,
        "text",
        "empty",
        "What the matrix is for. `benchbd list` shows the first line of shipped matrices.",
        "description: Three attacks at two poisoning rates.",
    ),
    MatrixKey(
        "dataset",
        BLOCKS,
        "component, or list of components",
        "required",
        "The data sets. `benchbd list datasets` shows their names.",
        "dataset: digits(train=600)",
    ),
    MatrixKey(
        "model",
        BLOCKS,
        "component, or list of components",
        "required",
        "The networks. `benchbd list models` shows their names.",
        "model: [lenet, resnet18(width=8)]",
    ),
    MatrixKey(
        "attacks",
        BLOCKS,
        "component, or list of components",
        "required",
        "The attacks. `none` leaves the training set unchanged: its row shows what a defense costs without an attack.",
        "attacks: [none, bn-g, blend(alpha=0.3)]",
    ),
    MatrixKey(
        "defenses",
        BLOCKS,
        "component, or list of components",
        "required",
        "The defenses. Include `none`: the undefended model shows whether an attack works at all (see `gate`).",
        "defenses:\n  - none\n  - ac\n  - lfd: {teachers: 1, beta: [0, 2]}",
    ),
    MatrixKey(
        "seeds",
        BOTH,
        "number, range such as 0-4, or list of these",
        "0",
        "Each cell runs once for each seed. A number is one seed: `seeds: 3` is seed number 3. A block's seeds replace "
        "those of the top; `--seeds` replaces both.",
        "seeds: [0, 1, 2]",
    ),
    MatrixKey(
        "recipe",
        BOTH,
        "name of a preset, or mapping of entries",
        "paper (80 epochs of Adam)",
        "Optimiser, schedule and augmentation of the trainings. A block's entries change those of the top; a block's "
        "preset replaces them. `benchbd describe recipe` shows the entries.",
        "recipe: {preset: fast, epochs: 4}",
    ),
    MatrixKey(
        "precision",
        BOTH,
        "auto, fp32 or bf16; on a GPU also strict, eager or compile, joined by hyphens",
        "auto",
        "Numbers and mode of a training step. It is part of a cell's identity; `--precision` replaces it.",
        "precision: fp32",
    ),
    MatrixKey(
        "threads",
        BOTH,
        "whole number of at least 1",
        "1",
        "CPU threads of a cell. It is part of a cell's identity, since sums depend on it; `--threads` replaces it.",
        "threads: 2",
    ),
    MatrixKey(
        "probe",
        BOTH,
        "mapping of entries",
        "off",
        "Facts that the evaluator records while networks train, unseen by the defense: of the undefended training, the "
        "losses of clean and poisoned samples by epoch (`losses`) and features for a t-SNE plot (`features`); of this "
        "training and of the one that makes the cell's model, CA, ASR and RA by epoch (`rates`). It is part of a "
        "cell's identity, but changes no other number. `benchbd describe probe` shows the entries.",
        "probe: {losses: false, rates: true}   # rates: 5 measures every fifth epoch and the last",
    ),
    MatrixKey(
        "gate",
        TOP_LEVEL,
        "number in [0, 1]",
        "0.5",
        "Lowest undefended ASR, as a fraction, at which an attack counts as implanted. Rows below it say nothing about "
        "defenses; tables mark them. It is not part of a cell's identity; `leaderboard --gate` replaces it.",
        "gate: 0.8",
    ),
    MatrixKey(
        "plugins",
        TOP_LEVEL,
        "file, or list of files",
        "none",
        "Python files with your own plugins, which are executed. A relative path is looked up beside the matrix first.",
        "plugins: [my_defense.py]",
    ),
    MatrixKey(
        "exclude",
        BOTH,
        "list of mappings",
        "none",
        "Cells that are skipped, with the reason. Each mapping names dataset, model, attack, defense or seed by a "
        "name, a glob or a list of these; a cell is excluded if all match. A rule that matches no cell is an error.",
        "exclude:\n  - {attack: bn-*, defense: ac, reason: needs a day}",
    ),
    MatrixKey(
        "blocks",
        TOP_LEVEL,
        "list of mappings",
        "one block: the keys at the top",
        "Each block is a product of data sets, models, attacks, defenses and seeds. Cells that several blocks name "
        "count once. With `blocks`, the keys `dataset`, `model`, `attacks` and `defenses` stand inside them.",
        "blocks:\n"
        "  - {dataset: digits, model: lenet, attacks: [none, bn-g], defenses: [none, ac]}\n"
        "  - {dataset: digits, model: resnet18(width=8), attacks: blend, defenses: none, seeds: 0-4}",
    ),
)
"""The keys of TOP and BLOCK in :mod:`benchbd.plan.matrix_file`."""

SUMMARY = (
    "A matrix is a YAML file that names experiments. Each block is the product of its data sets, models, attacks, "
    "defenses and seeds; each combination is a cell, which `benchbd run` trains and measures once."
)
COMPONENTS = (
    "A component is a name (`lfd`), a name with parameters (`lfd(beta=0)`), or a mapping (`{lfd: {beta: 0}}`). A "
    "list as the value of a parameter gives one component for each element: `{lfd: {beta: [0, 2]}}`. A parameter "
    "that is a list itself takes a list of lists for this. `benchbd describe lfd` shows the parameters of LfD.",
)
ALIASES = (
    "Usual names from papers and other toolboxes work too, and so do other spellings (`Fine_Pruning`, `ResNet-18`). A "
    "cell has the same identity under each. An alias that may mean several plugins is refused in a matrix, with their "
    "names; `benchbd describe badnets` shows them. Parameters that name a plugin, such as the `of` of `random-filter`, "
    "take its own name only.",
)
YAML = (
    "Files are plain YAML 1.2: `yes` and `1:30` are text, `1e-3` is a number. Aliases (`*name`), tags and duplicate "
    "keys are errors, and so are unknown keys. A key whose value is null counts as absent.",
)
EXAMPLE = """\
name: my-study
seeds: [0, 1]
recipe: {epochs: 6, batch_size: 32, augment: []}
blocks:
  - dataset: digits
    model: resnet18(width=8)
    attacks: [none, bn-g, {blend: {alpha: [0.1, 0.2]}}]
    defenses: [none, ac, {lfd: {teachers: 1}}, random-filter(of='ac')]
exclude:
  - {attack: none, defense: random-filter, reason: nothing to filter}
"""
"""A whole matrix."""


def matrix_key(name: str) -> MatrixKey:
    """The key of this name. Raises UsageError if there is none."""
    for key in KEYS:
        if key.name == name:
            return key
    raise UsageError(f"a matrix has no key {shown(name)}{did_you_mean(name, [key.name for key in KEYS])}")
