"""The attacks on the key by name, with the networks and measurements that they need."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from complexnn.attacks import (
    critic_search,
    dss,
    ica,
    inversion,
    mean_feature,
    phase,
    regression,
    unmixing,
    whitening,
)
from complexnn.attacks.fitting import Knowledge
from complexnn.attacks.trained import TrainedNetworks
from complexnn.config import NetConfig
from complexnn.networks.critic import Critic
from complexnn.networks.registry import topology

log = logging.getLogger("complexnn")
Directions = Callable[[Tensor], Tensor]  # released -> (G, n, d)
# They search for each group: the roster tries them on fewer images, and no network is trained on
# what they show.
SLOW = ("fast-ica", "critic-search", "dss")


class KeyAttacks(Mapping[str, Directions]):
    """Every attack on the key of one victim, the cheapest first; networks are trained when an
    attack that needs them is first called."""

    def __init__(self, networks: TrainedNetworks) -> None:
        self.networks = networks

    def __getitem__(self, name: str) -> Directions:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    @cached_property
    def _by_name(self) -> dict[str, Directions]:
        count = unmixing.candidates(self.victim)
        attacks: dict[str, Directions] = {"mean": self._mean_guess}
        if count == 1:
            attacks["phase"] = lambda x: phase.phase(x, self.channel_whitening)
        attacks["ica"] = lambda x: ica.ica(x, self.channel_whitening, self.critic, count=count)
        attacks["fast-ica"] = lambda x: ica.fast_ica(x, self.critic, count=count)
        attacks["critic-search"] = lambda x: critic_search.critic_search(
            x, self.critic, count=count
        )
        attacks["angle-regressor"] = lambda x: regression.regress(self.regressor, x)
        if count > 1:
            attacks["dss"] = self._separate
        return attacks

    def _mean_guess(self, released: Tensor) -> Tensor:
        """What the mean feature alone tells."""
        return mean_feature.guess(
            released, self.whitening, self.networks.rng("guess"),
            members=self.victim.dim, count=unmixing.candidates(self.victim),
        )  # fmt: skip

    def _separate(self, released: Tensor) -> Tensor:
        """Every view of a group, by denoising source separation."""
        shared = mean_feature.shared_direction(released, self.whitening)
        rng = self.networks.rng("starts")
        starts = [
            mean_feature.sharing_frames(shared, self.victim.dim, rng)
            for _ in range(1 + self.networks.config.resources.restarts)
        ]
        net, model = self.knowledge.net, self.separator
        if dss.of_features(self.victim, self.released):
            white = self.whitening(released)
            denoise = partial(dss.restore, model, self.whitening)
            return dss.separate(white, denoise, starts, shift=dss.SHIFT, angles=dss.FALLING)
        return dss.separate(released, lambda v, _: net.features(model(v).squeeze(1)), starts)

    # ---------------------------------------------------------------------------- the best ones

    @cached_property
    def best(self) -> str:
        """The attack with the smallest error on the attacker's own validation images, of those that
        are fast enough for every image that a further attack is trained on."""
        return self._sharpest([name for name in self if name not in SLOW])

    @cached_property
    def sharpest(self) -> str:
        """The same where only a few images are attacked, which leaves time to separate them."""
        return self._sharpest([self.best, "dss"]) if "dss" in self else self.best

    def _sharpest(self, names: list[str]) -> str:
        # Few images, since the slow attacks are among those asked; chosen by hand.
        own = self.knowledge.held_out(64, limit=64, generator=self.networks.rng("choice"))

        def error(name: str) -> float:
            with torch.no_grad():
                means = [
                    unmixing.errors(self[name](o.released), o.key.directions).mean() for o in own
                ]
            return torch.stack(means).mean().item()

        errors = {name: error(name) for name in names}
        best = min(errors, key=errors.__getitem__)
        log.info("features a* are recovered by %s (%.4f rad)", best, errors[best])
        return best

    # ------------------------------------------------------------------- networks, measurements

    @property
    def knowledge(self) -> Knowledge:
        return self.networks.knowledge

    @property
    def victim(self) -> NetConfig:
        return self.knowledge.net.config

    @cached_property
    def released(self) -> tuple[int, int, int]:
        return topology(self.victim).released

    @cached_property
    def whitening(self) -> whitening.Whitening:
        return whitening.measure_whitening(self.knowledge, self.networks.rng("whitening"))

    @cached_property
    def channel_whitening(self) -> whitening.ChannelWhitening:
        return whitening.measure_channels(self.knowledge, self.networks.rng("statistics"))

    @cached_property
    def regressor(self) -> nn.Module:
        width = self.networks.width(64)
        return self.networks.get(
            "angle",
            lambda: regression.make_regressor(self.victim, self.released, width=width),
            lambda model, rng: regression.fit_regressor(
                model, self.knowledge, self.networks.config, rng
            ),
        )

    @cached_property
    def critic(self) -> nn.Module:
        """Tells features from what wrong keys show."""
        channels, *size = self.released
        return self.networks.get(
            "judge",  # the name that its seed and its file have had from the start
            lambda: Critic(channels, tuple(size), width=self.networks.width(32)),
            lambda model, rng: critic_search.fit_critic(
                model, self.knowledge, self.networks.config, rng
            ),
        )

    @cached_property
    def denoiser(self) -> nn.Module:
        """A decoder from views near a member to its image."""
        width = self.networks.decoder_width
        return self.networks.get(
            "denoiser",
            lambda: inversion.make_feature_decoder(self.victim, self.released, width=width),
            lambda model, rng: dss.fit_denoiser(model, self.knowledge, self.networks.config, rng),
        )

    @cached_property
    def separator(self) -> nn.Module:
        """What separates a group's views: a denoiser of white features, or the decoder of views
        to images where these are smaller."""
        if not dss.of_features(self.victim, self.released):
            decoder = self.denoiser
            self.networks.logs["separator"] = self.networks.logs["denoiser"]
            return decoder
        width = self.networks.width(dss.WIDTH)
        return self.networks.get(
            "separator",
            lambda: dss.make_feature_denoiser(self.released, width=width),
            lambda model, rng: dss.fit_feature_denoiser(
                model, self.whitening, self.knowledge, self.networks.config, rng
            ),
        )
