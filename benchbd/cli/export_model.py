"""``benchbd export-model CELL --to FILE``: write a cell's trained model for other programs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import (
    add_output,
    add_plugin_files,
    add_plugins,
    find_record,
    output_folder,
    refuse_empty,
    write,
)
from benchbd.cli.recorded_plugins import plugins_of
from benchbd.errors import UsageError, counted, did_you_mean, shown

if TYPE_CHECKING:
    from benchbd.exchange.model_program import ModelFacts
    from benchbd.plan.cell import Cell
    from benchbd.plugins.trained import ModelSpec, TrainedModel

FORMATS = ("safetensors", "torchscript", "onnx")
EPILOG = """\
  benchbd export-model 3f9a --to lfd.onnx
  benchbd export-model cifar10/resnet18/bn-g/lfd/s0 --format torchscript --to lfd.pt

All formats take images RGB / 255 of shape (N, 3, size, size) and give logits. TorchScript and ONNX normalise inside,
and apply the defense's test transform, if it has one; safetensors holds the weights, mean and std. docs/models.md
describes the formats. The file is written only if it gives the model's logits on test images.
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "export-model",
        help="write a cell's trained model for other programs",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cell", metavar="CELL", help="the cell's ID, the start of its ID, or its label")
    parser.add_argument("--to", metavar="FILE", required=True, help="file to write")
    text = f"one of {', '.join(FORMATS)} (default: by the suffix .safetensors, .torchscript or .onnx)"
    parser.add_argument("--format", metavar="F", help=text)
    add_output(parser)
    parser.add_argument(
        "--data", metavar="DIR", help="folder with the data sets (default: $BENCHBD_DATA, then the user's cache)"
    )
    add_plugins(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read the model from the store, write it and check the file."""
    from benchbd.core.paths import data_folder, user_path
    from benchbd.exchange import model_files, model_readers
    from benchbd.pipeline.stored_model import stored_model
    from benchbd.storage.artifacts import Store

    refuse_empty(args, "format")
    target = user_path(args.to, "--to")
    form = args.format or model_files.default_format(target)
    if form is None:
        raise UsageError(f"--to {shown(args.to, 200)}: the suffix names no format; say --format {' or '.join(FORMATS)}")
    if form not in FORMATS:
        raise UsageError(f"--format {shown(form)}: not a format{did_you_mean(form, FORMATS)}")
    if form == "onnx":
        from benchbd.core.extras import require_extra

        require_extra("onnx", "--format onnx")
    output = output_folder(args)
    record = find_record(output, args.cell)
    add_plugin_files(args)
    with plugins_of(args, output, record):
        cell, trained, spec = stored_model(record, Store(output / "store", write))
    dataset = cell.components().dataset
    root = data_folder(args.data)
    if line := dataset.missing(root):
        raise UsageError(f"export-model compares the file with the model on test images, but {line}")
    facts = _facts(record, cell, trained, spec, form)
    info = dataset.info()
    net = trained.module()
    body = model_files.to_bytes(net, spec.size, facts, form)
    test = dataset.load("test", root)

    def read(path: Any) -> Any:
        return model_readers.read_model(path, info, dataset.normalisation, None, None).module()

    gap = model_files.write_model(target, body, net, test.images, read, form)
    inside = {True: "normalisation inside", False: "mean and std among the tensors"}[facts.program]
    count = min(model_files.CHECKED_IMAGES, len(test.images))
    write(
        f"{target}: {spec.part.text} of {record['label']}, {len(body) / 2**20:.1f} MiB, images in [0, 1], {inside}; "
        f"logits on {counted(count, 'test image')} differ by up to {gap:.1e}"
    )
    if trained.test_transform is not None:
        where = "inside" if facts.program else "not in the weights: its metadata and benchbd evaluate have it"
        write(f"test transform of {cell.defense.text}: {where}")
    return 0


def _facts(record: dict[str, Any], cell: Cell, trained: TrainedModel, spec: ModelSpec, form: str) -> ModelFacts:
    from benchbd.core.environment import versions
    from benchbd.exchange.model_files import PROGRAMS
    from benchbd.exchange.model_program import ModelFacts

    names = cell.components().dataset.class_names
    return ModelFacts(
        cell=record["label"],
        cell_id=record["id"],
        artifact=trained.key,
        model=spec.part.spec(),
        dataset=cell.dataset.text,
        classes=spec.classes,
        class_names=tuple(names) if len(names) == spec.classes else tuple(map(str, range(spec.classes))),
        size=spec.size,
        normalisation=(tuple(spec.pixels.mean), tuple(spec.pixels.std)),
        test_transform=None if trained.test_transform is None else trained.test_transform.spec(),
        program=form in PROGRAMS,
        version=str(versions().get("benchbd", "?")),
    )
