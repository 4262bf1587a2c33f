"""Data or weights that changed on the disk: plan, status and run say so, and no number mixes the versions silently."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchbd.cli import main
from benchbd.plugins import registry

pytestmark = pytest.mark.usefixtures("one_thread", "quick_disk")

MATRIX = """
seeds: 0
recipe: {epochs: 1, batch_size: 16, augment: []}
dataset: csv-folder
model: lenet-s
attacks: [bn-g]
defenses: [none, {spectral: {features_of: undefended}}]
"""
WEIGHTS = '''
import os
from pathlib import Path
from benchbd import Model, model

@model("loaded", version=1)
class Loaded(Model):
    """Starts from a file."""
    HOOK

    def build(self, classes, size):
        import numpy as np
        import torch
        from benchbd.plugins import registry
        net = registry.make("models", "lenet-s").build(classes, size)
        weights = torch.from_numpy(np.load(os.environ["LOADED_WEIGHTS"]))
        with torch.no_grad():
            next(net.parameters()).copy_(weights.reshape(next(net.parameters()).shape))
        return net
'''
HOOK = 'def input_files(self): return [os.environ["LOADED_WEIGHTS"]]'


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_registry: None) -> Path:
    """A working folder with a matrix and 30 training and 20 test images in data/images, in BMP: all of one size."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCHBD_DATA", raising=False)
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    rng, rows = np.random.default_rng(0), ["file,label,split"]
    for n in range(50):
        picture(images / f"{n}.bmp", rng)
        rows.append(f"{n}.bmp,{'ab'[n % 2]},{'train' if n < 30 else 'test'}")
    (images / "labels.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "m.yaml").write_text(MATRIX)
    return tmp_path


def picture(path: Path, rng: np.random.Generator) -> None:
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def bench(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Give a command and return all that it printed."""

    def give(*words: str, code: int = 0) -> str:
        more = ("--executor", "inline", "--device", "cpu", "--display", "plain") if words[0] == "run" else ()
        place = () if words[0] == "merge" else ("--data", "data") if words[0] in ("run", "plan", "status") else ()
        found = main([*words, *place, *more])
        out, err = capfd.readouterr()
        assert found == code, out + err
        return out + err

    return give


def records(folder: str = "benchbd-out") -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in Path(folder, "records").glob("*.json")]
    return {record["defense"]: record for record in found}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def change(images: Path, what: str) -> None:
    table = images / "labels.csv"
    if what == "image":
        picture(images / "3.bmp", np.random.default_rng(7))
    elif what == "image of the same date":
        date = (images / "3.bmp").stat().st_mtime_ns
        picture(images / "3.bmp", np.random.default_rng(7))
        os.utime(images / "3.bmp", ns=(date, date))
    elif what == "label":
        table.write_text(table.read_text().replace("\n4.bmp,a,train", "\n4.bmp,b,train"))
    elif what == "split":
        table.write_text(table.read_text().replace("\n40.bmp,a,test", "\n40.bmp,a,train"))
    elif what == "one more":
        picture(images / "new.bmp", np.random.default_rng(7))
        table.write_text(table.read_text() + "new.bmp,a,train\n")
    elif what == "one less":
        table.write_text(table.read_text().replace("\n5.bmp,b,train", ""))


def test_a_record_says_what_it_was_measured_on(place: Path, bench: Callable[..., str]) -> None:
    bench("run", "m.yaml")
    one, other = records().values()
    assert one["data"] == other["data"]
    assert {name: value and len(value) for name, value in one["data"].items()} == {
        **dict.fromkeys(("train", "test", "files"), 64),
        **dict.fromkeys(("weights", "weight_files")),
    }
    shutil.copytree(place / "data", place / "copy")
    main(["run", "m.yaml", "--data", "copy", "--output", "two", "--executor", "inline", "--device", "cpu"])
    assert records("two")["none"]["data"] == one["data"]


@pytest.mark.parametrize("what", ["image", "image of the same date", "label", "split", "one more", "one less"])
def test_a_change_is_said_and_measured_again_on_request(place: Path, bench: Callable[..., str], what: str) -> None:
    bench("run", "m.yaml", "--filter", "defense=none")
    before = records()["none"]
    assert "changed since" not in bench("plan", "m.yaml") + bench("status", "m.yaml", "--all") + bench(
        "run", "m.yaml", "--filter", "defense=none"
    )

    def trainings() -> int:
        return sum(json.loads(bench("plan", "m.yaml", "--json"))["trainings"].values())

    assert trainings() == 1
    change(place / "data" / "images", what)

    said = bench("plan", "m.yaml")
    assert "data of csv-folder changed since 1 cell was measured; benchbd run with --rerun stale" in said
    assert trainings() == 2, "the stored training is of the old data"
    assert json.loads(bench("plan", "m.yaml", "--json"))["changed_data"] == {before["id"]: ["data of csv-folder"]}
    said = bench("status", "m.yaml")
    assert "stale: data of csv-folder changed since" in said
    assert json.loads(bench("status", "m.yaml", "--json"))["stale"] == 1

    said = bench("run", "m.yaml", "--filter", "defense=spectral")
    said = bench("run", "m.yaml")
    assert "data of csv-folder changed since 1 cell was measured; old results are kept, and tables mark them" in said
    assert records()["none"] == before
    assert "§ measured on different data than the rest" in said
    assert records()["spectral"]["data"]["train"] != before["data"]["train"]

    said = bench("run", "m.yaml", "--rerun", "stale")
    after = records()
    assert after["none"]["data"] == after["spectral"]["data"]
    assert after["none"]["artifacts"]["poisoned_set"] != before["artifacts"]["poisoned_set"]
    assert after["none"]["artifacts"]["model"] != before["artifacts"]["model"], "no training of the old data"
    assert "§" not in said
    assert "changed since" not in said + bench("plan", "m.yaml")


def test_a_missing_image_hides_no_change(place: Path, bench: Callable[..., str]) -> None:
    bench("run", "m.yaml", "--filter", "defense=none")
    change(place / "data" / "images", "label")
    (place / "data" / "images" / "3.bmp").unlink()
    line = "data of csv-folder cannot be compared with the record of 1 cell: "
    for words in (("plan", "m.yaml"), ("status", "m.yaml"), ("run", "m.yaml", "--filter", "defense=none")):
        said = bench(*words)
        assert line in said
        assert "3.bmp" in said
    for verb in ("plan", "status"):
        assert line in json.loads(bench(verb, "m.yaml", "--json"))["unknown_data"][0]
    said = bench("run", "m.yaml", "--filter", "defense=none", "--rerun", "stale", code=2)
    assert f"--rerun stale: {line}" in said


def test_rerun_and_show_name_the_data(place: Path, bench: Callable[..., str]) -> None:
    bench("run", "m.yaml", "--filter", "defense=none")
    before = records()["none"]
    words = ("rerun", before["id"], "--data", "data", "--executor", "inline", "--device", "cpu", "--display", "plain")
    assert "changed since" not in bench(*words)
    change(place / "data" / "images", "label")
    assert "data of csv-folder changed since 1 cell was measured; " in bench(*words)
    after = records()["none"]
    assert after["data"]["train"] != before["data"]["train"]
    said = bench("show", after["id"])
    for name in ("train", "test", "files"):
        assert re.search(rf"data {name} +{after['data'][name][:16]}\n", said)
    assert "data weights" not in said


def test_a_changed_test_image_is_said_and_trains_nothing_again(place: Path, bench: Callable[..., str]) -> None:
    bench("run", "m.yaml", "--filter", "defense=none")
    before = records()["none"]
    picture(place / "data" / "images" / "44.bmp", np.random.default_rng(7))
    assert "data of csv-folder changed since" in bench("plan", "m.yaml")
    bench("run", "m.yaml", "--filter", "defense=none", "--rerun", "stale")
    after = records()["none"]
    assert (after["data"]["train"], after["artifacts"]) == (before["data"]["train"], before["artifacts"])
    assert after["data"]["test"] != before["data"]["test"]


def test_dates_and_places_are_no_change(
    place: Path, bench: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench("run", "m.yaml", "--filter", "defense=none")
    for path in (place / "data" / "images").iterdir():
        path.touch()
    assert "changed since" not in bench("plan", "m.yaml")
    shutil.move(place / "data", place / "disk")
    (place / "data").symlink_to("disk")
    assert "changed since" not in bench("plan", "m.yaml")
    shutil.copytree(place / "disk", place / "other")
    change(place / "other" / "images", "label")
    (place / "data").unlink()
    (place / "data").symlink_to("other")
    assert "changed since 1 cell" in bench("plan", "m.yaml"), "another folder under the same name"
    monkeypatch.setenv("BENCHBD_DATA", str(place / "disk"))
    assert main(["plan", "m.yaml"]) == 0


def test_another_data_folder_is_another_version(
    place: Path, bench: Callable[..., str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench("run", "m.yaml", "--filter", "defense=none")
    shutil.copytree(place / "data", place / "other")
    change(place / "other" / "images", "image")
    monkeypatch.setenv("BENCHBD_DATA", str(place / "other"))
    assert main(["status", "m.yaml"]) == 0
    assert "data of csv-folder changed since 1 cell" in capfd.readouterr().out
    monkeypatch.setenv("BENCHBD_DATA", str(place / "data"))
    assert main(["status", "m.yaml"]) == 0
    assert "changed since" not in capfd.readouterr().out


def test_there_is_no_verdict_on_files_that_are_missing(place: Path, bench: Callable[..., str]) -> None:
    bench("run", "m.yaml", "--filter", "defense=none")
    (place / "data" / "images" / "3.bmp").unlink()
    said = bench("plan", "m.yaml")
    assert "there is no image" in said
    assert "changed since" not in said + bench("status", "m.yaml")


def test_a_record_of_an_earlier_release_says_nothing(place: Path, bench: Callable[..., str]) -> None:
    bench("run", "m.yaml", "--filter", "defense=none")
    record = records()["none"]
    del record["data"]
    (place / "benchbd-out" / "records" / f"{record['id']}.json").write_text(json.dumps(record))
    change(place / "data" / "images", "image")
    said = bench("plan", "m.yaml") + bench("status", "m.yaml") + bench("run", "m.yaml")
    assert "changed since" not in said
    assert "§" not in said


def test_a_change_in_mid_run_fails_the_cell(place: Path, bench: Callable[..., str]) -> None:
    (place / "mine.py").write_text(
        "from pathlib import Path\n"
        "from benchbd import Defense, defense\n"
        '@defense("careless", version=1)\n'
        "class Careless(Defense):\n"
        '    """Changes an image of the test set."""\n'
        "    def train(self, lab):\n"
        "        path = Path('data/images/44.bmp')\n"
        "        path.write_bytes(path.read_bytes()[:-1] + b'x')\n"
        "        return lab.train(lab.poisoned)\n"
    )
    edit(place / "m.yaml", "[none, {spectral: {features_of: undefended}}]", "[careless]")
    bench("run", "m.yaml", "--plugin", "mine.py", code=1)
    record = records()["careless"]
    assert record["status"] == "failed"
    assert "data set 'csv-folder': its files changed while the cell ran" in record["error"]


@pytest.fixture
def weights(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Write the file of weights, from a seed; the model ``loaded`` of mine.py reads it."""
    (place / "mine.py").write_text(WEIGHTS.replace("HOOK", HOOK))
    edit(place / "m.yaml", "model: lenet-s", "model: loaded")
    edit(place / "m.yaml", "[none, {spectral: {features_of: undefended}}]", "[none]")
    monkeypatch.setenv("LOADED_WEIGHTS", str(place / "weights.npy"))
    size = next(registry.make("models", "lenet-s").build(2, 32).parameters()).numel()

    def write(seed: int) -> None:
        values = np.random.default_rng(seed).normal(0, 0.1, size).astype(np.float32)
        np.save(place / "weights.npy", values)

    write(0)
    return write


@pytest.mark.parametrize("hook", [True, False])
def test_other_initial_weights_are_another_training(
    place: Path, bench: Callable[..., str], weights: Callable[[int], None], hook: bool
) -> None:
    if not hook:
        (place / "mine.py").write_text(WEIGHTS.replace("HOOK", ""))
    command = ("run", "m.yaml", "--plugin", "mine.py")
    bench(*command)
    before = records()["none"]
    assert len(before["data"]["weights"]) == 64
    assert (before["data"]["weight_files"] is not None) is hook
    bench(*command, "--rerun", "all")
    assert records()["none"]["artifacts"] == before["artifacts"], "the same weights are the same training"
    weights(1)
    said = bench("plan", "m.yaml", "--plugin", "mine.py")
    assert ("weights of loaded changed since 1 cell was measured" in said) is hook
    bench(*command, "--rerun", "stale" if hook else "all")
    after = records()["none"]
    assert after["artifacts"]["model"] != before["artifacts"]["model"]
    assert after["artifacts"]["poisoned_set"] == before["artifacts"]["poisoned_set"]
    assert after["data"]["weights"] != before["data"]["weights"]
    assert (after["data"]["train"], after["data"]["test"]) == (before["data"]["train"], before["data"]["test"])


def test_merging_two_machines_with_other_folders_says_so(place: Path, bench: Callable[..., str]) -> None:
    bench("run", "m.yaml", "--filter", "defense=none", "--output", "a")
    change(place / "data" / "images", "label")
    bench("run", "m.yaml", "--output", "b")
    assert "0 conflicts" in bench("merge", "b", "--output", "all")
    said = bench("merge", "a", "--output", "all", code=1)
    assert "different data: another training set: csv-folder/lenet-s/bn-g/none/s0" in said
    assert len(list(Path("all", "conflicts").iterdir())) == 1
    (place / "b" / "records" / f"{records('b')['none']['id']}.json").unlink()
    said = bench("merge", "a", "b", "--output", "shards", code=1)
    assert "2 added, 0 there already, 0 conflicts, 0 refused" in said
    assert "different data: 1 of 2 cells such as" in said
    assert "another training set than the rest" in said
