"""Poisoned sets as Parquet files in the layout of the Hugging Face hub: PNG bytes, labels and the truth in columns."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchbd.core.extras import extra_module
from benchbd.core.poisoned_set import UNKNOWN, CleanTest, PoisonedSet
from benchbd.errors import UsageError, one_line
from benchbd.exchange.found_set import FoundSet, Wishes

FOLDER = "data"
PARTS = ("train", "triggered", "test")
ROWS = 1000
"""Rows that are encoded and written at a time."""
COLUMNS = {
    "label": "int64",
    "true_label": "int64",
    "poisoned": "bool",
    "cover": "bool",
    "triggered": "bool",
    "place": "int64",
}
"""Columns beside the images ``image`` and ``original``, with their types."""
README = """\
---
configs:
- config_name: default
  data_files:
{splits}
---
A poisoned image data set, written by benchbd for research on backdoor defenses. The split `train` is what a defender
gets; the columns `poisoned`, `cover`, `true_label` and `original` are the truth about it. `triggered` has test images
with the trigger; their `label` is the class that the attack wants, `place` the number of the clean image in `test`.
"""


def _what(action: str) -> str:
    return f"--format hf ({action})"


def write(given: PoisonedSet, folder: Path) -> None:
    """Write ``data/PART-00000-of-00001.parquet`` for each part, and a README.md that names the splits.

    All parts have the same columns, as ``datasets.load_dataset`` demands.
    """
    arrow = extra_module("pyarrow", "parquet", _what("writing"))
    parquet = extra_module("pyarrow.parquet", "parquet", _what("writing"))
    schema = _schema(arrow, given)
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    parts = [part for part in PARTS if part == "train" or getattr(given, part) is not None]
    for part in parts:
        rows = {"train": _train_rows, "triggered": _triggered_rows, "test": _test_rows}[part](given)
        with parquet.ParquetWriter(folder / FOLDER / f"{part}-00000-of-00001.parquet", schema) as writer:
            batch: list[dict[str, Any]] = []
            for row in rows:
                batch.append(row)
                if len(batch) == ROWS:
                    writer.write_table(arrow.Table.from_pylist(batch, schema))
                    batch = []
            writer.write_table(arrow.Table.from_pylist(batch, schema))
    splits = "\n".join(f"  - split: {part}\n    path: {FOLDER}/{part}-*.parquet" for part in parts)
    (folder / "README.md").write_text(README.format(splits=splits), encoding="utf-8")


def _schema(arrow: Any, given: PoisonedSet) -> Any:
    image = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    types = {"int64": arrow.int64(), "bool": arrow.bool_()}
    names = list(given.class_names) or [str(label) for label in range(given.classes)]
    label = {"names": names, "_type": "ClassLabel"}
    features: dict[str, Any] = {"image": {"_type": "Image"}, "original": {"_type": "Image"}}
    features |= {name: {"dtype": kind, "_type": "Value"} for name, kind in COLUMNS.items()}
    features |= {"label": label, "true_label": label}
    facts = {
        "targets": list(given.targets),
        "source": given.source,
        "originals": given.originals is not None,
        "class_names": bool(given.class_names),
    }
    fields = [("image", image), *((name, types[kind]) for name, kind in COLUMNS.items()), ("original", image)]
    ordered = {name: features[name] for name, _ in fields}
    return arrow.schema(
        fields, {"huggingface": json.dumps({"info": {"features": ordered}}), "benchbd": json.dumps(facts)}
    )


def _picture(image: np.ndarray, name: str) -> dict[str, Any]:
    from PIL import Image

    body = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(body, "PNG")
    return {"bytes": body.getvalue(), "path": f"{name}.png"}


def _known(value: Any) -> int | None:
    return None if int(value) == UNKNOWN else int(value)


def _row(image: np.ndarray, name: str, label: Any, true_label: Any, **more: Any) -> dict[str, Any]:
    plain = {"poisoned": False, "cover": False, "triggered": False, "place": None, "original": None}
    return {"image": _picture(image, name), "label": int(label), "true_label": _known(true_label), **plain, **more}


def _train_rows(given: PoisonedSet) -> Iterator[dict[str, Any]]:
    originals = iter(()) if given.originals is None else iter(given.originals)
    for place, image in enumerate(given.images):
        poison, cover = bool(given.poison[place]), bool(given.cover[place])
        more: dict[str, Any] = {"poisoned": poison, "cover": cover}
        if (poison or cover) and given.originals is not None:
            more["original"] = _picture(next(originals), f"original-{place}")
        yield _row(image, f"train-{place}", given.labels[place], given.true_labels[place], **more)


def _triggered_rows(given: PoisonedSet) -> Iterator[dict[str, Any]]:
    assert given.triggered is not None
    for number, (image, true, target, place) in enumerate(zip(*given.triggered, strict=True)):
        yield _row(image, f"triggered-{number}", target, true, triggered=True, place=_known(place))


def _test_rows(given: PoisonedSet) -> Iterator[dict[str, Any]]:
    assert given.test is not None
    for number, (image, label) in enumerate(zip(*given.test, strict=True)):
        yield _row(image, f"test-{number}", label, label)


def check_layout(folder: Path) -> None:
    """Raise UsageError if a folder has no Parquet file of a training set, without reading any."""
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        raise UsageError(
            f"{folder} is a data set of save_to_disk(); write each part with to_parquet(), as docs/importing.md shows"
        )
    if not _files(_place(folder), "train"):
        raise UsageError(f"{_place(folder)} has no train.parquet and no train-*.parquet; --format hf needs one")


def read(folder: Path, wishes: Wishes) -> FoundSet:
    """Read ``data/*.parquet`` of :func:`write`; of others' files, the columns image, label and poisoned suffice.

    Args:
        folder: what holds ``data/``, or holds the files itself, such as ``train.parquet``; or the file of the training
            set alone.
        wishes: not used.

    Raises:
        UsageError: a file, a column or an image is missing or damaged.
    """
    check_layout(folder)
    parquet = extra_module("pyarrow.parquet", "parquet", _what("reading"))
    folder = _place(folder)
    train, schema = _part(parquet, folder, "train")
    assert train is not None
    facts, names = _facts(schema)
    images = _images(train, "image", folder, "train")
    labels = _numbers(train, "label", folder)
    found = FoundSet(
        images=images,
        labels=labels,
        poison=_flags(train, "poisoned", len(labels), folder, needed=True),
        cover=_flags(train, "cover", len(labels), folder),
        true_labels=_numbers(train, "true_label", folder) if "true_label" in train else None,
        classes=len(names) or None,
        class_names=names if facts.get("class_names", True) else (),
    )
    if facts.get("originals"):
        if "original" not in train:
            raise UsageError(f"{folder}: there is no column 'original', although the file says so")
        some = [value for value in train["original"] if value is not None]
        size = images.shape[-1]
        found.originals = _images({"original": some}, "original", folder, "train") if some else images[:0]
        if found.originals.shape[-1] != size:
            raise UsageError(f"{folder}: originals have {found.originals.shape[-1]} pixels, images {size}")
    if isinstance(targets := facts.get("targets"), list) and all(type(target) is int for target in targets):
        found.targets = tuple(targets) or None
    shown, _ = _part(parquet, folder, "triggered")
    if shown is not None and len(shown["image"]):
        places = _numbers(shown, "place", folder) if "place" in shown else None
        aims, true = _numbers(shown, "label", folder), _numbers(shown, "true_label", folder)
        found.triggered = (_images(shown, "image", folder, "triggered"), true, aims, places)
    test, _ = _part(parquet, folder, "test")
    if test is not None and len(test["image"]):
        found.test = CleanTest(_images(test, "image", folder, "test"), _numbers(test, "label", folder))
    return found


def _place(folder: Path) -> Path:
    return folder / FOLDER if (folder / FOLDER).is_dir() else folder


def _files(place: Path, part: str) -> list[Path]:
    """The files of a part, in order of their names; a file given alone is the training set."""
    if not place.is_dir():
        return [place] if part == "train" else []
    return sorted([*place.glob(f"{part}-*.parquet"), *place.glob(f"{part}.parquet")])


def _part(parquet: Any, folder: Path, part: str) -> tuple[dict[str, list[Any]] | None, Any]:
    """The columns of a part by name, its files joined in order of their names, and the schema; None without files."""
    files = _files(folder, part)
    columns: dict[str, list[Any]] = {}
    schema = None
    for path in files:
        try:
            table = parquet.read_table(path)
        except Exception as error:  # pyarrow raises errors of its own for damaged files
            raise UsageError(f"{path} cannot be read as Parquet ({one_line(error)[:200]})") from None
        if schema is not None and table.column_names != schema.names:
            raise UsageError(f"{path} has other columns than {files[0].name}")
        schema = schema or table.schema
        for name in table.column_names:
            columns.setdefault(name, []).extend(table[name].to_pylist())
    if files and "image" not in columns:
        raise UsageError(f"{files[0]} has no column 'image'")
    return (columns if files else None), schema


def _facts(schema: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the file says about the set, and the names of its classes."""
    metadata = schema.metadata or {}
    try:
        facts = json.loads(metadata.get(b"benchbd", b"{}"))
        label = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {}).get("label", {})
        names = tuple(map(str, label.get("names", ())))
    except (AttributeError, TypeError, ValueError):
        return {}, ()
    return (facts if isinstance(facts, dict) else {}), names


def _numbers(columns: dict[str, list[Any]], name: str, folder: Path) -> np.ndarray:
    values = columns.get(name)
    if values is None:
        raise UsageError(f"{folder}: there is no column {name!r}")
    if any(not (value is None or (type(value) is int and abs(value) < 2**31)) for value in values):
        raise UsageError(f"{folder}: column {name!r} must hold whole numbers")
    if name == "label" and None in values:
        raise UsageError(f"{folder}: column 'label' has rows without a label")
    return np.array([UNKNOWN if value is None else value for value in values], np.int64)


def _flags(columns: dict[str, list[Any]], name: str, count: int, folder: Path, *, needed: bool = False) -> np.ndarray:
    values = columns.get(name)
    if values is None:
        if needed:
            raise UsageError(f"{folder}: there is no column {name!r}, which says what is poison")
        return np.zeros(count, bool)
    if any(value not in (0, 1, None) for value in values):
        raise UsageError(f"{folder}: column {name!r} must hold true and false")
    return np.array([bool(value) for value in values], bool)


def _images(columns: dict[str, list[Any]], name: str, folder: Path, part: str) -> np.ndarray:
    """Square 8-bit RGB images of one size, uint8 (N, 3, S, S)."""
    from PIL import Image

    found: list[np.ndarray] = []
    for number, value in enumerate(columns[name]):
        where = f"{folder}: {name} {number} of {part}"
        body = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(body, bytes):
            raise UsageError(f"{where} has no bytes; embed images before to_parquet()")
        try:
            with Image.open(io.BytesIO(body)) as image:
                mode, pixels = image.mode, np.asarray(image, np.uint8)
        except Exception as error:  # decoders raise nearly anything
            raise UsageError(f"{where} is not a picture ({one_line(error).partition('<')[0][:120].strip()})") from None
        if mode != "RGB" or pixels.shape[0] != pixels.shape[1]:
            shape = " by ".join(map(str, pixels.shape[1::-1]))
            raise UsageError(f"{where} must be a square 8-bit RGB picture, not {mode} {shape}")
        if found and pixels.shape[0] != found[0].shape[-1]:
            raise UsageError(f"{where} has {pixels.shape[0]} pixels a side; the first has {found[0].shape[-1]}")
        found.append(pixels.transpose(2, 0, 1))
    return np.stack(found) if found else np.zeros((0, 3, 0, 0), np.uint8)
