"""How long a training or an attack will take, and how much disk: rough, before it starts.

Time is arithmetic over a speed measured here: convolutions make up nearly all of it. What a run
needs is counted, on the meta device, from the networks that it will build.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Collection
from functools import cache, partial

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from complexnn.attacks import dss, inversion, regression, roster, substitute, unmixing
from complexnn.attacks.target import image_count
from complexnn.config import NetConfig, TrainConfig
from complexnn.config_attack import AttackConfig, Budget
from complexnn.networks.attack_networks import FeatureDenoiser, PropertyClassifier
from complexnn.networks.costs import dissect
from complexnn.networks.critic import Critic
from complexnn.networks.registry import build, topology

Shape = tuple[int, ...]
# A training step costs about three forward passes; the critic about doubles it.
BACKWARD, CRITIC = 3.0, 2.0
START = 15.0  # seconds until a command has read its images


@cache
def throughput(device: torch.device, precision: str) -> float:
    """Forward FLOPs per second while ResNet-20 trains on batches of the usual size, measured for
    about a second, with the threads and beside whatever else runs here."""
    low = torch.float16 if precision == "fp16" else torch.bfloat16
    autocast = torch.autocast(device.type, low, enabled=precision != "fp32")
    net = build("resnet20", kind="additional").to(device).train()
    images = torch.rand(TrainConfig.batch_size, 3, 32, 32, device=device)
    flops = sum(dissect(net.config).flops.values()) * len(images)

    def step() -> None:
        with autocast:
            logits = net(images, generator=torch.Generator())
        logits.float().sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    step()
    started, steps = time.monotonic(), 0
    while time.monotonic() - started < 1:
        step()
        steps += 1
    return BACKWARD * flops * steps / (time.monotonic() - started)


def training(config: TrainConfig, net: NetConfig, images: int) -> tuple[float, float]:
    """FLOPs and megabytes of training ``net`` on ``images`` images for all epochs."""
    counted = dissect(_plain(net))
    critic = net.kind == "complex" and config.adversarial_weight > 0
    cost = BACKWARD * sum(counted.flops.values()) * (CRITIC if critic else 1.0)
    weights = 4e-6 * sum(counted.parameters.values())
    # The weights, and two states of weights and two moments each.
    return images * config.epochs * cost, 7 * weights + 1


def attacking(config: AttackConfig, net: NetConfig, *, hidden: bool) -> tuple[float, float]:
    """FLOPs and megabytes of the attacks that ``config`` asks for on a victim like ``net``."""
    attacks, resources = roster.chosen(config, net, hidden=hidden), config.resources
    counted = dissect(_plain(net))
    encoder = counted.flops["encoder"]
    width = max(1, round(config.capacity * resources.width))
    shapes, released = _shapes(net), _released(net)
    names = sorted(_trained(attacks, net))
    passes = {name: _pass(name, shapes, released, width, config.capacity) for name in names}
    shown = resources.steps * config.batch_size  # images that train one network
    flops = sum(shown * (BACKWARD * cost + encoder) for cost, _ in passes.values())
    if "query_free" in passes:  # for substitutes, which are trained first
        flops += substitute.SUBSTITUTES * shown * BACKWARD * sum(counted.flops.values())
    if "separator" in passes and dss.of_features(net, released):
        flops += (dss.PACE - 1) * shown * (BACKWARD * passes["separator"][0] + encoder)
    for attack in attacks:
        images = image_count(config, net, sys.maxsize, slow=attack.slow)
        draws = min(config.draws, resources.slow_draws) if attack.slow else config.draws
        flops += images * draws * _answer(attack, net, resources, passes, encoder)
    return flops, sum(size for _, size in passes.values()) + 10


def _trained(attacks: Collection[roster.Attack], net: NetConfig) -> set[str]:
    """Names of the networks that attacks train, those included which recover features."""
    names = {name for attack in attacks for name in attack.needs}
    names |= {"query_free" for attack in attacks if "query-free" in attack.name}
    names |= {a.name for a in attacks if a.family == "property" and not a.name.endswith("-nn")}
    if net.parts == 1:
        return {"released_decoder" if name == "feature_decoder" else name for name in names}
    by_key = ("feature_decoder", "property features", "property reconstructions")
    if names.intersection(by_key):
        names |= {"regressor", "critic"}
    return names


def _plain(net: NetConfig) -> NetConfig:
    """``net`` without what differs between networks of equal cost."""
    constants = (0.5,) * net.in_channels
    return dataclasses.replace(net, gamma=NetConfig.gamma, mean=constants, std=constants)


@cache
def _released(net: NetConfig) -> Shape:
    with torch.device("meta"):
        return topology(net).released


def _shapes(net: NetConfig) -> NetConfig:
    """What of ``net`` gives the attackers' networks their shapes, beside that of the release."""
    constants = (0.5,) * net.in_channels
    return NetConfig(
        kind="complex" if net.parts > 1 else "original", dim=net.dim, group=net.group,
        gaussian_decoys=net.gaussian_decoys, num_classes=net.num_classes,
        in_channels=net.in_channels, image_size=net.image_size, mean=constants, std=constants,
    )  # fmt: skip


def _networks(
    net: NetConfig, released: Shape, width: int, capacity: float
) -> dict[str, tuple[Callable[[], nn.Module], Shape, int]]:
    """The networks that attackers train, by name: how each is made, what one pass is shown, and how
    many queries it answers."""
    parts, queries = net.parts, net.queries
    channels, *size = released
    one, every = (1, *released), (1, parts * channels, *size)

    def decoder(images: int) -> Callable[[], nn.Module]:
        return partial(inversion.make_released_decoder, net, released, images=images, width=width)

    def classifier(maps: int) -> Callable[[], nn.Module]:
        return partial(PropertyClassifier, maps, net.num_classes, width=width)

    single = partial(inversion.make_feature_decoder, net, released, width=width), one, 1
    of_images = classifier(net.in_channels), (1, net.in_channels, *net.image_size), 1
    separator = single
    if dss.of_features(net, released):
        features = round(capacity * dss.WIDTH)
        separator = partial(dss.make_feature_denoiser, released, width=max(1, features)), one, 1
    regressor = partial(regression.make_regressor, net, released)
    return {
        "released_decoder": (decoder(queries), every, queries),
        "query_free": (decoder(queries), every, queries),
        "set_decoder": (decoder(net.dim), every, queries),
        "feature_decoder": single,
        "denoiser": single,
        "separator": separator,
        "regressor": (regressor, (1, parts, *released), queries),
        "critic": (partial(Critic, channels, tuple(size)), (3, *released), 1),
        "property images": of_images,
        "property reconstructions": of_images,
        "property dss": of_images,
        "property features": (classifier(channels), one, 1),
        "property released": (classifier(parts * channels), every, queries),
    }


@cache
def _pass(
    name: str, net: NetConfig, released: Shape, width: int, capacity: float
) -> tuple[float, float]:
    """FLOPs of one pass for one query, and megabytes of weights."""
    known = _networks(net, released, width, capacity)
    # A network without a line of its own is taken for the usual one, a decoder of single maps.
    make, shown, queries = known.get(name, known["feature_decoder"])
    with torch.device("meta"):
        model, images = make().eval(), torch.empty(shown)
        told = (torch.empty(1),) if isinstance(model, FeatureDenoiser) else ()
    with FlopCounterMode(display=False) as counter:
        model(images, *told)
    return counter.get_total_flops() / queries, 4e-6 * sum(p.numel() for p in model.parameters())


def _answer(
    attack: roster.Attack,
    net: NetConfig,
    resources: Budget,
    passes: dict[str, tuple[float, float]],
    encoder: float,
) -> float:
    """FLOPs of one answer for one query."""
    if "optimised" in attack.name:
        with_key = net.parts > 1 and "with key" in attack.name
        images = unmixing.candidates(net) / net.queries if with_key else 1  # one for each view
        return images * BACKWARD * (1 + resources.restarts) * resources.iterations * encoder
    if "dss" in attack.name and attack.family != "property":
        views = net.parts / net.queries  # all of a group's, for each of its queries
        again = (1 + resources.restarts) * dss.ITERATIONS
        each = passes["separator"][0] + (0 if dss.of_features(net, _released(net)) else encoder)
        return views * again * each
    if attack.family == "intersection" or "mean a*" in attack.name:
        return resources.repeats * encoder
    return encoder + sum(passes[name][0] for name in attack.needs if name in passes)
