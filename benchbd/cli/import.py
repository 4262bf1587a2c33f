"""``benchbd import FOLDER --format F --to FILE``: turn a poisoned set of another program into a file of ours."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import add_plugin_files, add_plugins, refuse_empty, refuse_to_overwrite, write
from benchbd.errors import UsageError, counted, shown

if TYPE_CHECKING:
    from benchbd.exchange.found_set import CleanData

FORMATS = ("backdoor-toolbox", "backdoorbench", "nab", "npz", "madrylab", "csv", "hf")
EPILOG = """\
  benchbd import cifar10/badnet_0.100_poison_seed=0 --format backdoor-toolbox --dataset cifar10 --to data/badnet.npz
  benchbd import record/my_run --format backdoorbench --dataset cifar10 --to data/run.npz

With the file in the data folder (--data), a matrix says attacks: ["imported(file='badnet.npz')"]. Nothing in FOLDER is
unpickled. docs/importing.md describes the formats and the file.
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "import",
        help="turn a poisoned set of another program into an attack",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", metavar="FOLDER", help="what the other program wrote; for npz and hf also the file itself"
    )
    parser.add_argument("--format", metavar="F", required=True, help=f"one of {', '.join(FORMATS)}")
    parser.add_argument("--to", metavar="FILE", required=True, help="file to write, such as data/poison.npz")
    text = "data set that the set was made from, which adds true labels, originals and test images and checks the rest"
    parser.add_argument("--dataset", metavar="D", help=text)
    parser.add_argument(
        "--target", metavar="T", type=int, help="number of the target class, where the files do not say it"
    )
    text = "round images that are not whole numbers of 1/255; the file says by how much"
    parser.add_argument("--round", action="store_true", help=text)
    text = (
        "what changed samples with their true label are: poison or cover (backdoorbench; default: by the attack's name)"
    )
    parser.add_argument("--same-label", metavar="WHAT", help=text)
    parser.add_argument("--size", metavar="S", type=int, help="pixels of photos (csv; default: 32)")
    parser.add_argument(
        "--data", metavar="DIR", help="folder of the data sets (default: $BENCHBD_DATA, then the user's cache)"
    )
    add_plugins(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the file and say what is in it."""
    from benchbd.core.paths import user_path
    from benchbd.core.poisoned_set_file import write_set
    from benchbd.exchange import formats
    from benchbd.exchange.found_set import Wishes

    refuse_empty(args, "dataset", "same_label")
    if args.format not in formats.READ:
        raise UsageError(f"--format {shown(args.format)}: not a format{_hint(args.format)}")
    if args.same_label not in (None, "poison", "cover"):
        raise UsageError(f"--same-label {shown(args.same_label)}: must be poison or cover")
    for flag, value, own in (("--same-label", args.same_label, "backdoorbench"), ("--size", args.size, "csv")):
        if value is not None and args.format != own:
            raise UsageError(f"{flag} is for --format {own} only; leave it out")
    add_plugin_files(args)
    place, target = user_path(args.folder, "import"), user_path(args.to, "--to")
    refuse_to_overwrite(target, "--to", args.folder, *_read_inside(place, target))
    formats.check_layout(place, args.format)  # before --dataset is read, which may take minutes
    size = Wishes().size if args.size is None else args.size
    wishes = Wishes(_clean(args), args.target, args.round, args.same_label, size)
    given = formats.read(place, args.format, wishes)
    facts = write_set(given, target)
    write(
        f"{target}: {counted(facts.train, 'training image')} of {facts.size} pixels, {facts.poison} poisoned, "
        f"{counted(facts.cover, 'cover')}, {facts.triggered} triggered and {counted(facts.test, 'clean test image')}; "
        f"{facts.source['rounding']}"
    )
    if given.triggered is not None and (given.triggered.targets == given.triggered.true_labels).all():
        sys.stderr.write("warning: all triggered test images are of the target class, so cells have no ASR and no RA\n")
    if not facts.triggered:
        write("there are no triggered test images, so cells have CA and detection but no ASR and RA")
    if not facts.test:
        write("there are no clean test images: name the data set in the matrix, or import with --dataset")
    return 0


def _read_inside(folder: Path, target: Path) -> tuple[str, ...]:
    """The target, if it lies in the folder to import and is not the file of an earlier import."""
    from benchbd.core.poisoned_set_file import PoisonedSetFile

    if folder.resolve() in target.resolve().parents and target.is_file():
        try:
            PoisonedSetFile(target)
        except UsageError:
            return (str(target),)
    return ()


def _hint(name: str) -> str:
    """What to give instead of an unknown format, as the end of its message."""
    from benchbd.errors import did_you_mean
    from benchbd.exchange import formats

    if name.lower().replace("-", "") in ("imagefolder", "folder"):
        return "; folders of images are imported with --format csv, from a labels.csv (docs/importing.md shows one)"
    if name.lower() in ("parquet", "huggingface", "datasets"):
        return "; Parquet files are imported with --format hf"
    if name.lower() in ("torch", "pt", "pth", "pickle", "pkl", "cifar", "cifar10", "npy", "numpy", "python"):
        return "; docs/importing.md shows how arrays of Python become a file for --format npz"
    return did_you_mean(name, formats.READ)


def _clean(args: argparse.Namespace) -> CleanData | None:
    """The data set of ``--dataset``, read."""
    if args.dataset is None:
        return None
    from benchbd.core.paths import data_folder
    from benchbd.core.poisoned_set import CleanTest
    from benchbd.exchange.found_set import CleanData
    from benchbd.plugins import registry
    from benchbd.plugins.identity import part_of

    dataset: Any = registry.make("datasets", args.dataset)
    root = data_folder(args.data)
    train, test = dataset.load("train", root), dataset.load("test", root)
    return CleanData(
        part_of(dataset).text,
        train.images.numpy(),
        train.labels.numpy(),
        CleanTest(test.images.numpy(), test.labels.numpy()),
        dataset.info().classes,
        tuple(dataset.class_names),
    )
