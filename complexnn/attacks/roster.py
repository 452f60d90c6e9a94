"""Every attack by name, the cheapest first: what it is called, what it needs, how it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from complexnn.attacks import inversion, keys
from complexnn.attacks.attacker import Attacker
from complexnn.attacks.fitting import Observation, take
from complexnn.attacks.optimise import optimise
from complexnn.config import AttackConfig, NetConfig

Answer = Callable[[Attacker, Observation], Tensor]


@dataclass(frozen=True)
class Attack:
    """An attack of one family.

    ``answer`` gets what was released, inside an observation whose truth serves only to put
    unordered answers into the queries' order: directions ``(G, n, d)``, images or logits.
    """

    name: str
    family: str
    answer: Answer
    needs: tuple[str, ...] = ()  # attackers' networks, by their names in Attacker
    slow: bool = False
    rotated: bool | None = None  # only for victims with, or without, a key
    control: str | None = None  # the attack on an unprotected network to put beside it
    decoys: bool = False  # only for decoy groups
    several: bool | None = None  # only where a key attack returns several directions, or only one


def _key(name: str) -> Answer:
    def answer(attacker: Attacker, seen: Observation) -> Tensor:
        return attacker.key_attacks[name](seen.released)

    return answer


def _mean(attacker: Attacker, seen: Observation, *, same_group: bool) -> Tensor:
    features = attacker.mean_features(seen, same_group=same_group)
    with torch.no_grad():
        return attacker.feature_decoder(features).squeeze(1)


def _separated(attacker: Attacker, seen: Observation) -> Tensor:
    return attacker.separated(seen)


def _optimised(attacker: Attacker, seen: Observation, *, with_key: bool) -> Tensor:
    """One image per query, from its decoder's answer and from noise."""
    net, spend = attacker.knowledge.net, attacker.config.spend
    estimate = None
    if with_key and attacker.rotated:
        name = attacker.sharpest_key_attack
        estimate = attacker.key_attacks[name](seen.released)
        decoder = attacker.denoiser if name == "dss" else attacker.feature_decoder
        with torch.no_grad():
            first = decoder(keys.recover(estimate, seen)).squeeze(1)
    else:
        first = inversion.decoded(attacker.released_decoder, seen)
    generator = torch.Generator().manual_seed(attacker.config.seed)
    noise = [torch.rand(first.shape, generator=generator).to(first) for _ in range(spend.restarts)]
    groups, queries = len(seen.released), seen.key.directions.shape[1]
    owner = torch.arange(groups, device=first.device).repeat_interleave(queries)
    owner = owner[: seen.key.queries]
    released, directions = seen.released[owner], None
    if with_key and not attacker.rotated:
        directions = torch.ones(len(first), 1, 1, device=first.device)
    elif with_key:
        chosen = take(estimate, keys.match(estimate, seen.key.directions))
        directions = chosen.flatten(0, 1)[: seen.key.queries].unsqueeze(1)
    return optimise(
        net.features, released, [first, *noise], directions, iterations=spend.iterations
    )


def _classified(attacker: Attacker, seen: Observation, *, trained_on: str) -> Tensor:
    view = attacker.reconstructions if trained_on == "images" else attacker.views[trained_on]
    with torch.no_grad():
        return attacker.classifier(trained_on)(view(seen))


def _nearest(attacker: Attacker, seen: Observation, *, neighbours: int) -> Tensor:
    """Votes as logits, so that they are read like a network's."""
    flat = attacker.features(seen).flatten(1).cpu().numpy()
    found = torch.from_numpy(attacker.neighbours[neighbours].predict(flat))
    if found.dim() == 2:  # attributes
        return found.float() - 0.5
    return F.one_hot(found, len(attacker.dataset.classes)).float()


def _images(decoder: str) -> Answer:
    def answer(attacker: Attacker, seen: Observation) -> Tensor:
        with torch.no_grad():
            return inversion.decoded(getattr(attacker, decoder), seen)

    return answer


def _reconstructions(attacker: Attacker, seen: Observation) -> Tensor:
    return attacker.reconstructions(seen)


def _intersected(attacker: Attacker, seen: Observation) -> Tensor:
    return attacker.intersected(seen)


def _span(attacker: Attacker, seen: Observation) -> Tensor:
    return seen.released


_PROPERTY = partial(Attack, family="property")
_KEY = partial(Attack, family="angle", rotated=True)

ROSTER: tuple[Attack, ...] = (
    _KEY("angle mean", answer=_key("mean")),
    _KEY("angle phase", answer=_key("phase"), several=False),
    _KEY("angle ica", answer=_key("ica"), needs=("judge",)),
    _KEY("angle angle-regressor", answer=_key("angle-regressor"), needs=("regressor",)),
    _KEY("angle fast-ica", answer=_key("fast-ica"), needs=("judge",), slow=True),
    _KEY("angle critic-search", answer=_key("critic-search"), needs=("judge",), slow=True),
    _KEY("angle dss", answer=_key("dss"), needs=("separator",), slow=True, several=True),
    Attack("span", "span", _span),
    Attack("intersection", "intersection", _intersected, ("judge",), rotated=True),
    Attack(
        "inversion dec(x)", "inversion", _images("released_decoder"), ("released_decoder",)
    ),
    Attack(
        "inversion dec(a*)", "inversion", _reconstructions, ("feature_decoder",),
        rotated=True, control="inversion dec(x)",
    ),
    Attack(
        "inversion dec(x) set", "inversion", _images("set_decoder"), ("set_decoder",),
        rotated=True, control="inversion dec(x)", decoys=True,
    ),
    Attack(
        "inversion dec(mean a*), fresh decoys", "inversion", partial(_mean, same_group=False),
        ("feature_decoder",),
    ),
    Attack(
        "inversion dec(mean a*), same decoys", "inversion", partial(_mean, same_group=True),
        ("feature_decoder",), rotated=True, control="inversion dec(mean a*), fresh decoys",
    ),
    Attack(
        "inversion query-free", "inversion", _images("substitute_decoder"),
        ("substitute_decoder",),
    ),
    Attack(
        "inversion dss", "inversion", _separated, ("separator", "denoiser"), slow=True,
        rotated=True, control="inversion dec(x)", several=True,
    ),
    Attack(
        "inversion optimised without key", "inversion", partial(_optimised, with_key=False),
        ("released_decoder",), slow=True,
    ),
    Attack(
        "inversion optimised with key", "inversion", partial(_optimised, with_key=True),
        ("feature_decoder",), slow=True,
    ),
    _PROPERTY("property images", answer=partial(_classified, trained_on="images"),
              needs=("feature_decoder",)),
    _PROPERTY("property features", answer=partial(_classified, trained_on="features")),
    _PROPERTY("property reconstructions", needs=("feature_decoder",),
              answer=partial(_classified, trained_on="reconstructions")),
    *(
        _PROPERTY(f"property {k}-nn", answer=partial(_nearest, neighbours=k))
        for k in (1, 3, 5)
    ),
    _PROPERTY("property released", answer=partial(_classified, trained_on="released"),
              rotated=True, decoys=True, control="property features"),
    _PROPERTY("property dss", answer=partial(_classified, trained_on="dss"),
              needs=("separator", "denoiser"), slow=True, rotated=True,
              control="property reconstructions", several=True),
)  # fmt: skip


def applicable(attack: Attack, net: NetConfig) -> bool:
    """Whether a victim is of the kind that the attack is made for."""
    if attack.rotated is not None and attack.rotated != (net.parts > 1):
        return False
    if attack.decoys and net.group != "decoy":
        return False
    return attack.several is None or attack.several == (keys.candidates(net) > 1)


def chosen(config: AttackConfig, net: NetConfig, *, hidden: bool) -> list[Attack]:
    """The attacks that ``config`` asks for and that the victim allows: a key to recover needs a
    rotation, a property to infer one that is ``hidden``, which the victim never learned."""
    possible = {"angle": net.parts > 1, "property": hidden}
    return [
        attack
        for attack in ROSTER
        if config.attack in ("all", attack.family)
        and possible.get(attack.family, True)
        and applicable(attack, net)
        and (config.only is None or config.only in attack.name)
    ]


def compared_with(attacks: Iterable[Attack]) -> set[str]:
    """Names of the attacks on an unprotected network that these stand beside."""
    return {attack.control or attack.name for attack in attacks}
