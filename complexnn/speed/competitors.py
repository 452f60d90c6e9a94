"""The same networks from other hands, for the bench: plain PyTorch, and complex-valued libraries.

Each library's own convolution, norm and activation stand in for the server's layers of a topology.
Their features are complex tensors ``(B, C, H, W)``, and their networks are not rotation-equivariant
where their norm or activation is not; what is compared is speed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from complexnn.config import NetConfig
from complexnn.networks.kit import Kit
from complexnn.networks.registry import ARCHITECTURES, build
from complexnn.networks.splitnet import SplitNet


class PlainResNet(nn.Module):
    """ResNet for small images as it is usually written: one module, no split, no kit."""

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        blocks, channels = [], 16
        for width in (16, 32, 64):
            for i in range((depth - 2) // 6):
                blocks.append(_PlainBlock(channels, width, 2 if i == 0 and width > 16 else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(64, num_classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        x = self.blocks(F.relu(self.stem(images)))
        return self.head(x.mean(dim=(2, 3)))


class _PlainBlock(nn.Module):
    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride, self.missing = stride, channels - before
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, image: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(image)))))
        if self.missing:
            half = self.missing // 2
            image = F.pad(image[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(y + image)


class _Complex(nn.Module):
    """A server of complex tensors behind features of two real parts."""

    def __init__(self, server: nn.Module) -> None:
        super().__init__()
        self.server = server

    def forward(self, x: Tensor) -> Tensor:
        real, imag = x.float().unbind(dim=1)
        y = self.server(torch.complex(real.contiguous(), imag.contiguous()))
        return torch.stack([y.real, y.imag], dim=1)


class _Plus(nn.Module):
    """A norm, and the sum with a shortcut behind it."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return self.norm(x) + shortcut


def _bare(conv: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """A convolution in ``torch.nn``'s argument order, without bias."""

    def make(before: int, channels: int, kernel: int, *, stride: int = 1, padding: int = 0,
             bias: bool = False) -> nn.Module:  # fmt: skip
        return conv(before, channels, kernel, stride=stride, padding=padding, bias=False)

    return make


def _complextorch() -> tuple[Callable, Callable, Callable]:
    layers = importlib.import_module("complextorch.nn")
    # In place, which is its default, its ReLU overwrites what the backward pass needs.
    return layers.Conv2d, layers.BatchNorm2d, partial(layers.CReLU, inplace=False)


def _complex_pytorch() -> tuple[Callable, Callable, Callable]:
    layers = importlib.import_module("complexPyTorch.complexLayers")
    return layers.ComplexConv2d, layers.ComplexBatchNorm2d, layers.ComplexReLU


def _torchcvnn() -> tuple[Callable, Callable, Callable]:
    layers = importlib.import_module("torchcvnn.nn")

    def conv(*args: int, **kwargs: int) -> nn.Module:
        return nn.Conv2d(*args, **kwargs, dtype=torch.complex64)

    return conv, layers.BatchNorm2d, layers.modReLU


LIBRARIES = {
    "complextorch": _complextorch,
    "complexPyTorch": _complex_pytorch,
    "torchcvnn": _torchcvnn,
}


def with_library(name: str, config: NetConfig) -> SplitNet | None:
    """The complex network of ``config`` (d = 2, decoys) with a library's layers on the server;
    None where the library is not installed. For architectures of convolutions, norms and
    activations only, as the ResNets are."""
    try:
        conv, norm, act = LIBRARIES[name]()
    except ImportError:
        return None
    kit = Kit(
        conv=_bare(conv), linear=nn.Linear, norm=norm, act=act,
        norm_act=lambda channels: nn.Sequential(norm(channels), act()),
        norm_add=lambda channels: _Plus(norm(channels)),
        max_pool=nn.MaxPool2d, global_pool=nn.Identity, flatten=nn.Flatten,
    )  # fmt: skip
    net = build(config)
    plain = ARCHITECTURES[config.arch].make(
        kit, config.num_classes, config.in_channels, config.image_size, variant=config.variant
    )
    net.processing = _Complex(plain.processing)
    return net
