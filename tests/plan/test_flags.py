"""What --set, --seeds, --smoke, --filter and --exclude make of a matrix."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_matrices import BASE, plan, refused

from benchbd.cli import main
from benchbd.errors import UsageError
from benchbd.plan import filters as filters_module
from benchbd.plan import matrix
from benchbd.run.outcome import Outcome

pytestmark = pytest.mark.usefixtures("toys")


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("epochs=2", lambda c: c.recipe["epochs"] == 2),
        ("recipe.lr=1e-2", lambda c: c.recipe["lr"] == 0.01),
        ("augment=[]", lambda c: c.recipe["augment"] == []),
        ("dataset.train=50", lambda c: c.dataset.params["train"] == 50),
        ("dataset=toy-images(train=70)", lambda c: c.dataset.params["train"] == 70),
        ("model=toy-net(width=2)", lambda c: c.model.params["width"] == 2),
        ("toy-net.width=3", lambda c: c.model.params["width"] == 3),
        ("toy-defense.mode=soft", lambda c: c.defense.name == "none" or c.defense.params["mode"] == "soft"),
        ("defense.beta=0.5", lambda c: c.defense.name == "none" or c.defense.params["beta"] == 0.5),
        ("attack.rate=0.2", lambda c: c.attack.params["rate"] == (0.1 if c.attack.name == "none" else 0.2)),
    ],
)
def test_set_changes_what_it_names(text: str, check: Callable[[Any], bool]) -> None:
    cells = plan(sets=[text]).cells
    assert len(cells) == 4
    assert all(check(cell) for cell in cells)


BLOCKS = """
precision: fp32
threads: 2
blocks:
  - {dataset: toy-images, model: toy-net, attacks: none, defenses: none}
  - {dataset: toy-images, model: toy-net, attacks: none, defenses: none, precision: strict-bf16}
  - {dataset: toy-images, model: toy-net, attacks: none, defenses: none, precision: null, threads: 1}
"""


def numerics(found: matrix.Plan) -> list[tuple[str, int]]:
    return [(cell.precision, cell.threads) for cell in found.cells]


def test_numerics_of_a_matrix_and_its_blocks_and_what_overrides_them() -> None:
    assert numerics(plan(BLOCKS)) == [("fp32", 2), ("bf16-strict", 2), ("auto", 1)]
    assert numerics(plan(BLOCKS, sets=["threads=3"])) == [("fp32", 3), ("bf16-strict", 3), ("auto", 3)]
    assert numerics(plan(BLOCKS, sets=["precision=compile", "threads=1"])) == [("compile", 1)]
    given = {"precision": "fast", "threads": 1}
    assert numerics(plan(BLOCKS, sets=["precision=bf16", "threads=3"], **given)) == [("auto", 1)]
    assert [cell.id for cell in plan(BLOCKS, **given).cells] == [plan(BASE).cells[0].id]


def test_numerics_can_be_filtered() -> None:
    found = plan(BLOCKS)
    assert numerics(matrix.narrow(found, ["precision=*bf16*"])) == [("bf16-strict", 2)]
    assert numerics(matrix.narrow(found, ["threads=2"], ["precision=fp32"])) == [("bf16-strict", 2)]
    with pytest.raises(UsageError, match="no cell has precision 'fp23'; did you mean 'fp32'"):
        matrix.narrow(found, ["precision=fp23"])


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("precision: bf61", {}, "matrix m: precision 'bf61': 'bf61' is unknown; did you mean 'bf16'?"),
        ("precision: [fp32, bf16]", {}, "matrix m: precision must be a word"),
        ("threads: 0", {}, "matrix m: threads must be more than 0"),
        ("threads: 2000", {}, "matrix m: threads 2000: at most 1,024 are allowed"),
        ("presision: fp32", {}, "unknown key 'presision'; did you mean 'precision'?"),
        ("", {"sets": ["precision=fp32-bf16"]}, "precision 'fp32-bf16' contradicts itself"),
        ("", {"sets": ["precision="]}, "--set 'precision=': give a value"),
        ("", {"precision": "fp23"}, "--precision 'fp23': 'fp23' is unknown; did you mean 'fp32'?"),
        ("", {"threads": -1}, "--threads must be more than 0, not -1"),
    ],
)
def test_numerics_with_a_mistake(text: str, options: dict[str, Any], words: str) -> None:
    assert words in refused(BASE + text, **options)


def test_set_wins_over_the_matrix_a_name_over_its_kind_and_a_list_expands() -> None:
    text = BASE.replace("toy-defense", "toy-defense(beta=7)") + "recipe: {epochs: 9}"
    found = plan(text, sets=["toy-defense.beta=[1, 2]", "defense.beta=3", "epochs=1", "epochs=4"])
    assert {c.defense.params.get("beta") for c in found.cells} == {None, 1.0, 2.0}
    assert {c.recipe["epochs"] for c in found.cells} == {4}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch=2", "recipe has no parameter 'epoch'; did you mean 'epochs'?"),
        ("presets=fast", "recipe has no parameter 'presets'; did you mean 'preset'?"),
        ("recipe=fats", "one of paper, backdoorbench, sgd-long, fast, muon, not 'fats'; did you mean 'fast'?"),
        ("recipe=3", "name a preset, such as recipe=fast, or one entry, such as epochs=2"),
        ("recipe={epochs: 3}", "name a preset"),
        ("recipe=", "name a preset"),
        ("epochs=two", "epochs must be int, not 'two'"),
        ("epochs=", "epochs must be int, not None"),
        ("epochs", "write --set key=value"),
        ("=2", "write --set key=value"),
        (".epochs=2", "write --set key=value"),
        ("toy-defense.=2", "write --set key=value"),
        ("toy-defense.alhpa=2", "toy-defense has no parameter 'alhpa'"),
        ("toy-defense.betta=2", "did you mean 'beta'?"),
        ("defense.betta=2", "defense has no parameter 'betta'; did you mean 'beta'?"),
        ("toy-defence.beta=2", "nothing in this matrix is called 'toy-defence'; did you mean 'toy-defense'?"),
        ("lfd.beta=2", "nothing in this matrix is called 'lfd'"),
        ("dataset.trian=5", "dataset has no parameter 'trian'; did you mean 'train'?"),
        ("dataset=", "name a dataset"),
        ("dataset=nosuch", "no dataset is called 'nosuch'"),
        ("model=3", "name a model"),
        ("toy-defense.beta=[", "cannot read the value"),
        ("toy-defense.beta=!!python/name:os.system x", "cannot read the value"),
        ("toy-defense.beta=[]", "beta is an empty list"),
        ("none.rate=" + "9" * 5000, "cannot read the value"),
    ],
)
def test_a_set_that_is_a_typo_is_an_error(text: str, words: str) -> None:
    message = refused(BASE, sets=[text])
    assert words in message
    assert len(message) < 400


@pytest.mark.parametrize(("text", "seeds"), [("0-2", [0, 1, 2]), ("0,3", [0, 3]), (" 5 ", [5]), ("1,0-1", [1, 0])])
def test_the_seeds_flag(text: str, seeds: list[int]) -> None:
    assert matrix.parse_seeds(text) == seeds
    assert list(dict.fromkeys(c.seed for c in plan(BASE + "seeds: 9", seeds=seeds).cells)) == seeds


@pytest.mark.parametrize(
    "text", ["", ",", "x", "2-0", "-1", "0-", "1.5", "0-99999999", "9" * 20, "0-9999,10000-19999", "²"]
)
def test_a_seeds_flag_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="seed"):
        matrix.parse_seeds(text)


def test_set_recipe_is_set_preset() -> None:
    named = [plan(sets=[text, "epochs=3"]).cells for text in ("recipe=fast", "preset=fast", "recipe.preset=fast")]
    assert named[0][0].recipe["schedule"] == "onecycle"
    assert len({tuple(cell.id for cell in cells) for cells in named}) == 1


def test_smoke_shortens_a_warmup_with_the_training() -> None:
    recipe = plan(BASE + "recipe: {epochs: 50, warmup: 5}", smoke=True).cells[0].recipe
    assert (recipe["epochs"], recipe["warmup"]) == (1, 0.1)


def test_smoke_shrinks_every_cell_unless_told_otherwise() -> None:
    cells = plan(BASE + "recipe: {epochs: 50}", smoke=True).cells
    assert {c.recipe["epochs"] for c in cells} == {1}
    assert {c.defense.params.get("epochs") for c in cells} == {None, 1}
    assert {c.recipe["epochs"] for c in plan(smoke=True, sets=["epochs=2"]).cells} == {2}


@pytest.mark.parametrize(
    ("filters", "excludes", "count"),
    [
        ([], [], 16),
        (["defense=toy-*"], [], 12),
        (["defense=toy-defense"], [], 12),
        (["defense=toy-defense(beta=0.25)"], [], 4),
        (["defense=toy-defense(beta=0.25,mode=soft)"], [], 4),
        (["defense=toy-defense(*"], [], 8),
        (["defense=toy*,attack!=none"], [], 6),
        (["attack!=none", "seed=0"], [], 4),
        (["label=*/none/none/*"], [], 2),
        ([], ["defense=none"], 12),
        ([], ["attack=none,seed=0", "attack=none,seed=1"], 8),
        (["attack=none"], ["seed=1"], 4),
        (["defense=none|toy-defense(beta=0.25)"], [], 8),
        (["defense=none | toy-defense(beta=0.25,mode=soft),attack=none"], [], 4),
        (["defense=toy-defense(*|none"], [], 12),
        (["defense!=none|toy-defense(*"], [], 4),
        (["seed=0|1,attack=none"], [], 8),
        ([], ["defense=none|toy-defense(*"], 4),
        ([], ["defense!=none|toy-defense(*"], 12),
        (["defense=toy-defense(*,seed=0"], [], 4),
        (["defense=toy-defense(beta=0.25,*,seed=0"], [], 2),
        (["defense=toy-defense(beta=0.25,mode=*"], [], 4),
        (["defense=[nt]o*,attack!=none"], [], 8),
        (["defense=[]|t]*|none"], [], 16),
    ],
)
def test_filters(filters: list[str], excludes: list[str], count: int) -> None:
    text = BASE.replace("toy-defense]", "toy-defense, toy-defense(beta=0.25), 'toy-defense(beta=0.25, mode=\"soft\")']")
    found = plan(text + "seeds: 0-1")
    assert len(found.cells) == 16
    chosen = matrix.narrow(found, filters, excludes)
    assert len(chosen.cells) == count
    assert matrix.select(found.cells, filters, excludes) == chosen.cells
    one = matrix.narrow(found, [f"id={found.cells[3].id}"])
    assert one.cells == (found.cells[3],)


@pytest.mark.parametrize(
    ("filters", "excludes", "words"),
    [
        (["defense"], [], "--filter 'defense': write key=glob"),
        (["defense="], [], "write key=glob"),
        (["=x"], [], "write key=glob"),
        (["attack=none,"], [], "write key=glob"),
        (["defense=none,toy-*,x"], [], "attack!=none, or alternatives: 'defense=none|toy-*'"),
        (["seed=0,defense!=none|x, toy-*"], [], "or alternatives: 'defense!=none|x|toy-*'"),
        (["defense=none|"], [], "--filter 'defense=none|': an alternative is empty; write them as in defense="),
        (["defense=|none"], [], "an alternative is empty"),
        ([], ["defense=none||toy-defense"], "--exclude 'defense=none||toy-defense': an alternative is empty"),
        (["defense=none|toy-defence"], [], "no cell has defense 'toy-defence'; did you mean 'toy-defense'?"),
        (["attack=none|attack=toy-attack"], [], "no cell has attack 'attack=toy-attack'"),
        (["defence=x"], [], "unknown key 'defence'; did you mean 'defense'?"),
        (["defense=toy-defence"], [], "no cell has defense 'toy-defence'; did you mean 'toy-defense'?"),
        (["attack!=nnone"], [], "no cell has attack 'nnone'; did you mean 'none'?"),
        ([], ["defense=toy-defence"], "--exclude 'defense=toy-defence': no cell has"),
        (["seed=7"], [], "known: 0"),
        (["attack=none,attack=toy-attack"], [], "no cell is left after"),
        ([], ["dataset=toy*"], "no cell is left after"),
        (["label=" + "*a" * 3000], [], "no cell has label"),
        (["defense=[z-a]"], [], "no cell has defense"),
    ],
)
def test_filters_with_a_typo(filters: list[str], excludes: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        matrix.narrow(plan(), filters, excludes)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["defense=none,|", "defense=none,toy-*|", "defense=none,"])
def test_advice_is_an_expression_that_can_be_written(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        matrix.narrow(plan(), [text], [])
    assert "alternatives" not in str(caught.value)


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        ("none", ["none"]),
        ("none|lfd*|ac", ["none", "lfd*", "ac"]),
        ("lfd(*|none", ["lfd(*", "none"]),
        ("lfd(*|abl(*)|x", ["lfd(*", "abl(*)", "x"]),
        ("command(command='a|b (c)')|none", ["command(command='a|b (c)')", "none"]),
        ("command(files=[],run='x')|command(files=['a'])", ["command(files=[],run='x')", "command(files=['a'])"]),
        ("command(run='a[')|none[x]", ["command(run='a[')", "none[x]"]),
        ("lfd(a=[(]|b)|x", ["lfd(a=[(]|b)", "x"]),
        ("a[|]b|c", ["a[|]b", "c"]),
        ("a[(]|c)", ["a[(]", "c)"]),
        ("a[x(|]b)|c", ["a[x(|]b)", "c"]),
        ("[]|]|c", ["[]|]", "c"]),
        ("[!]|]|c", ["[!]|]", "c"]),
        ("a[]|c", ["a[]", "c"]),
        ("a[b|c", ["a[b", "c"]),
        ("a]|[c", ["a]", "[c"]),
        ("a)|b(c|d)", ["a)", "b(c|d)"]),
        ("|", ["", ""]),
    ],
)
@pytest.mark.parametrize("sign", ["|", ","])
def test_a_bar_or_comma_separates_outside_parameters_and_sets(globs: str, expected: list[str], sign: str) -> None:
    pieces = [glob.replace("|", sign) for glob in expected]
    assert filters_module._split(globs.replace("|", sign), sign) == pieces


def test_a_set_is_what_fnmatch_reads_as_a_set() -> None:
    """A bar that stands outside a set is in every text that matches."""
    texts = ["".join(letters) for size in range(1, 5) for letters in itertools.product("a|[]!", repeat=size)]
    for glob in texts:
        if glob.count("|") == 1 and "[|]" not in glob:
            found = fnmatch.filter(texts, glob)
            assert found
            assert (len(filters_module._split(glob, "|")) == 2) == all("|" in text for text in found), glob


def test_a_long_expression_is_split_at_once() -> None:
    for text in ("(", "[", "[(", "[]", "(]", "[!", "(,", ",("):
        assert "".join(filters_module._split(text * 100_000, "|")) == text * 100_000
    assert filters_module._terms(f"a=({',(' * 100_000},b") == [f"a=({',(' * 100_000},b"]


def test_filters_narrow_what_is_skipped_too() -> None:
    found = plan(BASE.replace("toy-attack]", "toy-clean(rate=0.2)]"))
    assert (len(found.cells), len(found.skipped)) == (2, 2)
    assert matrix.narrow(found, ["attack=none"]).skipped == ()
    with pytest.raises(UsageError, match=r"no cell is left.*every matching cell is skipped, 20 images to poison"):
        matrix.narrow(found, ["attack=toy-clean"])


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ("3", "seeds: 3 is one seed, number 3; for 3 seeds write seeds: [0, 1, 2]"),
        ("10", "seeds: 10 is one seed, number 10; for 10 seeds write seeds: 0-9"),
        ("0", None),
        ("1", None),
        ("[3]", None),
        ("0-2", None),
        ("'3'", None),
    ],
)
def test_a_number_of_seeds_is_one_seed_and_the_plan_notes_it(given: str, note: str | None) -> None:
    found = plan(BASE + f"seeds: {given}")
    assert [n.split(": ", 1)[1] for n in found.notes] == ([] if note is None else [note])
    assert plan(BASE + f"seeds: {given}", seeds=[0]).notes == ()


@pytest.mark.parametrize(
    ("recipe", "notes"),
    [
        (
            "{momentum: 0.5}",
            ["recipe: momentum has no effect on trainings with optimizer adam, only with sgd, sgdw or muon"],
        ),
        ("{muon_lr: 0.1}", ["recipe: muon_lr has no effect on trainings with optimizer adam, only with muon"]),
        ("{preset: muon, muon_lr: 0.1}", []),
        ("{momentum: 0.5, optimizer: sgdw}", []),
        (
            "{horizon: 4, schedule: constant}",
            ["recipe: horizon has no effect on trainings with schedule constant, only with cosine"],
        ),
        ("{horizon: 4}", []),
        ("{preset: fast, epochs: 2}", []),
        (
            "{preset: fast, optimizer: adam, momentum: 0.85}",
            ["recipe: momentum has no effect on trainings with optimizer adam, only with sgd, sgdw or muon"],
        ),
        (
            "{preset: fast, decay: 0.5}",
            ["recipe: decay has no effect on trainings with schedule onecycle, only with steps"],
        ),
        ("{peak: 0.3}", ["recipe: peak has no effect on trainings with schedule cosine, only with onecycle"]),
        ("{schedule: steps}", ["recipe: schedule steps without milestones keeps the learning rate constant"]),
        ("{schedule: steps, milestones: [3], decay: 0.5}", []),
    ],
)
def test_the_plan_notes_entries_of_a_recipe_without_effect(recipe: str, notes: list[str]) -> None:
    found = plan(BASE + f"recipe: {recipe}")
    assert [n.split(": ", 1)[1] for n in found.notes] == notes


@pytest.mark.parametrize(
    ("recipe", "notes"),
    [
        ("{lr: 0}", ["recipe: lr is 0, so a training changes no weight unless its plugin names another rate"]),
        (
            "{epochs: 0}",
            ["recipe: epochs is 0, so networks keep their initial weights unless a plugin names other epochs"],
        ),
        ("{preset: muon, lr: 0, muon_lr: 0}", ["recipe: lr is 0, so a training changes no weight unless its plugin"]),
        ("{preset: muon, muon_lr: 0}", ["recipe: muon_lr is 0, so a training changes no filter of a convolution"]),
        (
            "{preset: muon, lr: 101, muon_lr: 1000}",
            ["recipe: lr is 101, and", "recipe: muon_lr is 1000, and trainings"],
        ),
        ("{preset: muon, lr: 100, muon_lr: 1.0e-9}", []),
        ("{optimizer: sgd, lr: 100.5}", ["recipe: lr is 100.5, and trainings diverge at rates above 100"]),
        ("{lr: 100.0001}", ["recipe: lr is 100.0001, and trainings diverge at rates above 100"]),
        ("{optimizer: sgd, muon_lr: 0}", ["recipe: muon_lr has no effect on trainings with optimizer sgd"]),
        ("{optimizer: sgd, muon_lr: 1000}", ["recipe: muon_lr has no effect on trainings with optimizer sgd"]),
        ("{preset: fast}", []),
        ("{lr: 1.0e-9}", []),
    ],
)
def test_the_plan_notes_rates_that_are_surely_a_mistake(recipe: str, notes: list[str]) -> None:
    found = plan(BASE + f"recipe: {recipe}")
    said = [n.split(": ", 1)[1] for n in found.notes]
    assert len(said) == len(notes)
    assert all(line.startswith(note) for line, note in zip(said, notes, strict=True))
    assert found.cells, "a note is no error"


def test_a_rate_is_noted_wherever_it_is_set_and_once_a_block() -> None:
    for given in (plan(BASE, sets=["lr=0"]), plan(BASE + "recipe: {lr: 0}\nseeds: 0-4")):
        assert len(given.notes) == 1
        assert "recipe: lr is 0" in given.notes[0]
    assert plan(BASE + "recipe: {lr: 0}", sets=["lr=0.1"]).notes == ()


@pytest.mark.parametrize(
    ("defense", "notes"),
    [
        (
            "{abl: {unlearn_lr: 250}}",
            ["defense abl(unlearn_lr=250): unlearn_lr is 250, and trainings diverge at rates"],
        ),
        (
            "{nab: {lr: [101, 1000, 0.1]}}",
            ["defense nab(lr=101): lr is 101, and", "defense nab(lr=1000): lr is 1000"],
        ),
        ("{abl: {lr: 100, finetune_lr: null, unlearn_lr: 1.0e-9}}", []),
        ("{lfd: {beta: 1}}", []),
    ],
)
def test_the_plan_notes_such_rates_of_plugins(defense: str, notes: list[str]) -> None:
    head = "dataset: digits\nmodel: lenet-s\nattacks: [bn-g, blend]\nseeds: [0, 1]\n"
    found = plan(f"{head}defenses: [none, {defense}]\n")
    said = [n.split(": ", 1)[1] for n in found.notes]
    assert len(said) == len(notes)
    assert all(line.startswith(note) for line, note in zip(said, notes, strict=True))


@pytest.mark.parametrize("verb", ["plan", "run", "validate"])
def test_the_note_is_said_on_standard_error(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    nothing_runs = Outcome(statuses={}, reasons={}, ran=[], seconds=0.0)
    monkeypatch.setattr("benchbd.run.run_cells", lambda *_: nothing_runs)
    words = ("-a", "none", "-d", "none", "--dataset", "digits", "--model", "lenet", "--set", "lr=0")
    assert main([verb, *words, "--output", "out"]) == 0
    assert capsys.readouterr().err.count("recipe: lr is 0, so a training changes no weight") == 1
