"""Peak memory of a cell on a GPU, with a stand-in for torch.cuda."""

from __future__ import annotations

import pytest
import torch

from benchbd.pipeline.failure import status_and_line
from benchbd.pipeline.peak_memory import peak_memory, reset_peak_memory


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_cell_starts_cuda_before_it_asks_about_memory(monkeypatch, name):
    """torch refuses a device with a number ("did you call init?") in a process that has not used CUDA yet."""
    called, device = [], torch.device(name)
    monkeypatch.setattr(torch.cuda, "init", lambda: called.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: called.append(device))
    reset_peak_memory(device)
    assert called == ["init", device]
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 123)
    assert peak_memory(device) == 123


def test_a_cpu_needs_no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "init", lambda: pytest.fail("CUDA was started"))
    reset_peak_memory(torch.device("cpu"))
    assert peak_memory(torch.device("cpu")) > 1 << 20


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ],
)
def test_every_way_in_which_a_gpu_runs_out_of_memory(tmp_path, text):
    assert status_and_line(RuntimeError(text), tmp_path) == ("oom", text)


def test_another_error_of_a_gpu_is_a_failure(tmp_path):
    line = "CUDA error: an illegal memory access was encountered"
    assert status_and_line(RuntimeError(line), tmp_path) == ("failed", f"RuntimeError: {line}")
