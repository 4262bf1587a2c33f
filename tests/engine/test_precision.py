"""Which precision class a device gets, and under what name."""

from __future__ import annotations

import pytest
import torch

from benchbd.engine import choose_precision, precision
from benchbd.errors import UsageError

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def machine(monkeypatch):
    """Pretend that the hardware multiplies bf16, or does not."""

    def pretend(cpu: bool = False, cuda: bool = False) -> None:
        monkeypatch.setattr(precision, "cpu_multiplies_bf16", lambda: cpu)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0) if cuda else (7, 5))
        precision._choose.cache_clear()

    yield pretend
    precision._choose.cache_clear()


def test_auto_follows_the_hardware(machine):
    machine(cpu=False, cuda=True)
    assert choose_precision(CPU).name == "cpu-fp32"
    assert choose_precision(CPU).dtype is None
    assert choose_precision(CUDA)[:2] == ("cuda-bf16", torch.bfloat16)
    machine(cpu=True, cuda=False)
    assert choose_precision(CPU)[:2] == ("cpu-bf16", torch.bfloat16)
    assert choose_precision(CUDA)[:2] == ("cuda-fp32", None)


def test_the_same_machine_always_answers_the_same(machine):
    machine(cpu=True)
    assert choose_precision(CPU) == choose_precision(torch.device("cpu", 0))


def test_every_class_that_rounds_otherwise_has_its_own_name(machine):
    machine(cuda=True)
    wishes = ("auto", "strict", "fp32", "fp32-strict", "compile", "eager")
    names = [choose_precision(CUDA, wish).name.removeprefix("cuda-") for wish in wishes]
    assert names == ["bf16", "bf16-strict", "fp32", "fp32-strict", "bf16-compile", "bf16-eager"]
    assert choose_precision(CUDA, "strict").strict
    assert choose_precision(CUDA, "auto").graph
    assert not choose_precision(CUDA, "eager").graph
    assert choose_precision(CUDA, "fast") == choose_precision(CUDA, "auto")


def test_threads_of_a_cpu_are_a_class_of_their_own(machine):
    machine(cpu=True, cuda=True)
    names = [choose_precision(CPU, wish, threads).name for wish, threads in (("auto", 1), ("fp32", 4), ("bf16", 2))]
    assert names == ["cpu-bf16", "cpu-fp32-t4", "cpu-bf16-t2"]
    assert choose_precision(CUDA, "fp32", 4) == choose_precision(CUDA, "fp32")
    assert choose_precision(CPU, "strict", 4)[1:] == choose_precision(CPU)[1:]


def test_the_order_of_words_does_not_matter(machine):
    machine(cuda=True)
    assert (
        choose_precision(CUDA, "strict-bf16")
        == choose_precision(CUDA, "bf16-strict")
        == choose_precision(CUDA, "strict")
    )


def test_gpu_wishes_leave_no_trace_on_a_cpu(machine):
    machine(cpu=False)
    assert choose_precision(CPU, "fp32-strict") == choose_precision(CPU, "auto")


@pytest.mark.parametrize("wish", ["bf61", "fp32-bf16", "strict-fast", "strict-compile", ""])
def test_a_bad_wish_is_refused(machine, wish):
    machine(cpu=True)
    with pytest.raises(UsageError):
        choose_precision(CPU, wish)


def test_the_nearest_word_is_offered(machine):
    machine()
    with pytest.raises(UsageError, match="did you mean 'strict'"):
        choose_precision(CUDA, "fp32-strikt")


def test_bf16_is_refused_by_a_gpu_without_it(machine):
    machine(cuda=False)
    with pytest.raises(UsageError, match="fp32"):
        choose_precision(CUDA, "bf16")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx512_f": True}, False), ({}, False)],
)
def test_cpu_flags_decide(monkeypatch, flags, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert precision.cpu_multiplies_bf16.__wrapped__() is expected


@pytest.mark.parametrize(("text", "expected"), [("flags : fma amx_bf16 amx_tile", True), ("flags : avx512f", False)])
def test_cpu_flags_are_read_from_the_kernel_where_torch_is_older(monkeypatch, text, expected):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(precision.Path, "read_text", lambda self: text)
    assert precision.cpu_multiplies_bf16.__wrapped__() is expected


def test_switches_are_put_back_after_an_error(monkeypatch):
    seen = []
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def work() -> None:
        with precision.arithmetic(CUDA, strict=True, search=False):
            seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32))
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        work()
    assert seen == [(True, False)]
    assert before == (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.utils.deterministic.fill_uninitialized_memory,
    )
