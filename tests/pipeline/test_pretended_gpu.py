"""Whole cells on a pretended GPU: each attack, each defense and each model, with CUDA's own paths of the engine.

Found are tensors on the wrong device, ``numpy()`` of a tensor on the GPU, generators of the wrong device, operations
without a deterministic version, TF32 in place of float32, and values read back while a graph is captured.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from pretended_gpu import NAME, PretendedGpu, pretended_gpu

from benchbd.core.images import Normalisation
from benchbd.core.numerics import Numerics
from benchbd.core.recipe import Recipe
from benchbd.engine import build, choose_precision, fit
from benchbd.pipeline.run_cell import execute
from benchbd.plugins import registry
from benchbd.plugins.identity import part_of
from benchbd.testing.plugin_under_test import PluginUnderTest, cell

TINY = "tiny(train=120,test=20)"
STRICT = Numerics("strict")
OWN_LOOPS = {"asd", "augment", "dbd", "dp-sgd", "pdb"}
"""Defenses that train with loops of their own alone, which no graph captures."""
VARIANTS = [
    *(("cl", {"surrogate": "standard"}), ("dynamic", {"cross_in_train": True, "drops": "late"})),
    *((name, {"apply": how}) for name, how in (("tj-sq", "replace"), ("tj-wm", "wrap"))),
    ("abl", {"loss": "flooding", "sign_level": "sample", "finetune_data": "all", "bn_mode": "eval"}),
    *(("ac", {"features": "map"}), ("cbd", {"information": True})),
    *(("augment", {"policy": policy}) for policy in ("mixup", "cutout")),
    ("fine-pruning", {"mask_at": "filters", "finetune_epochs": 0, "model": "resnet-s"}),
    ("lfd", {"recompute": "epoch", "teachers": 2}),
]
"""Parameters with which a plugin takes another way on the device than with its smoke parameters."""


def names(kind: str) -> list[str]:
    return [entry.name for entry in registry._builtin() if entry.kind == kind]


@pytest.fixture
def on_gpu(monkeypatch, tmp_path):
    """A function that runs a cell on the pretended GPU and returns its record and what was seen."""

    def run(kind: str, name: str, model: str = "lenet-s", **given) -> tuple[dict, PretendedGpu]:
        bench = PluginUnderTest(kind, name, None, **given)
        if bench.missing:
            pytest.skip(bench.missing)
        attack = "none" if kind == "attacks" else "tiny-patch"
        this = dataclasses.replace(cell(dataset=TINY, model=model, attack=attack), numerics=STRICT)
        this = dataclasses.replace(this, **{kind[:-1]: part_of(bench.made)})
        said: list[str] = []
        with pretended_gpu(monkeypatch) as gpu:
            gpu.numbers.tf32_fails = True
            record = execute(this.to_json(), output=tmp_path, device="cuda", on_event=lambda one: said.append(str(one)))
        assert record["status"] == "done", f"{record['error']}\n{' '.join(said)[-3000:]}"
        assert (record["env"]["device"], record["env"]["precision"]) == (NAME, "cuda-fp32-strict")
        return record, gpu

    return run


@pytest.mark.parametrize("name", names("attacks"))
def test_an_attack_runs_on_a_gpu(on_gpu, name):
    _, gpu = on_gpu("attacks", name)
    assert sum(graph.replays for graph in gpu.graphs)


@pytest.mark.parametrize("name", names("defenses"))
def test_a_defense_runs_on_a_gpu(on_gpu, name):
    _, gpu = on_gpu(
        "defenses", name, **({"of": "ac"} if name == "random-filter" else {})
    )  # lfd by default, which is slow
    assert bool(sum(graph.replays for graph in gpu.graphs)) == (name not in OWN_LOOPS)


@pytest.mark.parametrize(
    ("name", "given"), VARIANTS, ids=lambda part: part if isinstance(part, str) else "-".join(part)
)
def test_a_variant_runs_on_a_gpu(on_gpu, name, given):
    on_gpu("attacks" if name in names("attacks") else "defenses", name, **given)


@pytest.mark.parametrize("name", names("models"))
def test_a_model_trains_on_a_gpu_as_on_a_cpu(monkeypatch, name):
    given = {"width": 4} if "width" in registry.load("models", name).__dataclass_fields__ else {}
    size, recipe = 32, Recipe(epochs=2, batch_size=8, lr=1e-3)
    images = torch.randint(0, 256, (20, 3, size, size), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    model, labels, cpu = registry.make("models", name, **given), torch.arange(20) % 4, torch.device("cpu")
    if lacking := model.missing():
        pytest.skip(lacking)
    one, other = (build(model, 4, size, Normalisation((0.5,) * 3, (0.25,) * 3), 1) for _ in range(2))
    expected = fit(one, images, labels, recipe, device=cpu, precision=choose_precision(cpu, "fp32"), seed=1)
    with pretended_gpu(monkeypatch) as gpu:
        precision = choose_precision(torch.device("cuda"), "strict")
        found = fit(other, images, labels, recipe, device=torch.device("cuda"), precision=precision, seed=1)
    assert found.epoch_losses == pytest.approx(expected.epoch_losses, rel=1e-2)
    assert [graph.replays for graph in gpu.graphs] == [4]


def test_no_optimizer_asks_a_driver_that_a_build_for_cuda_would_miss(monkeypatch):
    """Adam asks torch.accelerator for the stream, whose answer a build for CUDA has from the driver."""
    with pretended_gpu(monkeypatch) as gpu:
        weight = torch.nn.Parameter(torch.ones(2, device="cuda"))
        adam = torch.optim.Adam([weight], lr=0.5)
        weight.sum().backward()
        adam.step()
        assert gpu.numbers.host_view(weight.detach()).tolist() == pytest.approx([0.5, 0.5])
        assert torch.accelerator.current_accelerator() == torch.device("cuda")
        gpu.numbers.capture = []
        with pytest.raises(RuntimeError, match="capturable is False"):
            adam.step()
        gpu.numbers.capture = None
        with pytest.raises(AssertionError, match="_accelerator_getStream would ask the driver"):
            torch._C._accelerator_getStream(0)
