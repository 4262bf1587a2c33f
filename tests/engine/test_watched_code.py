"""The table of code that numbers depend on: what counts as a change, and what does not."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

from benchbd.engine import augment, global_state
from benchbd.engine.watched_code import CodeTable
from benchbd.errors import Misused

NAME = "a_users_plugin"
SOURCE = """
LAYERS = [1, 2]
CACHE = {}
WIDTH = 16
calls = 0
warned = False
net = None
class Net:
    slope = 1.0
    def forward(self, x, scale=2):
        return x * scale
class Wide(Net):
    pass
"""


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    made = types.ModuleType(NAME)
    made.__file__ = "/home/me/mine.py"
    monkeypatch.setitem(sys.modules, NAME, made)
    exec(SOURCE, vars(made))
    return made


@pytest.fixture
def table(module: types.ModuleType) -> CodeTable:
    table = CodeTable()
    table.add([NAME])
    assert table.changed() is None
    return table


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("WIDTH = 32", "mine.WIDTH was replaced"),
        ("Net.slope = 0.1", "mine.Net.slope was replaced"),
        ("Net.forward = lambda self, x: x", "mine.Net.forward was replaced"),
        ("Wide.forward = lambda self, x: x", "mine.Wide.forward was replaced"),
        ("Net.forward.__defaults__ = (3,)", f"{NAME}.Net.forward was changed"),
        ("Net.forward.__code__ = (lambda self, x, scale=2: x).__code__", f"{NAME}.Net.forward was changed"),
        ("Wide.__bases__ = (type('Other', (), {}),)", "mine.Wide.__bases__ was replaced"),
        ("max = min", "mine.max was replaced"),
    ],
)
def test_a_change_of_a_plugins_model_is_named(code: str, line: str, module: types.ModuleType, table: CodeTable) -> None:
    exec(code, vars(module))
    assert table.changed() == line


def test_a_plugin_may_keep_notes_and_objects(module: types.ModuleType, table: CodeTable) -> None:
    exec("CACHE['a'] = 1; LAYERS.append(3); calls += 1; warned = True; net = Net(); extra = 3", vars(module))
    exec("WIDTH = int('16'); Net().slope = 2", vars(module))
    assert table.changed() is None


def test_a_copy_grows_without_its_original(module: types.ModuleType) -> None:
    table = CodeTable()
    table.copy().add([NAME])
    vars(module)["WIDTH"] = 32
    assert table.changed() is None


def test_what_torch_changes_itself_is_no_fault() -> None:
    with global_state.watched():
        weight = nn.Parameter(torch.ones(2))
        for optimizer in (
            torch.optim.SGD([weight], 0.1),
            torch.optim.AdamW([weight], 0.1),
            torch.optim.NAdam([weight]),
        ):
            weight.square().sum().backward()
            optimizer.step()
        global_state.check()


def test_the_kernels_that_torch_registers_for_vmap_are_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with global_state.watched():
        monkeypatch.setattr(torch.library, "_impls", {*torch.library._impls, "aten/addr/FuncTorchBatched"})
        global_state.check()
        monkeypatch.setattr(torch.library, "_impls", {*torch.library._impls, "aten/addr/CPU"})
        with pytest.raises(Misused, match="the kernel aten/addr/CPU of torch was replaced"):
            global_state.check()


def test_a_change_that_was_there_before_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(global_state, "_warm", None)  # as before any worker
    monkeypatch.setitem(augment.PADS, "crop4", 2)
    with global_state.watched():
        global_state.check()
        monkeypatch.setitem(augment.PADS, "crop4", 3)
        with pytest.raises(Misused, match=r"benchbd.engine.augment.PADS was changed for the whole process"):
            global_state.check()


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "fp32_precision"), reason="torch 2.9 has it")
def test_products_are_in_float32_whatever_a_plugin_has_set() -> None:
    backends = [torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "bf16"
        with global_state.usual_settings(None):
            assert {backend.fp32_precision for backend in backends} == {"ieee"}
        assert [backend.fp32_precision for backend in backends] == ["bf16", "bf16"]
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
