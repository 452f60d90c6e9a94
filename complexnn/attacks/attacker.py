"""The attackers of one victim: networks that are trained once, kept on disk, and used."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from complexnn import checkpoint
from complexnn.attacks import angle, inference, inversion
from complexnn.attacks.fitting import Knowledge, Observation, View, take
from complexnn.config import AttackConfig
from complexnn.images import Dataset
from complexnn.networks.attackers import PropertyClassifier
from complexnn.networks.registry import topology
from complexnn.training import random_for

log = logging.getLogger("complexnn")
_NAMES = (
    "angle", "dec_x", "dec_a",
    "property_features", "property_reconstructions", "property_images", "neighbours",
)  # fmt: skip


@dataclasses.dataclass(eq=False)
class Attacker:
    """The attackers' networks for one victim, each trained once and kept on disk."""

    knowledge: Knowledge
    dataset: Dataset
    config: AttackConfig
    folder: Path
    victim_hash: str

    @cached_property
    def released(self) -> tuple[int, int, int]:
        return topology(self.knowledge.net.config).released

    @property
    def rotated(self) -> bool:
        return self.knowledge.net.config.parts > 1

    @cached_property
    def regressor(self) -> nn.Module:
        return self._trained(
            "angle",
            lambda: angle.make_regressor(self.knowledge, self.released),
            lambda model, rng: angle.fit_regressor(model, self.knowledge, self.config, rng),
        )

    @cached_property
    def released_decoder(self) -> nn.Module:
        return self._trained(
            "dec_x",
            lambda: inversion.make_released_decoder(self.knowledge, self.released),
            lambda model, rng: inversion.fit_released_decoder(
                model, self.knowledge, self.config, rng
            ),
        )

    @cached_property
    def feature_decoder(self) -> nn.Module:
        if not self.rotated:
            return self.released_decoder  # x is a: one decoder, one attack
        return self._trained(
            "dec_a",
            lambda: inversion.make_feature_decoder(self.knowledge, self.released),
            lambda model, rng: inversion.fit_feature_decoder(
                model, self.features, self.knowledge, self.config, rng
            ),
        )

    @cache  # noqa: B019 - an attacker lives as long as the command
    def classifier(self, what: str) -> nn.Module:
        """The property attacker that was trained on ``what``: a key of :attr:`views`."""
        view = self.views[what]
        channels = self.released[0] if what == "features" else self.dataset.shape[0]
        return self._trained(
            f"property_{what}",
            lambda: PropertyClassifier(channels, len(self.dataset.classes)),
            lambda model, rng: inference.fit_classifier(
                model, view, self.knowledge, self.config, rng, f"classifier of {what}"
            ),
        )

    @property
    def views(self) -> dict[str, View]:
        """What property attackers look at, by name."""
        return {
            "features": self.features,
            "reconstructions": self.reconstructions,
            "images": lambda seen: seen.batch.images,
        }

    @torch.no_grad()
    def features(self, seen: Observation) -> Tensor:
        """a* of every query, in the batch's order: ``(queries, C', H', W')``.

        Packed groups come back in an order that the attacker cannot know; for training (on its
        own keys) and for scoring they are put in the true one.
        """
        if not self.rotated:
            return seen.released.flatten(0, 1)
        directions, features = angle.recover(self.regressor, seen.released)
        place = angle.match(directions, seen.key.directions).argsort(dim=1)
        return take(features, place).flatten(0, 1)[: seen.key.queries]

    @torch.no_grad()
    def reconstructions(self, seen: Observation) -> Tensor:
        """dec(a*): ``(queries, C, H, W)``."""
        return self.feature_decoder(self.features(seen)).squeeze(1)

    @torch.no_grad()
    def direct_reconstructions(self, seen: Observation) -> Tensor:
        """dec(x), under the best assignment where groups have no order."""
        guess = self.released_decoder(seen.released.flatten(1, 2))
        truth = inversion.true_images(seen, guess.shape[1])
        place = inversion.match(guess, truth).argsort(dim=1)
        return take(guess, place).flatten(0, 1)[: seen.key.queries]

    def prepare(self, attack: str) -> None:
        """Train, or load, every network that ``attack`` uses."""
        if self.rotated:
            _ = self.regressor
        if attack in ("inversion", "property"):
            _ = self.feature_decoder
        if attack == "inversion":
            _ = self.released_decoder
        if attack == "property":
            for what in self.views:
                self.classifier(what)

    def rng(self, name: str) -> torch.Generator:
        """The generator of one attacker: independent of what else is trained."""
        return random_for("attack", self.config.seed, _NAMES.index(name))

    def _trained(
        self,
        name: str,
        make: Callable[[], nn.Module],
        fit: Callable[[nn.Module, torch.Generator], None],
    ) -> nn.Module:
        """Load the attacker if it was trained with these settings on this victim, else train."""
        settings = {k: getattr(self.config, k) for k in ("steps", "batch_size", "lr", "seed")}
        about = {"victim": self.victim_hash, "settings": settings}
        path = self.folder / f"{name}.safetensors"
        torch.manual_seed(self.config.seed)
        model = make().to(self.knowledge.device)
        if path.is_file():
            state, known = checkpoint.read(path)
            if known == about:
                log.info("%s: already trained, %s", name, path)
                checkpoint.restore(model, state, str(path))
                return model.eval().requires_grad_(False)
        fit(model, self.rng(name))
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save(path, model, about)
        return model
