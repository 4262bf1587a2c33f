"""Where and when cells run: the scheduler, its worker processes and the executors."""

from __future__ import annotations

from benchbd.run.outcome import Outcome
from benchbd.run.settings import RunSettings
from benchbd.run.start import run_cells

__all__ = ["Outcome", "RunSettings", "run_cells"]
