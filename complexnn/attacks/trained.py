"""Networks that an attacker trains: each once, from seeds of its own, and kept on disk."""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Generator, nn

from complexnn.attacks.fitting import FitLog, Knowledge
from complexnn.config_attack import AttackConfig
from complexnn.runs import checkpoint
from complexnn.runs.seeds import random_for

log = logging.getLogger("complexnn")


class NotTrained(Exception):
    """A network that is not there and may not be trained now."""


@dataclass(eq=False)
class TrainedNetworks:
    """The networks of one attacker on one victim: a file in ``folder`` for each."""

    knowledge: Knowledge
    config: AttackConfig
    folder: Path
    victim_hash: str
    logs: dict[str, FitLog] = field(default_factory=dict)  # by the names of the files
    may_train: bool = True

    def get(
        self,
        name: str,
        make: Callable[[], nn.Module],
        fit: Callable[[nn.Module, Generator], FitLog],
    ) -> nn.Module:
        """The network ``name``: loaded, if it was trained with these settings on this victim and
        these images, else made and trained.

        Raises:
            NotTrained: it is not there, and :attr:`may_train` forbids to train it.
        """
        path, about = self.folder / f"{name}.safetensors", self._about
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

    def rng(self, name: str) -> Generator:
        """The generator of one network, or of whatever else the attacker draws: a function of its
        name, whatever others there are."""
        return random_for("attack", self.config.seed, zlib.crc32(name.encode()))

    def width(self, channels: int) -> int:
        """Channels of a layer at the attacker's capacity."""
        return max(1, round(self.config.capacity * channels))

    @property
    def decoder_width(self) -> int:
        """Channels of decoders to images and of classifiers, which the budget says."""
        return self.width(self.config.resources.width)

    @cached_property
    def _about(self) -> dict[str, Any]:
        """What a network depends on: the victim, the settings of its training and, unless the
        victim was trained on them, the attacker's images. Those held out are others when other
        images are judged: a network that saw these must not be loaded again."""
        names = ("batch_size", "lr", "seed", "capacity", "precision")
        settings = {name: getattr(self.config, name) for name in names}
        resources = self.config.resources
        settings |= {"steps": resources.steps, "width": resources.width}
        about = {"victim": self.victim_hash, "settings": settings}
        if self.config.auxiliary is not None:
            digest = hashlib.blake2b(digest_size=16)
            for images in (self.knowledge.train, self.knowledge.validation):
                digest.update(images.decoded().pixels.cpu().contiguous().numpy())
            about["images"] = digest.hexdigest()
        return about
