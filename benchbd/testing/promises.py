"""The promises of every plugin. Each has a check: a generator that yields one line for each fault."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from benchbd.core import params
from benchbd.core.hashing import canonical
from benchbd.core.images import DatasetInfo, Normalisation
from benchbd.errors import Impossible, one_line
from benchbd.pipeline.selection import select_triggered, targets
from benchbd.plugins import registry
from benchbd.plugins.contract import Attack, Budget, StampContext
from benchbd.plugins.scorer import Scorer
from benchbd.testing import source
from benchbd.testing.barrier import keeps_barrier

if TYPE_CHECKING:
    import numpy as np
    import torch

    from benchbd.testing.plugin_under_test import PluginUnderTest

Check = Callable[["PluginUnderTest"], Iterator[str]]

HEAVY = ("torch", "torchvision", "sklearn", "scipy", "pandas", "matplotlib", "PIL", "timm")
"""Packages that a plugin may import only inside its methods, so that listing and planning stay instant."""
GREY = Normalisation((0.5,) * 3, (0.5,) * 3)


# Every plugin ---------------------------------------------------------------------------------------------------------


def documented(bench: PluginUnderTest) -> Iterator[str]:
    """The class has a docstring and a version, and every parameter has a line of help."""
    if not (bench.cls.__doc__ or "").strip() or (bench.cls.__doc__ or "").startswith(f"{bench.cls.__name__}("):
        yield "the class has no docstring; benchbd list shows its first line"
    if bench.cls.version < 1:
        yield f"version is {bench.cls.version}; count from 1"
    for param in params.schema(bench.cls):
        if not param.help:
            yield f"parameter {param.name} has no line of help; write a docstring under it"


def light(bench: PluginUnderTest) -> Iterator[str]:
    """Importing the plugin's file imports no heavy package."""
    for node in source.tree(bench.entry.file).body:
        for module in dict.fromkeys(name.partition(".")[0] for name in source.imported(node)):
            if module in HEAVY:
                yield f"line {node.lineno} imports {module} at the top; import it inside the methods that use it"


def round_trips(bench: PluginUnderTest) -> Iterator[str]:
    """Parameters survive JSON, so another process can run the cell."""
    values = bench.made.params()
    try:
        canonical(values)
    except (TypeError, ValueError) as error:
        yield f"parameters cannot be written as JSON ({one_line(error)})"
        return
    if registry.make(bench.kind, bench.name, **values) != bench.made:
        yield "an instance made from its own params() differs from it"


# Attacks --------------------------------------------------------------------------------------------------------------


def budget(bench: PluginUnderTest) -> Iterator[str]:
    """The attack poisons as many images as its budget says, all from its pool, and refuses impossible budgets."""
    import numpy as np

    attack, (clean, info), poison = bench.made, bench.clean, bench.poisons[0]
    claimed = attack.budget(info, info.class_counts)
    changed = poison.indices[poison.flags]
    count = poison.facts.get("count", 0)
    if not isinstance(claimed, Budget) or claimed.count != len(changed) or count != len(changed):
        yield f"the budget says {claimed}, but {len(changed)} images are poisoned and {count} reported"
    if len(np.unique(poison.indices)) != len(poison.indices):
        yield "an image is poisoned twice"
    wanted = targets(attack, info)
    of_target = clean.labels.numpy()[changed] == wanted[clean.labels.numpy()[changed]]
    if (attack.clean_label and not of_target.all()) or (attack.pool == "non-target" and of_target.any()):
        yield "images outside the attack's pool are poisoned"
    if not attack.poisons or (wanted != np.arange(info.classes)).all():
        return  # without a fixed target class any number of images may be poisoned
    too_much: dict[str, Any] = {"rate": 1.0, **({"rate_of": "set"} if attack.clean_label else {"pool": "non-target"})}
    try:
        dataclasses.replace(attack, **too_much).budget(info, info.class_counts)
    except Impossible as error:
        if not any(sign.isdigit() for sign in str(error)):
            yield f"the refusal of an impossible budget names no numbers: {one_line(error)}"
    else:
        yield f"an impossible budget ({too_much}) is not refused"


def labels(bench: PluginUnderTest) -> Iterator[str]:
    """Clean-label attacks keep labels, other attacks set the target label (mostly), covers keep their label."""
    attack, (clean, info), poison = bench.made, bench.clean, bench.poisons[0]
    before = clean.labels.numpy()[poison.indices]
    if attack.clean_label and (poison.labels != before).any():
        yield "a clean-label attack changed labels"
    wrong = (poison.labels != targets(attack, info)[before])[poison.flags]
    plain = type(attack).relabel is Attack.relabel
    if not attack.clean_label and len(wrong) and wrong.mean() > (0 if plain else 0.5):
        yield f"{wrong.mean():.0%} of the poisoned images do not have their target label"
    if (poison.labels[~poison.flags] != before[~poison.flags]).any():
        yield "a cover image lost its true label"


def stamps(bench: PluginUnderTest) -> Iterator[str]:
    """``stamp`` works on a copy, changes images, and stamps an image independently of the rest of the batch."""
    import numpy as np
    import torch

    attack, (clean, _), poison = bench.made, bench.clean, bench.poisons[0]
    before = clean.images.numpy()[poison.indices]
    if attack.poisons:
        same = (poison.images == before).all((1, 2, 3)).mean()
        if same > 0.1:
            yield f"{same:.0%} of the poisoned images are unchanged"
        yield from _without_trigger(bench)
    test = bench.triggered[0]
    where = np.arange(len(test.labels), dtype=np.int64)

    def stamp(order: np.ndarray) -> torch.Tensor:
        index = torch.from_numpy(order)
        out: torch.Tensor = attack.stamp(test.images[index], StampContext("test", where[order], poison.trigger, 7))
        return out

    given = test.images.clone()
    out = attack.stamp(given, StampContext("test", where, poison.trigger, 7))
    if not torch.equal(given, test.images):
        yield "stamp changes its input images; work on a copy"
    order = np.random.RandomState(0).permutation(len(where))[: len(where) // 2]
    if not torch.equal(stamp(order), out[torch.from_numpy(order)]):
        yield "an image's stamp depends on its position in the batch; draw random numbers by context.indices"


def _without_trigger(bench: PluginUnderTest) -> Iterator[str]:
    """A line if the trigger leaves many test images as they are: what the model does with them is not its success."""
    from benchbd.pipeline.unchanged import unchanged

    test, images, left = bench.triggered
    where = select_triggered(bench.made, bench.clean[1], test.labels.numpy())
    if len(where) == len(left) and len(where) and (same := unchanged(images, test.images, where).mean()) > 0.1:
        yield f"{same:.0%} of the triggered test images are unchanged, so the ASR does not measure the trigger there"


def tested(bench: PluginUnderTest) -> Iterator[str]:
    """Attack success is measured on all test images except those that are already in their target class."""
    test, images, left = bench.triggered
    wanted, true = targets(bench.made, bench.clean[1]), test.labels.numpy()
    if (left.numpy() == wanted[left.numpy()]).any():
        yield "a test image that is already in its target class is triggered"
    if len(images) != int((true != wanted[true]).sum()):
        yield "some test images of other classes are not triggered"


def repeats(bench: PluginUnderTest) -> Iterator[str]:
    """Computed twice from scratch, the poison has the same bytes. Another seed selects other images."""
    one, two = bench.poisons
    for name in ("indices", "images", "labels", "flags"):
        if getattr(one, name).tobytes() != getattr(two, name).tobytes():
            yield f"two runs give different {name}; take every random number from the seeds given"
    if one.trigger_sha256 != two.trigger_sha256:
        yield "two runs prepare different triggers; take every random number from workshop.seed"
    if bench.made.poisons:
        poisoner = bench.poisoner("one", seed=1)
        if (poisoner.poison(*bench.clean).indices == one.indices).all():
            yield "another seed poisons the same images"


def trains_as_declared(bench: PluginUnderTest) -> Iterator[str]:
    """An attack that trains something declares it, so that plans can count it."""
    asked = bench.poisons and bench.poisoner("one").ledger.trainings
    if asked and not bench.made.trainings():
        yield f"prepare trains {dict(asked)} but trainings() names nothing"


# Defenses -------------------------------------------------------------------------------------------------------------


def runs(bench: PluginUnderTest) -> Iterator[str]:
    """A cell runs to its end, with an attack and without one."""
    first, second = bench.runs
    same = (second["status"], second["error"]) == (first["status"], first["error"])
    for record in (first, *([] if same else [second]), bench.run("one", "none")):
        if record["status"] != "done":
            yield f"the {record['attack']} cell ended as {record['status']}: {record['error']}"
        elif (record["asr"] is None) != (record["attack"] == "none"):
            yield f"the {record['attack']} cell has asr {record['asr']}"


def reproducible(bench: PluginUnderTest) -> Iterator[str]:
    """Run twice from scratch, a cell gives the same model and numbers. Run again in place, it trains nothing."""
    one, two = bench.runs
    for name in ("ca", "asr", "ra", "detection"):
        if one[name] != two[name]:
            yield f"two runs give {name} {one[name]} and {two[name]}; take random numbers from lab.seed_for(purpose)"
    if one["artifacts"].get("model") != two["artifacts"].get("model"):
        yield "two runs give different models"
    if again := bench.run("one").get("trainings_computed"):
        yield f"run again, it repeats {again}: an argument of a stage changes from run to run"


def trains_what_it_says(bench: PluginUnderTest) -> Iterator[str]:
    """``trainings`` declares every training of a cell, since plans count the declared ones."""
    said, fix = "trainings() declares", ""
    if isinstance(bench.made, Scorer) and type(bench.made).trainings is Scorer.trainings:
        said = "scoring() and the training on the kept samples make"
        fix = "; let scoring return the trainings of scores, () if it trains nothing"
    for attack, record in (("tiny-patch", bench.runs[0]), ("none", bench.run("one", "none"))):
        declared = Counter(t.kind for t in bench.made.trainings(registry.make("attacks", attack)))
        if record["status"] == "done" and declared != Counter(record["trainings"]):
            yield f"under {attack}, {said} {dict(declared)}, but a cell trains {record['trainings']}{fix}"


def transforms_as_declared(bench: PluginUnderTest) -> Iterator[str]:
    """A defense that may change test images does so; otherwise the tables mark it for nothing."""
    done = [record for record in bench.runs if record["status"] == "done"]
    if bench.cls.test_transform and done and not any(record.get("test_transform") for record in done):
        yield "test_transform is True, but the returned model changes no test image; leave it out"


# Models ---------------------------------------------------------------------------------------------------------------

SIZES = (8, 16, 28, 32, 48, 64, 96)


def fits(bench: PluginUnderTest) -> Iterator[str]:
    """For every image size the model either refuses or builds a network that works."""
    import torch

    from benchbd.engine import build, trial_fault

    accepted = 0
    for size in SIZES:
        try:
            bench.made.check(DatasetInfo(5, size, 100, 100, None, 0))
        except Impossible:
            continue
        accepted += 1
        if accepted == 1 and (fault := trial_fault(build(bench.made, 5, size, GREY, 0), size)):
            yield fault
            return
        net = build(bench.made, 5, size, GREY, 0).eval()
        x = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            features, out = net.features(x), net(x)
            alone = torch.cat([net(x[i : i + 1]) for i in range(3)])
        if features.shape != (3, net.head.in_features) or out.shape != (3, 5):
            yield f"at size {size} features have shape {tuple(features.shape)} and logits {tuple(out.shape)}"
        if not torch.isfinite(out).all():
            yield f"at size {size} a new network gives non-finite logits"
        if not torch.allclose(out, alone, rtol=1e-3, atol=1e-4):
            yield f"at size {size} an image's logits depend on the rest of its batch, in eval mode"
    if not accepted:
        yield f"it refuses every image size in {SIZES}"


def learns(bench: PluginUnderTest) -> Iterator[str]:
    """The seed determines the initial weights, gradients reach all of them, and the state can be stored."""
    import torch

    from benchbd.engine import build

    size = 32
    nets = [build(bench.made, 5, size, GREY, seed) for seed in (0, 0, 1)]
    states = [net.state_dict() for net in nets]
    if not all(torch.equal(states[0][k], states[1][k]) for k in states[0]):
        yield "the same seed gives different initial weights; draw from torch's global generator only"
    if all(torch.equal(states[0][k], states[2][k]) for k in states[0]):
        yield "another seed gives the same initial weights"
    x = torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(0))
    nets[0].train()(x).square().sum().backward()
    if dead := [name for name, p in nets[0].named_parameters() if p.requires_grad and p.grad is None]:
        yield f"no gradient reaches {', '.join(dead[:5])}"
    if odd := [k for k, v in states[0].items() if v.dtype not in (torch.float32, torch.int64, torch.bool)]:
        yield f"its state has other types than float32, int64 and bool: {', '.join(odd[:5])}"


def keeps_its_state(bench: PluginUnderTest) -> Iterator[str]:
    """After some training steps, a network rebuilt from the stored state gives the same logits."""
    import torch

    from benchbd.engine import build, state_gap

    size = 32
    images = torch.randint(0, 256, (16, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    net = build(bench.made, 5, size, GREY, 0).train()
    steps = torch.optim.SGD(net.parameters(), 0.01)
    for _ in range(3):
        steps.zero_grad()
        net(images.float() / 255).square().mean().backward()
        steps.step()
    rebuilt = build(bench.made, 5, size, GREY, 1)
    rebuilt.load_state_dict(net.state_dict())
    if gap := state_gap(net, rebuilt, images, torch.device("cpu")):
        yield gap


# Data sets ------------------------------------------------------------------------------------------------------------


def reads_as_declared(bench: PluginUnderTest) -> Iterator[str]:
    """Both splits have the sizes, types and classes that ``info`` declares, and load the same every time."""
    import numpy as np
    import torch

    info = bench.made.info()
    if not 0 <= info.target < info.classes:
        yield f"target {info.target} is not one of its {info.classes} classes"
    if bench.made.class_names and len(bench.made.class_names) != info.classes:
        yield f"there are {len(bench.made.class_names)} class names for {info.classes} classes"
    if not all(0 < s <= 1 for s in bench.made.normalisation.std):
        yield f"normalisation is in [0, 1] units: deviations must be in (0, 1], not {bench.made.normalisation.std}"
    for split, count in (("train", info.train), ("test", info.test)):
        data, again = bench.made.load(split, bench.root), bench.made.load(split, bench.root)
        if data.images.dtype != torch.uint8 or data.images.shape != (count, 3, info.size, info.size):
            yield f"{split} images are {data.images.dtype} {tuple(data.images.shape)}, but info says {info}"
        if data.labels.dtype != torch.int64 or data.labels.shape != (count,):
            yield f"{split} labels are {data.labels.dtype} {tuple(data.labels.shape)}, but info says {info}"
            continue
        counts = np.bincount(data.labels.numpy(), minlength=info.classes)
        if len(counts) != info.classes or not counts.all():
            yield f"{split} has images of {int((counts > 0).sum())} classes, but info says {info.classes}"
        if split == "train" and info.class_counts is not None and tuple(counts) != tuple(info.class_counts):
            yield f"train has {counts.tolist()} images per class, but info says {list(info.class_counts)}"
        if not (torch.equal(data.images, again.images) and torch.equal(data.labels, again.labels)):
            yield f"{split} loads differently the second time"


COMMON: tuple[Check, ...] = (documented, light, round_trips)
CHECKS: dict[str, tuple[Check, ...]] = {
    "attacks": (*COMMON, budget, labels, stamps, tested, repeats, trains_as_declared),
    "defenses": (*COMMON, runs, reproducible, trains_what_it_says, transforms_as_declared, keeps_barrier),
    "models": (*COMMON, fits, learns, keeps_its_state),
    "datasets": (*COMMON, reads_as_declared),
}
