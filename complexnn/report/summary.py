"""What the README says first: a verdict on each claim, and the runs behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from complexnn.attacks import worst
from complexnn.config import InputError, Kind, NetConfig
from complexnn.config_io import command, from_dict
from complexnn.measurements import (
    gaussianity,
    linearity,
    offloading,
)
from complexnn.measurements.offloading import OffloadConfig
from complexnn.networks.costs import dissect
from complexnn.report import (
    claims,
    paper,
    verdicts,
)
from complexnn.report.claims import KINDS
from complexnn.report.lines import with_data
from complexnn.report.rows import Runs, trained_alike
from complexnn.runs.progress import duration
from complexnn.runs.tables import Table, percent

# What a defended network shares with the one without a defence.
SHARED = (
    "arch", "variant", "generator_width", "relu_end", "num_classes", "in_channels", "image_size",
    "mean", "std",
)  # fmt: skip
MARKS = ("<!-- results -->", "<!-- end of results -->")


def lines(ours: list[Runs]) -> dict[tuple[str, str, str], dict[str, Runs]]:
    """The lines (network, data, budget) on which a verdict is possible: all four kinds trained."""
    return {
        line: labels
        for line, labels in paper.by_network(ours).items()
        if all(label in labels for label in KINDS.values())
    }


def front_page(folders: Iterable[Path]) -> list[Table]:
    """The README's tables."""
    folders = list(folders)
    return [verdict_table(folders), main_table(folders)]


def beyond_page(folders: Iterable[Path]) -> list[Table]:
    """The tables of docs/beyond.md."""
    folders = list(folders)
    return [
        frontier_table(folders), linearity_table(folders), gaussianity_table(folders),
        property_table(folders),
        *offload_tables(folders),
    ]  # fmt: skip


def verdict_table(folders: Iterable[Path]) -> Table:
    """A verdict per claim of the paper and per network, with what it rests on.

    The rules are those of :mod:`complexnn.report.verdicts`; networks trained on all images with the
    adversarial term, accuracy where all four kinds were trained, each other claim where its
    attacks were run.
    """
    found, rows = [], claims.judged(paper.collect(folders))
    for row in rows:
        network = claims.called(row, rows)
        for claim, verdict in row.found.items():
            trained = all(row.line.find(label) for label in KINDS.values())
            if verdict is not None and (claim != "accuracy" or trained):
                said = "accuracy is preserved" if claim == "accuracy" else f"the {claim} is hidden"
                found.append((said, network, row.line.dataset, *verdict))
    found.sort(key=lambda line: line[0])
    head = ("claim", "network", "data", "verdict", "why")
    note = with_data("", (row.runs for row in rows))
    return Table("Do the paper's claims hold?", head, found, note)


REACHED = ("kind", "task error in %", "angle error in rad", "PSNR in dB", "identified in %")
REACHED_NOTE = (
    "Task error: mean and deviation over seeds 0, 1, …, or one seed with its 95 % interval. "
    "Angle, PSNR: the strongest attack (beside blind guessing; beside the mean image). "
    "Identified: the attack that most often finds the input among 1,000 candidates, with its 95 % "
    "interval (beside chance)."
)


def main_table(folders: Iterable[Path]) -> Table:
    """Every run of the lines with a verdict: what it reaches, what the attacks reach, and the
    command."""
    found, order, machines, shown = [], get_args(Kind), Counter(), {}
    for (network, data, _), labels in lines(paper.collect(folders)).items():
        members = [runs for runs in labels.values() if runs.number not in shown]
        shown |= {runs.number: runs for runs in members}
        for runs in sorted(members, key=lambda r: order.index(r.config.net.kind)):
            attacks = [row for row in runs.attacked.values() if "family" in row]
            attacks = [row for row in attacks if row["name"] != worst.NAME]
            machines.update(row["device"].partition(",")[0] for row in attacks)
            tasks = [rows["task"] for rows in runs.rows]
            told = command(runs.config, leave_out=("output_dir", "seed", "resume", "overwrite"))
            seconds = sum(row["seconds"] for row in tasks) / len(tasks)
            found.append((
                f"{network}, {data}", *_reached(runs), f"`{told}`",
                f"{duration(seconds)}, {runs.attacked['task']['device']}",
            ))  # fmt: skip
    head = ("network, data", *REACHED, "command", "trained in, on")
    where = ", ".join(f"{count} on {machine}" for machine, count in machines.most_common())
    note = f"{REACHED_NOTE} Attacks, by what they ran on: {where}."
    return Table("Runs", head, found, with_data(note, shown.values()))


def short_table(folders: Iterable[Path]) -> Table:
    """Runs on part of the training images: what other cuts, weights, encoders and groups do."""
    short = [r for r in paper.collect(folders) if r.config.data.limit_train is not None]
    found = [(f"{r.network}, {r.dataset}", r.budget, *_reached(r)) for r in short]
    head = ("network, data", "training", *REACHED)
    return Table("Variants at a short budget", head, found, with_data(REACHED_NOTE, short))


def _reached(runs: Runs) -> tuple[str, ...]:
    """What a network reaches, and what the attacks on it do: the cells of :data:`REACHED`."""
    rows = runs.attacked
    return (
        runs.released, _task_error(runs, digits=2),
        _leak(rows, "angle", "chance") if runs.config.net.parts > 1 else "no key",
        _leak(rows, "inversion", "floor"), _identified(rows),
    )  # fmt: skip


def _task_error(runs: Runs, digits: int) -> str:
    """Mean and deviation over seeds, or one seed with its interval."""
    error = runs.cell("task", "error", 100, digits).removesuffix(f" [{runs.number}]")
    if len(runs.seeds) == 1:
        numbers = runs.attacked["task"]["metrics"]["error"]
        error += " [{low:.1f}, {high:.1f}]".format(**{k: 100 * numbers[k] for k in ("low", "high")})
    return error


@dataclass(frozen=True)
class Place:
    """Where a defence stands between use and leakage."""

    runs: Runs
    kept: tuple[float, float, float]  # of the server's worth, with its interval
    inversion: dict[str, Any]  # PSNR of the strongest
    identified: dict[str, Any]  # top-1 of the attack that identifies most


def frontier(ours: Iterable[Runs]) -> list[Place]:
    """Every attacked network that was trained beside an ``additional`` and a ``local``, where the
    server is worth something."""
    found = []
    for members in trained_alike(ours).values():
        errors = {runs.config.net.label: runs.errors for runs in members}
        if not {"additional", "local"} <= errors.keys():
            continue
        for runs in members:
            own = runs.errors
            share = verdicts.kept(errors["additional"], errors["local"], own)
            leak = verdicts.strongest(runs.attacked, "inversion")
            seen = verdicts.identified(runs.attacked)
            if share is not None and leak is not None and seen is not None:
                found.append(Place(runs, share, leak[1], seen))
    return found


def frontier_table(folders: Iterable[Path]) -> Table:
    """What each defence keeps of the server's worth, and what it lets through."""
    lines, places = [], frontier(paper.collect(folders))
    for place in places:
        net, rows = place.runs.config.net, place.runs.attacked
        share, low, high = (100 * s for s in place.kept)
        leak = place.inversion
        cost = dissect(net).flops["processing"]
        shared = {name: getattr(net, name) for name in SHARED}
        plain = dissect(NetConfig(kind="additional", **shared)).flops["processing"]
        lines.append((
            place.runs.trained, place.runs.released,
            _task_error(place.runs, digits=1),
            f"{share:.0f} [{low:.0f}, {high:.0f}]",
            f"{cost / plain:.2f}",
            f"{leak['value'] - leak['floor']:.1f}",
            percent(place.identified),
            *(
                _leak(rows, family, "chance") if net.parts > 1 else "no key"
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
        "keys and in other company."
    )
    note = with_data(note, (place.runs for place in places))
    return Table("Use against leakage", head, lines, note)


def property_table(folders: Iterable[Path]) -> Table:
    """What is inferred of classes that a network was not trained on."""
    lines, shown = [], []
    for runs in paper.collect(folders):
        best = verdicts.strongest(runs.attacked, "property")
        if best is None:
            continue
        shown.append(runs)
        name, error = best
        right = 1 - error["value"], 1 - error["high"], 1 - error["low"]
        blind = 1 - verdicts.blind(error)
        control = error.get("control")
        lines.append((
            runs.trained, runs.released,
            runs.cell("task", "error", 100, 1).removesuffix(f" [{runs.number}]"),
            "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * share for share in right)), name,
            f"{100 * blind:.1f}", "" if control is None else f"{100 * (1 - control):.1f}",
        ))  # fmt: skip
    head = ("network, data, training", "released", "task error in %", "property inferred in %",
            "strongest attack", "from the answer alone", "without rotation")  # fmt: skip
    note = (
        "Inferred: how often the strongest attack names the hidden class. From the answer alone: "
        "the best guess of one who knows the network's label. Without rotation: the same attack on "
        "`additional`."
    )
    return Table("Hidden properties", head, lines, with_data(note, shown))


def linearity_table(folders: Iterable[Path]) -> Table:
    """What :mod:`complexnn.measurements.linearity` measured, beside networks without rotation."""
    lines, shown = [], []
    for members in trained_alike(paper.collect(folders)).values():
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


def gaussianity_table(folders: Iterable[Path]) -> Table:
    """What :mod:`complexnn.measurements.gaussianity` measured, beside what ICA makes of it."""
    lines, shown = [], []
    for runs in paper.collect(folders):
        row, attack = (runs.attacked.get(name) for name in ("gaussianity", "angle ica"))
        if row is None:
            continue
        shown.append(runs)
        found = {name: numbers["value"] for name, numbers in row["metrics"].items()}
        net = runs.config.net
        error = None if attack is None else attack["metrics"]["angle_error"]
        kurtosis = [found[f"kurtosis_{what}"] for what in gaussianity.SHOWN]
        kurtosis.append(gaussianity.unshared(kurtosis[0], net.parts))
        distance = [found[f"epps_pulley_{what}"] for what in (*gaussianity.SHOWN, "gaussian")]
        lines.append((
            runs.trained, runs.released,
            " / ".join(f"{value:.2f}" for value in kurtosis),
            " / ".join(f"{1000 * value:.1f}" for value in distance),
            "not attacked" if error is None else f"{error['value']:.3f} ({error['chance']:.3f})",
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


def offload_tables(folders: Iterable[Path]) -> list[Table]:
    """What :mod:`complexnn.measurements.offloading` measured on each network."""
    found = []
    for runs in paper.collect(folders):
        row = runs.attacked.get("offload")
        if row is not None:
            guarantee = from_dict(OffloadConfig, row["config"])
            title = (
                f"Interactive offload of {runs.network} {runs.config.net.label}, {runs.dataset}: "
                f"{row['images']:,} test images, groups of {guarantee.group_size:,}"
            )
            found.append(replace(offloading.table(row["metrics"]), title=title))
    return found


def _leak(rows: verdicts.Rows, family: str, blind: str) -> str:
    best = verdicts.strongest(rows, family)
    if best is None:
        return "not attacked"
    digits = 3 if verdicts.UNITS[family][1] == "rad" else 1
    return f"{best[1]['value']:.{digits}f} ({best[1][blind]:.{digits}f})"


def _identified(rows: verdicts.Rows) -> str:
    best = verdicts.identified(rows)
    if best is None:
        return "not attacked"
    return f"{percent(best)} ({100 * best['chance']:.1f})"


def write_into(page: Path, tables: Iterable[Table]) -> str:
    """The page with what stands between its marks replaced by these tables.

    Raises:
        InputError: no page, or one without the two marks.
    """
    if not page.is_file():
        raise InputError(f"there is no page {page} to put the tables into")
    before, begin, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (begin and end):
        raise InputError(f"{page} has no lines {' and '.join(MARKS)}")
    shown = "\n\n".join(table.as_markdown() for table in tables)
    return f"{before}{begin}\n\n{shown}\n\n{end}{after}"
