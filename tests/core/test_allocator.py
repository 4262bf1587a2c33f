"""A worker's settings of glibc's allocator, which a small training changes while it lasts."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from benchbd.core import allocator
from benchbd.core.allocator import KEEP_MEMORY, MOST, THRESHOLD, kept_if_little


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The thresholds that were set, of a worker that has taken 700 MB."""
    thresholds: list[int] = []
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(THRESHOLD))
    monkeypatch.setattr(allocator, "peak", lambda: 700_000_000)
    monkeypatch.setattr(allocator, "_set", lambda threshold: thresholds.append(threshold) or True)
    return thresholds


def test_a_small_training_keeps_more_while_it_lasts(asked: list[int]) -> None:
    with kept_if_little():
        assert asked == [MOST]
    with pytest.raises(KeyError), kept_if_little():
        raise KeyError
    assert asked == [MOST, THRESHOLD] * 2


@pytest.mark.parametrize("peak", [0, 1 << 30, 1_500_000_000], ids=["unknown", "the limit", "large"])
def test_a_large_training_keeps_no_more(asked: list[int], monkeypatch: pytest.MonkeyPatch, peak: int) -> None:
    monkeypatch.setattr(allocator, "peak", lambda: peak)
    with kept_if_little():
        pass
    assert asked == []


@pytest.mark.parametrize("given", [None, "1000000"], ids=["not a worker", "set by the user"])
def test_settings_of_others_stay(asked: list[int], monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    if given is None:
        monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_")
    else:
        monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", given)
    with kept_if_little():
        pass
    assert asked == []


FAULTS = """
import ctypes, resource, torch
from benchbd.core.allocator import kept_if_little
def faults():
    for _ in range(20):  # the heap grows until its holes fit; 8 were the most of 24 runs
        torch.empty(6_000_000).fill_(1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(6_000_000).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
end = ctypes.CDLL(None).sbrk
end.restype = ctypes.c_void_p
held, heap = [], end(0)
while end(0) == heap and len(held) < 500:  # glibc takes free room of the heap first, whatever the threshold
    held.append(torch.empty(1_000_000))
print(faults())
with kept_if_little():
    print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_kept_tensors_cost_no_page_faults() -> None:
    """A tensor of 24 MB has 5,860 pages; 20 of them have 117,200."""
    settings = {**KEEP_MEMORY, "THP_MEM_ALLOC_ENABLE": 0}  # huge pages have few faults anyway
    settings["MALLOC_TOP_PAD_"] = 0  # the heap grows by what a tensor needs and leaves no room for the next
    environment = {**os.environ, **{name: str(value) for name, value in settings.items()}}
    done = subprocess.run([sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True)
    before, kept = map(int, done.stdout.split())
    assert kept < 10_000 < 100_000 < before


FREED = """
import torch
from benchbd.core import allocator
def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:")) // 1024
held = [torch.ones(250_000) for _ in range(200)]
last = held.pop()  # of the heap's end, so that a trim of the end alone does not help
held.clear()
before = resident()
allocator.give_back()
print(before - resident(), float(last.sum()))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_worker_gives_freed_tensors_back() -> None:
    """199 tensors of 1 MB, which it would keep for the next step, leave its memory between two stages."""
    environment = {**os.environ, **{name: str(value) for name, value in KEEP_MEMORY.items()}}
    done = subprocess.run([sys.executable, "-c", FREED], env=environment, capture_output=True, text=True, check=True)
    given_back, kept = done.stdout.split()
    assert int(given_back) > 150
    assert float(kept) == 250_000


def test_only_a_worker_gives_memory_back(asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[None] = []
    monkeypatch.setattr(allocator.ctypes, "CDLL", called.append)
    allocator.give_back()
    assert called == [None]
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_")
    allocator.give_back()
    assert called == [None]
