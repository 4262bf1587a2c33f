"""The contract checks find what they are for: each is shown a plugin that breaks its promise, in one line."""

from __future__ import annotations

import pytest

from benchbd import testing
from benchbd.errors import UsageError
from benchbd.plugins import registry
from benchbd.testing.promises import CHECKS

pytestmark = pytest.mark.usefixtures("quick_disk", "fresh_registry", "one_thread")


def said(kind: str, line: str) -> list[str]:
    """What the check that ``line`` begins with says about the plugin ``mine``."""
    check = next(c for c in CHECKS[kind] if c.__name__ == line.partition(":")[0])
    return [f"{check.__name__}: {fault}" for fault in testing.faults(testing.PluginUnderTest(kind, "mine"), check)]


ATTACK = '''
@attack("mine", version=1)
class Mine(Attack):
    """Paints a corner."""
    {extra}
    def stamp(self, images, how):
        out = images.clone()
        out[:, :, :5, :5] = 255
        {stamp}
        return out
'''
ATTACKS = {
    "documented: parameter size has no line of help": ("size: int = 3", ""),
    "light: line 7 imports torch": ("", ""),
    "stamps: 100% of the poisoned images are unchanged": ("", "out = images.clone()"),
    "stamps: 100% of the triggered test images are unchanged": (
        "",
        "out = images.clone() if how.split == 'test' else out",
    ),
    "stamps: stamp changes its input images": ("", "images[:, :, 0, 0] = 9"),
    "stamps: an image's stamp depends on its position": ("", "out[0] = 7"),
    "repeats: two runs give different images": ("", "import random; out[:, :, 9, 9] = random.randrange(256)"),
    "budget: attack 'mine': stamp returned torch.float32": ("", "out = out.float()"),
    "trains_as_declared: prepare trains": (
        "def prepare(self, workshop): return {'w': workshop.train(workshop.clean, epochs=0).head()[0]}",
        "",
    ),
    "budget: attack 'mine': a training set was changed in place (its images)": (
        "def prepare(self, workshop):\n        workshop.clean.images[5] = 0\n        return {}",
        "",
    ),
    "budget: attack 'mine': x of its context was changed in place": (
        "def prepare(self, workshop): return {'x': [0.5]}",
        "how.trigger['x'] += 1",
    ),
    "budget: attack 'mine': indices of its context was changed in place": ("", "how.indices[:] = 0"),
    "repeats: two runs prepare different triggers": (
        "def prepare(self, workshop):\n        import random\n        return {'x': [random.random()]}",
        "",
    ),
    "budget: an impossible budget": (
        "def budget(self, info, counts=None):\n        return Budget(24, 240)",
        "",
    ),
}


@pytest.mark.parametrize("line", ATTACKS)
def test_broken_attacks(plugin_file, line):
    extra, stamp = ATTACKS[line]
    text = ATTACK.format(extra=extra or "pass", stamp=stamp or "pass")
    if line.startswith("light"):
        text = "\n\n\nimport torch\n" + text
    registry.add_plugin_file(str(plugin_file(text)))
    assert any(f.startswith(line) and "\n" not in f for f in said("attacks", line)), said("attacks", line)


DEFENSE = '''
@defense("mine", version=1)
class Mine(Defense):
    """Trains."""
    {extra}
    def train(self, lab):
        {train}
        return lab.train(lab.poisoned)
'''
DEFENSES = {
    "runs: the tiny-patch cell ended as failed: ValueError: no": ("", "raise ValueError('no')"),
    "runs: the none cell ended as diverged": (
        "",
        "if (lab.poisoned.images == 255).sum() < 9: lab.suspect([float('nan')] * len(lab.poisoned))",
    ),
    "runs: the tiny-patch cell ended as failed: defense 'mine': a training set was changed in place (its labels)": (
        "",
        "lab.poisoned.labels[:9] = 0",
    ),
    "runs: the tiny-patch cell ended as failed: defense 'mine': a training set was changed in place (its images)": (
        "",
        "lab.poisoned.images.numpy()[3, 0, 0, 0] ^= 1",
    ),
    "runs: the tiny-patch cell ended as failed: defense 'mine': a training set's labels cannot be assigned": (
        "",
        "lab.poisoned.labels = lab.poisoned.labels.flip(0)",
    ),
    "runs: the tiny-patch cell ended as failed: defense 'mine' returned a resnet-s in a row of tiny-net": (
        "",
        "return lab.train(lab.poisoned, model='resnet-s', epochs=0)",
    ),
    "runs: the tiny-patch cell ended as failed: defense 'mine' returned a Classifier; return a model": (
        "",
        "return lab.train(lab.poisoned, epochs=0).module()",
    ),
    "reproducible: two runs give different models": (
        "",
        "import random\n        return lab.train(lab.poisoned, repeat=random.randrange(10**9))",
    ),
    "reproducible: run again, it repeats": (
        "",
        "import random\n        lab.train(lab.poisoned, lr=random.random(), epochs=0)",
    ),
    "trains_what_it_says: under none, trainings() declares {'full': 1}, but a cell trains {'teacher': 1, 'full': 1}": (
        "",
        "lab.train(lab.poisoned, kind='teacher', epochs=0)",
    ),
    "keeps_barrier: needs names 'labels'": ("needs = ('labels',)", ""),
    "keeps_barrier: it sees the truth, so it is a control": ("needs = ('truth',)", ""),
    "keeps_barrier: line 10 reaches into the lab (_store)": ("", "lab._store"),
    "keeps_barrier: line 10 imports benchbd.pipeline.poison": ("", "import benchbd.pipeline.poison"),
}


@pytest.mark.parametrize("line", DEFENSES)
def test_broken_defenses(plugin_file, line):
    extra, train = DEFENSES[line]
    registry.add_plugin_file(str(plugin_file(DEFENSE.format(extra=extra or "pass", train=train or "pass"))))
    assert any(f.startswith(line) and "\n" not in f for f in said("defenses", line)), said("defenses", line)


SCORER = '''
@defense("mine", version=1)
class Mine(Scorer):
    """Scores."""
    {extra}
    def scores(self, lab):
        return lab.poisoned.images.float().mean((1, 2, 3))
'''


def test_a_scorer_hears_of_scoring_when_it_trains_something_else_than_declared(plugin_file):
    registry.add_plugin_file(str(plugin_file("from benchbd import Scorer\n" + SCORER.format(extra="pass"))))
    assert said("defenses", "trains_what_it_says")[0] == (
        "trains_what_it_says: under tiny-patch, scoring() and the training on the kept samples make {'full': 2}, but a "
        "cell trains {'full': 1}; let scoring return the trainings of scores, () if it trains nothing"
    )


def test_a_scorer_that_trains_nothing_says_so(plugin_file):
    text = "from benchbd import Scorer\n" + SCORER.format(extra="def scoring(self, attack):\n        return ()")
    registry.add_plugin_file(str(plugin_file(text)))
    assert said("defenses", "trains_what_it_says") == []


MODEL = '''
@model("mine", version=1)
class Mine(Model):
    """A network."""
    {extra}
    def build(self, classes, size):
        import torch
        from torch import nn
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = nn.Linear(3, 6)
                self.unused = {unused}
                {init}
                self.head = nn.Linear(6, classes)
            def features(self, x):
                x = self.first(x.mean((2, 3)))
                return {features}
            def count(self, x):
                self.seen += self.training
                return x / (1 + self.seen)
        {build}
        return Net()
'''
MODELS = {
    "fits: at size 8 an image's logits depend on the rest of its batch": {"features": "x - x.mean(0)"},
    "fits: a new network's features are not finite": {"features": "x / 0"},
    "fits: features() returns torch.float32 (4, 5) for 4 images; return one float tensor (B, 6)": {
        "features": "x[:, :5]"
    },
    "fits: features() returns a tuple": {"features": "(x, x)"},
    "fits: model 'mine': build returned None": {"build": "return"},
    "fits: model 'mine': parameter first.weight is torch.float64": {"build": "return Net().double()"},
    "keeps_its_state: the trained network and the one rebuilt from its state_dict": {
        "init": "self.register_buffer('mask', torch.rand(6), persistent=False)",
        "features": "x * self.mask",
    },
    "keeps_its_state: the trained network and the one rebuilt": {
        "init": "self.seen = 0.0",
        "features": "self.count(x)",
    },
    "learns: no gradient reaches net.unused.weight": {"unused": "nn.Linear(2, 2)"},
    "learns: another seed gives the same initial weights": {"build": "torch.manual_seed(0)"},
    "learns: the same seed gives different initial weights": {"build": "torch.seed()"},
    "learns: its state has other types": {"unused": "nn.BatchNorm1d(2, affine=False).double()"},
    "fits: it refuses every image size": {
        "extra": "def check(self, info):\n        from benchbd.errors import Impossible\n        raise Impossible('no')"
    },
}


@pytest.mark.parametrize("line", MODELS)
def test_broken_models(plugin_file, line):
    parts = {"extra": "pass", "unused": "None", "features": "x", "build": "pass", "init": "pass", **MODELS[line]}
    registry.add_plugin_file(str(plugin_file(MODEL.format(**parts))))
    assert any(f.startswith(line) and "\n" not in f for f in said("models", line)), said("models", line)


DATASET = '''
@dataset("mine", version=1)
class Mine(Dataset):
    """Images."""
    {extra}
    def info(self):
        return DatasetInfo({info})
    def load(self, split, root):
        import torch
        n = 8 if split == "train" else 4
        images, labels = torch.zeros(n, 3, 8, 8, dtype=torch.uint8), torch.arange(n) % 4
        {load}
        return Images(images, labels)
'''
DATASETS = {
    "reads_as_declared: train images are torch.uint8 (8, 3, 8, 8), but info says": {"info": "4, 9, 8, 4, None, 1"},
    "reads_as_declared: train images are torch.float32": {"load": "images = images.float()"},
    "reads_as_declared: test labels are torch.int64 (3,)": {"load": "labels = labels[:8 if n == 8 else 3]"},
    "reads_as_declared: train has images of 3 classes": {"load": "labels = labels % 3"},
    "reads_as_declared: train has [2, 2, 2, 2] images per class, but info says [1, 2, 3, 2]": {
        "info": "4, 8, 8, 4, (1, 2, 3, 2), 1"
    },
    "reads_as_declared: train loads differently": {
        "load": "images += torch.randint(0, 9, images.shape, dtype=torch.uint8)"
    },
    "reads_as_declared: target 4 is not one of its 4": {"info": "4, 8, 8, 4, None, 4"},
    "reads_as_declared: there are 2 class names": {"extra": "class_names = ('a', 'b')"},
    "reads_as_declared: normalisation is in [0, 1]": {
        "extra": "normalisation = Normalisation((0, 0, 0), (50, 50, 50))"
    },
}


@pytest.mark.parametrize("line", DATASETS)
def test_broken_datasets(plugin_file, line):
    parts = {"extra": "pass", "info": "4, 8, 8, 4, None, 1", "load": "pass", **DATASETS[line]}
    registry.add_plugin_file(str(plugin_file(DATASET.format(**parts))))
    assert any(f.startswith(line) for f in said("datasets", line)), said("datasets", line)
    found = testing.check("datasets", "mine")
    assert all(f.startswith("dataset 'mine' (") and "mine.py:" in f and "\n" not in f for f in found)
    assert any(f"): {line}" in f for f in found)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("attacks", ATTACK.format(extra="pass", stamp="pass")),
        ("defenses", DEFENSE.format(extra="pass", train="pass")),
        ("models", MODEL.format(extra="pass", unused="None", features="x", build="pass", init="pass")),
        ("datasets", DATASET.format(extra="pass", info="4, 8, 8, 4, None, 1", load="pass")),
    ],
)
def test_sound_plugins_pass(plugin_file, kind, text):
    """What the broken ones above are made from."""
    registry.add_plugin_file(str(plugin_file(text)))
    assert testing.check(kind, "mine") == []


def test_a_fault_that_several_checks_find_is_one_line(plugin_file):
    text = "\n\n\nfrom torch import nn\n" + ATTACK.format(extra="pass", stamp="out = out.float()")
    registry.add_plugin_file(str(plugin_file(text)))
    light, stamp = testing.check("attacks", "mine")
    assert "light: line " in light
    assert " imports torch at the top" in light
    assert "): budget: attack 'mine': stamp returned torch.float32" in stamp
    assert stamp.endswith(" (also in labels, stamps, tested, repeats, trains_as_declared)")


def test_unknown_and_missing_things_are_told():
    with pytest.raises(UsageError, match="no attack is called"):
        testing.check("attacks", "nonesuch")


def test_a_data_set_whose_files_are_missing_is_not_checked(plugin_file):
    text = DATASET.format(
        extra="def missing(self, root): return 'put x into y'", info="1, 1, 1, 1, None, 0", load="1 / 0"
    )
    registry.add_plugin_file(str(plugin_file(text)))
    found = testing.check("datasets", "mine")
    assert len(found) == 1
    assert found[0].endswith("not checked: put x into y")
