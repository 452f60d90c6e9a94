"""The attackers of one victim: networks that are trained once, kept on disk, and used."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import zlib
from collections.abc import Callable
from functools import cache, cached_property, partial
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from complexnn.attacks import dss, inference, intersection, inversion, keys, substitute, whitening
from complexnn.attacks.fitting import FitLog, Knowledge, View, best_matching, take
from complexnn.attacks.threat import Answer, Seen
from complexnn.config import NetConfig
from complexnn.config_attack import AttackConfig
from complexnn.networks.attack_networks import PropertyClassifier, UNet
from complexnn.networks.critic import Critic
from complexnn.networks.registry import topology
from complexnn.runs import checkpoint
from complexnn.runs.seeds import random_for

log = logging.getLogger("complexnn")
# Under which name a network is kept, where it is not the attribute's.
FILES = {
    "regressor": "angle", "released_decoder": "dec_x", "feature_decoder": "dec_a",
    "set_decoder": "dec_set", "query_free": "dec_substitute",
}  # fmt: skip
GUESSES = 8  # blind ones of each of the attacker's own groups
Directions = Callable[[Tensor], Tensor]  # released -> (G, n, d)


class NotTrained(Exception):
    """A network that is not there and may not be trained now."""


@dataclasses.dataclass(eq=False)
class Attacker:
    """The attackers' networks for one victim, each trained once and kept on disk."""

    knowledge: Knowledge
    classes: tuple[str, ...]  # names of the hidden classes or attributes
    config: AttackConfig
    folder: Path
    victim_hash: str
    logs: dict[str, FitLog] = dataclasses.field(default_factory=dict)
    _substitute_decoder: nn.Module | None = None
    may_train: bool = True

    @property
    def victim(self) -> NetConfig:
        return self.knowledge.net.config

    @cached_property
    def released(self) -> tuple[int, int, int]:
        return topology(self.victim).released

    @property
    def rotated(self) -> bool:
        return self.victim.parts > 1

    # ---------------------------------------------------------------------------------- keys

    @cached_property
    def regressor(self) -> nn.Module:
        return self._trained(
            "angle",
            lambda: keys.make_regressor(self.victim, self.released, width=self._wide(64)),
            lambda model, rng: keys.fit_regressor(model, self.knowledge, self.config, rng),
        )

    @cached_property
    def judge(self) -> nn.Module:
        channels, *size = self.released
        return self._trained(
            "judge",
            lambda: Critic(channels, tuple(size), width=self._wide(32)),
            lambda model, rng: keys.fit_judge(model, self.knowledge, self.config, rng),
        )

    @cached_property
    def denoiser(self) -> nn.Module:
        width = self._wide(self.config.spend.width)
        return self._trained(
            "denoiser",
            lambda: inversion.make_feature_decoder(self.victim, self.released, width=width),
            lambda model, rng: dss.fit_denoiser(model, self.knowledge, self.config, rng),
        )

    @cached_property
    def separator(self) -> nn.Module:
        """What separates a group's views: a denoiser of white features, or the decoder of views
        to images where these are smaller."""
        if not dss.of_features(self.victim, self.released):
            decoder = self.denoiser
            self.logs["separator"] = self.logs["denoiser"]
            return decoder
        return self._trained(
            "separator",
            lambda: dss.make_feature_denoiser(self.released, width=self._wide(dss.WIDTH)),
            lambda model, rng: dss.fit_feature_denoiser(
                model, self.whitening, self.knowledge, self.config, rng
            ),
        )

    @cached_property
    def whitening(self) -> whitening.Whitening:
        return whitening.measure_whitening(self.knowledge, self.rng("whitening"))

    @cached_property
    def statistics(self) -> keys.Statistics:
        return keys.measure_statistics(self.knowledge, self.rng("statistics"))

    @cached_property
    def key_attacks(self) -> dict[str, Directions]:
        """Every attack on the key, the cheapest first."""
        count = keys.candidates(self.victim)
        found: dict[str, Directions] = {"mean": self._mean_guess}
        if count == 1:
            found["phase"] = lambda x: keys.phase(x, self.statistics)
        found["ica"] = lambda x: keys.ica(x, self.statistics, self.judge, count=count)
        found["fast-ica"] = lambda x: keys.fast_ica(x, self.judge, count=count)
        found["critic-search"] = lambda x: keys.critic_search(x, self.judge, count=count)
        found["angle-regressor"] = lambda x: keys.regress(self.regressor, x)
        if count > 1:
            found["dss"] = self._separate
        return found

    def _mean_guess(self, released: Tensor) -> Tensor:
        """What the mean feature alone tells."""
        count = keys.candidates(self.victim)
        return whitening.guess(
            released, self.whitening, self.rng("guess"), members=self.victim.dim, count=count
        )

    def _separate(self, released: Tensor) -> Tensor:
        """Every view of a group, by denoising source separation."""
        shared = whitening.shared_direction(released, self.whitening)
        rng = self.rng("starts")
        starts = [
            whitening.sharing_frames(shared, self.victim.dim, rng)
            for _ in range(1 + self.config.spend.restarts)
        ]
        net, model = self.knowledge.net, self.separator
        if dss.of_features(self.victim, self.released):
            white = self.whitening(released)
            denoise = partial(dss.restore, model, self.whitening)
            return dss.separate(white, denoise, starts, shift=dss.SHIFT, angles=dss.FALLING)
        return dss.separate(released, lambda v, _: net.features(model(v).squeeze(1)), starts)

    @torch.no_grad()
    def intersected(self, seen: Seen) -> Tensor:
        """The direction of every query, which the user sends several times: ``(G, n, d)``."""
        groups, count = seen.again[0].place.shape
        here = seen.released, torch.arange(groups).repeat_interleave(count)
        rows = intersection.directions(here, [(x, place.flatten()) for x, place in seen.again])
        rows = keys.nearest_orthogonal(rows.unflatten(0, (groups, count)))
        return keys.upright(rows, seen.released, self.judge)

    @cache  # noqa: B019 - an attacker lives as long as the command
    def blind_angle(self, answers: int) -> float:
        """Error of a blind guess of so many directions: of a random frame or, where that is better,
        of one that knows the mean feature, measured on the attacker's own images. One vector for
        one query is compared with the former alone: there the latter is an attack."""
        blindly = keys.chance(self.victim, answers=answers)
        if answers == 1:
            return blindly
        rng, own = self.rng("blind"), self.knowledge.held_out(self.config.batch_size)
        guess = partial(whitening.guess, members=self.victim.dim, count=answers)
        found = [
            keys.errors(guess(seen.released, self.whitening, rng), seen.key.directions)
            for _ in range(GUESSES)
            for seen in own
        ]
        return min(blindly, torch.cat(found).mean().item())

    @cached_property
    def best_key_attack(self) -> str:
        """The attack with the smallest error on the attacker's own validation images, of those that
        are fast enough for every image that a further attack is trained on."""
        slow = ("fast-ica", "critic-search", "dss")
        return self._sharpest([name for name in self.key_attacks if name not in slow])

    @cached_property
    def sharpest_key_attack(self) -> str:
        """The same where only a few images are attacked, which leaves time to separate them."""
        if "dss" not in self.key_attacks:
            return self.best_key_attack
        return self._sharpest([self.best_key_attack, "dss"])

    def _sharpest(self, names: list[str]) -> str:
        own = self.knowledge.held_out(64, limit=64, generator=self.rng("choice"))

        def error(name: str) -> float:
            with torch.no_grad():
                found = [
                    keys.errors(self.key_attacks[name](s.released), s.key.directions).mean()
                    for s in own
                ]
            return torch.stack(found).mean().item()

        errors = {name: error(name) for name in names}
        best = min(errors, key=errors.__getitem__)
        log.info("features a* are recovered by %s (%.4f rad)", best, errors[best])
        return best

    @torch.no_grad()
    def features(self, released: Tensor) -> Answer:
        """a* by the best key attack; without a key, what was released."""
        if not self.rotated:
            return keys.views(released, released.new_ones(len(released), 1, 1))
        return keys.views(released, self.key_attacks[self.best_key_attack](released))

    @torch.no_grad()
    def decoded(self, model: nn.Module, views: Answer) -> Answer:
        """What a network of single maps makes of each view."""
        made = model(views.values.flatten(0, 1))
        made = made.squeeze(1) if isinstance(model, UNet) else made
        return Answer(made.unflatten(0, views.values.shape[:2]), views.shown_by)

    # ----------------------------------------------------------------------------- inversion

    @cached_property
    def released_decoder(self) -> nn.Module:
        return self._released_decoder("dec_x", self.knowledge, self.victim.queries)

    @cached_property
    def set_decoder(self) -> nn.Module:
        """dec(x) of all the group's images, decoys included."""
        return self._released_decoder("dec_set", self.knowledge, self.victim.dim)

    def query_free(self, seen: Seen) -> Answer:
        """dec(x) of an attacker that does not know the encoder, but sees a whole release."""
        if self._substitute_decoder is None:
            released = substitute.moments(seen.released)
            known = substitute.pretended(self.knowledge, self._substitutes(released))
            self._substitute_decoder = self._released_decoder(
                "dec_substitute", known, self.victim.queries
            )
        decoder = self._substitute_decoder
        with torch.no_grad():
            images = [inversion.decoded(decoder, x).values for x in seen.released.split(256)]
        return Answer(torch.cat(images))

    def _substitutes(self, released: substitute.Moments) -> list[nn.Module]:
        def fit(model: nn.Module, rng: Generator) -> FitLog:
            return substitute.fit_substitute(model, released, self.knowledge, self.config, rng)

        return [
            self._trained(
                f"substitute_{i}", lambda: substitute.make_substitute(self.knowledge), fit
            )
            for i in range(substitute.SUBSTITUTES)
        ]

    @cached_property
    def feature_decoder(self) -> nn.Module:
        if not self.rotated:
            return self.released_decoder  # x is a: one decoder, one attack
        width = self._wide(self.config.spend.width)
        return self._trained(
            "dec_a",
            lambda: inversion.make_feature_decoder(self.victim, self.released, width=width),
            lambda model, rng: inversion.fit_feature_decoder(
                model, self.features, self.knowledge, self.config, rng
            ),
        )

    def reconstructions(self, released: Tensor) -> Answer:
        """dec(a*): images ``(G, n, C, H, W)``."""
        return self.decoded(self.feature_decoder, self.features(released))

    def separated(self, released: Tensor) -> Answer:
        """What the denoiser makes of the views that it separates: images ``(G, n, C, H, W)``."""
        found = self.key_attacks["dss"](released)
        return self.decoded(self.denoiser, keys.views(released, found))

    @torch.no_grad()
    def mean_features(self, seen: Seen) -> Answer:
        """a* averaged over releases of the same images. Each group's views come in an order of
        their own; those that go together are those that look alike."""
        mine = self.features(seen.released)
        total = mine.values
        for released, place in seen.again:
            theirs = self.features(released).values[place[:, 0]]
            pairs = torch.cdist(mine.values.flatten(2), theirs.flatten(2)).square()
            total = total + take(theirs, best_matching(pairs))
        return Answer(total / (1 + len(seen.again)), mine.shown_by)

    def _released_decoder(self, name: str, knowledge: Knowledge, images: int) -> nn.Module:
        width = self._wide(self.config.spend.width)
        return self._trained(
            name,
            lambda: inversion.make_released_decoder(
                self.victim, self.released, images=images, width=width
            ),
            lambda model, rng: inversion.fit_released_decoder(
                model, knowledge, self.config, rng, f"decoder {name}"
            ),
        )

    # ------------------------------------------------------------------------------ property

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

    def _shown(self, what: str) -> inference.Shown:
        """What of the attacker's own observations a classifier is trained on."""
        if what == "images":
            return inference.as_sent
        if what == "dss":  # to separate every batch would take days
            return partial(inference.denoised, denoiser=self.denoiser)
        return partial(inference.as_seen, view=self.views[what])

    @cache  # noqa: B019 - an attacker lives as long as the command
    def classifier(self, what: str) -> nn.Module:
        """A classifier of the hidden classes, trained on ``what``: images, or a key of
        :attr:`views`."""
        channels = {
            "features": self.released[0],
            "released": self.victim.parts * self.released[0],
        }.get(what, self.victim.in_channels)
        fit = partial(
            inference.fit_classifier, shown=self._shown(what), knowledge=self.knowledge,
            config=self.config, what=f"classifier of {what}",
        )  # fmt: skip
        width = self._wide(self.config.spend.width)
        return self._trained(
            f"property_{what}",
            lambda: PropertyClassifier(channels, len(self.classes), width=width),
            lambda model, rng: fit(model, generator=rng),
        )

    @cached_property
    def neighbours(self) -> dict:
        return inference.fit_neighbours(self.features, self.knowledge, self.rng("neighbours"))

    # ----------------------------------------------------------------------------------------

    def _wide(self, channels: int) -> int:
        return max(1, round(self.config.capacity * channels))

    def rng(self, name: str) -> Generator:
        """The generator of one attacker: a function of its name, whatever others there are."""
        return random_for("attack", self.config.seed, zlib.crc32(name.encode()))

    @cached_property
    def _whose(self) -> dict[str, str]:
        """The attacker's images, unless the victim was trained on them. Those held out are others
        when other images are judged: a network that saw these must not be loaded again."""
        if self.config.auxiliary is None:
            return {}
        digest = hashlib.blake2b(digest_size=16)
        for images in (self.knowledge.train, self.knowledge.validation):
            digest.update(images.decoded().pixels.cpu().contiguous().numpy())
        return {"images": digest.hexdigest()}

    def _trained(
        self,
        name: str,
        make: Callable[[], nn.Module],
        fit: Callable[[nn.Module, Generator], FitLog],
    ) -> nn.Module:
        """Load the attacker if it was trained with these settings on this victim, else train."""
        names = ("batch_size", "lr", "seed", "capacity", "precision")
        settings = {name: getattr(self.config, name) for name in names}
        spend = self.config.spend
        settings |= {"steps": spend.steps, "width": spend.width}
        about = {"victim": self.victim_hash, "settings": settings} | self._whose
        path = self.folder / f"{name}.safetensors"
        # Not the victim's seed: a substitute must not start where the victim started.
        torch.manual_seed(self.rng(f"{name} weights").initial_seed())
        model = make().to(self.knowledge.device)
        if path.is_file():
            state, known = checkpoint.read(path)
            fitted = known.pop("fit", None)
            if known == about and fitted is not None:
                log.info("%s: already trained, %s", name, path)
                self.logs[name] = FitLog(**fitted)
                checkpoint.restore(model, state, str(path))
                return model.eval().requires_grad_(False)
        if not self.may_train:
            raise NotTrained(name)
        self.logs[name] = fit(model, self.rng(name))
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save(path, model, about | {"fit": self.logs[name].as_dict()})
        return model
