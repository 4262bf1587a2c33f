"""A defense that breaks everything in its process that it can reach, as careless and as hostile plugins do."""

from __future__ import annotations

import gc
import locale
import logging
import os
import random
import resource
import signal
import sys
import threading
import time

import numpy as np
import torch

from benchbd import Defense, Lab, TrainedModel, defense


def _break_torch() -> None:
    torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: output * 1.5)
    torch.nn.Linear.forward = torch.nn.Conv2d.forward = lambda self, x: x
    torch.nn.functional.cross_entropy = lambda *given, **named: torch.zeros(())
    torch.optim.SGD.step = torch.optim.Adam.step = lambda self, closure=None: None
    torch.set_num_threads(3)
    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.manual_seed(99)


def _break_libraries() -> None:
    from benchbd import engine
    from benchbd.core import seeding
    from benchbd.pipeline import evaluate
    from benchbd.storage import records

    evaluate.accuracy = lambda *given, **named: None
    seeding.seed_for = lambda *parts: 7
    engine.fit = lambda *given, **named: None
    records.blank = lambda *given: {}
    np.seterr(all="raise")
    np.random.seed(99)
    np.random.default_rng = lambda seed=None: None
    np.asarray = np.mean = lambda *given, **named: None
    random.seed(99)
    random.shuffle = lambda items: None
    sys.modules["sklearn"] = sys.modules["PIL"] = None
    sys.path[:] = ["/nowhere"]
    sys.setrecursionlimit(200)


def _break_process() -> None:
    os.chdir("/")
    os.umask(0o777)
    for name in ("OMP_NUM_THREADS", "BENCHBD_WORKERS", "HOME", "PATH"):
        os.environ.pop(name, None)
    os.environ["TMPDIR"] = "/nowhere"
    locale.setlocale(locale.LC_ALL, "C")
    logging.disable(logging.CRITICAL)
    gc.disable()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 3.0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 24, 1 << 24))
    for _ in range(3):
        threading.Thread(target=time.sleep, args=(3600,)).start()
    if not os.fork():
        os.setsid()
        if os.fork():
            os._exit(0)
        time.sleep(3600)
    if not os.fork():
        return
    os.closerange(20, 64)
    os.write(1, b"everything is broken\n")


@defense("wrecker", version=1)
class Wrecker(Defense):
    """Trains, then breaks everything."""

    def train(self, lab: Lab) -> TrainedModel:
        trained = lab.train(lab.poisoned)
        _break_torch()
        _break_libraries()
        _break_process()
        return trained
