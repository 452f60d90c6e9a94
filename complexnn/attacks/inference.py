"""Property inference: what the victim never learned, from what its server sees."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Generator, Tensor, nn

from complexnn.attacks import dss, unmixing
from complexnn.attacks.fitting import FitLog, Knowledge, OwnRelease, View, fit
from complexnn.config_attack import AttackConfig
from complexnn.data import tasks
from complexnn.data.images import ImageSet
from complexnn.networks.attack_networks import PropertyClassifier
from complexnn.training.evaluation import eval_batch

NEIGHBOURS = (1, 3, 5)
REFERENCES = 5000  # of the attacker's images in the k-NN's memory


# What a classifier is shown of an own release, and whose hidden classes it shall name.
Shown = Callable[[OwnRelease, Generator], tuple[Tensor, Tensor]]


def as_seen(own: OwnRelease, generator: Generator, *, view: View) -> tuple[Tensor, Tensor]:
    """One view of every query."""
    return unmixing.order_by_direction(view(own.released), own), own.batch.classes


def as_sent(own: OwnRelease, generator: Generator) -> tuple[Tensor, Tensor]:
    """The images themselves."""
    return own.batch.images, own.batch.classes


@torch.no_grad()
def denoised(
    own: OwnRelease, generator: Generator, *, denoiser: nn.Module
) -> tuple[Tensor, Tensor]:
    """What separation ends with, without separating: views at random angles from a member,
    denoised."""
    views, members = dss.mixed_views(own, generator)
    return denoiser(views).squeeze(1), own.batch.classes[members]


def fit_classifier(
    model: PropertyClassifier,
    shown: Shown,
    knowledge: Knowledge,
    config: AttackConfig,
    generator: Generator,
    what: str,
) -> FitLog:
    """Train a classifier of the hidden classes on what the attacker's own queries show."""

    def loss(model: PropertyClassifier, own: OwnRelease) -> Tensor:
        values, classes = shown(own, generator)
        return tasks.loss(model(values), classes).mean()

    return fit(model, loss, knowledge, config, generator, what)


@torch.no_grad()
def fit_neighbours(
    view: View, knowledge: Knowledge, generator: Generator
) -> dict[int, KNeighborsClassifier]:
    """k-NN on recovered features, for each k of the paper."""
    features, classes = [], []
    for batch in knowledge.shuffled(eval_batch(knowledge.net.config.dim), generator):
        own = knowledge.observe(batch, generator)
        features.append(unmixing.order_by_direction(view(own.released), own).flatten(1).cpu())
        classes.append(batch.classes.cpu())
        if sum(map(len, classes)) >= REFERENCES:
            break
    memory, labels = torch.cat(features)[:REFERENCES].numpy(), torch.cat(classes)[:REFERENCES]
    return {
        k: KNeighborsClassifier(min(k, len(labels)), algorithm="brute").fit(memory, labels.numpy())
        for k in NEIGHBOURS
    }


def given_label(train: ImageSet, test: ImageSet) -> float:
    """Error of an attacker that sees nothing but the victim's label, or attributes, of an image.

    A class: the most common one among the attacker's images with that label. Attributes: a
    logistic regression of each on the attributes that the victim learned.
    """
    if train.labels.dim() == 1:
        guess = torch.zeros_like(test.classes)
        for label in train.labels.unique():
            guess[test.labels == label] = tasks.most_common(train.classes[train.labels == label])
        return tasks.errors(guess, test.classes).mean().item()
    known, wanted = train.labels.numpy(), train.classes.numpy()
    errors = []
    for column in range(wanted.shape[1]):
        truth = test.classes[:, column].numpy()
        if len(set(wanted[:, column])) == 1:
            errors.append((truth != wanted[0, column]).mean())
            continue
        model = LogisticRegression(max_iter=1000).fit(known, wanted[:, column])
        errors.append((model.predict(test.labels.numpy()) != truth).mean())
    return float(sum(errors) / len(errors))
