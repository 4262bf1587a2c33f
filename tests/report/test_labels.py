from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchbd.core.recipe import Recipe
from benchbd.plugins import registry
from benchbd.report.labels import Labels, Variant, recipe_text, registered, variant

ROOT = Path(__file__).parents[2]


def test_only_what_differs_from_the_defaults_is_named(make_record):
    plain = variant(make_record(defense="lfd"), "defense")
    other = variant(make_record(defense="lfd", given={"defense": {"beta": 0.0, "alpha": 0.2}}), "defense")
    labels = Labels([plain, other])
    assert labels(plain) == "lfd"
    assert labels(other) == "lfd(alpha=0.2,beta=0)"


def test_labels_are_what_a_cell_calls_itself(make_record):
    from benchbd.plugins.identity import part_of

    record = make_record(
        defense="lfd", given={"defense": {"teacher": "resnet-s(stem=64)", "beta": 1e-4}, "dataset": {"train": 10000}}
    )
    for kind in ("dataset", "attack", "defense", "model"):
        item = variant(record, kind)
        made = registry.make(f"{kind}s", item.name, **item.values())
        assert Labels([item])(item) == part_of(made).text


AUGMENT = ["crop4", "hflip"]


@pytest.mark.parametrize(
    ("kind", "name", "lacking", "given", "label"),
    [
        ("defense", "lfd", ("teachers", "teacher_steps"), {"teacher_epochs": 40}, "lfd(teachers=1,teacher_epochs=40)"),
        ("defense", "abl", ("unlearn_steps",), {"unlearn_epochs": 20}, "abl(unlearn_epochs=20)"),
        ("defense", "spectral", ("scored",), {}, "spectral"),
        ("defense", "asd", ("augment",), {}, "asd(augment=[crop4,hflip])"),
        ("defense", "dbd", ("augment",), {}, "dbd(augment=[crop4,hflip])"),
        ("attack", "lfd-adaptive", ("verify", "of"), {}, "lfd-adaptive(verify=False)"),
    ],
)
def test_a_parameter_that_a_record_lacks_has_the_value_that_its_version_implied(
    make_record, kind, name, lacking, given, label
):
    new, old = (make_record(**{kind: name}, version=v, given={kind: given}) for v in (2, 1))
    for params in (old["params"][kind], old["spec"][kind]["params"]):
        for key in lacking:
            params.pop(key, None)
    old["recipe"]["augment"] = AUGMENT
    items = [variant(record, kind) for record in (new, old)]
    labels = Labels(items)
    assert labels(items[1]) == label
    assert (items[0] == items[1]) == (labels(items[0]) == label), "columns with one label are one column"


def test_no_two_columns_or_rows_of_the_committed_records_have_the_same_label():
    for name in ("results", "figures"):
        lines = (ROOT / "leaderboard" / f"{name}.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        for kind in ("dataset", "model", "attack", "defense"):
            items = {variant(record, kind) for record in records}
            fresh = {
                Variant(kind, entry.name, json.dumps(registered(kind, entry.name), sort_keys=True))
                for entry in registry.entries(f"{kind}s")
                if registered(kind, entry.name) is not None
            }
            labels = Labels(items | fresh)
            assert len({labels(item) for item in items | fresh}) == len(items | fresh), (name, kind)


def test_unknown_plugins_name_what_varies():
    one = Variant("defense", "theirs", '{"a": 1, "b": 2}')
    two = Variant("defense", "theirs", '{"a": 1, "b": 3}')
    assert registered("defense", "theirs") is None
    assert Labels([one])(one) == "theirs"
    assert [Labels([one, two])(v) for v in (one, two)] == ["theirs(b=2)", "theirs(b=3)"]


def test_same_parameters_in_another_order_are_one_variant(make_record):
    a, b = make_record(defense="lfd"), make_record(defense="lfd")
    b["params"]["defense"] = dict(reversed(b["params"]["defense"].items()))
    assert variant(a, "defense") == variant(b, "defense")


def test_recipe_text_says_epochs_and_differences():
    assert recipe_text('{"epochs": 20, "lr": 0.001, "augment": ["crop4", "hflip"]}') == "20 epochs"
    assert recipe_text('{"epochs": 20, "lr": 0.01, "augment": []}') == "20 epochs, lr=0.01, augment=[]"


def test_recipe_text_names_the_preset_that_a_recipe_comes_from():
    def text(**given):
        return recipe_text(json.dumps(Recipe.parse(given).spec()))

    assert text(preset="paper") == "80 epochs"
    assert text(preset="fast", epochs=8) == "8 epochs, fast recipe"
    assert text(preset="fast", epochs=1, lr=0.5) == "1 epoch, fast recipe, lr=0.5"
    assert text(preset="fast", epochs=8, ema=0.0) == "8 epochs, fast recipe, ema=0"
    assert text(preset="backdoorbench") == "100 epochs, backdoorbench recipe"
    assert text(preset="sgd-long", epochs=50) == "50 epochs, sgd-long recipe"
    assert text(ema=0.5) == "80 epochs, ema=0.5"


def test_a_long_label_heads_its_column_by_name_alone_only_while_no_other_variant_stands_by():
    """A note below the table gives the parameters instead. Two variants of one name keep their full labels."""
    import json

    from benchbd.report.labels import LONG_LABEL, Labels, Variant

    long = Variant("defense", "lfd", json.dumps({"teacher": "resnet-s(stem=16)", "teacher_epochs": 25}))
    other = Variant("defense", "lfd", json.dumps({"teacher": "resnet-s", "teacher_epochs": 20}))
    none = Variant("defense", "none", "{}")
    labels = Labels([long, other, none], lambda kind, name: {"teacher": "resnet-s", "teacher_epochs": 20})
    assert len(labels(long)) > LONG_LABEL
    assert labels.heading(long, [none, long]) == "lfd"
    assert labels.abbreviations([none, long]) == [f"lfd is {labels(long)}"]
    assert labels.heading(long, [none, long, other]) == labels(long)
    assert labels.abbreviations([none, long, other]) == []
