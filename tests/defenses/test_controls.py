"""none, oracle and random-filter."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from benchbd.core.images import DatasetInfo
from benchbd.errors import Impossible, UsageError
from benchbd.plugins import registry
from benchbd.plugins.contract import UNDEFENDED

INFO = DatasetInfo(classes=4, size=32, train=400, test=100, class_counts=None, target=1)
POISONING, CLEAN = SimpleNamespace(poisons=True), SimpleNamespace(poisons=False)
LABELS = np.arange(400) % 4


def make(text):
    return registry.make("defenses", text)


def test_none_is_the_undefended_model(fake_lab):
    lab = fake_lab(LABELS)
    make("none").train(lab)
    assert len(lab.calls) == 1
    assert lab.calls[0].settings == {}
    assert lab.calls[0].ids.tolist() == list(range(400))
    assert make("none").trainings(POISONING) == (UNDEFENDED,)
    assert not make("none").control
    assert make("none").needs == ()


def test_oracle_trains_on_exactly_the_clean_samples_whatever_their_order(fake_lab):
    order = np.random.default_rng(0).permutation(400)[:300]
    poison = np.arange(37)
    lab = fake_lab(LABELS, order, poison=poison)
    oracle = make("oracle")
    oracle.train(lab)
    assert lab.calls[0].settings == {}
    assert lab.calls[0].ids.tolist() == [i for i in order if i >= 37]
    assert lab.suspects() == {i for i in order if i < 37}
    assert oracle.control
    assert oracle.needs == ("truth",)
    assert oracle.trainings(POISONING) != (UNDEFENDED,)
    assert oracle.trainings(CLEAN) == (UNDEFENDED,)


def test_random_filter_drops_the_number_at_random(fake_lab):
    control = make("random-filter")
    assert control.of == "lfd"
    assert control.control
    assert control.needs == ("truth",)

    def kept(seed, flagged=61, poison=()):
        lab = fake_lab(LABELS, flagged=flagged, seed=seed, poison=poison)
        control.train(lab)
        ids = lab.calls[0].ids
        assert lab.calls[0].settings == {}
        assert lab.suspects() == set(range(400)) - set(ids.tolist())
        assert lab.scores[lab.flagged].min(initial=1) > lab.scores[~lab.flagged].max()
        return ids.tolist()

    assert len(kept(0)) == 339
    assert kept(0) == sorted(kept(0))
    assert kept(0) == kept(0) == kept(0, poison=np.arange(40)) != kept(1)
    assert set(kept(0, flagged=100)) < set(kept(0))
    assert len(kept(0, flagged=0)) == 400
    dropped = [len(set(range(40)) - set(kept(seed))) for seed in range(30)]  # 61 of 400 at random hit 6.1 of any 40
    assert 4.5 < np.mean(dropped) < 7.7


def test_random_filter_plans_what_the_imitated_defense_needs_first():
    def whats(of):
        return [t.kind for t in registry.make("defenses", "random-filter", of=of).trainings(POISONING)]

    assert whats("lfd") == ["teacher", "full"]
    assert whats("ac") == ["feature-model", "full"]
    assert whats("abl") == ["fine-tune", "full"]
    shared = set(make("lfd").trainings(POISONING)) & set(make("random-filter").trainings(POISONING))
    assert [t.kind for t in shared] == ["teacher"]


def test_random_filter_plans_all_that_comes_before_the_last_full_training(plugin_file):
    text = """
    from benchbd.plugins.contract import UNDEFENDED

    @defense("lasting", version=1)
    class Lasting(Defense):
        def trainings(self, attack):
            return (UNDEFENDED, Training("full", ("lasting",)), Training("fine-tune", ("lasting",)))

        def train(self, lab):
            lab.suspect([])
    """
    registry.add_plugin_file(str(plugin_file(text)))
    control = make("random-filter(of='lasting')")
    control.check(INFO, POISONING)
    found = control.trainings(POISONING)
    assert found[0] == UNDEFENDED
    assert [t.kind for t in found] == ["full", "full"]


@pytest.mark.parametrize(
    ("of", "reason"),
    [
        ("oracle", "'oracle' is a control itself"),
        ("random-filter", "'random-filter' is a control itself"),
        ("fine-pruning", "'fine-pruning': it needs clean images"),
        ('fine-pruning(profile="canonical")', "it needs clean images"),
        ("none", "'none': it flags no samples"),
        ("silent", "'silent': it flags no samples"),
        ("lfd(alpha=0.001)", "alpha"),
    ],
)
def test_random_filter_refuses_what_it_cannot_imitate(of, reason, plugin_file):
    silent = """
    @defense("silent", version=1)
    class Silent(Defense):
        def train(self, lab):
            return lab.train(lab.poisoned)
    """
    registry.add_plugin_file(str(plugin_file(silent)))
    with pytest.raises(Impossible) as caught:
        registry.make("defenses", "random-filter", of=of).check(INFO, POISONING)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_random_filter_accepts_what_flags():
    for of in ("lfd", "ac", "abl", "lfd(alpha=0.3)", "lfd()"):
        registry.make("defenses", "random-filter", of=of).check(INFO, POISONING)
    with pytest.raises(UsageError, match="did you mean 'lfd'"):
        make("random-filter(of='lfdd')").check(INFO, POISONING)


def test_random_filter_accepts_a_defense_whose_base_flags(plugin_file):
    text = """
    class Flagging(Defense):
        def train(self, lab):
            lab.suspect([])

    @defense("derived", version=1)
    class Derived(Flagging):
        pass
    """
    registry.add_plugin_file(str(plugin_file(text)))
    make("random-filter(of='derived')").check(INFO, POISONING)


@pytest.mark.parametrize(
    "text",
    [
        "lfd",
        "lfd(alpha=0.2, beta=1e-05, teacher='resnet-s(stem=4)', mode='drop')",
        "abl(finetune_lr=0.5, bn_mode='eval')",
        "ac(preset='global', scope='label')",
    ],
)
def test_a_defense_written_as_a_spec_is_that_defense(text):
    from benchbd.defenses.random_filter import spec_of

    assert spec_of(make(text)) == text
    assert make(spec_of(make(text))) == make(text)
