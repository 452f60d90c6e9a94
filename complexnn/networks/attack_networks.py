"""The attackers' networks. None of them has an input for a key: they see what the server sees.

Which attack trains which: keys, the angle regressor; inversion and dss, the U-Net; dss of small
features, the denoiser; inference, the classifier. Widths are set by the attacks' budgets.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from complexnn.networks.kit import REAL
from complexnn.networks.resnet import BasicBlock


class AngleRegressor(nn.Module):
    r"""Released feature to unit vectors :math:`\hat u` with :math:`\hat a = \sum_j \hat u_j x_j`.

    At d = 2 the one vector of a decoy group is :math:`(\cos\hat\theta, \sin\hat\theta)`, so there
    is no wrap-around. All parts enter together: 1x1 convolutions mix parts and channels first,
    strided blocks follow down to 8x8, and mean and deviation over positions feed the head, since
    the key shows in the distribution of the parts rather than in any place.

    Shape: ``(G, d, C, H, W) -> (G, vectors, d)``.
    """

    def __init__(
        self, dim: int, channels: int, size: tuple[int, int], *, vectors: int, width: int = 64
    ) -> None:
        super().__init__()
        self.dim, self.vectors = dim, vectors
        layers: list[nn.Module] = [
            nn.Conv2d(dim * channels, 2 * width, 1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        side, features = min(size), width
        while side > 8:
            layers.append(BasicBlock(REAL, features, 2 * width, 2))
            side, features = side // 2, 2 * width
        layers.append(BasicBlock(REAL, features, 2 * width))
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(4 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, vectors * dim)
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, released: Tensor) -> Tensor:
        maps = self.body(released.flatten(1, 2).contiguous(memory_format=torch.channels_last))
        flat = maps.flatten(2)
        summary = torch.cat([flat.mean(2), flat.std(2, correction=0)], dim=1)
        return F.normalize(self.head(summary).unflatten(1, (self.vectors, self.dim)), dim=-1)


class UNet(nn.Module):
    """Decoder of an inversion attack (Ronneberger et al. 2015), at most four levels down and up, as
    in the paper.

    A feature map smaller than the image is first enlarged to it; small images get fewer levels,
    so that the lowest keeps at least 2x2 positions. Widths double up to the eightfold.

    Shape: ``(B, in_channels, h, w) -> (B, images, C, H, W)``, pixels in [0, 1].
    """

    def __init__(
        self, in_channels: int, image: tuple[int, int, int], *, images: int = 1, width: int = 32
    ) -> None:
        super().__init__()
        channels, *size = image
        self.size, self.images, self.channels = tuple(size), images, channels
        levels = max(1, min(4, min(size).bit_length() - 2))
        widths = [width * min(2**level, 8) for level in range(levels + 1)]
        self.first = _two_convolutions(in_channels, widths[0])
        self.down = nn.ModuleList(_two_convolutions(a, b) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(
            _two_convolutions(b + a, a) for a, b in reversed(list(itertools.pairwise(widths)))
        )
        self.last = nn.Conv2d(widths[0], images * channels, 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, features: Tensor) -> Tensor:
        x = features.contiguous(memory_format=torch.channels_last)
        if x.shape[-2:] != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False)
        x = self.first(x)
        skips = []
        for block in self.down:
            skips.append(x)
            x = block(F.max_pool2d(x, 2))
        for block in self.up:
            skip = skips.pop()
            x = block(torch.cat([F.interpolate(x, skip.shape[-2:]), skip], dim=1))
        return self.last(x).float().sigmoid().unflatten(1, (self.images, self.channels))


def _two_convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class FeatureDenoiser(nn.Module):
    r"""A view at a known angle from one of a group's features to that feature.

    Views are :math:`v = a\cos\varphi + n\sin\varphi` with n a mixture of the other features, white
    ones, so that n has the covariance of a. For Gaussian features the best estimate of a is
    :math:`v\cos\varphi`; residual convolutions at full resolution learn what else there is,

    .. math:: D(v, \varphi) = v\cos\varphi + N(v, \varphi)\sin\varphi,

    where the target of N has the same size at every angle. Each place has a bias of its own, and
    each block sees the mean over the map. N starts at 0, so D starts as that best linear estimate.

    Shape: ``(B, C, H, W), (B,) -> (B, C, H, W)``.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], *, width: int = 64, blocks: int = 3
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels + 2, width, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(width, *size))
        self.blocks = nn.ModuleList(_ContextBlock(width) for _ in range(blocks))
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        self.to(memory_format=torch.channels_last)

    def forward(self, views: Tensor, angle: Tensor) -> Tensor:
        angle = angle.to(views).view(-1, 1, 1, 1)
        cos, sin = angle.cos(), angle.sin()
        # The share of noise on a log scale, down to the smallest angle that it is trained at.
        angles = torch.cat([cos, sin.clamp(min=0.02).log()], dim=1)
        x = torch.cat([views, angles.expand(-1, 2, *views.shape[2:])], dim=1)
        x = self.first(x.contiguous(memory_format=torch.channels_last)) + self.place
        for block in self.blocks:
            x = block(x)
        return views * cos + self.last(F.relu(x)) * sin


class _ContextBlock(nn.Module):
    """A residual block of two convolutions, beside a linear map of the mean over positions.

    Shape: ``(B, width, H, W) -> (B, width, H, W)``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(width, width, 3, padding=1)
        self.other = nn.Conv2d(width, width, 3, padding=1)
        self.context = nn.Linear(width, width)
        nn.init.zeros_(self.other.weight)

    def forward(self, x: Tensor) -> Tensor:
        local = self.other(F.relu(self.one(F.relu(x))))
        return x + local + self.context(x.mean(dim=(2, 3)))[:, :, None, None]


class PropertyClassifier(nn.Sequential):
    """A small residual classifier of feature maps or images: a stem and three blocks.

    Shape: ``(B, C, H, W) -> (B, num_classes)``.
    """

    def __init__(self, in_channels: int, num_classes: int, *, width: int = 64) -> None:
        super().__init__(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            BasicBlock(REAL, width, width),
            BasicBlock(REAL, width, 2 * width, 2),
            BasicBlock(REAL, 2 * width, 4 * width, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, num_classes),
        )
        self.to(memory_format=torch.channels_last)
