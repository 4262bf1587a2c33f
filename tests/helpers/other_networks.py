"""Networks as other repositories name their parts, in plain torch, with weights that make every layer matter."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def _conv(before: int, width: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, width, size, stride, size // 2, bias=False)


class PreBlock(nn.Module):
    """Norm, ReLU, convolution, twice. The shortcut is a list of one convolution, or a convolution of another name."""

    def __init__(self, before: int, width: int, stride: int, shortcut: str = "shortcut") -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), _conv(before, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), _conv(width, width, 3, 1)
        self.short = shortcut
        if stride != 1 or before != width:
            side = _conv(before, width, 1, stride)
            self.add_module(shortcut, nn.Sequential(side) if shortcut == "shortcut" else side)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(x))
        side = getattr(self, self.short)(y) if hasattr(self, self.short) else x
        return self.conv2(torch.relu(self.bn2(self.conv1(y)))) + side


class PostBlock(nn.Module):
    """Convolution, norm, ReLU, convolution, norm, plus the shortcut, ReLU."""

    def __init__(self, before: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(before, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, 1), nn.BatchNorm2d(width)
        self.short = shortcut
        if stride != 1 or before != width:
            self.add_module(shortcut, nn.Sequential(_conv(before, width, 1, stride), nn.BatchNorm2d(width)))

    def forward(self, x: Tensor) -> Tensor:
        side = getattr(self, self.short)(x) if hasattr(self, self.short) else x
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + side)


class Inner(nn.Module):
    """A stage under the name ``layer``, as WideResNet has it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class PreActResNet(nn.Module):
    """BackdoorBench's ``preactresnet18``: no norm after the last block; the last layer is ``linear``."""

    def __init__(self, classes: int = 10, width: int = 64, last_norm: bool = False) -> None:
        super().__init__()
        self.conv1, before = _conv(3, width, 3, 1), width
        for stage in range(4):
            out = width * 2**stage
            parts = PreBlock(before, out, 2 if stage else 1), PreBlock(out, out, 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*parts))
            before = out
        self.bn = nn.BatchNorm2d(before) if last_norm else nn.Identity()
        self.linear = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.bn(self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))).mean((2, 3)))


class WideResNet(nn.Module):
    """The WRN-16-1 of NAD, ABL and CBD."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1, before = _conv(3, 16, 3, 1), 16
        for stage in range(3):
            out = 16 * 2**stage
            parts = [
                PreBlock(before if not at else out, out, 2 if stage and not at else 1, "convShortcut") for at in (0, 1)
            ]
            self.add_module(f"block{stage + 1}", Inner(nn.Sequential(*parts)))
            before = out
        self.bn1, self.fc = nn.BatchNorm2d(before), nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x)))))).mean((2, 3)))


class ResNet(nn.Module):
    """The ResNet-18 of BackdoorBox and backdoor-toolbox, or torchvision's with its stem and other names."""

    def __init__(self, classes: int = 10, width: int = 64, torchvision: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False) if torchvision else _conv(3, width, 3, 1)
        self.bn1, before = nn.BatchNorm2d(width), width
        self.pool = nn.MaxPool2d(3, 2, 1) if torchvision else nn.Identity()
        short, self.last = ("downsample", "fc") if torchvision else ("shortcut", "linear")
        for stage in range(4):
            out = width * 2**stage
            parts = PostBlock(before, out, 2 if stage else 1, short), PostBlock(out, out, 1, short)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*parts))
            before = out
        self.add_module(self.last, nn.Linear(before, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        return getattr(self, self.last)(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))


class Vgg(nn.Module):
    """BackdoorBox's ``vgg11_bn``."""

    def __init__(self, classes: int = 10, width: int = 64) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        before = 3
        for factor in (1, 0, 2, 0, 4, 4, 0, 8, 8, 0, 8, 8, 0):
            out = width * factor
            if not factor:
                parts.append(nn.MaxPool2d(2, 2))
                continue
            parts += [nn.Conv2d(before, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            before = out
        self.features, self.classifier = nn.Sequential(*parts), nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def lively(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network in eval mode whose logits depend on images, and whose norms have statistics, scales and shifts."""
    torch.manual_seed(seed)
    net = make()
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            for values in (part.bias, part.running_mean):
                nn.init.normal_(values, 0, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return net.eval()
