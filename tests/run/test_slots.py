"""How many cells at once, where, with how many threads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchbd.core.numerics import Numerics
from benchbd.errors import UsageError
from benchbd.run import Outcome
from benchbd.run.settings import RunSettings
from benchbd.run.workers import slots


def made(**given: Any) -> list[slots.Slot]:
    return slots.make_slots(RunSettings(output=Path(), **given))


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    def have(*names: str, cores: int = 16) -> None:
        monkeypatch.setattr(slots, "visible_gpus", lambda: names)
        monkeypatch.setattr(slots, "cores", lambda: cores)

    return have


def test_a_slot_per_core_with_one_thread_each(gpus: Any) -> None:
    gpus(cores=4)
    assert made() == [slots.Slot(i, None, 1, 1) for i in range(4)]
    assert [s.threads for s in made(jobs=2)] == [1, 1], "fewer workers do not get more threads by themselves"
    assert [s.threads for s in made(jobs=2, threads=2)] == [2, 2]


def test_a_slot_per_gpu_and_job(gpus: Any) -> None:
    gpus("0", "1")
    assert made() == [slots.Slot(0, "0", 1, 8), slots.Slot(1, "1", 1, 8)]
    assert [(s.gpu, s.share, s.threads) for s in made(jobs_per_gpu=2)] == [
        ("0", 2, 4),
        ("1", 2, 4),
        ("0", 2, 4),
        ("1", 2, 4),
    ]
    assert [(s.gpu, s.share) for s in made(jobs=3)] == [("0", 2), ("1", 1), ("0", 2)]
    assert [s.gpu for s in made(jobs=1)] == ["0"]
    assert [s.gpu for s in made(gpus=("1",))] == ["1"]
    assert [s.gpu for s in made(device="cpu", jobs=2)] == [None, None]


def test_gpus_that_are_not_there(gpus: Any) -> None:
    gpus("0", "1")
    with pytest.raises(UsageError, match="--gpus 7: no such GPU; visible: 0, 1"):
        made(gpus=("0", "7"))
    with pytest.raises(UsageError, match="contradict"):
        made(gpus=("0",), device="cpu")
    gpus()
    with pytest.raises(UsageError, match="visible: none"):
        made(gpus=("GPU-1",))
    with pytest.raises(UsageError, match="torch sees no GPU"):
        made(device="cuda")


def test_more_slots_than_a_machine_has_a_use_for(gpus: Any) -> None:
    gpus(cores=2)
    assert len(made(jobs=256)) == 256
    for given, told in (
        ({"jobs": 257}, "--jobs 257: at most 256 are allowed on a machine of 2 cores"),
        ({"jobs": 10**9}, "--jobs 1000000000: at most 256 "),
        ({"jobs_per_gpu": 10**9}, "--jobs-per-gpu 1000000000: at most 256 "),
        ({"threads": 10**9}, "--threads 1000000000: at most 1,024 are allowed"),
    ):
        with pytest.raises(UsageError, match=f"^{told}"):
            made(**given)
    gpus("0", "1", cores=128)
    assert len(made(jobs=2048)) == 2048
    with pytest.raises(UsageError, match="--jobs 2049: at most 2,048 are allowed on a machine of 128 cores"):
        made(jobs=2049)


def test_jobs_of_a_cluster_are_no_matter_of_this_machine(gpus: Any) -> None:
    gpus(cores=2)
    slots.check_numbers(RunSettings(output=Path(), executor="ray", jobs=5000))


def test_environment_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1234")
    cpu = slots.Slot(0, None, 1, 1).environment()
    assert cpu["MALLOC_TOP_PAD_"] == "1234", "what the user has set stays"
    assert int(cpu["MALLOC_MMAP_THRESHOLD_"]) == (1 << 22) + 1
    assert cpu["THP_MEM_ALLOC_ENABLE"] == "1"
    assert cpu["OMP_NUM_THREADS"] == cpu["MKL_NUM_THREADS"] == "1"
    assert cpu["CUDA_VISIBLE_DEVICES"] == ""
    named, numbered = slots.Slot(0, "GPU-ab", 2, 4).environment(), slots.Slot(0, "1", 1, 4).environment()
    assert named["CUDA_VISIBLE_DEVICES"] == "GPU-ab"
    assert (numbered["CUDA_VISIBLE_DEVICES"], numbered["CUDA_DEVICE_ORDER"]) == ("1", "PCI_BUS_ID")


def test_an_empty_list_of_visible_devices_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert slots.visible_gpus() == ()


def test_an_inherited_list_is_kept_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-x, GPU-y")
    monkeypatch.setattr(slots.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    answer = slots.subprocess.CompletedProcess([], 0, "gpus 2\n", "")
    monkeypatch.setattr(slots.subprocess, "run", lambda *a, **k: answer)
    assert slots.visible_gpus() == ("GPU-x", "GPU-y")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert slots.visible_gpus() == ("0", "1")
    answer.stdout = "some warning\n"
    assert slots.visible_gpus() == ()


def test_threads_of_a_cell_take_cores_from_the_number_of_slots(gpus: Any) -> None:
    gpus(cores=8)
    assert made(threads=4) == [slots.Slot(i, None, 1, 4) for i in range(2)]
    assert [s.threads for s in made(threads=16)] == [16]


def test_slots_have_the_threads_of_the_cell_that_asks_for_the_most(
    go: Callable[..., Outcome], fakes: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[RunSettings] = []

    def stop(settings: RunSettings, notify: Any) -> None:
        seen.append(settings)
        raise UsageError("enough")

    monkeypatch.setattr("benchbd.run.start.make_executor", stop)
    cells = [dataclasses.replace(fakes.cell(n=n), numerics=Numerics(threads=n)) for n in (1, 3, 2)]
    for chosen, given in ((cells, {}), (cells[:1], {}), (cells[:1], {"threads": 5})):
        with pytest.raises(UsageError, match="enough"):
            go(chosen, **given)
    assert [settings.threads for settings in seen] == [3, None, 5]


def test_a_precision_without_effect_is_said_once(go: Callable[..., Outcome], fakes: ModuleType, told: Any) -> None:
    asked = ("fp32-strict", "compile", "compile", "bf16")
    cells = [dataclasses.replace(fakes.cell(n=n), numerics=Numerics(wish)) for n, wish in enumerate(asked)]
    assert go(cells, executor="inline").exit_code == 0
    said = [note for note in told.notes if "no effect" in note]
    assert said == [
        "compile and strict have no effect on a CPU: the cells of precision compile, fp32-strict have IDs of their own "
        "but compute as without"
    ]
    assert go([dataclasses.replace(fakes.cell(n=9), numerics=Numerics("bf16"))], executor="inline").exit_code == 0
    assert len([note for note in told.notes if "no effect" in note]) == 1
