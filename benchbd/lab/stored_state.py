"""The state of a trained network, proved to describe the network before anything is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from benchbd.engine import state_gap
from benchbd.errors import UsageError, one_line

if TYPE_CHECKING:
    from torch import Tensor

    from benchbd.engine import Classifier
    from benchbd.plugins.trained import ModelSpec

WATCHED_IMAGES = 4
"""Images that the trained and the rebuilt network classify: missing state shows on each of them."""


def proved_state(net: Classifier, model: ModelSpec, images: Tensor, device: torch.device) -> dict[str, np.ndarray]:
    """Copy a trained network's state, once a network rebuilt from it gives the logits of the trained one.

    Everybody else gets the rebuilt network: the evaluator, and the defense's later stages. The trained network is not
    used any more, so what these passes do to it does not matter.

    Args:
        net: the trained network.
        model: how to build another one.
        images: the training set, uint8 (N, 3, H, W); :data:`WATCHED_IMAGES` of them are classified.
        device: where to classify them.

    Raises:
        UsageError: the state does not describe the network; the message names the model.
    """
    state = {k: np.array(v.detach().cpu().numpy()) for k, v in net.state_dict().items()}
    some = images[:: max(1, len(images) // WATCHED_IMAGES)][:WATCHED_IMAGES]
    rebuilt = model.build(0)
    try:
        rebuilt.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    except RuntimeError as error:
        raise UsageError(
            f"{model.part.text}: a new network cannot load the trained state: {one_line(error)}"
        ) from error
    if gap := state_gap(net, rebuilt, some, device):
        raise UsageError(f"model {model.part.text!r}: {gap}")
    return state
