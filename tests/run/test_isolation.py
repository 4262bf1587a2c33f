"""What a plugin does to its process, it does to its own cell: the numbers of the others are those they have alone."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from waiting import wait_for

from benchbd.engine import global_state
from benchbd.plan import matrix
from benchbd.plan.cell import Cell
from benchbd.plugins import registry
from benchbd.run import Outcome
from benchbd.run.executor import Job
from benchbd.run.settings import RunSettings
from benchbd.run.workers import warm
from benchbd.run.workers.local import LocalExecutor
from benchbd.run.workers.slots import Slot
from benchbd.storage import records

if TYPE_CHECKING:
    from conftest import Told

Go = Callable[..., Outcome]
ZOO = Path(__file__).parents[1] / "zoo"
DEFENSES = [
    entry.name
    for entry in registry.entries("defenses")
    if not entry.error and not registry.load("defenses", entry.name).runs_program  # nothing without a user's program
]
MATRIX = """
name: isolation
seeds: 0
recipe: {epochs: 1, batch_size: 64}
dataset: {digits: {train: 100, test: 50}}
model: lenet-s
attacks: [bn-g]
"""


def alive(pid: int) -> bool:
    """True where a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Worker:
    """A slot whose worker runs one cell after another, in the order given."""

    def __init__(self, output: Path) -> None:
        self.output = output
        settings = RunSettings(output=output, plugins=(str(ZOO / "wrecker.py"),), device="cpu")
        self.local = LocalExecutor([Slot(0, None, 1, 1)], settings, lambda cell_id, event: None)

    def run(self, cell: Cell) -> str:
        """Run a cell; returns its status."""
        self.local.start(Job(cell.id, cell.label, cell.to_json()))
        (ended,) = wait_for(lambda: self.local.poll(0.5), 300)
        return ended.status

    def facts(self, cell: Cell) -> dict[str, Any]:
        """What a cell's record says, without its times."""
        record = records.read_record(self.output, cell.id)
        assert record is not None
        return {k: v for k, v in record.items() if k not in ("time", "peak_memory_bytes", "trainings_computed")}

    def models(self) -> dict[str, str]:
        """sha256 of the weights of every stored model, by the model's key."""
        found = (self.output / "store" / "model").rglob("meta.json")
        return {path.parent.name: json.loads(path.read_text())["sha256"] for path in found}


@pytest.fixture(scope="module")
def cells() -> Iterator[dict[str, Cell]]:
    """A small cell for each shipped defense, and that of the wrecker."""
    known = set(registry.plugin_files())
    registry.add_plugin_file(str(ZOO / "wrecker.py"))
    text = MATRIX + f"defenses: [wrecker, {', '.join(DEFENSES)}]\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.yaml"
        path.write_text(text)
        plan = matrix.load(str(path), smoke=True)
    yield {cell.defense.name: cell for cell in plan.cells}
    for file in set(registry.plugin_files()) - known:
        registry.forget_plugin_file(file)


@pytest.fixture(scope="module")
def workers(cells: dict[str, Cell], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, Worker]]:
    """Two workers: one runs shipped defenses only, the other has run the wrecker."""
    alone, after = (Worker(tmp_path_factory.mktemp(name)) for name in ("alone", "after"))
    try:
        after.run(cells["wrecker"])
        log = after.output / "logs" / f"{cells['wrecker'].id}.log"
        assert "everything is broken" in log.read_text()
        yield alone, after
    finally:
        alone.local.close()
        after.local.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", DEFENSES)
def test_the_same_numbers_and_weights_after_a_plugin_that_breaks_everything(
    name: str, cells: dict[str, Cell], workers: tuple[Worker, Worker]
) -> None:
    alone, after = workers
    assert name in cells, "each shipped defense has a cell"
    statuses = [worker.run(cells[name]) for worker in workers]
    assert statuses == ["done", "done"]
    assert alone.facts(cells[name]) == after.facts(cells[name])
    ours, theirs = alone.models(), after.models()
    assert ours
    assert {key: theirs.get(key) for key in ours} == ours


MEDDLER = """
import os
import torch
from benchbd import Defense, defense
os.environ["ATEN_CPU_CAPABILITY"] = os.environ["MEDDLED"] = "default"
torch.nn.modules.module.register_module_forward_hook(lambda module, given, out: out + 0.5 if out.ndim > 1 else None)
@defense("meddles", version=1)
class Meddles(Defense):
    def train(self, lab):
        return lab.train(lab.poisoned)
"""
LOOKS = """
import os
from benchbd import Defense, defense
@defense("looks", version=1)
class Looks(Defense):
    def train(self, lab):
        lab.note("seen", [os.environ.get(name) for name in ("ATEN_CPU_CAPABILITY", "MEDDLED")])
        return lab.train(lab.poisoned)
"""


@pytest.mark.timeout(600)
def test_a_plugin_file_that_a_cell_does_not_name_does_nothing_to_it(tmp_path: Path) -> None:
    """Both files are given; the run imports both, and so does only the cell that names the meddler."""
    for name, text in (("meddler", MEDDLER), ("looks", LOOKS)):
        (tmp_path / f"{name}.py").write_text(text)
    plugins = f"plugins: [{tmp_path}/meddler.py, {tmp_path}/looks.py]\n"
    runs = {"alone": ("", "none"), "both": (plugins, "none, looks"), "used": (plugins, "meddles")}
    weights, seen = {}, None
    for name, (files, names) in runs.items():
        (tmp_path / f"{name}.yaml").write_text(f"{MATRIX}{files}defenses: [{names}]\n")
        command = [sys.executable, "-m", "benchbd", "run", str(tmp_path / f"{name}.yaml"), "--device", "cpu"]
        command += ["--jobs", "1", "--output", str(tmp_path / name)]
        variables = {k: v for k, v in os.environ.items() if k != "ATEN_CPU_CAPABILITY"}
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=variables)
        assert done.returncode == (name == "used"), done.stderr
        found = (tmp_path / name / "store" / "model").rglob("meta.json")
        weights[name] = {path.parent.name: json.loads(path.read_text())["sha256"] for path in found}
        for path in (tmp_path / name / "records").glob("*.json"):
            seen = json.loads(path.read_text())["notes"].get("seen", seen)
    assert weights["both"] == weights["alone"]
    assert weights["used"] == {}, "the meddler does meddle: its own training is refused"
    assert seen == [None, None]


EARLY = """
import concurrent.futures
import dataclasses
import functools
import gc
import os
import signal
import sys
import threading
import time
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from benchbd import Defense, defense

TEMPERATURE = 1.0

def hook(lab):
    torch.nn.modules.module.register_module_forward_hook(lambda m, given, out: out + 0.5 if out.ndim > 1 else None)

def optimizers(lab):
    from torch.optim.optimizer import register_optimizer_step_post_hook
    register_optimizer_step_post_hook(lambda opt, *more: [p.data.mul_(0.9) for p in opt.param_groups[0]["params"]])

def replaced(lab):
    old = F.cross_entropy
    F.cross_entropy = lambda *given, **more: old(*given, **more) * 1.1

def method(lab):
    torch.nn.Linear.forward = lambda self, x: F.linear(x, self.weight)

def body(lab):
    F.cross_entropy.__code__ = (lambda input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
        reduction="mean", label_smoothing=0.0: torch._C._nn.cross_entropy_loss(input * 1.1, target, None, 0)).__code__

def defaults(lab):
    torch.nn.init.kaiming_uniform_.__defaults__ = (0, "fan_out", "relu", None)

def layer(lab):
    nn.Linear = type("Linear", (nn.Linear,), {})

def hidden(lab):
    nn.Conv2d.__call__ = lambda self, x: self.forward(x) * 1.1

def module(lab):
    from benchbd.engine import step
    step.F = type(sys)("F")

def constant(lab):
    from benchbd.engine import augment
    augment.PADS["crop4"] = 2

def seeds(lab):
    torch.default_generator = torch.Generator()

@dataclasses.dataclass(frozen=True)
class Warmer:
    def __call__(self, losses, weights):
        return (losses * weights).mean() * TEMPERATURE

def own_constant(lab):
    global TEMPERATURE
    TEMPERATURE = 0.1
    return lab.train(lab.poisoned, loss=Warmer())

def saved(lab):
    torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t * 0.9).__enter__()

def kernel(lab):
    globals()["kept"] = torch.library.Library("aten", "IMPL")
    kept.impl("relu", lambda x: x.clamp(min=0) * 0.9, "CPU")

def draw(*given):
    torch.rand(1)

def profiler(lab):
    sys.setprofile(draw)

def tracer(lab):
    sys.settrace(functools.partial(draw, 1))

def collector(lab):
    gc.callbacks.append(draw)

def auditor(lab):
    sys.addaudithook(draw)

def device_mode(lab):
    torch.set_default_device("meta")

def forever():
    while True:
        torch.manual_seed(torch.initial_seed() + 1)
        time.sleep(0.001)

def thread(lab):
    threading.Thread(target=forever, name="mine", daemon=True).start()

def pool(lab):
    globals()["kept"] = concurrent.futures.ThreadPoolExecutor(1, "mine")
    kept.submit(forever)

def later(lab):
    late = threading.Timer(600, torch.manual_seed, [3])
    late.function, late.name, late.daemon = lambda seed: torch.manual_seed(seed), "mine", True
    late.start()

def timer(lab):
    signal.signal(signal.SIGALRM, lambda number, frame: torch.rand(1))
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)

def idle(lab):
    # Threads that run no code of this file by now.
    ended = threading.Thread(target=torch.manual_seed, args=[3])
    ended.start()
    ended.join()
    globals()["kept"] = concurrent.futures.ThreadPoolExecutor(2)
    list(kept.map(abs, [1, 2, 3]))
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.signal(signal.SIGALRM, lambda number, frame: torch.rand(1))

def settings(lab):
    torch.set_num_threads(3)
    torch.backends.mkldnn.enabled = False
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)
    np.seterr(all="raise")
    torch.manual_seed(5)
    os.environ["MKL_CBWR"] = "COMPATIBLE"
    os.environ["ONEDNN_MAX_CPU_ISA"] = "SSE41"
    if hasattr(torch.backends.mkldnn, "fp32_precision"):
        torch.backends.mkldnn.matmul.fp32_precision = torch.backends.mkldnn.conv.fp32_precision = "bf16"

@defense("early", version=1)
class Early(Defense):
    what: str = "hook"
    def train(self, lab):
        if self.what == "autocast":
            with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
                return lab.train(lab.poisoned)
        return globals()[self.what](lab) or lab.train(lab.poisoned)
"""
REFUSED = {
    "hook": "a hook for all modules is registered",
    "optimizers": "a hook for all optimizers is registered",
    "replaced": "torch.nn.functional.cross_entropy was replaced",
    "method": "torch.nn.modules.linear.Linear.forward was replaced",
    "body": "torch.nn.functional.cross_entropy was changed",
    "defaults": "torch.nn.init.kaiming_uniform_ was changed",
    "layer": "torch.nn.Linear was replaced",
    "hidden": "torch.nn.modules.conv.Conv2d.__call__ was replaced",
    "module": "benchbd.engine.step.F was replaced",
    "constant": "benchbd.engine.augment.PADS was changed",
    "seeds": "torch.default_generator was replaced",
    "own_constant": "early.TEMPERATURE was replaced",
    "saved": "hooks for all saved tensors are active",
    "kernel": "the kernel aten/relu/CPU of torch was replaced",
    "profiler": "a profiler or tracer of the plugin is running",
    "tracer": "a profiler or tracer of the plugin is running",
    "collector": "a function of the plugin is in gc.callbacks",
    "auditor": "an audit hook of the plugin is running",
    "device_mode": "a mode that changes all torch functions is active",
    "thread": "the plugin's thread 'mine' is running",
    "pool": "the plugin's thread 'mine_0' is running",
    "later": "the plugin's thread 'mine' is running",
    "timer": "a timer with a signal handler of the plugin is running",
}


@pytest.mark.timeout(600)
def test_what_a_plugin_changes_before_it_trains_reaches_no_model_that_others_share(tmp_path: Path) -> None:
    """Settings are put right for the training. What cannot be put right is refused, and nothing is stored."""
    (tmp_path / "early.py").write_text(EARLY)
    weights, found = {}, {}
    changes = {"many": [*REFUSED, "settings", "idle"], "few": ["autocast"]}
    for name in ("many", "few", "none"):
        chosen = "none" if name == "none" else f"{{early: {{what: [{', '.join(changes[name])}]}}}}"
        (tmp_path / "m.yaml").write_text(f"{MATRIX}plugins: [{tmp_path}/early.py]\ndefenses: [{chosen}]\n")
        command = [sys.executable, "-m", "benchbd", "run", str(tmp_path / "m.yaml"), "--device", "cpu", "--jobs", "1"]
        subprocess.run([*command, "--output", str(tmp_path / name)], stdin=subprocess.DEVNULL, capture_output=True)
        for path in (tmp_path / name / "records").glob("*.json"):
            record = json.loads(path.read_text())
            found[record["params"]["defense"].get("what", "none")] = record
        metas = (tmp_path / name / "store" / "model").rglob("meta.json")
        weights[name] = {path.parent.name: json.loads(path.read_text())["sha256"] for path in metas}
    for what, line in REFUSED.items():
        assert found[what]["status"] == "failed"
        assert found[what]["error"].startswith(f"defense 'early': {line}"), what
        assert found[what]["artifacts"].get("model") is None
    for what in ("settings", "idle", "autocast"):
        assert found[what]["status"] == "done", found[what]["error"]
        assert [found[what][name] for name in ("ca", "asr", "ra")] == [found["none"][n] for n in ("ca", "asr", "ra")]
    assert weights["many"] == weights["few"] == weights["none"]


IMPORTED = """
import numpy as np
from torch import nn
from benchbd import Model, model

old = np.random.default_rng
np.random.default_rng = lambda seed=None: old(7)

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(3, classes)
    def features(self, x):
        return x.mean((2, 3))
    def forward(self, x):
        return self.head(self.features(x))

@model("imported", version=1)
class Imported(Model):
    def build(self, classes, size):
        return Net(classes)
"""


def test_a_model_that_changes_the_process_does_not_change_the_poison_of_other_models(tmp_path: Path) -> None:
    (tmp_path / "imported.py").write_text(IMPORTED)
    text = MATRIX.replace("lenet-s", "imported") + f"plugins: [{tmp_path}/imported.py]\ndefenses: [none]\n"
    (tmp_path / "m.yaml").write_text(text)
    command = [sys.executable, "-m", "benchbd", "run", str(tmp_path / "m.yaml"), "--device", "cpu", "--jobs", "1"]
    subprocess.run([*command, "--output", str(tmp_path / "out")], stdin=subprocess.DEVNULL, capture_output=True)
    (record,) = [json.loads(path.read_text()) for path in (tmp_path / "out" / "records").glob("*.json")]
    assert record["status"] == "failed"
    assert record["error"].startswith("a plugin of the cell: numpy.random.default_rng was replaced")
    assert not list((tmp_path / "out" / "store").rglob("meta.json"))


def test_daemons_and_forked_copies_of_a_cell_end_with_it(fakes: ModuleType, go: Go, told: Told, tmp_path: Path) -> None:
    daemon, forks, after = fakes.cell("daemon"), fakes.cell("fork"), fakes.cell(n=1)
    outcome = go([daemon, forks, after], jobs=1)
    assert outcome.counts == {"done": 3}
    assert not alive(int((tmp_path / "daemon").read_text()))
    ids = [cell_id for cell_id, status, reason in told.ends]
    assert sorted(ids) == sorted(c.id for c in (daemon, forks, after)), "each has ended once"


@pytest.mark.parametrize("do", ["daemon", "children"])
@pytest.mark.parametrize("victim", ["run", "guard", "worker"])
def test_nothing_outlives_a_run_whatever_is_killed(fakes: ModuleType, tmp_path: Path, do: str, victim: str) -> None:
    helper = str(Path(fakes.__file__))
    told = "until-1-daemon" if do == "daemon" else "children"
    arguments = [sys.executable, helper, str(tmp_path), "1", f"meet-1-{told}:1:0", "hang:2:0"]
    run = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: len(fakes.read_trace(tmp_path)) >= (3 if do == "daemon" else 1))
    started = [row[3] for row in fakes.read_trace(tmp_path) if row[1] == "start"]
    left = tmp_path / ("daemon" if do == "daemon" else "child")
    wait_for(lambda: left.exists() and left.read_text())
    found = json.loads(left.read_text())
    worker = fakes.parent(tmp_path, started[-1])
    guard = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    pids = {*started, worker, guard, *(found if isinstance(found, list) else [found])}
    os.kill({"run": run.pid, "guard": guard, "worker": worker}[victim], 9)
    wait_for(lambda: not any(alive(pid) for pid in pids), 20)
    run.kill()
    run.wait()


def test_a_killed_worker_is_replaced(fakes: ModuleType, go: Go) -> None:
    broken, after = fakes.cell("worker"), fakes.cell(n=1)
    outcome = go([broken, after], jobs=1)
    assert outcome.statuses == {broken.id: "killed", after.id: "done"}


@pytest.mark.parametrize("executor", ["local", "inline"])
def test_an_error_that_is_no_exception_fails_its_cell(fakes: ModuleType, go: Go, executor: str) -> None:
    broken, after = fakes.cell("no-exception"), fakes.cell(n=1)
    outcome = go([broken, after], executor=executor, jobs=1)
    assert outcome.statuses == {broken.id: "failed", after.id: "done"}
    assert outcome.reasons[broken.id] == "CancelledError: stopped"


def test_a_plugin_cannot_interrupt_the_run(fakes: ModuleType, go: Go) -> None:
    broken, after = fakes.cell("keyboard"), fakes.cell(n=1)
    outcome = go([broken, after], jobs=1)
    assert outcome.statuses == {broken.id: "failed", after.id: "done"}
    assert outcome.exit_code == 1


def test_a_cell_that_closes_every_file_has_its_record_all_the_same(fakes: ModuleType, go: Go) -> None:
    assert go([fakes.cell("close-files"), fakes.cell(n=1)], jobs=1).counts == {"done": 2}


def test_what_a_cell_writes_to_its_pipe_ends_neither_the_run_nor_its_worker(
    fakes: ModuleType, go: Go, tmp_path: Path
) -> None:
    forgers, after = [fakes.cell(f"forge-{name}") for name in fakes.FORGED], fakes.cell(n=1)
    outcome = go([*forgers, after], jobs=1)
    assert outcome.counts == {"done": 1, "failed": len(forgers)}
    exited = "the cell's process exited with code 3 in the middle of the cell"
    assert {outcome.reasons[cell.id] for cell in forgers} == {exited}
    assert len({fakes.parent(tmp_path, row[3]) for row in fakes.read_trace(tmp_path)}) == 1


def test_a_cell_has_a_session_no_input_and_its_own_folder_for_temporary_files(
    fakes: ModuleType, go: Go, tmp_path: Path
) -> None:
    cell = fakes.cell("streams")
    assert go([cell], jobs=1).counts == {"done": 1}
    said, folder, session = json.loads((tmp_path / "streams").read_text())
    assert said == ""
    assert session == fakes.read_trace(tmp_path)[0][3]
    assert folder != tempfile.gettempdir()
    assert not Path(folder).exists(), "with what the cell has left in it"


def test_a_timeout_keeps_the_worker(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    hung, after = fakes.cell("hang"), fakes.cell(n=1)
    began = time.monotonic()
    outcome = go([hung, after], jobs=1, timeout=5.0)
    assert outcome.statuses == {hung.id: "timeout", after.id: "done"}
    assert time.monotonic() - began < 100
    assert len({fakes.parent(tmp_path, row[3]) for row in fakes.read_trace(tmp_path)}) == 1


WARM = """
import os, sys, tempfile, torch
from pathlib import Path
calls = []
for name in ("is_available", "device_count", "init", "_lazy_init", "current_device"):
    setattr(torch.cuda, name, lambda *given, name=name: calls.append(name) or 0)
from benchbd.plan.matrix import load
from benchbd.run.workers import warm
from benchbd.pipeline.run_cell import execute
torch.set_num_threads(1)
(cell,) = load(sys.argv[1]).cells
warm.warm_up()
warm.warm_for(cell.to_json())
threads = [line.split()[1] for line in open("/proc/self/status") if line.startswith("Threads")]
before = set(sys.modules)
asked = sorted(set(calls))
execute(cell.to_json(), output=Path(tempfile.mkdtemp()), device="cpu")
small = ("importlib.", "sklearn.datasets.d")  # folders of data files
print(threads, asked, sorted(m for m in set(sys.modules) - before if not m.startswith(small)))
"""


def test_a_plugin_is_loaded_once_and_the_memory_is_frozen_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[bool] = []
    monkeypatch.setattr(warm, "_seen", set())
    monkeypatch.setattr(global_state, "_warm", None)  # what a worker remembers is forgotten after the test
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    cell = {"spec": {kind: {"name": name} for kind, name in (("dataset", "digits"), ("defense", "none"))}}
    assert [warm.warm_for(cell) or len(frozen) for _ in range(3)] == [1, 1, 1]
    warm.warm_for({"spec": {**cell["spec"], "model": {"name": "a user's own"}}})
    assert len(frozen) == 1
    warm.warm_for({"spec": {**cell["spec"], "model": {"name": "lenet-s"}}})
    assert len(frozen) == 2


def test_a_warm_worker_has_one_thread_asks_for_no_gpu_and_has_loaded_what_cells_import(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(textwrap.dedent(MATRIX) + "defenses: [none]\n")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WARM, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["['1'] [] []"], done.stderr
