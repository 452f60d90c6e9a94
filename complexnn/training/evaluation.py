"""A network's error on images: in eval mode, mean over independent draws of the keys."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Generator, Tensor

from complexnn.config import NetConfig
from complexnn.data import tasks
from complexnn.data.images import ImageSet
from complexnn.metrics import share_interval_of
from complexnn.networks.splitnet import SplitNet
from complexnn.runs.progress import track
from complexnn.runs.seeds import random_for


@torch.no_grad()
def evaluate(
    net: SplitNet,
    images: ImageSet,
    device: torch.device,
    *,
    draws: int,
    seed: int,
    what: str = "test",
) -> dict[str, Any]:
    """Error and loss of ``net`` on ``images``, in eval mode, for independent draws of the keys.

    Returns ``error`` (a share, mean over draws), its 95 % interval over images, the error of each
    draw, the loss, and the error of always giving the most common answer.
    """
    training = net.training
    net.eval()
    errors, losses = [], []
    for draw in range(draws):
        keys = random_for("evaluation", seed, draw)
        order, chunks = _test_batches(net.config, len(images), keys)
        batches = images.fetch(chunks, device)
        wrong = []
        for batch in track(batches, len(chunks), f"{what}, draw {draw + 1} of {draws}"):
            released, key, _ = net.release(batch.images, generator=keys, closed=False)
            logits = net.decode(net.process(released), key).float()
            wrong.append(tasks.errors(tasks.answers(logits, batch.labels), batch.labels).cpu())
            losses.append(tasks.loss(logits, batch.labels).cpu())
        errors.append(torch.cat(wrong)[order.argsort()])
    net.train(training)
    each = torch.stack(errors)
    return {
        "error": each.mean().item(),
        "interval": error_interval(each.mean(dim=0), images.labels),
        "draws": each.mean(dim=1).tolist(),
        "loss": torch.cat(losses).mean().item(),
        "chance": tasks.blind_error(images.labels),
    }


def _test_batches(
    config: NetConfig, count: int, generator: Generator
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The order in which images are tested, and its batches.

    Packed queries get other co-members in every draw. A last group that is not full is filled with
    images of its batch: this measures answers only, nothing is at stake.
    """
    order = torch.arange(count)
    if config.kind == "complex" and config.counterparts == "batch":  # as early versions cut them
        return order, order.tensor_split(-(-count // max(256, 2 * config.dim)))
    if config.queries > 1:
        order = torch.randperm(count, generator=generator)
    dim = config.dim if config.kind == "complex" else 1
    return order, whole_chunks(order, eval_batch(dim), dim)


def eval_batch(dim: int) -> int:
    """Images per batch where nothing is trained: whole groups, and at least two."""
    return -(-max(256, 2 * dim) // dim) * dim


def whole_chunks(index: Tensor, size: int, dim: int) -> tuple[Tensor, ...]:
    """``index`` in order, cut into chunks of about equal size, near ``size``: each holds whole
    groups of ``dim``, and the last one what is over besides."""
    groups = max(1, len(index) // dim)
    chunks = torch.arange(groups).tensor_split(min(groups, -(-len(index) // size)))
    ends = [dim * end for end in itertools.accumulate(map(len, chunks))]
    return index.tensor_split(ends[:-1])


def error_interval(errors: Tensor, labels: Tensor) -> tuple[float, float]:
    """The 95 % interval of a mean error, from each image's; attributes of an image are trials of
    their own as far as they err independently."""
    return share_interval_of(errors, trials=1 if labels.dim() == 1 else labels.shape[1])
