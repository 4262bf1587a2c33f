"""``benchbd export-poison MATRIX --attack A --to DIR``: write a poisoned set for other programs."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import add_matrix_arguments, load_plan, output_folder, refuse_empty, write
from benchbd.errors import UsageError, counted, did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchbd.core.events import Event
    from benchbd.plan.cell import Cell
    from benchbd.plan.matrix import Plan
    from benchbd.plugins.part import Part

FORMATS = ("backdoor-toolbox", "npz", "imagefolder", "hf")
EPILOG = """\
  benchbd export-poison quickstart --attack blend --seed 0 --to blend --format backdoor-toolbox
  benchbd export-poison table2 --attack bn-g --dataset cifar10 --seed 0 --to bn-g --format imagefolder
  benchbd export-poison quickstart --attack blend --seed 0 --to blend-hf --format hf      for datasets.load_dataset

DIR gets the poisoned training set, the triggered and the clean test images, masks and true labels. docs/importing.md
describes the formats. benchbd import reads them again.
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "export-poison",
        help="write an attack's poisoned set as files for other programs",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_matrix_arguments(parser, one_off=False)
    parser.add_argument(
        "--attack", metavar="A", required=True, help="an attack of the matrix: name, or name with parameters"
    )
    parser.add_argument("--dataset", metavar="D", help="a data set of the matrix, if it has several")
    parser.add_argument("--seed", metavar="S", type=int, help="a seed of the matrix, if it has several")
    parser.add_argument("--to", metavar="DIR", required=True, help="new folder to write")
    parser.add_argument("--format", metavar="F", required=True, help=f"one of {', '.join(FORMATS)}")
    parser.add_argument("--device", metavar="NAME", default="auto", help="device that trains triggers (default: auto)")
    parser.set_defaults(run=run)


def _warned(event: Event) -> None:
    if event.get("event") == "warning":
        sys.stderr.write(f"{event.get('warning', '')}\n")


def run(args: argparse.Namespace) -> int:
    """Make the poison, or take it from the store, and write it."""
    from benchbd.core.devices import compute_device
    from benchbd.core.paths import data_folder, user_path
    from benchbd.engine.threads import cpu_threads
    from benchbd.exchange import formats
    from benchbd.exchange.outgoing import poisoned_set
    from benchbd.pipeline.poison import Poisoner
    from benchbd.storage.artifacts import Store

    refuse_empty(args, "attack", "dataset")
    if args.format not in formats.WRITTEN:
        raise UsageError(f"--format {shown(args.format)}: not a format{did_you_mean(args.format, formats.WRITTEN)}")
    if args.format == "hf":
        from benchbd.core.extras import require_extra

        require_extra("parquet", "--format hf")
    folder = user_path(args.to, "--to")
    formats.check_new(folder)
    device = compute_device(args.device, "--device")
    cell = chosen_cell(load_plan(args), args)
    store = Store(output_folder(args) / "store", write)
    poisoner = Poisoner(cell, cell.components(), store, device, _warned, data_folder(args.data))
    with cpu_threads(cell.threads, device):
        given = poisoned_set(poisoner)
    formats.write(given, folder, args.format)
    shown_count = 0 if given.triggered is None else len(given.triggered.images)
    write(
        f"{folder}: {counted(len(given.images), 'training image')}, {int(given.poison.sum())} poisoned, "
        f"{counted(int(given.cover.sum()), 'cover')}, {counted(shown_count, 'triggered test image')}, "
        f"of {cell.attack.text} on {cell.dataset.text}, seed {cell.seed}"
    )
    return 0


def _meant(kind: str, wanted: str) -> Callable[[Part], bool]:
    """Whether the text is a component's name, its name with parameters, or a spelling of them that a matrix takes."""
    from benchbd.plugins import registry
    from benchbd.plugins.spec import parse_spec

    name, given = wanted, dict[str, Any]()
    with contextlib.suppress(UsageError):  # the text names nothing, which the caller says
        name, given = parse_spec(wanted, kind)
        name = registry.canonical_name(f"{kind}s", name)

    def spelled(part: Part) -> bool:
        known = part.params
        return name == part.name and all(key in known and known[key] == value for key, value in given.items())

    return lambda part: wanted in (part.text, part.name) or spelled(part)


def chosen_cell(plan: Plan, args: argparse.Namespace) -> Cell:
    """A cell of the one row that the arguments leave. Raises UsageError if they leave none or several."""
    from benchbd.plugins import registry

    cells = list(plan.cells)
    for kind, wanted in (("attack", args.attack), ("dataset", args.dataset)):
        if wanted is None:
            continue
        word, wanted = wanted, registry.canonical_name(f"{kind}s", wanted)
        meant, parts = _meant(kind, wanted), [getattr(cell, kind) for cell in cells]
        cells = [cell for cell, part in zip(cells, parts, strict=True) if meant(part)]
        if not cells:
            known = [name for part in parts for name in (part.name, part.text)]
            raise UsageError(f"--{kind} {shown(word)}: not in the matrix{did_you_mean(word, known)}")
    if args.seed is not None:
        seeds = sorted({cell.seed for cell in cells})
        cells = [cell for cell in cells if cell.seed == args.seed]
        if not cells:
            raise UsageError(f"--seed {args.seed}: not in the matrix, which has {', '.join(map(str, seeds))}")
    for what, flag, texts in (
        ("attacks", "--attack", [cell.attack.text for cell in cells]),
        ("data sets", "--dataset", [cell.dataset.text for cell in cells]),
        ("seeds", "--seed", [str(cell.seed) for cell in cells]),
        ("models", "--filter model=", [cell.model.text for cell in cells]),
    ):
        if len(options := list(dict.fromkeys(texts))) > 1:
            raise UsageError(
                f"export-poison: there are {len(options)} {what} ({', '.join(options[:4])}); choose with {flag}"
            )
    return cells[0]
