"""How a network's weights move: the optimiser, what decays, the learning rate over a run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from complexnn.config import TrainConfig


def make_optimiser(net: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum."""
    groups = weight_groups(net, config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=config.lr)


def weight_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without decay: biases and norm scales are not decayed."""
    decayed = [p for p in module.parameters() if p.dim() > 1]
    others = [p for p in module.parameters() if p.dim() <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def one_cycle(done: float) -> float:
    """Share of the peak learning rate after ``done`` of all steps: cosine up from 1/25 over the
    first quarter, cosine down to 0 over the rest (Smith and Topin 2018, arXiv 1708.07120).

    A function of the place in the run, so that a run which goes on needs no schedule's state. Not
    ``torch.optim.lr_scheduler.OneCycleLR``, whose peak comes about a step earlier: every published
    network would train to other weights.
    """
    # 1/25 is OneCycleLR's default; a quarter of rise, where that has 0.3, was chosen by hand.
    start, peak_at = 0.04, 0.25
    if done < peak_at:
        return start + (1 - start) * (1 - math.cos(math.pi * done / peak_at)) / 2
    return (1 + math.cos(math.pi * (done - peak_at) / (1 - peak_at))) / 2
