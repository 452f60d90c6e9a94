"""The attacker of one victim: what it makes of released groups, with networks of its own.

Released tensors become *views* (features a*, by the best key attack), views become images or
classes by networks of single maps. Every method takes what was released, never a key, and returns
an :class:`Answer`: a set for each group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from complexnn.attacks import inference, intersection, inversion, substitute, unmixing
from complexnn.attacks.fitting import FitLog, Knowledge, View, best_matching, take
from complexnn.attacks.key_attacks import KeyAttacks
from complexnn.attacks.threat import Answer, Observation
from complexnn.attacks.trained import TrainedNetworks
from complexnn.config import NetConfig
from complexnn.config_attack import AttackConfig
from complexnn.networks.attack_networks import PropertyClassifier, UNet

# Under which name a network that an attack needs is kept on disk, where it is another one.
FILES = {
    "regressor": "angle", "critic": "judge", "released_decoder": "dec_x",
    "feature_decoder": "dec_a", "set_decoder": "dec_set",
}  # fmt: skip


@dataclass(eq=False)
class Attacker:
    """What the attacker knows, its networks (trained once, kept in ``folder``), and their use."""

    knowledge: Knowledge
    classes: tuple[str, ...]  # names of the hidden classes or attributes
    config: AttackConfig
    folder: Path
    victim_hash: str
    _substitute_decoder: nn.Module | None = field(default=None, init=False)

    @cached_property
    def networks(self) -> TrainedNetworks:
        return TrainedNetworks(self.knowledge, self.config, self.folder, self.victim_hash)

    @cached_property
    def key_attacks(self) -> KeyAttacks:
        return KeyAttacks(self.networks)

    @property
    def victim(self) -> NetConfig:
        return self.knowledge.net.config

    @property
    def released(self) -> tuple[int, int, int]:
        return self.key_attacks.released

    @property
    def rotated(self) -> bool:
        return self.victim.parts > 1

    def network(self, name: str) -> nn.Module:
        """One of the networks that attacks need, by name; trained now, if it is not there."""
        return getattr(self.key_attacks if hasattr(KeyAttacks, name) else self, name)

    # --------------------------------------------------------------------------------- views

    @torch.no_grad()
    def features(self, released: Tensor) -> Answer:
        """a* by the best key attack; without a key, what was released."""
        if not self.rotated:
            return unmixing.views(released, released.new_ones(len(released), 1, 1))
        return unmixing.views(released, self.key_attacks[self.key_attacks.best](released))

    @torch.no_grad()
    def mean_features(self, observation: Observation) -> Answer:
        """a* averaged over releases of the same images. Each group's views come in an order of
        their own; those that go together are those that look alike."""
        mine = self.features(observation.released)
        total = mine.values
        for released, place in observation.again:
            theirs = self.features(released).values[place[:, 0]]
            pairs = torch.cdist(mine.values.flatten(2), theirs.flatten(2)).square()
            total = total + take(theirs, best_matching(pairs))
        return Answer(total / (1 + len(observation.again)), mine.shown_by)

    @torch.no_grad()
    def intersected(self, observation: Observation) -> Tensor:
        """The direction of every query, which the user sends several times: ``(G, n, d)``."""
        released, again = observation.released, observation.again
        groups, count = again[0].place.shape
        first = released, torch.arange(groups).repeat_interleave(count)
        rows = intersection.directions(first, [(x, place.flatten()) for x, place in again])
        rows = unmixing.nearest_orthogonal(rows.unflatten(0, (groups, count)))
        return unmixing.upright(rows, released, self.key_attacks.critic)

    @property
    def views(self) -> dict[str, View]:
        """What property attackers look at, by name."""
        views = {
            "features": self.features,
            "reconstructions": self.reconstructions,
            "dss": self.separated,
        }
        if self.rotated and self.victim.group == "decoy":
            views["released"] = lambda released: Answer(released.flatten(1, 2).unsqueeze(1))
        return views

    @torch.no_grad()
    def decoded(self, model: nn.Module, views: Answer) -> Answer:
        """What a network of single maps makes of each view."""
        made = model(views.values.flatten(0, 1))
        made = made.squeeze(1) if isinstance(model, UNet) else made
        return Answer(made.unflatten(0, views.values.shape[:2]), views.shown_by)

    # -------------------------------------------------------------------------------- images

    def reconstructions(self, released: Tensor) -> Answer:
        """dec(a*): images ``(G, n, C, H, W)``."""
        return self.decoded(self.feature_decoder, self.features(released))

    def separated(self, released: Tensor) -> Answer:
        """What the denoiser makes of the views that it separates: images ``(G, n, C, H, W)``."""
        directions = self.key_attacks["dss"](released)
        return self.decoded(self.key_attacks.denoiser, unmixing.views(released, directions))

    @cached_property
    def released_decoder(self) -> nn.Module:
        return self._released_decoder("dec_x", self.knowledge, self.victim.queries)

    @cached_property
    def set_decoder(self) -> nn.Module:
        """dec(x) of all the group's images, decoys included."""
        return self._released_decoder("dec_set", self.knowledge, self.victim.dim)

    @cached_property
    def feature_decoder(self) -> nn.Module:
        if not self.rotated:
            return self.released_decoder  # x is a: one decoder, one attack
        width = self.networks.decoder_width
        return self.networks.get(
            "dec_a",
            lambda: inversion.make_feature_decoder(self.victim, self.released, width=width),
            lambda model, rng: inversion.fit_feature_decoder(
                model, self.features, self.knowledge, self.config, rng
            ),
        )

    def _released_decoder(self, name: str, knowledge: Knowledge, images: int) -> nn.Module:
        width = self.networks.decoder_width
        return self.networks.get(
            name,
            lambda: inversion.make_released_decoder(
                self.victim, self.released, images=images, width=width
            ),
            lambda model, rng: inversion.fit_released_decoder(
                model, knowledge, self.config, rng, f"decoder {name}"
            ),
        )

    # ------------------------------------------------------------------- without the encoder

    def substitute_decoder(self, released: Tensor) -> nn.Module:
        """dec(x) of an attacker that does not know the encoder, but sees a whole release. It is
        trained for the first one that it sees."""
        if self._substitute_decoder is None:
            moments = substitute.moments(released)
            known = substitute.pretended(self.knowledge, self._substitutes(moments))
            self._substitute_decoder = self._released_decoder(
                "dec_substitute", known, self.victim.queries
            )
        return self._substitute_decoder

    def _substitutes(self, released: substitute.Moments) -> list[nn.Module]:
        def make() -> nn.Module:
            return substitute.make_substitute(self.knowledge)

        def fit(model: nn.Module, rng: Generator) -> FitLog:
            return substitute.fit_substitute(model, released, self.knowledge, self.config, rng)

        numbers = range(substitute.SUBSTITUTES)
        return [self.networks.get(f"substitute_{i}", make, fit) for i in numbers]

    # ------------------------------------------------------------------------------ properties

    @cache  # noqa: B019 - an attacker lives as long as the command
    def classifier(self, what: str) -> nn.Module:
        """A classifier of the hidden classes, trained on ``what``: images, or a key of
        :attr:`views`."""
        channels = {
            "features": self.released[0],
            "released": self.victim.parts * self.released[0],
        }.get(what, self.victim.in_channels)
        fit: Callable[..., FitLog] = partial(
            inference.fit_classifier, shown=self._shown(what), knowledge=self.knowledge,
            config=self.config, what=f"classifier of {what}",
        )  # fmt: skip
        width = self.networks.decoder_width
        return self.networks.get(
            f"property_{what}",
            lambda: PropertyClassifier(channels, len(self.classes), width=width),
            lambda model, rng: fit(model, generator=rng),
        )

    def _shown(self, what: str) -> inference.Shown:
        """What of the attacker's own observations a classifier is trained on."""
        if what == "images":
            return inference.as_sent
        if what == "dss":  # to separate every batch would take days
            return partial(inference.denoised, denoiser=self.key_attacks.denoiser)
        return partial(inference.as_seen, view=self.views[what])

    @cached_property
    def neighbours(self) -> dict:
        rng = self.networks.rng("neighbours")
        return inference.fit_neighbours(self.features, self.knowledge, rng)
