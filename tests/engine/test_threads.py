"""A cell computes with its own number of CPU threads, in torch and in the libraries under numpy."""

from __future__ import annotations

import importlib
import os

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from benchbd.core.numerics import THREAD_VARIABLES
from benchbd.engine import threads
from benchbd.engine.threads import cpu_threads

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


def in_force() -> tuple[int, set[int], list[str | None]]:
    blas = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    return torch.get_num_threads(), blas, [os.environ.get(name) for name in THREAD_VARIABLES]


@pytest.mark.parametrize("device", [CPU, CUDA], ids=["cpu", "cuda"])
@pytest.mark.parametrize("count", [2, 3])
def test_threads_are_set_and_put_back(device: torch.device, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(THREAD_VARIABLES[-1], raising=False)
    before = in_force()

    def work() -> None:
        with cpu_threads(count, device):
            assert in_force() == (count, {count}, [str(count)] * len(THREAD_VARIABLES))
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        work()
    assert in_force() == before


def test_one_thread_is_a_cpu_s_default_and_on_a_gpu_the_slot_s_number_stays(one_thread: None) -> None:
    torch.set_num_threads(2)
    with cpu_threads(1, CUDA):
        assert torch.get_num_threads() == 2
    with cpu_threads(1, CPU):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_the_environment_does_not_tell_what_libraries_have(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "3")
    importlib.reload(threads)
    with threadpool_limits(2), threads.cpu_threads(3, CPU):
        assert in_force() == (3, {3}, ["3"] * len(THREAD_VARIABLES))


def test_a_cell_s_process_whose_libraries_have_the_number_already_does_not_look_for_them(
    one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_in_libraries", None)
    threads.libraries_have(1)
    monkeypatch.setattr("threadpoolctl.threadpool_limits", lambda **given: pytest.fail("looked for libraries"))
    with cpu_threads(1, CPU):
        assert torch.get_num_threads() == 1
