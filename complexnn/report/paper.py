"""The paper's tables: its numbers, those of the 2021 reproduction and ours in one line for each
network and data set of the paper; behind them what the paper does not have, and every run's
command."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from complexnn.config_io import command
from complexnn.report import ranking, summary, verdict_tables
from complexnn.report.cohorts import Place, cohorts
from complexnn.report.notes import NOT_RUN, Abbreviations
from complexnn.report.published import LEGEND, Column, Page, read_published, theirs
from complexnn.report.ranking import Row
from complexnn.report.rows import Runs, mean_std
from complexnn.report.verdict_tables import ROTATED
from complexnn.report.verdicts import quick
from complexnn.runs.progress import duration
from complexnn.runs.tables import Table

# What the columns of the paper's tables hold, as labels of this project's networks.
PLAIN = {"original": "original", "additional": "additional_layers"}
NOISY = {"noisy γ=0.2": "noisy_0_2", "noisy γ=0.5": "noisy_0_5", "noisy γ=1": "noisy_1_0"}
# The paper's attacks on a hidden property; this project's own behind them.
PROPERTIES = {
    "property images": "classifier trained on raw images, applied to reconstructions",
    "property features": "classifier trained on recovered features a*",
    "property reconstructions": "classifier trained on reconstructions",
    "property 1-nn": "1 nearest neighbour of a*",
    "property 3-nn": "3 nearest neighbours of a*",
    "property 5-nn": "5 nearest neighbours of a*",
}
OWN_PROPERTIES = {
    "property released": "ours: classifier trained on all released parts",
    "property dss": "ours: classifier trained on denoised views",
}
PROPERTY_ROWS = (("resnet56-alpha", "cifar100 by superclasses"), ("alexnet", "celeba"))


def tables(ours: Sequence[Runs]) -> list[Table]:
    """Errors, angles, reconstructions, properties, verdicts, further networks, variants that were
    trained on part of the images, if there are any, and the runs."""
    given = read_published()
    errors = given["classification_error_percent"]
    page = Page(cohorts(ours), Abbreviations())
    places = list(dict.fromkeys((row["arch"], row["dataset"]) for row in errors))
    beside_the_paper = [
        *_errors(page, errors),
        _angles(page, given["angle_error_radian"]["rows"]),
        *_reconstructions(page, places, given["reconstruction_error"]["rows"]),
        _properties(page, given["property_inference_error_cifar100_of_100_classes"]["rows"]),
        verdict_tables.by_network(ours, page.short, [*places, PROPERTY_ROWS[0]]),
    ]
    rest = [runs for runs in ours if runs.number not in page.shown]
    variants = [table for table in [summary.short_table(ours)] if table.rows]
    return [*beside_the_paper, _further(rest, page.short), *variants, _commands(ours)]


def _errors(page: Page, published: list[dict[str, Any]]) -> list[Table]:
    def column(label: str, key: str | None) -> Column:
        head = f"{label.partition(' d=')[0]}: " + ("paper / 2021 / ours" if key else "ours")
        numbers = theirs(published, key, 2) if key else ()
        return Column(head, label, lambda runs: runs.task_error(2), numbers, rare=label in NOISY)

    places = list(dict.fromkeys((row["arch"], row["dataset"]) for row in published))
    noisy = [column(*kind) for kind in NOISY.items()]
    with_noise = [p for p in places if any(p in t for c in noisy for t in c.theirs)]
    plain = [column(*kind) for kind in PLAIN.items()]
    plain += [column(ROTATED, "complex"), column("local", None)]
    return [
        page.table("Classification error in %", places, plain, LEGEND),
        page.table("Classification error in %, noisy features", with_noise, noisy, ""),
    ]


def _angles(page: Page, published: list[dict[str, Any]]) -> Table:
    numbers = tuple(
        {(r["arch"], r["dataset"]): f"{r[s]:.4f}" for r in published if r[s] is not None}
        for s in ("paper", "reproduction")
    )
    columns = [
        Column("paper / 2021 / ours, strongest attack", ROTATED, _angle, numbers),
        Column("ours, whole release", ROTATED, _release),
        Column("blind guess", ROTATED, _blind_angle, beside=True),
    ]
    places = [(row["arch"], row["dataset"]) for row in published]
    note = (
        "Paper: its convention is unknown; nearly all values sit at π/4, blind guessing modulo π. "
        "2021: mean absolute error of a regressor without wrap-around. Ours: on the circle, by the "
        "strongest attack on single groups. Whole release: `release`, which sees all groups of a "
        "batch at once, and the share of the groups that it finds; decoys from closed blocks "
        "(the default) give it nothing. (quick): of --budget quick."
    )
    title = "Error of the recovered angle in rad (smaller: less private)"
    return page.table(title, places, columns, note)


def _angle(runs: Runs) -> str | None:
    best = runs.strongest("angle")
    if not best:
        return None
    name = Counter(name for name, _ in best).most_common(1)[0][0]
    values = mean_std([numbers["value"] for _, numbers in best], 4)
    return f"{values} by {name}{_quick(numbers['row'] for _, numbers in best)}"


def _quick(rows: Iterable[Row]) -> str:
    return " (quick)" if any(map(quick, rows)) else ""


def _release(runs: Runs) -> str | None:
    best = runs.strongest("release")
    if not best:
        return None
    shares = [n["row"]["metrics"].get("share", {}).get("value", math.nan) for _, n in best]
    share = statistics.mean(shares)
    if share == 0:
        return "finds nothing"
    value = statistics.mean(numbers["value"] for _, numbers in best)
    return f"{value:.1e} ({100 * share:.1f} % found){_quick(n['row'] for _, n in best)}"


def _blind_angle(runs: Runs) -> str | None:
    best = runs.strongest("angle") or runs.strongest("release")
    return f"{best[0][1]['chance']:.4f}" if best else None


def _reconstructions(
    page: Page, order: list[Place], published: list[dict[str, Any]]
) -> list[Table]:
    def column(head: str, label: str, key: str | None, name: str) -> Column:
        numbers = theirs(published, key, 4) if key else ()
        if numbers and not numbers[0]:  # the paper has none
            numbers = numbers[1:]
        source = {0: "ours", 1: "2021 / ours", 2: "paper / 2021 / ours"}[len(numbers)]
        value = _rmse(f"inversion {name}")
        return Column(f"{head}: {source}", label, value, numbers, rare=label in NOISY)

    known = {(row["arch"], row["dataset"]) for row in published}
    places = [place for place in order if place in known]
    rotated = [
        column("dec(a*)", ROTATED, "complex_dec_a", "dec(a*)"),
        column("dec(x)", ROTATED, "complex_dec_x", "dec(x)"),
        column("optimised with key", ROTATED, None, "optimised with key"),
        Column("mean image", ROTATED, _mean_image, beside=True),
    ]
    plain = [column(label, label, key, "dec(x)") for label, key in (PLAIN | NOISY).items()]
    note = (
        "Ours: RMSE per image, pixels in [0, 1], and in brackets the PSNR in dB; so, it is "
        "thought, is the paper's RMSE. 2021: mean absolute error of normalised pixels, another "
        "unit. optimised with key: this project's attack, on fewer images, since it searches for "
        "each. (quick): of --budget quick."
    )
    title = "Reconstruction error, {} (smaller: less private)"
    return [
        page.table(title.format("rotated features"), places, rotated, note),
        page.table(title.format("features without rotation, dec(x)"), places, plain, note),
    ]


def _rmse(name: str) -> Callable[[Runs], str | None]:
    def value(runs: Runs) -> str | None:
        rmse, psnr = (runs.values(name, measure) for measure in ("rmse", "psnr"))
        if not rmse:
            return None
        rows = [rows[name] for rows in runs.rows if name in rows]
        shown = mean_std(rmse, 3) + (f" ({statistics.mean(psnr):.1f})" if psnr else "")
        return shown + _quick(rows)

    return value


def _mean_image(runs: Runs) -> str | None:
    rmse, psnr = (runs.values("inversion dec(x)", m, "floor") for m in ("rmse", "psnr"))
    if not rmse:
        return None
    return f"{rmse[0]:.3f}" + (f" ({psnr[0]:.1f})" if psnr else "")


def _properties(page: Page, published: list[dict[str, Any]]) -> Table:
    note = (
        "The paper's numbers were not recovered. Features a*: of additional, the released ones. "
        "CelebA: the mean error over the 10 hidden attributes. Blind guess: the best answer of one "
        "who knows the network's label."
    )
    lines: list[tuple[str, ...]] = []
    for place in PROPERTY_ROWS:
        for name, attack in (PROPERTIES | OWN_PROPERTIES).items():
            columns = _property_columns(place, name, attack, published)
            table = page.table("", [place], columns, "")
            shown = [line for line in table.rows if name in PROPERTIES or "[" in line[2]]
            lines += [(*line[:3], attack, *line[3:]) for line in shown]
    head = (*table.head[:3], "attack", *table.head[3:])
    title = "Error of the inferred hidden property (smaller: less private)"
    return Table(title, head, lines, "\n".join([note, *page.short.notes(lines)]))


def _property_columns(
    place: Place, name: str, attack: str, published: list[dict[str, Any]]
) -> list[Column]:
    def value(runs: Runs) -> str | None:
        values = runs.values(name, "error")
        return mean_std(values, 3) if values else None

    def blind(runs: Runs) -> str | None:
        errors = [rows[name]["metrics"]["error"] for rows in runs.rows if name in rows]
        return f"{ranking.blind(errors[0]):.3f}" if errors else None

    def reproduced(key: str) -> tuple[dict[Place, str]]:
        here = [row[key] for row in published if row["attack"] == attack]
        return ({place: f"{here[0]:.3f}"} if here and place == PROPERTY_ROWS[0] else {},)

    return [
        Column("additional: 2021 / ours", "additional", value, reproduced("additional_layers")),
        Column("complex: 2021 / ours", ROTATED, value, reproduced("complex")),
        Column("blind guess", ROTATED, blind, beside=True),
    ]


def _further(rest: Sequence[Runs], short: Abbreviations) -> Table:
    """Runs without a place in the tables before: what each reaches, and what attacks reach."""
    lines = [
        (
            runs.network, short.data(runs), short.budget(runs), runs.released,
            f"{runs.task_error(2)} [{runs.number}]",
            _reached(runs, "angle") if runs.config.net.parts > 1 else "no key",
            _reached(runs, "inversion", "rmse"), _reached(runs, "property"),
        )
        for runs in rest
    ]  # fmt: skip
    head = ("network", "data", "budget", "kind", "task error in %", "angle error",
            "RMSE of the strongest inversion", "property error")  # fmt: skip
    note = "\n".join(short.notes(lines))
    return Table("Further networks and data of this project", head, lines, note)


def _reached(runs: Runs, family: str, measure: str | None = None) -> str:
    values = [numbers["value"] for _, numbers in runs.strongest(family, measure)]
    return f"{mean_std(values, 3)} [{runs.number}]" if values else NOT_RUN


def _commands(ours: Sequence[Runs]) -> Table:
    """How each run was made: its command, seeds, time and device."""
    lines = []
    for runs in ours:
        tasks = [rows["task"] for rows in runs.rows]
        lines.append((
            f"[{runs.number}]",
            command(runs.config, leave_out=("output_dir", "seed", "resume", "overwrite")),
            ", ".join(map(str, sorted(runs.seeds))),
            runs.task_error(2),
            duration(statistics.mean(row["seconds"] for row in tasks)),
            ", ".join(sorted({row["device"] for row in tasks})),
        ))  # fmt: skip
    head = ("", "command", "seeds", "error in %", "time", "device")
    return Table("Runs (add --seed and --output-dir)", head, lines)
