"""From the name of a device to the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchbd.errors import UsageError, shown

if TYPE_CHECKING:
    import torch


def compute_device(name: str, what: str = "device") -> torch.device:
    """The device of a name.

    Args:
        name: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        what: what the name is of, for the message (``--device``).

    Raises:
        UsageError: another name, or a device that is not there.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"{what} {shown(name)}: must be auto, cpu, cuda or cuda:N") from None
    there = torch.cuda.device_count()
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= there):
        raise UsageError(f"{what} {shown(name)}: no such device here ({there} GPUs are visible)")
    return device
