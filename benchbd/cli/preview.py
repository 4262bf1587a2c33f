"""``benchbd preview ATTACK --dataset D -o out.png``: what an attack does to images."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import (
    add_output,
    add_plugin_files,
    add_plugins,
    output_folder,
    write,
)
from benchbd.errors import Diverged, Impossible, UsageError, one_line

if TYPE_CHECKING:
    from benchbd.core.events import Event, Listener


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("preview", help="draw clean and poisoned images, their difference and its norms")
    parser.add_argument(
        "attacks",
        metavar="ATTACK",
        nargs="*",
        help="an attack's name or spec, such as blend or \"tj-sq(mode='random')\"; may be several",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="every attack that the data set allows, on one sheet; those also named take the parameters given there",
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
        help="images of each attack (default: 4; 2 for several attacks)",
    )
    parser.add_argument(
        "--amplify", metavar="X", type=float, default=4.0, help="factor of the differences (default: 4)"
    )
    parser.add_argument(
        "--model",
        metavar="M",
        default="resnet18",
        help="model of surrogates, where an attack trains one (default: resnet18)",
    )
    parser.add_argument(
        "--epochs", metavar="N", type=int, default=None, help="epochs of surrogates (default: the recipe's 80)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw of poisoned images (default: 0)")
    parser.add_argument(
        "--data", metavar="DIR", help="folder of the data sets (default: $BENCHBD_DATA, then the user's cache)"
    )
    parser.add_argument("--device", default="auto", help="where surrogates and generators are trained (default: auto)")
    add_output(parser)
    add_plugins(parser)
    parser.set_defaults(run=run)


def _wanted(given: list[str], everything: bool) -> list[str]:
    """The specs to draw, in order."""
    from benchbd.plugins import registry
    from benchbd.plugins.spec import parse_spec

    if not given and not everything:
        raise UsageError("preview: name an attack, or say --all")
    named = {parse_spec(text, "attack")[0]: text for text in given}
    for name in named:
        registry.find("attacks", name)
    if not everything:
        return given
    known = [e.name for e in registry.entries("attacks") if not e.error and e.name != "none"]
    return [named.get(name, name) for name in known]


def _teller() -> Listener:
    """Writes what happens to standard error as it happens, never the same line twice running."""
    from benchbd.core.events import terminal_line

    told = ""

    def tell(event: Event) -> None:
        nonlocal told
        line = one_line(terminal_line(event))
        if line and line != told:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
            told = line

    return tell


def run(args: argparse.Namespace) -> int:
    """Draw the sheet. With ``--all``, an attack that cannot be had on this data set costs itself alone."""
    from pathlib import Path

    add_plugin_files(args)
    specs = _wanted(args.attacks, args.all)
    count = args.images if args.images is not None else 4 if len(specs) == 1 else 2
    if count < 1 or not args.amplify > 0:
        raise UsageError("preview: --images must be 1 or more, --amplify above 0")

    from benchbd.core.devices import compute_device
    from benchbd.core.paths import data_folder
    from benchbd.core.recipe import Recipe
    from benchbd.pipeline.preview import Shown, draw_sheet, poisoner_for, show

    recipe = Recipe() if args.epochs is None else Recipe(epochs=args.epochs)
    settings: dict[str, Any] = {
        "seed": args.seed,
        "store": output_folder(args) / "store",
        "device": compute_device(args.device, "--device"),
        "root": data_folder(args.data),
        "on_event": _teller(),
    }
    left_out: list[str] = []

    def leave_out(attack: str, error: Impossible | Diverged) -> None:
        if not args.all:
            raise error
        left_out.append(attack)
        sys.stderr.write(f"{attack} left out: {one_line(error)}\n")
        if len(left_out) == len(specs):
            raise type(error)(f"preview: no attack can be drawn on {args.dataset}; the last: {error}")

    # All are looked at before anything is trained: a mistake in the last one must not cost an hour.
    poisoners = []
    for spec in specs:
        try:
            poisoners.append(poisoner_for(spec, args.dataset, args.model, recipe, **settings))
        except Impossible as error:
            leave_out(spec, error)
    shown: list[Shown] = []
    for poisoner in poisoners:
        try:
            shown.append(show(poisoner, count))
        except (Impossible, Diverged) as error:
            leave_out(poisoner.cell.attack.text, error)
    path = Path(args.out).expanduser()
    draw_sheet(
        shown,
        path,
        gain=args.amplify,
        across=min(count, 2),
        title=f"{args.dataset}: clean, poisoned, difference x{args.amplify:g}",
    )
    write(str(path))
    return 0
