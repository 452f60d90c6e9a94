"""Property inference: classes that the victim never learned, from what its server sees."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier
from torch import Generator, Tensor

from complexnn.attacks.fitting import Knowledge, Observation, View, fit
from complexnn.config import AttackConfig
from complexnn.networks.attackers import PropertyClassifier
from complexnn.training import eval_batch

NEIGHBOURS = (1, 3, 5)
REFERENCES = 5000  # of the attacker's images in the k-NN's memory


def fit_classifier(
    model: PropertyClassifier,
    view: View,
    knowledge: Knowledge,
    config: AttackConfig,
    generator: Generator,
    what: str,
) -> None:
    """Train a classifier of the hidden classes on one view of the attacker's own queries:
    recovered features, or reconstructions."""

    def loss(model: PropertyClassifier, seen: Observation) -> Tensor:
        return F.cross_entropy(model(view(seen)), seen.batch.classes)

    fit(model, loss, knowledge, config, generator, what)


@torch.no_grad()
def fit_neighbours(
    view: View, knowledge: Knowledge, generator: Generator
) -> dict[int, KNeighborsClassifier]:
    """k-NN on recovered features, for each k of the paper."""
    features, classes = [], []
    chunks = knowledge.train.shuffled(eval_batch(knowledge.net.config.parts), generator)
    for batch in knowledge.train.fetch(chunks, knowledge.device):
        features.append(view(knowledge.observe(batch, generator)).flatten(1).cpu())
        classes.append(batch.classes.cpu())
        if sum(map(len, classes)) >= REFERENCES:
            break
    memory, labels = torch.cat(features)[:REFERENCES].numpy(), torch.cat(classes)[:REFERENCES]
    return {
        k: KNeighborsClassifier(min(k, len(labels)), algorithm="brute").fit(memory, labels.numpy())
        for k in NEIGHBOURS
    }
