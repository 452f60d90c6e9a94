"""Run under torchrun by test_distributed.py: an epoch in one go, and one that was stopped in it."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

import complexnn
from complexnn.config import DataConfig, NetConfig, TrainConfig
from complexnn.data import datasets
from complexnn.runs import checkpoint
from complexnn.training import loop


def begin(accelerator):
    net = NetConfig(image_size=(8, 8), in_channels=1, mean=(0.3,), std=(0.4,))
    config = TrainConfig(net=net, batch_size=64, epochs=1)
    dataset = datasets.load(DataConfig(limit_train=400))
    torch.manual_seed(0)
    steps = dataset.train.steps(config.batch_size)
    return loop.Training(complexnn.build(net), config, accelerator, steps), dataset


def main(folder):
    accelerator = Accelerator(cpu=True)
    main, rows, saves = accelerator.is_main_process, [], []
    run, dataset = begin(accelerator)
    loop.fit(run, dataset, on_epoch=rows.append, save=lambda: None)

    run, dataset = begin(accelerator)
    step = loop.train_step

    def stopping(run, batch):
        step(run, batch)
        if run.step == 3 and not main:  # one process alone is asked to stop
            os.kill(os.getpid(), signal.SIGTERM)

    def save():
        state = run.state()
        saves.append(run.step)
        if main:
            checkpoint.save_state(folder, state)

    loop.train_step = stopping
    try:
        loop.fit(run, dataset, on_epoch=rows.append, save=save)
    except loop.Interrupted:
        saves.append("interrupted")
    loop.train_step = step
    accelerator.wait_for_everyone()

    run, dataset = begin(accelerator)
    run.restore(checkpoint.load_state(folder))
    loop.fit(run, dataset, on_epoch=rows.append, save=lambda: None)
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps([rows, saves]))
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
