"""Every architecture by name, and the one function that builds a split network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from complexnn.config import InputError, NetConfig, choose
from complexnn.config_io import from_dict
from complexnn.networks.classic import alexnet, vgg16
from complexnn.networks.encoder import Normalise, generator
from complexnn.networks.kit import REAL, Gate, equivariant_kit
from complexnn.networks.lenet import lenet
from complexnn.networks.local_server import LocalServer
from complexnn.networks.resnet import resnet
from complexnn.networks.splitnet import SplitNet
from complexnn.networks.thin import thin
from complexnn.networks.topology import Topology
from complexnn.runs import checkpoint


@dataclass(frozen=True)
class Architecture:
    """How one is made, and what the paper says of it."""

    make: Callable[..., Topology]
    gate: Gate  # the paper: c = 1 in ResNets, each channel's mean modulus in the others
    variants: tuple[str, ...] = ("alpha",)
    image_size: int = 32  # in the paper


ARCHITECTURES = {
    "lenet": Architecture(lenet, "mean"),
    **{
        f"resnet{depth}": Architecture(partial(resnet, depth=depth), "fixed", ("alpha", "beta"))
        for depth in (20, 32, 44, 56, 110)
    },
    **{f"thin{c}": Architecture(partial(thin, channels=c), "fixed") for c in (1, 4, 16)},
    **{
        f"thin{c}-linear": Architecture(partial(thin, channels=c, linear_path=True), "fixed")
        for c in (1, 4, 16)
    },
    "vgg16": Architecture(vgg16, "mean", image_size=224),
    "alexnet": Architecture(alexnet, "mean", image_size=224),
}


LEAST_WIDTH = 4  # of a generator: narrower ones pass nothing on


def names() -> tuple[str, ...]:
    """Every architecture that :func:`build` knows."""
    return tuple(ARCHITECTURES)


def topology(config: NetConfig) -> Topology:
    """The three stretches of ``config``'s architecture, without generator."""
    architecture = ARCHITECTURES[choose("architecture", config.arch, names())]
    if config.variant not in architecture.variants:
        raise InputError(
            f"{config.arch} has no variant {config.variant!r}; "
            f"known: {', '.join(architecture.variants)}"
        )
    server = REAL
    if config.kind == "complex":
        gate = architecture.gate
        if config.gate == "mixing":
            if gate == "mean":
                raise InputError(f"{config.arch} has no norms, which gate mixing stands behind")
            gate = "mixing"
        server = equivariant_kit(config.parts, config.weights, gate)
    kwargs = {"variant": config.variant} if len(architecture.variants) > 1 else {}
    return architecture.make(
        server, config.num_classes, config.in_channels, config.image_size, **kwargs
    )


def build(arch: str | NetConfig, **settings: Any) -> SplitNet:
    """Build a split network with fresh weights.

    Args:
        arch: an architecture of :func:`names`, or a whole configuration.
        settings: fields of :class:`~complexnn.config.NetConfig`; ``image_size`` may be one
            number. Without ``mean`` and ``std``, pixels are centred on 0.5 and divided by 0.25.

    Raises:
        InputError: an unknown name or a setting that the architecture or kind cannot have.
    """
    if isinstance(arch, NetConfig):
        config = dataclasses.replace(arch, **settings)
    else:
        known = [spec.name for spec in dataclasses.fields(NetConfig)]
        for name in settings:
            choose("setting", name, known)
        channels = settings.get("in_channels", NetConfig.in_channels)
        settings.setdefault("mean", (0.5,) * channels)
        settings.setdefault("std", (0.25,) * channels)
        if isinstance(settings.get("image_size"), int):
            settings["image_size"] = (settings["image_size"],) * 2
        config = NetConfig(arch=arch, **settings)

    plain = topology(config)
    encoder = [Normalise(config.mean, config.std), plain.encoder]
    if config.has_generator:
        channels = plain.released[0]
        width = config.generator_width or max(channels, LEAST_WIDTH)
        encoder.append(generator(channels, width, relu_end=config.relu_end))
    processing = plain.processing
    if config.kind == "local":
        processing = LocalServer(plain)
    return SplitNet(nn.Sequential(*encoder), processing, plain.decoder, config)


def load(path: str | Path, *, device: str | torch.device = "cpu", **expected: Any) -> SplitNet:
    """A trained network from a run folder or a weights file, frozen and in eval mode.

    Args:
        path: ``checkpoints/NAME``, a run folder, or a ``.safetensors`` file.
        device: where to put it; weights that were saved on another device load all the same.
        expected: settings that the network must have, such as ``num_classes=100``.

    Raises:
        InputError: a missing, truncated or foreign file, or a network with other settings.
    """
    path = Path(path)
    weights = path / "model.safetensors" if path.is_dir() else path
    state, about = checkpoint.read(weights)
    config = from_dict(NetConfig, about)
    for name, value in expected.items():
        choose("setting", name, [spec.name for spec in dataclasses.fields(NetConfig)])
        if getattr(config, name) != value:
            raise InputError(f"{weights} has {name} {getattr(config, name)}, expected {value}")
    net = build(config)
    checkpoint.restore(net, state, str(weights))
    return net.to(device).eval().requires_grad_(False)
