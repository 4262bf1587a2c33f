"""Counts CA, ASR and RA of finished cells again, in plain torch: nothing of benchbd is imported.

It reads the raw test file of CIFAR-10, builds the network from its description in arXiv 2404.00498, takes the weights
and the trigger's numbers (a pattern, a warp) from the store, and draws the trigger on the images itself. It covers the
model airbench, and all attacks that ``TRIGGERS`` lists; other cells are named and skipped. Sums in another order may
move an image between two classes, and a warp in double precision rounds some pixels otherwise: up to one image in a
thousand may differ, and the line says how many do.

python tools/recount.py benchbd-results --data ~/data
python tools/recount.py benchbd-results --data ~/data --cell 3f9a --cell bn-g/lfd
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor
from torch.nn import functional as F

GRID = np.array([[0, 0, 255], [0, 255, 0], [255, 0, 255]])
"""BadNets' grid, flush with the bottom-right corner."""

TOLERANCE = 0.001
"""Share of the images whose class may differ."""

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "40351d587109b95175f43aff81a1287e"
"""Of CIFAR-10's test_batch, so that nothing else is unpickled."""

Arrays = dict[str, np.ndarray]
Rule = Callable[[np.ndarray, dict[str, Any], Arrays], np.ndarray]
"""Triggered images, float64 (N, 3, H, W) before rounding, of clean ones, the attack's parameters and its arrays."""


class Unusable(Exception):
    """A folder or file that nothing can be counted with."""


class Skipped(Exception):
    """A cell that this program does not know."""


def patched(images: np.ndarray, _: dict[str, Any], __: Arrays) -> np.ndarray:
    """Overwrite the corner with the grid."""
    images[:, :, -3:, -3:] = GRID
    return images


def white(images: np.ndarray, params: dict[str, Any], _: Arrays) -> np.ndarray:
    """Overwrite a square of 3x3 pixels, one pixel from the corner."""
    if params["size"] is not None or params["margin"] is not None:
        raise Skipped("bn-w with a size or margin of its own")
    images[:, :, -4:-1, -4:-1] = 255
    return images


def corners(images: np.ndarray, params: dict[str, Any], _: Arrays) -> np.ndarray:
    """Move the pixels of one or four grids, mirrored in the other corners, up or down by the amplitude."""
    change = np.zeros(images.shape[2:])
    signed = np.where(GRID > 0, params["amplitude"], -params["amplitude"])
    change[-3:, -3:] = signed
    if params["trigger"] == "four-corners":
        change[:3, -3:], change[-3:, :3], change[:3, :3] = signed[::-1], signed[:, ::-1], signed[::-1, ::-1]
    return images + change


def noise(images: np.ndarray, params: dict[str, Any], arrays: Arrays) -> np.ndarray:
    """Blend one pattern into all images; fractions are dropped."""
    if params["mode"] != "fixed":
        raise Skipped("blend with a pattern for each image")
    # An exact whole number must not become the number below it.
    return np.floor((1 - params["alpha"]) * images + params["alpha"] * arrays["noise"] + 1e-6)


def wave(images: np.ndarray, params: dict[str, Any], _: Arrays) -> np.ndarray:
    """Add a sine along the rows."""
    if params["variant"] != "additive":
        raise Skipped("sig with ABL's mask")
    columns = np.arange(images.shape[3])
    delta = params["delta_test"] or params["delta"]
    return images + np.rint(delta * np.sin(2 * math.pi * params["f"] * columns / len(columns)))


def warped(images: np.ndarray, _: dict[str, Any], arrays: Arrays) -> np.ndarray:
    """Sample each pixel bilinearly where the warp points, written out instead of grid_sample."""
    size = images.shape[3]
    place = (np.clip(arrays["grid"].astype(np.float64), -1, 1) + 1) / 2 * (size - 1)
    x, y = place[..., 0], place[..., 1]
    left, top = np.clip(np.floor(x).astype(int), 0, size - 2), np.clip(np.floor(y).astype(int), 0, size - 2)
    right, low = x - left, y - top
    above = images[:, :, top, left] * (1 - right) + images[:, :, top, left + 1] * right
    below = images[:, :, top + 1, left] * (1 - right) + images[:, :, top + 1, left + 1] * right
    mixed: np.ndarray = above * (1 - low) + below * low
    return mixed


def added(name: str) -> Rule:
    """Add the array of this name."""

    def rule(images: np.ndarray, params: dict[str, Any], arrays: Arrays) -> np.ndarray:
        if params.get("apply", "add") != "add":
            raise Skipped("a Trojan trigger that is not added")
        changed: np.ndarray = images + arrays[name]
        return changed

    return rule


def picture(images: np.ndarray, params: dict[str, Any], arrays: Arrays) -> np.ndarray:
    """Mix a picture in; halves round up."""
    return np.floor(images + params["alpha_test"] * (arrays["picture"] - images) + 0.5 + 1e-4)


def patches(images: np.ndarray, params: dict[str, Any], arrays: Arrays) -> np.ndarray:
    """Lay two of Adap-Patch's triggers over the images, one after the other; halves round up after each."""
    for name in params["tested"].split("+"):
        share = params["alpha_test"] * arrays[f"{name}-shape"]
        images = np.floor(images + share * (arrays[name] - images) + 0.5 + 1e-4)
    return images


TRIGGERS: dict[str, Rule] = {
    "bn-g": patched,
    "bn-a2a": patched,
    "bn-w": white,
    "cl": corners,
    "blend": noise,
    "sig": wave,
    "wanet": warped,
    "l2": added("pattern"),
    "tj-sq": added("trigger"),
    "tj-wm": added("trigger"),
    "adap-blend": picture,
    "adap-patch": patches,
}


def test_images(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (10000, 3, 32, 32) and labels of CIFAR-10's own test file, which is a pickle of its authors.

    Raises:
        Unusable: the file is missing, or is another one.
    """
    data = data.expanduser()
    folder = next((data / sub for sub in ("", "cifar10") if (data / sub / "cifar-10-batches-py").is_dir()), data)
    path = folder / "cifar-10-batches-py" / "test_batch"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Unusable(f"--data {data}: {path} cannot be read ({error.strerror}); unpack {URL} there") from None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != MD5:
        raise Unusable(f"{path} is not CIFAR-10's (wrong md5); unpack {URL} again")
    found = pickle.loads(content, encoding="bytes")
    return found[b"data"].reshape(-1, 3, 32, 32), np.array(found[b"labels"])


def artifact(store: Path, kind: str, key: str) -> Arrays:
    """Arrays of the store by name."""
    return dict(load_file(store / kind / key[:2] / key / "arrays.safetensors"))


def taken_for(weights: Arrays, images: np.ndarray) -> np.ndarray:
    """The class that the network takes each image for, int64 (N,); images are uint8 (N, 3, H, W)."""
    w = {name.removeprefix("net."): torch.from_numpy(np.array(value)) for name, value in weights.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, shift = (w[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "bias"))
        return (x - mean) / torch.sqrt(var + 1e-5) * w[f"{name}.weight"].view(1, -1, 1, 1) + shift

    def logits(x: Tensor) -> Tensor:
        x = F.gelu(F.conv2d((x / 255 - w["mean"]) / w["std"], w["whitening.filters"]))
        for group in ("groups.0", "groups.1", "groups.2"):
            x = F.max_pool2d(F.conv2d(x, w[f"{group}.conv1.weight"], padding=1), 2)
            x = F.gelu(norm(x, f"{group}.norm1"))
            x = F.gelu(norm(F.conv2d(x, w[f"{group}.conv2.weight"], padding=1), f"{group}.norm2"))
        return (x.amax((2, 3)) / 9 * w["channel_mask"]) @ w["head.weight"].T

    with torch.no_grad():
        parts = [logits(torch.from_numpy(part).float()) for part in np.array_split(images, max(1, len(images) // 500))]
    found: np.ndarray = torch.cat(parts).argmax(1).numpy()
    return found


class Count(NamedTuple):
    """How many of ``images`` a rate counts, here and by the record."""

    here: int
    recorded: int
    images: int

    @property
    def text(self) -> str:
        """The rate, and by how many images the record's differs."""
        differs = f", recorded {self.recorded / self.images:.4f}" if self.here != self.recorded else ""
        return f"{self.here / self.images:.4f} ({self.here} of {self.images}{differs})"


def recount(record: dict[str, Any], store: Path, images: np.ndarray, labels: np.ndarray) -> dict[str, Count]:
    """CA of a cell and, with an attack, ASR and RA.

    Raises:
        Skipped: the cell has a model, data, an attack or a test transform that this program does not know.
    """
    attack, params = record["attack"], record["params"]["attack"]
    if record["dataset"] != "cifar10" or record["params"]["dataset"].get("test") is not None:
        raise Skipped("not all test images of CIFAR-10")
    if record["model"] != "airbench" or (record["notes"] or {}).get("architecture"):
        raise Skipped("not an airbench")
    if record["test_transform"]:
        raise Skipped("the defense changes test images")
    if attack != "none" and attack not in TRIGGERS:
        raise Skipped(f"attack {attack}")
    weights = artifact(store, "model", record["artifacts"]["model"])

    def count(name: str, right: np.ndarray) -> Count:
        return Count(int(right.sum()), round(record[name] * len(right)), len(right))

    counts = {"ca": count("ca", taken_for(weights, images) == labels)}
    if attack == "none":
        return counts
    if params.get("cell") is not None:
        raise Skipped("a grid with cells of its own size")
    wanted = (labels + 1) % 10 if attack == "bn-a2a" else np.full_like(labels, record["poison"]["target"])
    where = np.flatnonzero(labels != wanted)
    key = record["artifacts"].get("trigger")
    arrays = artifact(store, "trigger", key) if key else {}
    drawn = TRIGGERS[attack](images[where].astype(np.float64), params, arrays)
    found = taken_for(weights, np.rint(drawn).clip(0, 255).astype(np.uint8))
    return {**counts, "asr": count("asr", found == wanted[where]), "ra": count("ra", found == labels[where])}


def chosen(folder: Path, cells: list[str]) -> Iterator[dict[str, Any]]:
    """The finished records of a results folder; of these, the cells that are named.

    Raises:
        Unusable: there are none, or one cannot be read.
    """
    files, any_chosen = sorted((folder / "records").glob("*.json")), False
    if not files:
        raise Unusable(f"{folder} has no records; name the folder that benchbd run --output wrote")
    for file in files:
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            named = not cells or any(record["id"].startswith(cell) or cell in record["label"] for cell in cells)
            finished = record["status"] == "done"
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unusable(f"{file} is no record ({type(error).__name__}); take it out") from None
        if finished and named:
            any_chosen = True
            yield record
    if not any_chosen:
        raise Unusable(f"{folder} has no finished cell{' that --cell names' if cells else ''}")


def main(argv: list[str] | None = None) -> int:
    """Print a line for each cell; 1 if a rate differs by more than a thousandth, 2 if nothing was counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="results folder with its store")
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar-10-batches-py")
    parser.add_argument("--cell", action="append", default=[], help="start of an ID or part of a label; repeatable")
    args = parser.parse_args(argv)
    try:
        return count_all(args.output, args.data, args.cell)
    except Unusable as error:
        sys.stderr.write(f"recount: {error}\n")
        return 2


def count_all(output: Path, data: Path, cells: list[str]) -> int:
    """What :func:`main` does, but for bad input, which raises Unusable."""
    records = list(chosen(output, cells))
    images, labels = test_images(data)
    ends = dict.fromkeys(("equal", "nearly equal", "different", "skipped"), 0)
    for record in records:
        try:
            found = recount(record, output / "store", images, labels)
        except Skipped as reason:
            end, text = "skipped", str(reason)
        except FileNotFoundError as error:
            end, text = "skipped", f"the store lacks {error.filename or error}"
        except (KeyError, ValueError, TypeError, OSError, RuntimeError, SafetensorError) as error:
            end, text = "skipped", f"record or artifact is damaged ({type(error).__name__}: {error})"
        else:
            off = [abs(count.here - count.recorded) / count.images for count in found.values()]
            end = "equal" if max(off) == 0 else "nearly equal" if max(off) <= TOLERANCE else "different"
            text = "  ".join(f"{name} {count.text}" for name, count in found.items())
        ends[end] += 1
        sys.stdout.write(f"{end:12}  {record['label']}: {text}\n")
        sys.stdout.flush()
    sys.stdout.write(", ".join(f"{count} {end}" for end, count in ends.items()) + "\n")
    return 1 if ends["different"] else 0 if ends["equal"] + ends["nearly equal"] else 2


if __name__ == "__main__":
    sys.exit(main())
