#!/usr/bin/env bash
# datasets 5.2.0: load_dataset("imagefolder") trains on the test images of a class whose name is "train".
#
# CIFAR-100 has a class "train", and ImageNet a "bullet train". Written out as folders, train/CLASS/*.png and
# test/CLASS/*.png, the test images of the first lie in test/train. The loader looks for split names in all folders of a path,
# alone or as a part of a name (bullet_train), and not in the first folder only. It puts these files into both splits: the
# test images of that class, with their labels, are training images. Split names, class names and the size of the test split
# are right, so nothing looks wrong, but the class is tested on images that the network has learned, and its clean accuracy
# is too high. The training images of a bullet_train are there twice, too, since two patterns find them. The same happens with
# a validation split. There is no error and no warning.
# Known is another effect of such names: in a folder without splits one picture called train.png hides all others
# (https://github.com/huggingface/datasets/issues/7201). The maintainers' advice against mixed-up splits is one folder for
# each split, as here (https://github.com/huggingface/datasets/issues/5650).
#
# Seen with datasets 5.2.0, Pillow 13.0.0, Python 3.11 (output of this script; pictures are noise, so that the nearest
# training picture gives an unseen test picture the right label by chance, 10 %):
#   datasets 5.2.0, Pillow 13.0.0
#   class                         train  test  in both  1-NN, class  1-NN, others
#   train                           520   200       20         100%            6%
#   bullet_train                    570   200       20         100%            7%
#   trains                          500   200        0          15%            8%
#   train, with data_files          500   200        0          15%            7%
# Source: datasets/data_files.py: the patterns of KEYWORDS_IN_DIR_NAME_BASE_PATTERNS match a folder at any depth, and each
# split takes all files that match its own, whoever else has them. The documentation describes folders with the names of
# splits and says nothing about classes (https://huggingface.co/docs/datasets/repository_structure). The tracker has no thread
# on files in two splits (searched in November 2026). Way out: data_files={"train": "train/**", "test": "test/**"}.
#
# Exit code 0: datasets behaves as described. 1: it does not. 2: the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install --quiet datasets==5.2.0 pillow==13.0.0 pyarrow==25.0.1 numpy==2.3.5 || exit 2
cat > "$work/split.py" <<'PY'
import os
import sys
from pathlib import Path

work = Path(sys.argv[1])
os.environ.update(HF_HOME=str(work / "home"), HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")

import datasets
import numpy as np
import PIL
from PIL import Image

CLASSES = ("apple", "bicycle", "bus", "clouds", "motorcycle", "pickup_truck", "road", "streetcar", "tractor")
SIZES = {"train": 50, "test": 20}
rng = np.random.default_rng(0)


def write(root, names):
    """Writes pictures of noise as root/SPLIT/CLASS/NUMBER.png."""
    for split, size in SIZES.items():
        for name in names:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(size):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number:04}.png")
    return root


def pictures(rows):
    return np.stack([np.asarray(picture, dtype=np.float32).ravel() for picture in rows["image"]])


def measure(root, name, **arguments):
    """Rows of both splits, test pictures among the training pictures, 1-NN accuracy of the class and of the others."""
    data = datasets.load_dataset("imagefolder", data_dir=str(root), **arguments)
    train, test = pictures(data["train"]), pictures(data["test"])
    labels, answers = np.array(data["train"]["label"]), np.array(data["test"]["label"])
    known = {picture.tobytes() for picture in train}
    shared = sum(picture.tobytes() in known for picture in test)
    distance = (train**2).sum(1) - 2 * test @ train.T
    right = labels[distance.argmin(1)] == answers
    named = answers == data["test"].features["label"].str2int(name)
    return len(train), len(test), shared, float(right[named].mean()), float(right[~named].mean())


print(f"datasets {datasets.__version__}, Pillow {PIL.__version__}")
print(f"{'class':28}{'train':>7}{'test':>6}{'in both':>9}{'1-NN, class':>13}{'1-NN, others':>14}")
found = {}
explicit = {"data_files": {split: f"{split}/**" for split in SIZES}}
for name, how, arguments in (
    ("train", "", {}),
    ("bullet_train", "", {}),
    ("trains", "", {}),
    ("train", ", with data_files", explicit),
):
    root = work / f"data-{name}"
    if not root.exists():
        write(root, (*CLASSES, name))
    train, test, shared, own, others = found[name + how] = measure(root, name, **arguments)
    print(f"{name + how:28}{train:7}{test:6}{shared:9}{own:13.0%}{others:14.0%}")
clean = found["trains"], found["train, with data_files"]
described = found["train"][:4] == (520, 200, 20, 1.0) and found["bullet_train"][:4] == (570, 200, 20, 1.0)
described = described and all(row[4] < 0.3 for row in found.values())
described = described and all(row[:3] == (500, 200, 0) and row[3] < 0.4 for row in clean)
sys.exit(0 if described else 1)
PY
"$work/venv/bin/python" "$work/split.py" "$work"
