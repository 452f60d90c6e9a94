"""A network under attack: its attacker, its user, and the images that attacks are judged on."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from complexnn.attacks.attacker import Attacker
from complexnn.attacks.baselines import Baselines
from complexnn.attacks.fitting import Knowledge, together
from complexnn.attacks.gallery import Gallery
from complexnn.attacks.roster import Attack
from complexnn.attacks.threat import Again, Observation
from complexnn.attacks.user import Truth, User
from complexnn.attacks.worst import slug
from complexnn.config import NetConfig
from complexnn.config_attack import AttackConfig, results_of
from complexnn.data.images import Dataset, ImageSet
from complexnn.networks.splitnet import SplitNet
from complexnn.runs import checkpoint
from complexnn.runs.progress import track
from complexnn.training.evaluation import eval_batch

# Groups that share a key, at least, wherever so many can be had: fewer clusters do not tell how
# much they differ (metrics.LEAST_GROUPS).
GROUPS = 16


class Target:
    """What the evaluation holds of one victim: the attacker on one side, the truth on the other.

    Args:
        net: the victim.
        dataset: its data set; the test images that are judged come from it.
        config: what is asked; ``config.victim`` is the victim's run folder.
        folder: where rows, tables and the attacker's networks go.
        own: the attacker's training and validation images.
    """

    def __init__(
        self,
        net: SplitNet,
        dataset: Dataset,
        config: AttackConfig,
        folder: Path,
        own: tuple[ImageSet, ImageSet],
    ) -> None:
        self.folder, self.config = folder, config
        self.victim_hash = checkpoint.sha256(config.victim / "model.safetensors")
        self.device = next(net.parameters()).device
        self.attacker = self._attacker(net, dataset, config, *own)
        self._copy_published(self.attacker.folder)
        # Which images of the test set these are: a control may be judged on some more.
        self.index = chosen_images(config, net.config, dataset)
        self.test = dataset.test.subset(self.index).to(self.device)
        train = dataset.train.to(self.device)
        self.user = User(net, self.test, train, self.device, config.seed)
        evaluator = None
        if config.has:  # other images than the victim's: whoever has those tells images apart
            usual = dataclasses.replace(config, auxiliary=None, auxiliary_limit=None)
            evaluator = self._attacker(net, dataset, usual, train, dataset.validation)
        self.gallery = Gallery(self.attacker, self.test, evaluator)
        self.baselines = Baselines(self.gallery)

    def _attacker(
        self,
        net: SplitNet,
        dataset: Dataset,
        config: AttackConfig,
        train: ImageSet,
        validation: ImageSet,
    ) -> Attacker:
        """An attacker with these images; its networks lie in a folder of its own."""
        networks = self.folder / "attackers" / slug(self.victim_hash[:12] + config.has)
        images = (i.to(self.device) for i in (train, validation))
        knowledge = Knowledge(net, *images, self.device)
        return Attacker(knowledge, dataset.classes, config, networks, self.victim_hash)

    def _copy_published(self, networks: Path) -> None:
        """Start from the attacker's networks that were published with the victim."""
        published = self.config.victim / "attackers" / networks.name
        elsewhere = self.folder != results_of(self.config.victim)
        if published.is_dir() and not networks.is_dir() and not elsewhere:
            shutil.copytree(published, networks)

    def images_and_draws(self, attack: Attack) -> tuple[int, int]:
        """Images and draws that an attack is judged on."""
        net = self.attacker.victim
        most = self.config.resources.slow_draws if attack.slow else math.inf
        images = image_count(self.config, net, len(self.test), slow=attack.slow)
        return images, min(self.config.draws, most)

    def releases(
        self, draw: int, count: int, what: str, *, again: Again | None = None, whole: bool = False
    ) -> Iterator[tuple[Observation, Truth]]:
        """One draw of the user's queries: batch by batch, with ``what`` beside the progress bar, or
        the ``whole`` release; ``again`` says how they are sent several times."""
        times = self.config.resources.repeats
        if whole:
            yield self.user.sends_whole(draw, count, again=again, times=times)
            return
        batches = -(-count // eval_batch(together(self.attacker.victim)))
        sent = self.user.sends(draw, count, again=again, times=times)
        yield from track(sent, batches, what)


def image_count(config: AttackConfig, net: NetConfig, test: int, *, slow: bool = False) -> int:
    """Of ``test`` test images, how many attacks are judged on: whole groups, two at least, and by
    default sixteen, since intervals are over groups."""
    dim, resources = together(net), config.resources
    least = dim * (2 if config.limit_test else GROUPS)
    wanted = max(resources.slow_images if slow else resources.images, least)
    return min(wanted, test) // dim * dim


def chosen_images(config: AttackConfig, net: NetConfig, dataset: Dataset) -> Tensor:
    """Which test images attacks are judged on: the first of a fixed order, or all."""
    count = image_count(config, net, len(dataset.test))
    order = torch.randperm(len(dataset.test), generator=torch.Generator().manual_seed(0))
    return order[:count] if count < len(order) else torch.arange(count)
