"""``python -m complexnn.linearity``, ``gaussianity``, ``offload``: a trained network, measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from complexnn.commands.app import open_run, parse
from complexnn.config import NetConfig
from complexnn.config_attack import results_of
from complexnn.measurements import gaussianity as gaussian_features
from complexnn.measurements import linearity as linear_servers
from complexnn.measurements import remote_network
from complexnn.runs import results
from complexnn.runs.devices import make_accelerator
from complexnn.runs.tables import Table


class Measurement(NamedTuple):
    """What one command measures, and of which networks."""

    config: type
    check: Callable[..., None]  # refuses a network of which it cannot be measured
    evaluate: Callable[..., dict[str, dict]]
    images: Callable[[Any], int | None]  # of the test set, by its settings; None: all
    table: Callable[[dict[str, dict], Any, int, NetConfig], Table]


MEASUREMENTS = {
    "offload": Measurement(
        remote_network.OffloadConfig, remote_network.check, remote_network.evaluate,
        images=lambda config: config.limit_test,
        table=lambda measured, config, images, net: remote_network.table(measured),
    ),
    "linearity": Measurement(
        linear_servers.LinearityConfig, linear_servers.check, linear_servers.evaluate,
        images=lambda config: None,
        table=lambda measured, config, images, net: linear_servers.table(measured, config.maps),
    ),
    "gaussianity": Measurement(
        gaussian_features.GaussianityConfig, gaussian_features.check, gaussian_features.evaluate,
        images=lambda config: config.images,
        table=lambda measured, config, images, net: gaussian_features.table(
            measured, images, net.parts
        ),
    ),
}  # fmt: skip


def _measure(name: str, argv: list[str]) -> None:
    """Open the run, measure it, append a row to its results, print a table."""
    measurement = MEASUREMENTS[name]
    config = parse(measurement.config, argv, f"python -m complexnn.{name}")
    started = time.time()
    device = make_accelerator(config.device).device
    net, dataset = open_run(config.victim, config.data_dir, device)
    measurement.check(config.victim, net.config)
    measured = measurement.evaluate(config, net, dataset, device)
    images = min(len(dataset.test), measurement.images(config) or len(dataset.test))
    results.append_measurement(config, name, measured, images, results.stamp(device, started))
    print(measurement.table(measured, config, images, net.config).as_text())
    print(f"output: {results_of(config.victim)}")


def linearity(argv: list[str]) -> None:
    """``python -m complexnn.linearity``."""
    _measure("linearity", argv)


def gaussianity(argv: list[str]) -> None:
    """``python -m complexnn.gaussianity``."""
    _measure("gaussianity", argv)


def offload(argv: list[str]) -> None:
    """``python -m complexnn.offload``."""
    _measure("offload", argv)
