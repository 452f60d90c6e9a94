"""The tables of docs/beyond.md: defences between use and leakage, hidden properties, and what was
measured about rotated servers and offloads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from complexnn.config import NetConfig
from complexnn.config_io import from_dict
from complexnn.measurements import gaussianity, linearity, remote_network
from complexnn.measurements.remote_network import OffloadConfig
from complexnn.networks.costs import dissect
from complexnn.report.cohorts import trained_alike
from complexnn.report.notes import NOT_ATTACKED, with_data
from complexnn.report.ranking import Numbers, blind, identified, strongest
from complexnn.report.rows import Runs
from complexnn.report.summary import leak, task_error
from complexnn.report.verdicts import kept
from complexnn.runs.tables import Table, percent

# What a defended network shares with the one without a defence.
SHARED = (
    "arch", "variant", "generator_width", "relu_end", "num_classes", "in_channels", "image_size",
    "mean", "std",
)  # fmt: skip


def beyond_page(ours: Sequence[Runs]) -> list[Table]:
    """The tables of docs/beyond.md."""
    return [
        trade_off_table(ours), linearity_table(ours), gaussianity_table(ours),
        property_table(ours), *offload_tables(ours),
    ]  # fmt: skip


@dataclass(frozen=True)
class TradeOff:
    """Where a defence stands between use and leakage."""

    runs: Runs
    kept: tuple[float, float, float]  # of the server's worth, with its interval
    inversion: Numbers  # PSNR of the strongest
    identified: Numbers  # top-1 of the attack that identifies most


def trade_offs(ours: Iterable[Runs]) -> list[TradeOff]:
    """Every attacked network that was trained beside an ``additional`` and a ``local``, where the
    server is worth something."""
    points = []
    for members in trained_alike(ours).values():
        errors = {runs.config.net.label: runs.errors for runs in members}
        if not {"additional", "local"} <= errors.keys():
            continue
        for runs in members:
            share = kept(errors["additional"], errors["local"], runs.errors)
            inversion = strongest(runs.attacked, "inversion")
            top1 = identified(runs.attacked)
            if share is not None and inversion is not None and top1 is not None:
                points.append(TradeOff(runs, share, inversion[1], top1))
    return points


def trade_off_table(ours: Iterable[Runs]) -> Table:
    """What each defence keeps of the server's worth, and what it lets through."""
    lines, points = [], trade_offs(ours)
    for point in points:
        net, rows = point.runs.config.net, point.runs.attacked
        share, low, high = (100 * s for s in point.kept)
        lines.append((
            point.runs.trained, point.runs.released,
            task_error(point.runs, digits=1),
            f"{share:.0f} [{low:.0f}, {high:.0f}]",
            f"{_servers_work(net):.2f}",
            f"{point.inversion['value'] - point.inversion['floor']:.1f}",
            percent(point.identified),
            *(
                leak(rows, family, "chance") if net.parts > 1 else "no key"
                for family in ("angle", "intersection")
            ),
        ))  # fmt: skip
    head = ("network, data, training", "released", "task error in %",
            "kept of the server's worth in %",
            "server's work", "strongest inversion, dB above the mean image", "identified in %",
            "angle error in rad", "the same of images sent again")  # fmt: skip
    note = (
        "Kept: 0 is no better than the control `local`, 100 as good as without a defence; 95 % "
        "intervals over test images and, where the error has a deviation, over seeds; one network "
        "elsewhere. Work: per query, beside the network without rotation. "
        "Mean image: for packed queries d blind images in the best order. Identified: among 1,000 "
        "candidates, by the attack that identifies most. Angle: the strongest attack (beside blind "
        "guessing). Sent again: `intersection`, four or eight releases of each image under fresh "
        "keys and among other co-members."
    )
    note = with_data(note, (point.runs for point in points))
    return Table("Use against leakage", head, lines, note)


def _servers_work(net: NetConfig) -> float:
    """Of the server per query, in units of that of the same network without a defence."""
    shared = {name: getattr(net, name) for name in SHARED}
    plain = NetConfig(kind="additional", **shared)
    return dissect(net).flops["processing"] / dissect(plain).flops["processing"]


def property_table(ours: Iterable[Runs]) -> Table:
    """What is inferred of classes that a network was not trained on."""
    lines, shown = [], []
    for runs in ours:
        best = strongest(runs.attacked, "property")
        if best is None:
            continue
        shown.append(runs)
        name, error = best
        right = 1 - error["value"], 1 - error["high"], 1 - error["low"]
        control = error.get("control")
        lines.append((
            runs.trained, runs.released,
            runs.task_error(1),
            "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * share for share in right)), name,
            f"{100 * (1 - blind(error)):.1f}",
            "" if control is None else f"{100 * (1 - control):.1f}",
        ))  # fmt: skip
    head = ("network, data, training", "released", "task error in %", "property inferred in %",
            "strongest attack", "from the answer alone", "without rotation")  # fmt: skip
    note = (
        "Inferred: how often the strongest attack names the hidden class. From the answer alone: "
        "the best guess of one who knows the network's label. Without rotation: the same attack on "
        "`additional`."
    )
    return Table("Hidden properties", head, lines, with_data(note, shown))


def linearity_table(ours: Iterable[Runs]) -> Table:
    """What :mod:`complexnn.measurements.linearity` measured, beside networks without rotation."""
    lines, shown = [], []
    for members in trained_alike(ours).values():
        errors = {runs.config.net.label: runs.errors[0] for runs in members}
        for runs in members:
            row = runs.attacked.get("linearity")
            if row is not None:
                shown.append(runs)
                lines.append((
                    runs.trained, runs.released,
                    *(percent(row["metrics"][name]) for name in linearity.ERRORS),
                    *(
                        f"{100 * errors[kind]['value']:.1f}" if kind in errors else ""
                        for kind in ("local", "additional")
                    ),
                ))  # fmt: skip
    head = (
        "network, data, training",
        "released",
        *linearity.ERRORS.values(),
        "`local`",
        "`additional`",
    )
    note = (
        "Task error in %: with the matrix B(G) of the query's own group, which is the network as "
        "it is; of groups that do not hold it (8 of validation images, the mean of their errors); "
        "and with the mean of those 8 matrices, a fixed linear map in the server's place. Beside "
        "them the control `local` and the network without rotation. 95 % intervals over test "
        "images, one network each."
    )
    return Table("How linear rotated servers are", head, lines, with_data(note, shown))


def gaussianity_table(ours: Iterable[Runs]) -> Table:
    """What :mod:`complexnn.measurements.gaussianity` measured, beside what ICA makes of it."""
    lines, shown = [], []
    for runs in ours:
        row, attack = (runs.attacked.get(name) for name in ("gaussianity", "angle ica"))
        if row is None:
            continue
        shown.append(runs)
        moments = {name: numbers["value"] for name, numbers in row["metrics"].items()}
        net = runs.config.net
        error = None if attack is None else attack["metrics"]["angle_error"]
        kurtosis = [moments[f"kurtosis_{what}"] for what in gaussianity.SHOWN]
        kurtosis.append(gaussianity.unshared(kurtosis[0], net.parts))
        distance = [moments[f"epps_pulley_{what}"] for what in (*gaussianity.SHOWN, "gaussian")]
        lines.append((
            runs.trained, runs.released,
            " / ".join(f"{value:.2f}" for value in kurtosis),
            " / ".join(f"{1000 * value:.1f}" for value in distance),
            NOT_ATTACKED if error is None else f"{error['value']:.3f} ({error['chance']:.3f})",
        ))  # fmt: skip
    head = ("network, data, training", "released",
            "excess kurtosis: an image's features / a released part / were parts independent",
            "Epps-Pulley × 1000: features / released / Gaussian numbers",
            "angle error of `ica` in rad")  # fmt: skip
    note = (
        "Channels whitened and the mean feature dropped, as `ica` does; means over 2,000 test "
        "images at most. Were parts independent: the kurtosis that d such features keep when they "
        "are rotated; more is left where features are large in the same places. Gaussian "
        "numbers: as many as a feature has. Angle: beside blind guessing."
    )
    return Table("How Gaussian features are", head, lines, with_data(note, shown))


def offload_tables(ours: Iterable[Runs]) -> list[Table]:
    """What :mod:`complexnn.measurements.remote_network` measured on each network."""
    tables = []
    for runs in ours:
        row = runs.attacked.get("offload")
        if row is not None:
            guarantee = from_dict(OffloadConfig, row["config"])
            title = (
                f"Interactive offload of {runs.network} {runs.config.net.label}, {runs.dataset}: "
                f"{row['images']:,} test images, groups of {guarantee.group_size:,}"
            )
            tables.append(replace(remote_network.table(row["metrics"]), title=title))
    return tables
