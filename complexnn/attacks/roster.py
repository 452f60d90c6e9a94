"""Every attack by name, the cheapest first: what it is called, what it needs, how it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from complexnn.attacks import inversion, keys, release
from complexnn.attacks.attacker import Attacker
from complexnn.attacks.optimise import optimise
from complexnn.attacks.threat import Again, Answer, Seen
from complexnn.config import InputError, NetConfig
from complexnn.config_attack import OWN, AttackConfig

Function = Callable[[Attacker, Seen], Answer]


@dataclass(frozen=True)
class Attack:
    """An attack of one family: a function of what was released.

    ``answer`` gets the attacker, who owns networks and images, and what the server saw of the
    victim's queries. It returns an unordered set for each group: directions ``(G, n, d)``, images
    ``(G, n, C, H, W)``, logits ``(G, n, K)``, or, for ``span``, parts that span the members.
    """

    name: str
    family: str
    answer: Function
    needs: tuple[str, ...] = ()  # attackers' networks, by their names in Attacker
    slow: bool = False
    rotated: bool | None = None  # only for victims with, or without, a key
    control: str | None = None  # the attack on an unprotected network to put beside it
    decoys: bool = False  # only for decoy groups
    several: bool | None = None  # only where a key attack returns several directions, or only one
    again: Again | None = None  # how the user sends its images several times
    whole: bool = False  # sees, and answers, every batch of a draw at once
    labels: bool = False  # needs to know what the attacker's own images are
    version: int = 1  # raised when it becomes another attack: rows of earlier ones are made again


def _key(name: str) -> Function:
    def answer(attacker: Attacker, seen: Seen) -> Answer:
        return Answer(attacker.key_attacks[name](seen.released))

    return answer


def _mean(attacker: Attacker, seen: Seen) -> Answer:
    features = attacker.mean_features(seen)
    return attacker.decoded(attacker.feature_decoder, features)


def _separated(attacker: Attacker, seen: Seen) -> Answer:
    return attacker.separated(seen.released)


def _optimised(attacker: Attacker, seen: Seen, *, with_key: bool) -> Answer:
    """An image for every answer of the decoder, which it starts from, or from noise."""
    net, spend = attacker.knowledge.net, attacker.config.spend
    if not with_key:
        first = inversion.decoded(attacker.released_decoder, seen.released)
    elif attacker.rotated and attacker.sharpest_key_attack == "dss":
        first = attacker.separated(seen.released)
    else:
        first = attacker.reconstructions(seen.released)
    starts, directions = first.values.flatten(0, 1), first.shown_by
    generator = torch.Generator().manual_seed(attacker.config.seed)
    noise = [
        torch.rand(starts.shape, generator=generator).to(starts) for _ in range(spend.restarts)
    ]
    groups, answers = first.values.shape[:2]
    owner = torch.arange(groups, device=starts.device).repeat_interleave(answers)
    found = optimise(
        net.features,
        seen.released[owner],
        [starts, *noise],
        None if directions is None else directions.flatten(0, 1).unsqueeze(1),
        iterations=spend.iterations,
    )
    return Answer(found.unflatten(0, (groups, answers)), directions)


def _query_free(attacker: Attacker, seen: Seen) -> Answer:
    return attacker.query_free(seen)


def _classified(attacker: Attacker, seen: Seen, *, trained_on: str) -> Answer:
    view = attacker.reconstructions if trained_on == "images" else attacker.views[trained_on]
    return attacker.decoded(attacker.classifier(trained_on), view(seen.released))


def _nearest(attacker: Attacker, seen: Seen, *, neighbours: int) -> Answer:
    """Votes as logits, so that they are read like a network's."""
    view = attacker.features(seen.released)
    flat = view.values.flatten(0, 1).flatten(1).cpu().numpy()
    found = torch.from_numpy(attacker.neighbours[neighbours].predict(flat))
    attributes = found.dim() == 2
    votes = found.float() - 0.5 if attributes else F.one_hot(found, len(attacker.classes)).float()
    return Answer(votes.unflatten(0, view.values.shape[:2]), view.shown_by)


def _images(decoder: str) -> Function:
    def answer(attacker: Attacker, seen: Seen) -> Answer:
        with torch.no_grad():
            return inversion.decoded(getattr(attacker, decoder), seen.released)

    return answer


def _reconstructions(attacker: Attacker, seen: Seen) -> Answer:
    return attacker.reconstructions(seen.released)


def _intersected(attacker: Attacker, seen: Seen) -> Answer:
    return Answer(attacker.intersected(seen))


def _released_together(attacker: Attacker, seen: Seen) -> Answer:
    """Directions of the members that the groups of a release give away; zeros for the others."""
    found = release.recover(seen.released).directions.to(seen.released)
    chunks = zip(found.split(256), seen.released.split(256), strict=True)
    return Answer(torch.cat([keys.upright(rows, x, attacker.judge) for rows, x in chunks]))


def _span(attacker: Attacker, seen: Seen) -> Answer:
    return Answer(seen.released)


_PROPERTY = partial(Attack, family="property", labels=True)
_KEY = partial(Attack, family="angle", rotated=True)

ROSTER: tuple[Attack, ...] = (
    _KEY("angle mean", answer=_key("mean")),
    _KEY("angle phase", answer=_key("phase"), several=False),
    _KEY("angle ica", answer=_key("ica"), needs=("judge",)),
    _KEY("angle angle-regressor", answer=_key("angle-regressor"), needs=("regressor",)),
    _KEY("angle fast-ica", answer=_key("fast-ica"), needs=("judge",), slow=True),
    _KEY("angle critic-search", answer=_key("critic-search"), needs=("judge",), slow=True),
    _KEY("angle dss", answer=_key("dss"), needs=("separator",), slow=True, several=True,
         version=2),
    Attack("span", "span", _span, version=2),
    Attack("release", "release", _released_together, ("judge",), rotated=True, whole=True),
    Attack(
        "intersection", "intersection", _intersected, ("judge",), rotated=True,
        again="other company",
    ),
    Attack(
        "inversion dec(x)", "inversion", _images("released_decoder"), ("released_decoder",)
    ),
    Attack(
        "inversion dec(a*)", "inversion", _reconstructions, ("feature_decoder",),
        rotated=True, control="inversion dec(x)",
    ),
    Attack(
        "inversion dec(x) set", "inversion", _images("set_decoder"), ("set_decoder",),
        rotated=True, control="inversion dec(x)", decoys=True, version=2,
    ),
    Attack(
        "inversion dec(mean a*), fresh decoys", "inversion", _mean, ("feature_decoder",),
        again="fresh decoys",
    ),
    Attack(
        "inversion dec(mean a*), same decoys", "inversion", _mean, ("feature_decoder",),
        rotated=True, control="inversion dec(mean a*), fresh decoys", again="same group",
    ),
    Attack("inversion query-free", "inversion", _query_free, whole=True, labels=True, version=2),
    Attack(
        "inversion dss", "inversion", _separated, ("separator", "denoiser"), slow=True,
        rotated=True, control="inversion dec(x)", several=True, version=2,
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
              control="property reconstructions", several=True, version=2),
)  # fmt: skip


VERSIONS = {attack.name: attack.version for attack in ROSTER}


def applicable(attack: Attack, net: NetConfig) -> bool:
    """Whether a victim is of the kind that the attack is made for."""
    if attack.rotated is not None and attack.rotated != (net.parts > 1):
        return False
    if attack.decoys and net.group != "decoy":
        return False
    return attack.several is None or attack.several == (keys.candidates(net) > 1)


def chosen(config: AttackConfig, net: NetConfig, *, hidden: bool) -> list[Attack]:
    """The attacks that ``config`` asks for and that the victim allows: a key to recover needs a
    rotation, a property to infer one that is ``hidden``, which the victim never learned, and labels
    images of the victim's data set.

    Raises:
        InputError: a part of ``only`` that is in no name, whatever the victim: a slip.
    """
    for part in [] if config.only is None else config.only.split("|"):
        names = [a.name for a in ROSTER if config.attack in ("all", a.family)]
        if not part or not any(part in name for name in names):
            raise InputError(f"{part!r} is in no attack's name; there are: {', '.join(names)}")
    possible = {"angle": net.parts > 1, "property": hidden}
    return [
        attack
        for attack in ROSTER
        if config.attack in ("all", attack.family)
        and possible.get(attack.family, True)
        and applicable(attack, net)
        and (not attack.labels or config.auxiliary in OWN)
        and (config.only is None or any(part in attack.name for part in config.only.split("|")))
    ]


def compared_with(attacks: Iterable[Attack]) -> set[str]:
    """Names of the attacks on an unprotected network that these stand beside."""
    return {attack.control or attack.name for attack in attacks}
