"""Every attack by name, the cheapest first: what it is called, what it needs, how it answers.

Start here. :data:`ROSTER` is the table; :mod:`complexnn.attacks.answers` holds the functions in it;
:mod:`complexnn.attacks.evaluation` runs them and writes rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from complexnn.attacks import answers, unmixing
from complexnn.attacks.attacker import Attacker
from complexnn.attacks.inference import NEIGHBOURS
from complexnn.attacks.key_attacks import SLOW
from complexnn.attacks.threat import Again, Answer, Observation
from complexnn.config import InputError, NetConfig
from complexnn.config_attack import OWN, AttackConfig

Function = Callable[[Attacker, Observation], Answer]


@dataclass(frozen=True)
class Attack:
    """A function of what was released, and when it can be asked.

    ``answer`` gets the attacker, who owns networks and images, and what the server saw of the
    victim's queries. It returns an unordered set for each group: directions ``(G, n, d)``, images
    ``(G, n, C, H, W)``, logits ``(G, n, K)``, or, for ``span``, parts that span the members.
    """

    name: str  # its family first; rows have it, and pick attacks by it
    answer: Function
    needs: tuple[str, ...] = ()  # names of networks, see Attacker.network
    slow: bool = False
    rotated: bool | None = None  # only for victims with, or without, a key
    control: str | None = None  # the attack on an unprotected network to put beside it
    decoys: bool = False  # only for decoy groups
    several: bool | None = None  # only where a key attack returns several directions, or only one
    again: Again | None = None  # how the user sends its images several times
    whole: bool = False  # sees, and answers, every batch of a draw at once
    labels: bool = False  # needs to know what the attacker's own images are
    version: int = 1  # raised when it becomes another attack: rows of earlier ones are made again

    @property
    def family(self) -> str:
        return self.name.split()[0]


def _angle(by: str, *needs: str, several: bool | None = None, version: int = 1) -> Attack:
    """An attack on the key, by its name in :class:`~complexnn.attacks.key_attacks.KeyAttacks`."""
    answer = partial(answers.directions, by=by)
    return Attack(
        f"angle {by}", answer, needs, by in SLOW, rotated=True, several=several, version=version
    )


def _classified(trained_on: str) -> Function:
    return partial(answers.classified, trained_on=trained_on)


_KEYED = partial(Attack, rotated=True)
_PROPERTY = partial(Attack, labels=True)

ROSTER: tuple[Attack, ...] = (
    # The key: directions.
    _angle("mean"),
    _angle("phase", several=False),
    _angle("ica", "critic"),
    _angle("angle-regressor", "regressor"),
    _angle("fast-ica", "critic"),
    _angle("critic-search", "critic"),
    _angle("dss", "separator", several=True, version=2),
    # Who is in a group; and members of groups that are compared.
    Attack("span", answers.released, version=2),
    _KEYED("release", answers.release_directions, ("critic",), whole=True),
    _KEYED("intersection", answers.intersection_directions, ("critic",), again="other co-members"),
    # The input: images.
    Attack("inversion dec(x)", answers.decoded, ("released_decoder",)),
    _KEYED("inversion dec(a*)", answers.reconstructions, ("feature_decoder",),
           control="inversion dec(x)"),
    _KEYED("inversion dec(x) set", answers.decoded_sets, ("set_decoder",),
           control="inversion dec(x)", decoys=True, version=2),
    Attack("inversion dec(mean a*), fresh decoys", answers.mean_decoded, ("feature_decoder",),
           again="fresh decoys"),
    _KEYED("inversion dec(mean a*), same decoys", answers.mean_decoded, ("feature_decoder",),
           control="inversion dec(mean a*), fresh decoys", again="same group"),
    Attack("inversion query-free", answers.query_free, whole=True, labels=True, version=2),
    _KEYED("inversion dss", answers.separated, ("separator", "denoiser"), slow=True,
           control="inversion dec(x)", several=True, version=2),
    Attack("inversion optimised without key", partial(answers.optimised, with_key=False),
           ("released_decoder",), slow=True),
    Attack("inversion optimised with key", partial(answers.optimised, with_key=True),
           ("feature_decoder",), slow=True),
    # Hidden properties: classes that the victim never learned.
    _PROPERTY("property images", _classified("images"), ("feature_decoder",)),
    _PROPERTY("property features", _classified("features")),
    _PROPERTY("property reconstructions", _classified("reconstructions"), ("feature_decoder",)),
    *(
        _PROPERTY(f"property {k}-nn", partial(answers.nearest, neighbours=k))
        for k in NEIGHBOURS
    ),
    _PROPERTY("property released", _classified("released"), rotated=True, decoys=True,
              control="property features"),
    _PROPERTY("property dss", _classified("dss"), ("separator", "denoiser"), slow=True,
              rotated=True, control="property reconstructions", several=True, version=2),
)  # fmt: skip

VERSIONS = {attack.name: attack.version for attack in ROSTER}


def applicable(attack: Attack, net: NetConfig) -> bool:
    """Whether a victim is of the kind that the attack is made for."""
    if attack.rotated is not None and attack.rotated != (net.parts > 1):
        return False
    if attack.decoys and net.group != "decoy":
        return False
    return attack.several is None or attack.several == (unmixing.candidates(net) > 1)


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
