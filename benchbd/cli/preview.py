"""``benchbd preview ATTACK --dataset D -o out.png``: what an attack does to images."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchbd.cli.common import add_output, add_plugin_files, add_plugins, output_folder, write
from benchbd.errors import UsageError


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
        "--all", action="store_true", help="every attack on one sheet; those also named take the parameters given there"
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
    from benchbd import registry
    from benchbd.spec import parse_spec

    if not given and not everything:
        raise UsageError("preview: name an attack, or say --all")
    named = {parse_spec(text, "attack")[0]: text for text in given}
    for name in named:
        registry.find("attacks", name)
    if not everything:
        return given
    known = [e.name for e in registry.entries("attacks") if not e.error and e.name != "none"]
    return [named.get(name, name) for name in known]


def run(args: argparse.Namespace) -> int:
    """Draw the sheet."""
    from pathlib import Path

    add_plugin_files(args)
    specs = _wanted(args.attacks, args.all)
    count = args.images if args.images is not None else 4 if len(specs) == 1 else 2
    if count < 1 or not args.amplify > 0:
        raise UsageError("preview: --images must be 1 or more, --amplify above 0")

    from benchbd.datafolder import data_folder
    from benchbd.execute import _device
    from benchbd.preview import draw_sheet, poisoner_for, show
    from benchbd.recipe import Recipe

    recipe = Recipe() if args.epochs is None else Recipe(epochs=args.epochs)
    shown, told = [], ""

    def tell(event: dict[str, Any]) -> None:
        nonlocal told
        line = str(event.get("warning") or event.get("stage") or "")
        if line and line != told:
            sys.stderr.write(f"{line}\n")
            told = line

    for spec in specs:
        poisoner = poisoner_for(
            spec,
            args.dataset,
            args.model,
            recipe,
            seed=args.seed,
            store=output_folder(args) / "store",
            device=_device(args.device),
            root=data_folder(args.data),
            on_event=tell,
        )
        shown.append(show(poisoner, count))
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
