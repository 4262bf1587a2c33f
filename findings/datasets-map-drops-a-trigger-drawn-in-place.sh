#!/usr/bin/env bash
# datasets 5.2.0: a trigger that `map` draws on a picture in place is lost if the data set was loaded from picture files.
#
# `load_dataset("imagefolder")` opens each picture by its path, so the PIL picture that a mapped function gets knows its file.
# If the function draws on that picture (ImageDraw, paste, putpixel) and returns it, `datasets` stores the file's path and
# not the pixels: the next access decodes the clean file. The changed label is stored. The poisoned set then holds wrong
# labels without a trigger, its attack success rate is that of label noise, and to_parquet writes the clean pictures too.
# There is no error and no warning. The same function on the same pictures keeps the trigger if they come from parquet,
# since pictures decoded from bytes have no file name, or if it draws on picture.copy(), which forgets the file name.
# So does Dataset.from_dict with pictures that were opened from files and stamped in memory.
#
# Seen with datasets 5.2.0, Pillow 13.0.0, Python 3.11 (output of this script):
#   datasets 5.2.0, Pillow 13.0.0
#   files, drawn in place              trigger on  0 of 10, label changed on 10 of 10
#   files, drawn in place, to_parquet  trigger on  0 of 10, label changed on 10 of 10
#   from_dict of stamped pictures      trigger on  0 of 10, label changed on 10 of 10
#   files, drawn on a copy             trigger on 10 of 10, label changed on 10 of 10
#   parquet, drawn in place            trigger on 10 of 10, label changed on 10 of 10
# Source: datasets/features/image.py. Image.decode_example calls PIL.Image.open(path) for a row with a path and no bytes.
# encode_pil_image returns {"path": image.filename, "bytes": None} for any picture whose filename is not empty, and does not
# ask whether the pixels changed. The guide to `map` on pictures shows functions that return new pictures only
# (https://huggingface.co/docs/datasets/image_process), and the tracker has no thread on it (searched in November 2026).
# Way out: draw on picture.copy(), or return an array.
#
# Exit code 0: datasets behaves as described. 1: it does not. 2: the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install --quiet datasets==5.2.0 pillow==13.0.0 pyarrow==25.0.1 numpy==2.3.5 || exit 2
cat > "$work/stamp.py" <<'PY'
import os
import sys
from pathlib import Path

work = Path(sys.argv[1])
os.environ.update(HF_HOME=str(work / "home"), HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")

import datasets
import numpy as np
import PIL
from PIL import Image, ImageDraw

WHITE = (255, 255, 255)
rng = np.random.default_rng(0)
for name in ("cat", "dog"):
    (work / "pictures" / name).mkdir(parents=True)
    for number in range(5):
        pixels = rng.integers(0, 200, (32, 32, 3), dtype=np.uint8)  # no pixel is white
        Image.fromarray(pixels).save(work / "pictures" / name / f"{number}.png")


def draw(picture):
    ImageDraw.Draw(picture).rectangle((28, 28, 31, 31), fill=WHITE)
    assert (np.asarray(picture)[28:, 28:] == 255).all(), "the trigger is there when the function returns"
    return picture


def in_place(row):
    return {"image": draw(row["image"]), "label": 0}


def on_a_copy(row):
    return {"image": draw(row["image"].copy()), "label": 0}


def told(rows):
    """How many rows show the trigger, and how many have the attack's label."""
    stamped = sum(bool((np.asarray(row["image"])[28:, 28:] == 255).all()) for row in rows)
    labels = sum(row["label"] == 0 for row in rows)
    return stamped, labels


def parquet(rows, name):
    rows.to_parquet(work / name)
    return datasets.load_dataset("parquet", data_files=str(work / name), split="train", cache_dir=str(work / name) + "-cache")


files = datasets.load_dataset("imagefolder", data_dir=str(work / "pictures"), split="train")
embedded = files.map(lambda row: {"image": row["image"].copy()})  # the same pixels, stored as bytes
opened = [Image.open(path) for path in sorted(work.glob("pictures/*/*.png"))]
found = {
    "files, drawn in place": told(files.map(in_place)),
    "files, drawn in place, to_parquet": told(parquet(files.map(in_place), "poisoned.parquet")),
    "from_dict of stamped pictures": told(datasets.Dataset.from_dict({"image": [draw(p) for p in opened], "label": [0] * 10})),
    "files, drawn on a copy": told(files.map(on_a_copy)),
    "parquet, drawn in place": told(parquet(embedded, "clean.parquet").map(in_place)),
}
print(f"datasets {datasets.__version__}, Pillow {PIL.__version__}")
for how, (stamped, labels) in found.items():
    print(f"{how:34} trigger on {stamped:2} of 10, label changed on {labels:2} of 10")
lost = list(found.values())[:3] == [(0, 10)] * 3
sys.exit(0 if lost and list(found.values())[3:] == [(10, 10)] * 2 else 1)
PY
"$work/venv/bin/python" "$work/stamp.py" "$work"
