"""What a classifier is asked: one class of several, or several binary attributes.

The labels say which: ``(B,)`` int64 holds one of K classes per image, answered by K logits and
scored by cross-entropy; ``(B, A)`` bool holds A attributes, answered by A logits and scored by
binary cross-entropy. An image's error is 0 or 1 in the first case, the share of wrong attributes
in the second.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from complexnn.metrics import double


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss of each image, attributes averaged: ``(B, K) -> (B,)``."""
    if labels.dim() == 1:
        return F.cross_entropy(logits, labels, reduction="none")
    every = F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none")
    return every.mean(dim=1)


def answers(logits: Tensor, labels: Tensor) -> Tensor:
    """The classes or attributes that the logits stand for, in the form of ``labels``."""
    return logits.argmax(dim=1) if labels.dim() == 1 else logits > 0


def errors(given: Tensor, labels: Tensor) -> Tensor:
    """Error of each image in [0, 1], float64 (:func:`complexnn.metrics.double`): answers and labels
    ``(..., B)`` or ``(..., B, A)``.

    Leading axes of ``given``, such as draws, are kept.
    """
    wrong = double(given != labels)
    return wrong if labels.dim() == 1 else wrong.mean(dim=-1)


def most_common(labels: Tensor) -> Tensor:
    """The best answer without seeing anything: the most common class, or each attribute's."""
    if labels.dim() == 1:
        return labels.bincount().argmax()
    return (double(labels).mean(dim=0) > 0.5).to(labels.device)


def blind_error(labels: Tensor, seen: Tensor | None = None) -> float:
    """Mean error on ``labels`` of always giving the most common answer among ``seen``."""
    guess = most_common(labels if seen is None else seen).to(labels.device)
    return errors(guess.expand_as(labels), labels).mean().item()


def balanced_accuracy(given: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of the share of that class that was found; over attributes
    the mean of each one's."""
    if labels.dim() == 2:
        pairs = zip(given.unbind(dim=1), labels.unbind(dim=1), strict=True)
        return sum(balanced_accuracy(g, t) for g, t in pairs) / labels.shape[1]
    hits = double(given == labels)
    labels = labels.to(hits.device)
    shares = [hits[labels == label].mean() for label in labels.unique()]
    return torch.stack(shares).mean().item()
