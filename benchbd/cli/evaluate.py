"""``benchbd evaluate --model FILE --dataset D --attack A``: measure somebody's checkpoint."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import (
    add_output,
    add_plugin_files,
    add_plugins,
    columns,
    output_folder,
    refuse_empty,
    write,
    write_json,
)
from benchbd.cli.one_off import MODEL, WHERE, component
from benchbd.errors import UsageError, one_line, shown

if TYPE_CHECKING:
    from pathlib import Path

    from benchbd.core.events import Event
    from benchbd.exchange.model_readers import ForeignModel
    from benchbd.pipeline.evaluate import Accuracy
    from benchbd.plan.cell import Cell

EPILOG = """\
  benchbd evaluate --model lfd.onnx --dataset cifar10 --attack bn-g
  benchbd evaluate --model net.pth --arch resnet18 --normalise dataset --dataset cifar10 --attack 'blend(alpha=0.2)'
  benchbd evaluate --model net.safetensors --dataset digits --attack none --json
  benchbd evaluate --model attack_result.pt --dataset cifar10 --attack "imported(file='run.npz')"

FILE is ONNX, TorchScript, an exported program, safetensors, or a state dict of torch.save; nothing is unpickled. A
program gets images RGB / 255. Weights without a program need --arch and --normalise, unless benchbd export-model or
BackdoorBench (attack_result.pt, defense_result.pt) wrote them. The trigger is that of seed S: the checkpoint must have
been trained on the same one. See docs/models.md.
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "evaluate",
        help="measure a checkpoint: CA, ASR and RA",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", metavar="FILE", required=True, help="the checkpoint")
    parser.add_argument("--arch", metavar="M", help="its model or model's spec, if FILE holds weights only")
    parser.add_argument("--dataset", metavar="D", required=True, help="a data set or its spec")
    parser.add_argument("--attack", "-a", metavar="A", required=True, help="an attack or its spec; none for CA only")
    text = "what the network's images need: none, dataset, imagenet, or R,G,B means and R,G,B deviations in [0, 1]"
    parser.add_argument("--normalise", metavar="N", help=text)
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="seed of the attack (default: 0)")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--data", metavar="DIR", help="folder with the data sets (default: $BENCHBD_DATA, then the user's cache)"
    )
    parser.add_argument("--device", metavar="NAME", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add_output(parser)
    add_plugins(parser)
    parser.set_defaults(run=run)


def _cell(args: argparse.Namespace) -> Cell:
    """The undefended cell whose attack and test images measure the checkpoint."""
    from benchbd.plan import matrix

    if args.seed < 0:
        raise UsageError(f"--seed {args.seed}: a seed is a whole number from 0")
    named = {
        "name": "evaluate",
        "dataset": component(args.dataset, "dataset"),
        "model": component(args.arch or MODEL, "model"),
        "attacks": [component(args.attack, "attack")],
        "defenses": ["none"],
    }
    plan = matrix.resolve(named, WHERE, seeds=[args.seed])
    if plan.skipped:
        raise UsageError(f"--attack {shown(args.attack)}: {plan.skipped[0].reason}")
    if len(plan.cells) > 1:
        raise UsageError(f"evaluate measures one attack on one data set, but these are {len(plan.cells)}")
    return plan.cells[0]


def _warned(event: Event) -> None:
    if event.get("event") == "warning":
        sys.stderr.write(f"benchbd: {one_line(event.get('warning', ''))}\n")


def run(args: argparse.Namespace) -> int:
    """Read the checkpoint, make the triggered test images, measure."""
    from benchbd.core.devices import compute_device
    from benchbd.core.images import Images
    from benchbd.core.paths import data_folder, look, user_path
    from benchbd.engine.threads import cpu_threads
    from benchbd.exchange.model_readers import read_model
    from benchbd.pipeline import evaluate
    from benchbd.pipeline.poison import Poisoner
    from benchbd.storage.artifacts import Store

    refuse_empty(args, "arch", "dataset", "attack", "normalise")
    path = user_path(args.model, "--model")
    if (kind := look(path, "--model")) != "file":
        raise UsageError(
            f"--model {shown(args.model, 200)}: " + ("no such file" if kind == "nothing" else "not a file")
        )
    device = compute_device(args.device, "--device")
    add_plugin_files(args)
    cell = _cell(args)
    components, root = cell.components(), data_folder(args.data)
    dataset = components.dataset
    for part in (dataset, components.attack):
        if line := part.missing(root):
            raise UsageError(line)
    arch = None if args.arch is None else components.model
    with cpu_threads(1, device):
        model = read_model(path, dataset.info(), dataset.normalisation, arch, args.normalise, dataset.name)
        poisoner = Poisoner(cell, components, Store(output_folder(args) / "store", write), device, _warned, root)
        test = Images(*dataset.load("test", root))
        clean, info = poisoner.train_set()
        shown_images = poisoner.triggered_test(test, info, poisoner.poison(clean, info))
        triggered, originals, of_target = None, None, None
        target: Any = 0
        if shown_images is not None:
            triggered, target = (shown_images.images, shown_images.labels), shown_images.targets
            originals, of_target = shown_images.originals, shown_images.of_target
        found = evaluate.accuracy(model, test, triggered, target, device, originals, of_target)
    count = None if triggered is None else len(triggered[1])
    _print(args, path, cell, model, found, len(test.labels), count)
    return 0


def _print(
    args: argparse.Namespace,
    path: Path,
    cell: Cell,
    model: ForeignModel,
    found: Accuracy,
    images: int,
    triggered: int | None,
) -> None:
    """Write the table or the JSON."""
    from benchbd.core.contents import content_hashes
    from benchbd.report.binomial import wilson

    counts = {"ca": images, "asr": triggered, "ra": triggered, "clean_asr": triggered, "ca_non_target": triggered}
    rates: dict[str, Any] = {}
    for name, count in counts.items():
        value = getattr(found, name)
        if value is not None and count:
            spread = wilson(value, count)
            rates[name] = {"value": value, "low": spread.low, "high": spread.high, "images": count}
    sha = content_hashes(path.parent, [path.name])[0]
    facts = {
        "model": args.model,
        "sha256": sha,
        "format": model.kind,
        "architecture": model.arch,
        "normalisation": model.normalisation,
        "test_transform": None if model.test_transform is None else model.test_transform.spec(),
        "dataset": cell.dataset.text,
        "attack": cell.attack.text,
        "seed": cell.seed,
    }
    if args.json:
        write_json({**facts, "rates": rates, "ca_per_class": found.per_class, "triggered": found.triggered})
        return
    rows = [("", "%", "95 % interval", "images")]
    for name, rate in rates.items():
        spread_text = f"{rate['low']:.2%} to {rate['high']:.2%}".replace("%", "")
        rows.append((LABELS[name], f"{rate['value']:.2%}"[:-1], spread_text, f"{rate['images']:,}"))
    arch = f" {model.arch}" if model.arch else ""
    write(f"{args.model}: {model.kind}{arch}, normalisation {model.normalisation}, sha256 {sha[:16]}")
    write(f"{cell.attack.text} on {cell.dataset.text}, seed {cell.seed}")
    if model.test_transform is not None:
        write("with the test transform of its defense")
    write(columns(rows))
    if triggered is None and cell.components().attack.poisons:
        write("no ASR: the poisoned set has no triggered test images of other classes than the target")


LABELS = {
    "ca": "CA",
    "asr": "ASR",
    "ra": "RA",
    "clean_asr": "ASR without the trigger",
    "ca_non_target": "CA without the target",
}
"""Names of the rates in the table."""
