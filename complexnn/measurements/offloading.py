"""``python -m complexnn.offload --victim RUN``: the middle part of a trained network without
rotation, layer by layer on a server that is not trusted; what it costs, and what the strongest
attacker learns. See :mod:`complexnn.privacy.offload`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from complexnn import metrics, privacy
from complexnn.config import InputError, at_least, check_numbers
from complexnn.data import tasks
from complexnn.data.images import Dataset, ImageSet
from complexnn.networks.splitnet import SplitNet
from complexnn.privacy.audit import Audit
from complexnn.privacy.offload import (
    PRESETS,
    Cost,
    Guarantee,
    Offloaded,
    cost,
    layers,
    offload,
)
from complexnn.runs.progress import track
from complexnn.runs.seeds import random_for
from complexnn.runs.tables import Table, percent
from complexnn.training.evaluation import error_interval

CALIBRATION = 2048  # training images that set the bounds
GALLERY = 1000  # candidates of the identification
FALSE_ALARMS = 0.01


@dataclass(frozen=True)
class OffloadConfig:
    """Run a trained network's middle part layer by layer on a server that learns next to nothing.

    The victim must be of a kind without rotation: original or additional.
    """

    victim: Path
    """Run folder of the network."""
    preset: Literal["private", "strict"] = "private"
    """private: ε = 1, δ = 1e-6, r = 1e-3. strict: ε = 0.1, δ = 1e-9, r = 1e-4."""
    epsilon: float | None = None
    """ε of one query over all layers together; None: the preset's."""
    delta: float | None = None
    """δ of one query over all layers together; None: the preset's."""
    ratio: float | None = None
    """r: squared norm that each layer's inputs are clipped to, over the decoys' variance; None:
    the preset's. Smaller hides more at the same work, and costs precision."""
    group_size: int = 1024
    """Queries d that share a key."""
    limit_test: int | None = None
    """Use only this many test images, drawn with the seed; None: all."""
    data_dir: Path | None = None
    """Where the data set lies now; None: where it was."""
    device: str = "auto"
    """auto, cpu, cuda, mps; keys are drawn on the CPU."""
    seed: int = 0
    """Seed of keys and decoys."""

    def __post_init__(self) -> None:
        check_numbers(self)
        at_least(self, 1, "group_size")
        if self.limit_test is not None:
            at_least(self, 1, "limit_test")
        for name in ("epsilon", "delta", "ratio"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        if not privacy.SMALLEST <= self.guarantee.delta < 1:
            raise InputError(
                f"delta must be at least {privacy.SMALLEST:g} and below 1, got {self.delta}"
            )

    @property
    def measured_as(self) -> tuple[Any, ...]:
        """What its numbers depend on."""
        return (*self.guarantee, self.group_size, self.limit_test, self.seed)

    @property
    def guarantee(self) -> Guarantee:
        """ε, δ and r."""
        given = {n: getattr(self, n) for n in Guarantee._fields if getattr(self, n) is not None}
        return PRESETS[self.preset]._replace(**given)


@torch.no_grad()
def evaluate(
    config: OffloadConfig, net: SplitNet, dataset: Dataset, device: torch.device
) -> dict[str, dict]:
    """Error with and without offload, cost per query, and what the audit found, as a row's
    metrics.

    Intervals of what the audit found are over queries. Those of one group share their decoys, so
    with few groups they are narrow; the accountant's bound does not depend on them.
    """
    rng = random_for("evaluation", config.seed)
    known = dataset.train.subset(torch.arange(min(CALIBRATION, len(dataset.train))))
    known = _features(net, known, device)
    epsilon, delta, _ = config.guarantee
    server = offload(net.processing, known, config.guarantee, generator=rng)
    audit = Audit(_inputs(server, known[:GALLERY]))
    for layer in layers(server):
        layer.listener = audit.hear

    wrong, plainly, same, worst = [], [], [], 0.0
    test = dataset.test
    if config.limit_test is not None and config.limit_test < len(test):
        order = torch.randperm(len(test), generator=Generator().manual_seed(config.seed))
        test = test.subset(order[: config.limit_test])
    size = min(config.group_size, len(test))
    total = -(-len(test) // size)
    for batch in track(test.batches(size, device), total, "groups"):
        features = net.features(batch.images)
        logits = net.decoder(server(features))
        audit.finish_group()
        plain = net.decoder(net.processing(features))
        given, expected = (tasks.answers(v, batch.labels) for v in (logits, plain))
        wrong.append(tasks.errors(given, batch.labels).cpu())
        plainly.append(tasks.errors(expected, batch.labels).cpu())
        same.append((given == expected).float().cpu())
        worst = max(worst, (logits - plain).abs().max().item())

    error, plain_error = torch.cat(wrong), torch.cat(plainly)
    low, high = error_interval(error, test.labels)
    first = (torch.cat(audit.ranks) == 1).double()
    rarest, commonest = metrics.share_interval_of(first)
    costs = [cost(layer, size) for layer in layers(server)]
    sums = {name: sum(getattr(c, name) for c in costs) for name in Cost.__annotations__}
    scores = torch.cat([*audit.there, *audit.absent])
    truth = torch.arange(len(scores)) < len(scores) // 2
    accountant = server.accountant
    found = metrics.tpr_at_fpr(scores, truth)
    least, most = metrics.share_interval(found, len(truth) // 2)
    return {
        "error": {
            "value": error.mean().item(), "low": low, "high": high,
            "plain": plain_error.mean().item(), "chance": tasks.blind_error(test.labels),
        },
        "same_answer": {"value": torch.cat(same).mean().item()},
        "largest_difference": {"value": worst},
        "delta": {
            "value": accountant.get_delta(epsilon), "epsilon": epsilon, "allowed": delta,
            "releases": accountant.releases,
        },
        "degrees_of_freedom": {"value": layers(server)[0].freedom},
        "server_work": {"value": sums["server"] / sums["plain"]},
        "device_work": {"value": sums["device"] / sums["plain"]},
        "traffic": {"value": sums["traffic"], "plain": float(known[0].numel())},
        "identified": {
            "value": first.mean().item(), "low": rarest, "high": commonest,
            "chance": 1 / (1 + len(audit.gallery[0])),
        },
        "detected_at_1_fpr": {
            "value": found, "low": least, "high": most,
            "bound": accountant.get_detection(FALSE_ALARMS),
            "chance": FALSE_ALARMS,
        },
    }  # fmt: skip


def _features(net: SplitNet, images: ImageSet, device: torch.device) -> Tensor:
    return torch.cat([net.features(b.images) for b in images.batches(256, device)])


def _inputs(server: Offloaded, features: Tensor) -> list[Tensor]:
    """What offloaded layers would get for ``features``, clipped, one entry a call."""
    found: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args: found.append(layer.clipped(args[0])))
        for layer in layers(server)
    ]
    server(features)
    for hook in hooks:
        hook.remove()
    return found


def table(measured: dict[str, dict]) -> Table:
    """What a user wants to know, in rows."""
    m = {name: values["value"] for name, values in measured.items()}
    spent, error = measured["delta"], measured["error"]
    seen, found = measured["detected_at_1_fpr"], measured["identified"]
    allowed = f"allowed: {spent['allowed']:.1e}"
    if "releases" in spent:  # early rows lack it
        allowed += f", {spent['releases']} releases"
    rows = [
        ("task error, %", f"{100 * m['error']:.2f}", f"without: {100 * error['plain']:.2f}"),
        ("same answer as without, %", f"{100 * m['same_answer']:.2f}", ""),
        (f"δ at ε = {spent['epsilon']:g}", privacy.rounded_up(m["delta"]), allowed),
        ("server's work", f"{m['server_work']:.2f}", "1: its layers, no decoys"),
        ("device's work to rotate", f"{m['device_work']:.1f}", "1: those layers, on the device"),
        ("numbers sent per query", f"{m['traffic']:,.0f}", "both ways"),
        ("identified, %", f"{100 * m['identified']:.2f}", f"chance: {100 * found['chance']:.2f}"),
        (
            "found at 1 % false alarms, %",
            percent(seen),
            f"bound: {100 * seen['bound']:.1f}",
        ),
    ]  # fmt: skip
    return Table("interactive offload", ("", "value", "beside"), rows)
