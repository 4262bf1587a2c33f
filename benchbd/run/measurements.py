"""Facts of networks and the rate of this machine, measured in a process of its own and kept in the user's cache.

A kept answer counts for the same code of the model and the same versions. A rate counts for the same processor or GPU,
precision, threads and recipe too. Removing the folder ``measured`` of the cache measures again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchbd.core import environment
from benchbd.core.files import atomic_write, read_plain
from benchbd.core.hashing import canonical, digest
from benchbd.core.numerics import Numerics
from benchbd.core.operations import Operations
from benchbd.core.paths import user_cache
from benchbd.core.user_variables import user_variables
from benchbd.plan.work import Network, Pace, model_spec
from benchbd.plugins import registry
from benchbd.run.workers.slots import Slot

FORMAT = 1
"""Version of the kept answers. It changes with the way in which operations and rates are measured."""
SECONDS = 3.0
"""Seconds for which a network's rate is measured."""
LIMIT = 1800.0
"""Seconds after which a measurement is given up."""

Request = dict[str, Any]
Ask = Callable[[str, Sequence[Request]], list[Any]]
"""Answers requests on a kind of device: None if there is no answer, UNBUILT if the network cannot be built."""
UNBUILT = object()
"""The answer about a network that cannot be built."""


class Machine(NamedTuple):
    """The device of this machine that a plan asks about.

    Attributes:
        kind: ``cpu`` or ``cuda``.
        name: the name that records hold as ``env.device``; '' if it is unknown.
    """

    kind: str
    name: str


def this_machine(gpus: Sequence[str]) -> Machine:
    """The first of the given GPUs, or the CPU if none is given."""
    if not gpus:
        return Machine("cpu", environment.cpu_name())
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", f"--id={gpus[0]}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return Machine("cuda", "")
    return Machine("cuda", done.stdout.strip().partition("\n")[0] if done.returncode == 0 else "")


class Measurements:
    """Answers about networks and this machine, from the cache or measured.

    Args:
        machine: the device.
        ask: measures; tests substitute their own.
        say: gets a line before something is measured, which takes seconds.
        remeasure: whether to measure rates again that are in the cache; once each.
        seconds: for which a network's rate is measured.
        unbuilt: networks that cannot be built, about which nothing more is asked; grows. A command that measures
            several times passes the same set.
    """

    def __init__(
        self,
        machine: Machine,
        ask: Ask | None = None,
        say: Callable[[str], object] = lambda line: None,
        *,
        remeasure: bool = False,
        seconds: float = SECONDS,
        unbuilt: set[Network] | None = None,
    ) -> None:
        self.machine, self._ask, self._say = machine, ask or ask_process, say
        self._remeasure, self._seconds = remeasure, seconds
        self._measured: set[Path] = set()
        self._unbuilt: set[Network] = set() if unbuilt is None else unbuilt

    def operations(self, networks: Iterable[Network]) -> dict[Network, Operations]:
        """Operations of an image, by network; those that cannot be counted are left out."""
        wanted = list(dict.fromkeys(networks))
        found = self._answers(
            [{"what": "operations", **_of(network)} for network in wanted], "cpu", "counting operations"
        )
        return {network: Operations(*value) for network, value in zip(wanted, found, strict=True) if value is not None}

    def seconds_per_image(self, paces: Mapping[Pace, str]) -> dict[Pace, float]:
        """Seconds of training per image of each network with a recipe (canonical JSON); failed ones are left out."""
        requests = [
            {
                "what": "rate",
                **_of(pace.network),
                **pace.numerics._asdict(),
                "recipe": json.loads(recipe),
                "seconds": self._seconds,
                **({"loop": json.loads(pace.loop)} if pace.loop else {}),
            }
            for pace, recipe in paces.items()
        ]
        found = self._answers(requests, self.machine.kind, "measuring the rate", self._remeasure)
        return {pace: value for pace, value in zip(paces, found, strict=True) if value is not None}

    def packing_faults(self, networks: Iterable[Network]) -> dict[Network, str]:
        """Why a network cannot be packed, '' if it can; those that cannot be built are left out."""
        wanted = list(dict.fromkeys(networks))
        found = self._answers([{"what": "packing", **_of(network)} for network in wanted], "cpu", "a trial packing")
        return {network: value for network, value in zip(wanted, found, strict=True) if value is not None}

    def classes(self, numerics: Iterable[Numerics]) -> dict[Numerics, str]:
        """The name of the precision class on this machine, by what cells ask for."""
        wanted = list(dict.fromkeys(numerics))
        found = self._answers([{"what": "class", **n._asdict()} for n in wanted], self.machine.kind, "")
        return {one: value for one, value in zip(wanted, found, strict=True) if value is not None}

    def _answers(self, requests: Sequence[Request], kind: str, what: str, fresh: bool = False) -> list[Any]:
        places = [self._place(request, kind) for request in requests]
        values = [None if fresh and place not in self._measured else _read(place) for place in places]
        missing = [
            number
            for number, value in enumerate(values)
            if value is None and _network_of(requests[number]) not in self._unbuilt
        ]
        if not missing:
            return values
        if what:
            names = ", ".join(dict.fromkeys(_text(requests[number]) for number in missing))
            self._say(f"{what} of {names}")
        for number, value in zip(missing, self._ask(kind, [requests[n] for n in missing]), strict=True):
            if value is UNBUILT:
                self._unbuilt.add(_network_of(requests[number]))
                continue
            values[number] = value
            _write(place := places[number], value)
            if place is not None and value is not None:
                self._measured.add(place)
        return values

    def _place(self, request: Request, kind: str) -> Path | None:
        """The file of an answer; None if it cannot be kept."""
        cache, machine = user_cache(), self.machine
        if cache is None or (kind == "cuda" and not machine.name):
            return None
        facts: list[Any] = [FORMAT, environment.versions(), request]
        if "model" in request:
            of = [("models", request["model"]["name"])]
            of += [("defenses", request["loop"]["name"])] if "loop" in request else []
            codes = [registry.source_digest(plugins, name) for plugins, name in of]
            if not all(codes):
                return None
            facts += codes
        if request["what"] not in ("operations", "packing"):
            facts += [machine, _capabilities(), environment.cores()]
        return cache / "measured" / f"{digest(facts)[:32]}.json"


def ask_process(kind: str, requests: Sequence[Request], limit: float = LIMIT) -> list[Any]:
    """Have :mod:`benchbd.run.measure_process` answer; problems are written to standard error in one line each.

    Args:
        kind: ``cpu`` or ``cuda``.
        requests: what to measure.
        limit: seconds after which the process is stopped; requests that it has answered by then have their answers.
    """
    slot = Slot(0, None if kind == "cpu" else user_variables().get("CUDA_VISIBLE_DEVICES") or "0", 1, 1)
    given = {"plugins": list(registry.plugin_files()), "device": kind, "requests": list(requests)}
    command = [sys.executable, "-m", "benchbd.run.measure_process"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            env={**user_variables(), **slot.environment()},
        )
        lines, problem = done.stdout.splitlines(), done.stderr.strip().rpartition("\n")[2]
    except subprocess.TimeoutExpired as error:
        lines, problem = _decoded(error.stdout).splitlines(), f"no answer within {limit:.0f} s"
    except OSError as error:
        lines, problem = [], str(error)
    answers: list[Any] = []
    for request, line in zip(requests, lines, strict=False):
        answer = json.loads(line)
        if "error" in answer:
            _complain(request, answer["error"])
        answers.append(UNBUILT if "unbuilt" in answer else answer.get("value"))
    for request in requests[len(answers) :]:
        _complain(request, problem or "the measuring process died")
        answers.append(None)
    return answers


def _of(network: Network) -> Request:
    name, params = model_spec(network)
    return {"model": {"name": name, "params": params}, "classes": network.classes, "size": network.size}


def _network_of(request: Request) -> Network:
    """The network that a request is about; for a precision class, one that does not exist."""
    return Network(canonical(request.get("model")), request.get("classes", 0), request.get("size", 0))


def _text(request: Request) -> str:
    if "model" not in request:
        return f"precision {request['precision']}"
    loop = f" in the loop of {request['loop']['name']}" if "loop" in request else ""
    return f"{request['model']['name']}{loop} at {request['size']} pixels"


def _complain(request: Request, problem: str) -> None:
    verb = "try a pack of" if request["what"] == "packing" else "measure"
    sys.stderr.write(f"benchbd: cannot {verb} {_text(request)}: {problem[:300]}\n")


def _decoded(output: Any) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _capabilities() -> str:
    """A hash of the processor's instruction sets: some machines call different processors by one name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return hashlib.sha256(" ".join(sorted(line.split())).encode()).hexdigest()[:16]
    return ""


def _read(place: Path | None) -> Any:
    if place is not None:
        with contextlib.suppress(OSError, ValueError, RecursionError, TypeError, KeyError):
            return json.loads(read_plain(place))["value"]
    return None


def _write(place: Path | None, value: Any) -> None:
    if place is not None and value is not None:
        with contextlib.suppress(OSError):
            atomic_write(place, json.dumps({"value": value}).encode())
