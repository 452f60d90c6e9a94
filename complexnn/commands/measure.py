"""``python -m complexnn.linearity``, ``gaussianity``, ``offload``: a trained network, measured."""

from __future__ import annotations

import time

from complexnn.commands.app import open_run, parse
from complexnn.config import InputError
from complexnn.config_attack import results_of
from complexnn.measurements import gaussianity as gaussian_features
from complexnn.measurements import linearity as linear_servers
from complexnn.measurements import offloading
from complexnn.runs import results
from complexnn.runs.devices import make_accelerator


def linearity(argv: list[str]) -> None:
    config = parse(linear_servers.LinearityConfig, argv, "python -m complexnn.linearity")
    started = time.time()
    device = make_accelerator(config.device).device
    net, dataset = open_run(config.victim, config.data_dir, device)
    if net.config.kind != "complex" or net.config.weights != "real":
        raise InputError(
            f"{config.victim} is {net.config.label}: measure a network of kind complex whose "
            "weights are real"
        )
    measured = linear_servers.evaluate(config, net, dataset, device)
    results.append_measurement(
        config, "linearity", measured, len(dataset.test), results.stamp(device, started)
    )
    print(linear_servers.table(measured, config.maps).as_text())
    print(f"output: {results_of(config.victim)}")


def gaussianity(argv: list[str]) -> None:
    config = parse(gaussian_features.GaussianityConfig, argv, "python -m complexnn.gaussianity")
    started = time.time()
    device = make_accelerator(config.device).device
    net, dataset = open_run(config.victim, config.data_dir, device)
    if net.config.parts == 1:
        raise InputError(
            f"{config.victim} is {net.config.label}: measure a network of kind complex"
        )
    measured = gaussian_features.evaluate(config, net, dataset, device)
    images = min(config.images, len(dataset.test))
    results.append_measurement(
        config, "gaussianity", measured, images, results.stamp(device, started)
    )
    print(gaussian_features.table(measured, images, net.config.parts).as_text())
    print(f"output: {results_of(config.victim)}")


def offload(argv: list[str]) -> None:
    config = parse(offloading.OffloadConfig, argv, "python -m complexnn.offload")
    started = time.time()
    device = make_accelerator(config.device).device
    net, dataset = open_run(config.victim, config.data_dir, device)
    if net.config.kind not in ("original", "additional"):
        raise InputError(
            f"{config.victim} is of kind {net.config.kind}: offload a network without rotation, "
            "original or additional"
        )
    measured = offloading.evaluate(config, net, dataset, device)
    images = min(len(dataset.test), config.limit_test or len(dataset.test))
    results.append_measurement(config, "offload", measured, images, results.stamp(device, started))
    print(offloading.table(measured).as_text())
    print(f"output: {results_of(config.victim)}")
