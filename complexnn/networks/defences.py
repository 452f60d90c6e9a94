r"""What can be done to a feature before it is released, each defence a pure function.

``noisy`` is the paper's baseline; the others are what a user would compare the rotation with. All
of them are fresh for each query, in training and afterwards.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from complexnn import metrics
from complexnn.config import NetConfig
from complexnn.rotation import functional as cF

# The Laplace mechanism's bound on the mean absolute value of a query's feature. Chosen by hand; of
# standard normal numbers it is 0.8.
MEAN_BOUND = 1.0


def perturb(features: Tensor, config: NetConfig, generator: Generator | None) -> Tensor:
    """Features ``(B, C, H, W)`` as ``config`` releases them (before a rotation, if it has one)."""
    features = _defended(features, config, generator)
    # Last: the bound must hold for what is released.
    return clip(features) if config.gaussian_decoys else features


def _defended(features: Tensor, config: NetConfig, generator: Generator | None) -> Tensor:
    """Features after the defence that ``config`` names, if any."""
    if config.kind == "noisy":
        return gaussian(features, config.gamma, generator)
    if config.defence == "laplace":
        return laplace(features, config.epsilon, generator)
    if config.defence == "dropout":
        return drop(features, config.drop_rate, generator)
    if config.defence == "quantise":
        return quantise(features, config.bits)
    return features


def gaussian(features: Tensor, gamma: float, generator: Generator | None) -> Tensor:
    r""":math:`a + \gamma\varepsilon`, :math:`\varepsilon \sim N(0, E[a^2] I)` per query.

    Deviation: the noise is scaled to the feature's own mean square, because a network trained
    against noise of a fixed size outgrows it.
    """
    if generator is None:
        noise = cF.normal(tuple(features.shape), None)
    else:
        source = _beside(features, generator)
        noise = torch.randn(features.shape, generator=source, device=source.device)
    strength = features.detach().square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return features + gamma * strength * noise.to(features)


def clip(features: Tensor) -> Tensor:
    r"""Features scaled down to a mean square of at most 1 for each query: what bounds the norm,
    :math:`\|a\|^2 \le N`, for the proof behind Gaussian decoys (docs/beyond.md)."""
    power = metrics.double(features).square().mean(dim=(1, 2, 3), keepdim=True)
    below = 1 - torch.finfo(features.dtype).eps  # rounding must not lift the norm above its bound
    factor = torch.where(power > 1.0, below * power.clamp(min=1.0).rsqrt(), 1.0)
    return features * factor.to(features)


def laplace(features: Tensor, epsilon: float, generator: Generator | None) -> Tensor:
    r"""The Laplace mechanism (Dwork et al. 2006) on a whole query's feature of N numbers.

    :math:`\operatorname{clip}(a) + \mathrm{Lap}(b)` per entry with :math:`b = 2N/\varepsilon`;
    the clipping scales :math:`\|a\|_1` down to N. Two queries then differ by at most 2N in
    :math:`\|\cdot\|_1`, so that one release is :math:`\varepsilon`-locally differentially private:
    no image changes the density of what is released by more than :math:`e^\varepsilon`. This holds
    for exact arithmetic; rounding of floating-point noise is not accounted for. Releases of one
    image compose: two of them cost :math:`2\varepsilon`.
    """
    count = features[0].numel()
    length = features.abs().sum(dim=(1, 2, 3), keepdim=True)
    clipped = features * (MEAN_BOUND * count / length.clamp(min=1e-12)).clamp(max=1.0)
    uniform = _uniform(features, generator) - 0.5
    last = 1e-7 if uniform.dtype == torch.float32 else 2.0**-54  # before the noise is infinite
    noise = -uniform.sign() * torch.log1p(-2 * uniform.abs().clamp(max=0.5 - last))
    return clipped + (2 * MEAN_BOUND * count / epsilon) * noise.to(features)


def drop(features: Tensor, rate: float, generator: Generator | None) -> Tensor:
    """Entries set to zero with probability ``rate``, the others scaled by 1 / (1 - rate)."""
    kept = _uniform(features, generator) >= rate
    return features * kept.to(features) / (1 - rate)


def quantise(features: Tensor, bits: int) -> Tensor:
    """Each entry rounded to the nearest of 2^bits levels, evenly spaced between the smallest and
    the largest entry of its query; the gradient passes straight through."""
    low = features.amin(dim=(1, 2, 3), keepdim=True)
    step = (features.amax(dim=(1, 2, 3), keepdim=True) - low) / (2**bits - 1)
    step = step.clamp(min=torch.finfo(features.dtype).tiny)
    rounded = low + ((features - low) / step).round() * step
    return features + (rounded - features).detach()


def _uniform(features: Tensor, generator: Generator | None) -> Tensor:
    """A uniform number for each entry: from the generator, or for deployment from the operating
    system, whose numbers no seed of 32 bits gives away."""
    if generator is None:
        return cF.uniform(tuple(features.shape), None)
    source = _beside(features, generator)
    return torch.rand(features.shape, generator=source, device=source.device)


def _beside(features: Tensor, generator: Generator) -> Generator:
    """The generator, or for features on another device one there that it seeds: millions of numbers
    from the CPU would take several times as long as the network."""
    if generator.device.type == features.device.type:
        return generator
    seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device).item()
    return Generator(features.device).manual_seed(seed)
