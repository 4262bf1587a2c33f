"""A network of another package, split into features and the last linear layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchbd.core.images import IMAGENET
from benchbd.engine import Classifier
from benchbd.engine.outside_state import load_outside_state, renamed_state
from benchbd.engine.weights_file import read_weights
from benchbd.errors import Diverged, UsageError
from benchbd.models._base import Network


class Unfit(Exception):
    """The network has no last linear layer, or gives more than logits; the message says what it does."""


class LibraryNetwork(Network):
    """A package's network without its last layer, and that layer.

    Args:
        body: the package's network.
        place: name of its last layer, a linear one whose output is the network's (:func:`find_head`).
        resize: side in pixels to which images are enlarged; None leaves them as they are.
        unused: how the package's names of weights begin that this network does without.
    """

    def __init__(self, body: nn.Module, place: str, resize: int | None, unused: tuple[str, ...] = ()) -> None:
        super().__init__()
        head = body.get_submodule(place)
        assert isinstance(head, nn.Linear)
        _replace(body, place, nn.Identity())
        self.body, self.head = body, head
        self._place, self._resize = place, resize
        self.unused_names = unused

    def features(self, x: Tensor) -> Tensor:
        """Inputs of the last layer, (B, D), of normalised images (B, 3, H, W)."""
        if self._resize is not None and x.shape[-2:] != (self._resize, self._resize):
            x = F.interpolate(x, size=(self._resize, self._resize), mode="bilinear", align_corners=False)
        found: Tensor = self.body(x)
        return found

    def library_names(self) -> dict[str, str]:
        """The names of weights here by those in the package."""
        own = {name: f"body.{name}" for name in self.body.state_dict()}
        return own | {f"{self._place}.{name}": f"head.{name}" for name in self.head.state_dict()}

    @torch.no_grad()
    def last_convolution(self) -> tuple[nn.Conv2d | None, nn.BatchNorm2d | None]:
        """The convolution whose output channels are the features, and the batch norm after it; None if absent.

        It is the last one that computes a map of more than one pixel, if no linear layer follows. An image is computed
        to see the order.
        """
        order: list[tuple[nn.Module, Any]] = []
        leaves = [part for part in self.body.modules() if not any(True for _ in part.children())]
        hooks = [part.register_forward_hook(lambda part, _, out: order.append((part, out))) for part in leaves]
        training = self.training
        try:
            weight = next(self.body.parameters())
            side = max(224, self._resize or 0)
            x = torch.zeros(1, 3, side, side, device=weight.device, dtype=weight.dtype)
            self.eval()
            self.body(x)
        except Exception:  # a network for another size of images
            return None, None
        finally:
            self.train(training)
            for hook in hooks:
                hook.remove()
        maps = [at for at, (part, out) in enumerate(order) if isinstance(part, nn.Conv2d) and out[0, 0].numel() > 1]
        if not maps:
            return None, None
        at = maps[-1]
        conv, after = order[at][0], [part for part, _ in order[at + 1 :]]
        fits = isinstance(conv, nn.Conv2d) and conv.out_channels == self.head.in_features
        if not fits or any(isinstance(part, (nn.Linear, nn.MultiheadAttention)) for part in after):
            return None, None
        assert isinstance(conv, nn.Conv2d)
        norm = after[0] if after else None
        return conv, norm if isinstance(norm, nn.BatchNorm2d) and norm.num_features == conv.out_channels else None


def _replace(net: nn.Module, place: str, part: nn.Module) -> None:
    parent, _, last = place.rpartition(".")
    setattr(net.get_submodule(parent), last, part)


@torch.no_grad()
def find_head(create: Callable[[], nn.Module], classes: int, size: int) -> str:
    """The name of a network's last layer: a linear one, used once, whose output is what the network returns.

    The network computes two images in both modes, on the meta device, where this takes no time, or else on the CPU.
    Torch's global generator does not change.

    Args:
        create: makes the network.
        classes: number of classes.
        size: pixels on a side of an image.

    Raises:
        Unfit: there is no such layer.
        Exception: whatever the network raises on images of this size.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return _find_head(create(), classes, torch.zeros(2, 3, size, size))
        except Unfit:
            raise
        except Exception:  # some networks compute with numbers while they are made, which have no values there
            return _find_head(create(), classes, torch.zeros(2, 3, size, size))


def _find_head(net: nn.Module, classes: int, x: Tensor) -> str:
    found, calls = set(), list[tuple[str, Any, Any]]()
    for name, part in net.named_modules():
        if isinstance(part, nn.Linear):
            part.register_forward_hook(lambda _, given, out, name=name: calls.append((name, given, out)))
    for training in (True, False):
        calls.clear()
        logits = net.train(training)(x)
        if not isinstance(logits, Tensor):
            raise Unfit(f"it returns a {type(logits).__name__}, not one tensor of logits")
        if tuple(logits.shape) != (len(x), classes):
            raise Unfit(f"it returns {tuple(logits.shape)} for {len(x)} images and {classes} classes")
        last = [(name, given) for name, given, out in calls if out is logits]
        used = [name for name, _, _ in calls]
        if len(last) != 1 or used.count(last[0][0]) != 1 or last[0][1][0].ndim != 2:
            raise Unfit("its last step is not one linear layer of features")
        found.add(last[0][0])
    if len(found) != 1:
        raise Unfit("its last layer in training is another one than in use")
    return found.pop()


def load_pretrained(net: nn.Module, path: Path, text: str) -> None:
    """Load a file of weights; the last layer keeps its weights if the file has it for other classes, or lacks it.

    Args:
        net: the network.
        path: the file.
        text: what messages call the network.

    Raises:
        UsageError: the file cannot be read, or does not fit.
    """
    whole = Classifier(net, IMAGENET)
    state = renamed_state(read_weights(path), whole)
    if bool((state.pop("channel_mask", torch.ones(1)).to_dense() != 1).any()):
        raise UsageError(f"{path} holds a pruned model; a network starts from weights without a channel mask")
    state = {name: value for name, value in state.items() if name not in ("mean", "std")}
    own = whole.state_dict()
    head, mine = state.get("net.head.weight"), own["net.head.weight"]
    if head is None or (head.ndim == 2 and head.shape[0] != mine.shape[0] and head.shape[1] == mine.shape[1]):
        if head is None and "net.head.bias" in state:
            raise UsageError(f"{path} does not fit {text}: it has biases of the last layer without weights")
        state = {name: value for name, value in state.items() if not name.startswith("net.head.")}
        state |= {name: value for name, value in own.items() if name.startswith("net.head.")}
    try:
        load_outside_state(whole, state, f"{path} does not fit {text}")
    except Diverged as error:  # here, no training of the user's has diverged
        raise UsageError(str(error)) from None
