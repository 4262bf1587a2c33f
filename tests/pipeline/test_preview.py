"""Pictures of attacks, on the digits that every installation has."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from benchbd.cli import main
from benchbd.core.events import terminal_line
from benchbd.core.recipe import Recipe
from benchbd.errors import Diverged, Impossible
from benchbd.pipeline.preview import Shown, draw_sheet, norms, poisoner_for, show
from benchbd.pipeline.trigger_image import amplified
from benchbd.plugins.contract import StampContext


def poisoner(attack: str, folder: Path):
    return poisoner_for(
        attack,
        "digits(train=200)",
        "resnet18(width=2)",
        Recipe(epochs=1, augment=()),
        seed=0,
        store=folder,
        device=torch.device("cpu"),
        root=None,
        on_event=lambda event: None,
    )


def pixels(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_norms_of_a_known_difference():
    clean = np.zeros((3, 4, 4), np.uint8)
    poisoned = clean.copy()
    poisoned[:, 0, 0], poisoned[1, 2, 3] = 255, 51
    assert norms(clean, poisoned) == (pytest.approx((3 + 0.04) ** 0.5), 255, 2)
    assert norms(poisoned, poisoned) == (0.0, 0, 0)


def test_differences_lie_around_grey_and_clip():
    clean = np.array([100, 100, 100, 200], np.uint8)
    poisoned = np.array([100, 105, 90, 0], np.uint8)
    assert amplified(clean, poisoned, 4).tolist() == [128, 148, 88, 0]


def test_a_dirty_label_attack_shows_its_own_poisoned_images_of_several_classes(tmp_path):
    made = poisoner("bn-g", tmp_path)
    shown = show(made, 4)
    assert shown.attack == "bn-g"
    assert shown.clean.shape == shown.poisoned.shape == (4, 3, 32, 32)
    clean, info = made.train_set()
    poison = made.poison(clean, info)
    whole = {image.tobytes() for image in poison.images}
    assert all(image.tobytes() in whole for image in shown.poisoned)
    assert len({label.split(" ")[0] for label in shown.labels}) == 4
    assert sum("→" in label for label in shown.labels) >= 3


def test_a_clean_label_attack_shows_images_of_the_target_class(tmp_path):
    shown = show(poisoner("sig", tmp_path), 3)
    assert len(set(shown.labels)) == 1
    assert "→" not in shown.labels[0]


def test_no_attack_shows_equal_images(tmp_path):
    shown = show(poisoner("none", tmp_path), 2)
    assert np.array_equal(shown.clean, shown.poisoned)


def test_adversarial_noise_is_made_for_the_shown_images_only(tmp_path):
    made = poisoner("cl(surrogate='standard', steps=2)", tmp_path)
    shown = show(made, 2)
    changed = np.abs(shown.poisoned.astype(int) - shown.clean.astype(int))
    assert 0 < changed[:, :, :29].max() <= 8
    stored = list((tmp_path / "trigger").rglob("arrays.safetensors"))
    assert len(stored) == 1
    assert stored[0].stat().st_size < 3 * 3 * 32 * 32


def test_prepared_triggers_are_those_of_a_run(tmp_path):
    made = poisoner("blend", tmp_path)
    shown = show(made, 2)
    clean, info = made.train_set()
    poison = made.poison(clean, info)
    images = torch.from_numpy(shown.clean)
    again = made.components.attack.stamp(images, StampContext("train", np.arange(2), poison.trigger, 0))
    assert np.array_equal(again.numpy(), shown.poisoned)


def test_sheet_shows_the_images(tmp_path):
    clean = np.zeros((3, 3, 8, 8), np.uint8)
    clean[:, 0] = 255
    poisoned = clean.copy()
    poisoned[:, 2] = 255
    draw_sheet([Shown("one(a=1,b=2)", clean, poisoned, ("a", "b", "c"))], tmp_path / "sheet.png", gain=4, across=2)
    drawn = pixels(tmp_path / "sheet.png").reshape(-1, 3)
    for colour in ([255, 0, 0], [255, 0, 255], [128, 128, 255]):
        assert (drawn == colour).all(1).sum() > 3 * 40 * 40


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("sheet.nonsense", ".nonsense is not one of "),
        ("file/sheet.png", "file is not a folder; name"),
        ("shut/new/sheet.png", "shut cannot be written to; name"),
    ],
)
def test_sheet_that_cannot_be_written_is_a_usage_error_before_anything_is_trained(
    tmp_path, capsys, monkeypatch, name, why
):
    (tmp_path / "file").write_text("")
    (tmp_path / "shut").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode, **how: not str(path).endswith("shut"))
    monkeypatch.setattr("benchbd.pipeline.preview.show", lambda made, count: pytest.fail("it was drawn"))
    args = ["preview", "bn-w", "-o", str(tmp_path / name), "--images", "1", "--output", str(tmp_path / "out")]
    assert main(args) == 2
    said = capsys.readouterr().err
    assert f"cannot write the picture {tmp_path / name}: " in said
    assert why in said


def test_verb_draws_one_attack(tmp_path, capsys):
    out = tmp_path / "new" / "blend.png"
    assert main(["preview", "blend(alpha=0.5)", "-o", str(out), "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert pixels(out).shape[0] > 100


def test_verb_draws_all_attacks_with_the_parameters_given(tmp_path, monkeypatch):
    from benchbd.pipeline import preview

    asked = []

    def instead(made, count):
        asked.append((made.cell.attack.text, count))
        blank = np.zeros((count, 3, 4, 4), np.uint8)
        return Shown(made.cell.attack.text, blank, blank, ("",) * count)

    monkeypatch.setattr(preview, "show", instead)
    args = ["preview", "--all", "l2(mode='noise')", "-o", str(tmp_path / "all.png"), "--output", str(tmp_path / "out")]
    assert main(args) == 0
    names = [text.partition("(")[0] for text, _ in asked]
    assert {"bn-g", "bn-w", "blend", "tj-sq", "tj-wm", "dynamic", "cl", "sig", "l2"} <= set(names)
    assert "none" not in names
    assert ("l2(mode=noise)", 2) in asked
    assert len(names) == len(set(names))


def _blank(made, count):
    blank = np.zeros((count, 3, 4, 4), np.uint8)
    return Shown(made.cell.attack.text, blank, blank, ("",) * count)


def test_an_impossible_attack_costs_itself_alone_on_a_sheet_of_all(tmp_path, monkeypatch, capsys):
    """One refused by its parameters before anything is trained, one by the data found, one that diverges."""
    asked = []

    def instead(made, count):
        asked.append(made.cell.attack.text)
        if made.components.attack.name == "sig":
            raise Impossible("the budget cannot be computed\nfrom this data")
        if made.components.attack.name == "dynamic":
            raise Diverged("mask network: loss is not finite in epoch 1 of 2")
        return _blank(made, count)

    drawn = []
    monkeypatch.setattr("benchbd.pipeline.preview.show", instead)
    monkeypatch.setattr(
        "benchbd.pipeline.preview.draw_sheet", lambda shown, *a, **k: drawn.extend(one.attack for one in shown)
    )
    args = ["preview", "--all", "bn-g(cell=20)", "-o", str(tmp_path / "all.png"), "--output", str(tmp_path / "out")]
    assert main(args) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "bn-g(cell=20) skipped: a grid of 3x3 cells of 20 pixels does not fit into 32x32 images",
        "cl, dynamic, l2, lfd-adaptive, tj-sq, tj-wm train their triggers first, unless stored "
        "(surrogates: resnet18, 80 epochs; --model and --epochs choose smaller ones)",
        "dynamic skipped: mask network: loss is not finite in epoch 1 of 2",
        "sig skipped: the budget cannot be computed from this data",
    ]
    assert "bn-g" not in [text.partition("(")[0] for text in asked]
    assert {"bn-w", "blend", "cl", "l2", "tj-sq", "tj-wm"} <= set(drawn)
    assert not {"sig", "dynamic"} & set(drawn)


def test_a_sheet_without_any_attack_is_an_error_that_says_why(tmp_path, monkeypatch, capsys):
    def refuse(made, count):
        raise Impossible("not on these")

    monkeypatch.setattr("benchbd.pipeline.preview.show", refuse)
    args = ["preview", "--all", "-o", str(tmp_path / "all.png"), "--output", str(tmp_path / "out")]
    assert main(args) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "benchbd: preview: no attack can be drawn on digits; last reason: not on these"
    )
    assert not (tmp_path / "all.png").exists()


def test_a_mistake_in_a_spec_is_found_before_anything_is_drawn(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("benchbd.pipeline.preview.show", lambda made, count: asked.append(made) or _blank(made, count))
    args = ["preview", "blend", "bn-g(cell=20)", "-o", str(tmp_path / "x.png"), "--output", str(tmp_path / "out")]
    assert main(args) == 1
    assert not asked
    # A misspelt parameter is no impossible attack: it is refused with --all too.
    assert main([*args[:1], "--all", "blend(alhpa=0.1)", *args[3:]]) == 2
    assert "did you mean 'alpha'" in capsys.readouterr().err
    assert not asked


def test_verb_tells_the_progress_of_what_is_trained(tmp_path, capsys):
    what = ["tj-sq(iterations=60)", "--dataset", "digits(train=100)", "--model", "resnet18(width=2)", "--epochs", "2"]
    assert main(["preview", *what, "-o", str(tmp_path / "x.png"), "--output", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().err.splitlines()
    first = "tj-sq(iterations=60) trains its trigger first, unless stored (surrogates: resnet18(width=2), 2 epochs;"
    assert lines[0].startswith(first)
    for wanted in (r"surrogate 1/2 loss \d+\.\d{3}", r"surrogate 2/2 loss .*", r"tj-sq inversion (50|60)/60 loss .*"):
        assert any(re.fullmatch(wanted, line) for line in lines), (wanted, lines)
    assert all(one != two for one, two in itertools.pairwise(lines))


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"event": "stage", "stage": "trigger"}, "trigger"),
        ({"event": "waiting", "stage": "surrogate"}, "surrogate: waiting, another process is computing it"),
        ({"event": "progress", "stage": "s", "epoch": 3, "epochs": 80, "step": 9, "steps": 9}, "s 3/80"),
        ({"event": "progress", "stage": "s", "epoch": 3, "epochs": 80, "step": 2, "steps": 9}, "s 3/80 step 2/9"),
        (
            {"event": "progress", "stage": "l2 pattern", "epoch": 50, "epochs": 60, "norm": 3.2},
            "l2 pattern 50/60 norm 3.200",
        ),
        (
            {"event": "progress", "stage": "d", "epoch": 2, "epochs": 2, "warning": "dynamic: weak"},
            "warning: dynamic: weak",
        ),
        ({"event": "warning", "warning": "dynamic: weak"}, "warning: dynamic: weak"),
        ({"event": "other"}, ""),
    ],
)
def test_how_events_read(event, line):
    assert terminal_line(event) == line


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "name an attack"),
        (["blnd"], "did you mean 'blend'"),
        (["blend", "--images", "0"], "--images"),
        (["blend", "--amplify", "-1"], "--amplify"),
        (["bn-g(cell=20)"], "does not fit"),
        (["blend", "--dataset", "nothing"], "nothing"),
    ],
)
def test_verb_names_the_mistake(tmp_path, capsys, args, said):
    code = main(["preview", *args, "-o", str(tmp_path / "x.png"), "--output", str(tmp_path / "out")])
    assert code != 0
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
