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
from complexnn.config import InputError, NetConfig, at_least, check_numbers
from complexnn.data import tasks
from complexnn.data.images import Dataset
from complexnn.networks.splitnet import SplitNet
from complexnn.privacy.audit import Audit
from complexnn.privacy.offload import (
    PRESETS,
    Cost,
    Guarantee,
    RemoteNetwork,
    cost_per_query,
    offload,
    remote_layers,
)
from complexnn.runs.progress import track
from complexnn.runs.seeds import random_for
from complexnn.runs.tables import Table, percent
from complexnn.training.evaluation import error_interval

# Training images whose largest norms are the bounds: two groups of the default size. An input that
# is larger is clipped, which costs accuracy and never privacy; `same_answer` shows how little.
CALIBRATION = 2048
GALLERY = 1000  # other candidates of an identification: chance is a tenth of a per cent
# Whom an attacker is sure of counts (Carlini et al. 2022, "Membership Inference Attacks From First
# Principles").
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


def check(victim: Path, net: NetConfig) -> None:
    """Refuse a network whose server is not a plain one, layer by layer.

    Raises:
        InputError: a kind other than original and additional.
    """
    if net.kind not in ("original", "additional"):
        raise InputError(
            f"{victim} is of kind {net.kind}: offload a network without rotation, "
            "original or additional"
        )


@dataclass(frozen=True)
class Answers:
    """What a pass over the test images shows, one number an image, and who listened."""

    labels: Tensor
    errors: Tensor  # with the linear layers on the server
    plain_errors: Tensor  # of the network as it is
    same: Tensor  # 1 where the two give the same answer
    largest_difference: float  # of their logits
    release: int  # numbers of a plain release
    group: int  # queries that share a key
    server: RemoteNetwork
    audit: Audit


def evaluate(
    config: OffloadConfig, net: SplitNet, dataset: Dataset, device: torch.device
) -> dict[str, dict]:
    """Error with and without offload, cost per query, and what the audit finds, as a row's
    metrics."""
    return summarised(measured(config, net, dataset, device), config.guarantee)


@torch.no_grad()
def measured(
    config: OffloadConfig, net: SplitNet, dataset: Dataset, device: torch.device
) -> Answers:
    """Run the test images in groups, once with the middle part on the server, once without."""
    rng = random_for("evaluation", config.seed)
    known = dataset.train.subset(torch.arange(min(CALIBRATION, len(dataset.train))))
    known = torch.cat([net.features(b.images) for b in known.batches(256, device)])
    server = offload(net.processing, known, config.guarantee, generator=rng)
    audit = Audit(_inputs(server, known[:GALLERY]))
    for layer in remote_layers(server):
        layer.observer = audit.observe

    errors, plain_errors, same, largest_difference = [], [], [], 0.0
    test = dataset.test
    if config.limit_test is not None and config.limit_test < len(test):
        order = torch.randperm(len(test), generator=Generator().manual_seed(config.seed))
        test = test.subset(order[: config.limit_test])
    size = min(config.group_size, len(test))
    for batch in track(test.batches(size, device), -(-len(test) // size), "groups"):
        features = net.features(batch.images)
        logits = net.decoder(server(features))
        audit.finish_group()
        plain_logits = net.decoder(net.processing(features))
        answers, plain = (tasks.answers(v, batch.labels) for v in (logits, plain_logits))
        errors.append(tasks.errors(answers, batch.labels).cpu())
        plain_errors.append(tasks.errors(plain, batch.labels).cpu())
        same.append((answers == plain).float().cpu())
        largest_difference = max(largest_difference, (logits - plain_logits).abs().max().item())
    return Answers(
        test.labels, torch.cat(errors), torch.cat(plain_errors), torch.cat(same),
        largest_difference, known[0].numel(), size, server, audit,
    )  # fmt: skip


def summarised(answers: Answers, guarantee: Guarantee) -> dict[str, dict]:
    """A row's metrics.

    Intervals of what the audit finds are over queries. Those of one group share their decoys, so
    with few groups they are narrow; the accountant's bound does not depend on them.
    """
    accountant = answers.server.accountant
    low, high = error_interval(answers.errors, answers.labels)
    costs = [cost_per_query(layer, answers.group) for layer in remote_layers(answers.server)]
    total = {name: sum(getattr(c, name) for c in costs) for name in Cost.__annotations__}
    return {
        "error": {
            "value": answers.errors.mean().item(), "low": low, "high": high,
            "plain": answers.plain_errors.mean().item(),
            "chance": tasks.blind_error(answers.labels),
        },
        "same_answer": {"value": answers.same.mean().item()},
        "largest_difference": {"value": answers.largest_difference},
        "delta": {
            "value": accountant.get_delta(guarantee.epsilon), "epsilon": guarantee.epsilon,
            "allowed": guarantee.delta, "releases": accountant.releases,
        },
        "degrees_of_freedom": {"value": remote_layers(answers.server)[0].freedom},
        "server_work": {"value": total["server"] / total["plain"]},
        "device_work": {"value": total["device"] / total["plain"]},
        "traffic": {"value": total["traffic"], "plain": float(answers.release)},
        **_attacked(answers.audit, accountant),
    }  # fmt: skip


def _attacked(audit: Audit, accountant: privacy.Accountant) -> dict[str, dict]:
    """How often the audit names the query among the gallery, and how often it notices it."""
    first = (torch.cat(audit.ranks) == 1).double()
    low, high = metrics.share_interval_of(first)
    scores = torch.cat([*audit.present, *audit.absent])
    is_present = torch.arange(len(scores)) < len(scores) // 2
    detected = metrics.tpr_at_fpr(scores, is_present, FALSE_ALARMS)
    least, most = metrics.share_interval(detected, len(scores) // 2)
    return {
        "identified": {
            "value": first.mean().item(), "low": low, "high": high,
            "chance": 1 / (1 + len(audit.gallery[0])),
        },
        "detected_at_1_fpr": {
            "value": detected, "low": least, "high": most,
            "bound": accountant.get_detection(FALSE_ALARMS), "chance": FALSE_ALARMS,
        },
    }  # fmt: skip


def _inputs(server: RemoteNetwork, features: Tensor) -> list[Tensor]:
    """What remote layers would get for ``features``, clipped, one entry a call."""
    inputs: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args: inputs.append(layer.clipped(args[0])))
        for layer in remote_layers(server)
    ]
    server(features)
    for hook in hooks:
        hook.remove()
    return inputs


def table(metrics_of_row: dict[str, dict]) -> Table:
    """What a user wants to know, in rows."""
    m = {name: values["value"] for name, values in metrics_of_row.items()}
    delta, error = metrics_of_row["delta"], metrics_of_row["error"]
    detected, identified = metrics_of_row["detected_at_1_fpr"], metrics_of_row["identified"]
    allowed = f"allowed: {delta['allowed']:.1e}"
    if "releases" in delta:  # early rows lack it
        allowed += f", {delta['releases']} releases"
    rows = [
        ("task error, %", f"{100 * m['error']:.2f}", f"without: {100 * error['plain']:.2f}"),
        ("same answer as without, %", f"{100 * m['same_answer']:.2f}", ""),
        (f"δ at ε = {delta['epsilon']:g}", privacy.rounded_up(m["delta"]), allowed),
        ("server's work", f"{m['server_work']:.2f}", "1: its layers, no decoys"),
        ("device's work to rotate", f"{m['device_work']:.1f}", "1: those layers, on the device"),
        ("numbers sent per query", f"{m['traffic']:,.0f}", "both ways"),
        (
            "identified, %",
            f"{100 * m['identified']:.2f}",
            f"chance: {100 * identified['chance']:.2f}",
        ),
        (
            "found at 1 % false alarms, %",
            percent(detected),
            f"bound: {100 * detected['bound']:.1f}",
        ),
    ]  # fmt: skip
    return Table("interactive offload", ("", "value", "beside"), rows)
