"""``benchbd preview ATTACK --dataset D -o out.png``: draws the effect of an attack on images."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import (
    add_numerics,
    add_output,
    add_plugin_files,
    add_plugins,
    output_folder,
    refuse_empty,
    write,
)
from benchbd.errors import Diverged, Impossible, UsageError, agrees, counted, one_line

if TYPE_CHECKING:
    from benchbd.core.events import Event, Listener


EPILOG = """\
  benchbd preview blend --dataset cifar10 -o blend.png
  benchbd preview tj-sq --dataset cifar10 --precision fp32     the trigger of run --precision fp32
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "preview",
        help="draw clean and poisoned images, their difference and its norms",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "attacks",
        metavar="ATTACK",
        nargs="*",
        help="an attack's name or spec, such as blend or \"tj-sq(mode='random')\"; may be several",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="all attacks that apply to the data set, on one sheet; an attack also named uses its given parameters",
    )
    parser.add_argument(
        "--dataset",
        metavar="D",
        default="digits",
        help='data set or its spec, such as "cifar10(train=2000)" (default: digits)',
    )
    parser.add_argument(
        "-o", "--out", metavar="FILE", default="preview.png", help="image to write (default: preview.png)"
    )
    parser.add_argument(
        "--images",
        metavar="N",
        type=int,
        default=None,
        help="images per attack (default: 4; 2 for several attacks)",
    )
    parser.add_argument(
        "--amplify", metavar="X", type=float, default=4.0, help="factor by which differences are amplified (default: 4)"
    )
    parser.add_argument(
        "--model",
        metavar="M",
        default="resnet18",
        help="model of the surrogate, if an attack trains one (default: resnet18)",
    )
    parser.add_argument(
        "--epochs", metavar="N", type=int, default=None, help="epochs of surrogates (default: the recipe's 80)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the selection of poisoned images (default: 0)")
    parser.add_argument(
        "--data", metavar="DIR", help="folder of the data sets (default: $BENCHBD_DATA, then the user's cache)"
    )
    parser.add_argument("--device", default="auto", help="where surrogates and generators are trained (default: auto)")
    add_numerics(parser, default="that of a run")
    add_output(parser)
    add_plugins(parser)
    parser.set_defaults(run=run)


def _wanted(given: list[str], everything: bool, root: str | None) -> list[str]:
    """The specs to draw, in order. An attack that needs a file which is not in ``root`` must be named."""
    from benchbd.plugins import registry
    from benchbd.plugins.spec import parse_spec

    if not given and not everything:
        raise UsageError("preview: name an attack or use --all")
    named = {}
    for text in given:
        word, _ = parse_spec(text, "attack")
        name = registry.canonical_name("attacks", word)
        registry.find("attacks", name)
        named[name] = name + text.strip().removeprefix(word)
    if not everything:
        return [*named.values()]
    known = [e.name for e in registry.entries("attacks") if not e.error and e.name != "none"]
    return [
        named.get(name, name) for name in known if name in named or not registry.make("attacks", name).missing(root)
    ]


def _progress_writer() -> Listener:
    """A listener that writes events to standard error, without repeating a line."""
    from benchbd.core.events import terminal_line

    last = ""

    def write_event(event: Event) -> None:
        nonlocal last
        line = one_line(terminal_line(event))
        if line and line != last:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
            last = line

    return write_event


def run(args: argparse.Namespace) -> int:
    """Draw the sheet. With ``--all``, an attack that does not apply to this data set is skipped."""
    from benchbd.core.paths import data_folder, user_path

    refuse_empty(args, "precision")
    path = user_path(args.out, "--out")
    add_plugin_files(args)
    root = data_folder(args.data)
    specs = _wanted(args.attacks, args.all, root)
    count = args.images if args.images is not None else 4 if len(specs) == 1 else 2
    if count < 1 or not args.amplify > 0:
        raise UsageError("preview: --images must be 1 or more, --amplify above 0")

    from benchbd.core.devices import compute_device
    from benchbd.core.numerics import Numerics
    from benchbd.core.recipe import Recipe
    from benchbd.engine.threads import cpu_threads
    from benchbd.pipeline.preview import Shown, check_picture, draw_sheet, poisoner_for, show

    check_picture(path)

    recipe = Recipe() if args.epochs is None else Recipe(epochs=args.epochs)
    settings: dict[str, Any] = {
        "seed": args.seed,
        "store": output_folder(args) / "store",
        "device": compute_device(args.device, "--device"),
        "root": root,
        "on_event": _progress_writer(),
        "numerics": Numerics.parse({"precision": args.precision, "threads": args.threads}, "--"),
    }
    skipped: list[str] = []

    def skip(attack: str, error: Impossible | Diverged) -> None:
        if not args.all:
            raise error
        skipped.append(attack)
        sys.stderr.write(f"{attack} skipped: {one_line(error)}\n")
        if len(skipped) == len(specs):
            raise type(error)(f"preview: no attack can be drawn on {args.dataset}; last reason: {error}")

    # Check all attacks before training anything: a mistake in the last one must not cost an hour.
    poisoners = []
    for spec in specs:
        try:
            poisoners.append(poisoner_for(spec, args.dataset, args.model, recipe, **settings))
        except Impossible as error:
            skip(spec, error)
    if slow := [made.cell.attack.text for made in poisoners if made.components.attack.trainings()]:
        size = f"{args.model}, {counted(recipe.epochs, 'epoch')}"
        sys.stderr.write(
            f"{', '.join(slow)} {agrees(len(slow), 'trains its trigger', 'train their triggers')} first, unless stored "
            f"(surrogates: {size}; --model and --epochs choose smaller ones)\n"
        )
        sys.stderr.flush()
    shown: list[Shown] = []
    for poisoner in poisoners:
        try:
            with cpu_threads(poisoner.cell.threads, poisoner.device):
                shown.append(show(poisoner, count))
        except (Impossible, Diverged) as error:
            skip(poisoner.cell.attack.text, error)
    draw_sheet(
        shown,
        path,
        gain=args.amplify,
        across=min(count, 2),
        title=f"{args.dataset}: clean, poisoned, difference x{args.amplify:g}",
    )
    write(str(path))
    return 0
