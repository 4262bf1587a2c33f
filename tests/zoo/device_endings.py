"""Defenses that break the device they compute on. Registered by file."""

from __future__ import annotations

from benchbd.plugins.contract import Defense, defense


@defense("breaks-device", version=1)
class BreaksDevice(Defense):
    """Trains, then does something that the device refuses."""

    how: str = "memory"
    """What it does."""

    def train(self, lab):
        import torch

        device = "cuda" if torch.cuda.is_initialized() else "cpu"
        trained = lab.train(lab.poisoned, epochs=1)
        if self.how == "memory":
            torch.empty(1 << 50, dtype=torch.uint8, device=device)
        elif self.how == "index":
            # On CUDA an assertion of the kernel: no further call of this process can succeed.
            table, places = torch.zeros(4, device=device), torch.tensor([1 << 20], device=device)
            float(table[places].sum())
        return trained
