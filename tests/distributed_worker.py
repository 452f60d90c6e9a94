"""Run under torchrun by test_distributed.py: 20 steps whose randomness is cut from one whole."""

import dataclasses
import itertools
import json
import sys

import torch
from accelerate import Accelerator

import complexnn
from complexnn.config import DataConfig, NetConfig, TrainConfig
from complexnn.data import datasets
from complexnn.rotation import functional as cF
from complexnn.training import loop

STEPS = 20


def main(path, arch, group):
    accelerator = Accelerator(cpu=True)
    rank, world = accelerator.process_index, accelerator.num_processes
    calls = itertools.count()

    def share_of_one_draw(shape, generator):
        whole = torch.Generator().manual_seed(next(calls))
        drawn = torch.rand((shape[0] * world, *shape[1:]), generator=whole, dtype=torch.float64)
        return drawn.clamp(min=1e-12).tensor_split(world)[rank]

    def neighbours(count, others, generator):
        return torch.arange(count).bitwise_xor(1).unsqueeze(1)

    net = NetConfig(
        arch=arch, image_size=(8, 8), in_channels=1, mean=(0.3,), std=(0.4,),
        group=group, counterparts="batch",
    )  # fmt: skip
    config = TrainConfig(net=net, batch_size=64, adversarial_weight=0.1, epochs=1)
    torch.manual_seed(0)
    # In float64, so that rounding, which training amplifies, does not blur the comparison.
    run = loop.Training(complexnn.build(net).double(), config, accelerator, STEPS)
    for term in run.terms:
        term.opponent.double()
    cF.uniform, cF.draw_counterparts = share_of_one_draw, neighbours
    whole = datasets.load(DataConfig()).train
    losses, step = [], loop.train_step

    def recorded(run, batch):
        batch = dataclasses.replace(batch, images=batch.images.double())
        before = run.totals[0].item()
        step(run, batch)
        mine = (run.totals[:1] - before) / len(batch.images)
        losses.append(cF.all_reduced(mine).item())

    loop.train_step = recorded
    loop.train_one_epoch(run, whole, None, loop.Stop(), lambda: None)
    if accelerator.is_main_process:
        with open(path, "w") as file:
            json.dump(losses, file)
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
