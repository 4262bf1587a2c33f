"""Device names and torch devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchbd.errors import UsageError, shown

if TYPE_CHECKING:
    import torch


def compute_device(name: str, what: str = "device") -> torch.device:
    """The torch device with a given name.

    Args:
        name: ``auto`` (a GPU if there is one, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.
        what: the setting that the name comes from, for the message (``--device``).

    Raises:
        UsageError: the name is unknown or the device does not exist.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"{what} {shown(name)}: must be auto, cpu, cuda or cuda:N") from None
    count = torch.cuda.device_count()
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= count):
        raise UsageError(f"{what} {shown(name)}: no such device here ({count} GPUs are visible)")
    return device
