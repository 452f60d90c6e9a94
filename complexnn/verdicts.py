"""From rows of attacks to one table, a page, and a verdict on each claim of the paper.

The rules are written down in docs/attacks.md; they look at intervals, not at means, and call a
claim undecided where the attack was never shown to work.
"""

from __future__ import annotations

import base64
import html
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from complexnn import results
from complexnn.attacks.roster import ROSTER, applicable
from complexnn.checkpoint import replacing, sha256
from complexnn.config import InputError, NetConfig, from_dict
from complexnn.tables import Table, page

Rows = dict[str, dict[str, Any]]
Errors = Sequence[Mapping[str, float]]  # task errors with their intervals, one for each seed

# The measure that a family is judged by, and whether small values mean a strong attack.
MEASURE = {
    "angle": ("angle_error", True),
    "span": ("top1", False),
    "intersection": ("angle_error", True),
    "inversion": ("psnr", False),
    "property": ("error", True),
}
UNITS = {
    "angle": (1, "rad"),
    "span": (100, "%"),
    "intersection": (1, "rad"),
    "inversion": (1, "dB"),
    "property": (100, "%"),
}
VALID_PSNR = 3.0  # dB above the mean image that an attack must reach on an unprotected network
VALID_ERROR = 0.05  # error below blind guessing that a property attack must reach there
FAILS, WEAKENED, WITHSTOOD, UNDECIDED = "FAILS", "weakened", "withstood these attacks", "undecided"
HOLDS, PARTLY = "holds", "holds in part"


def newest(folder: Path, attacks: Path | None = None) -> Rows:
    """The newest row of each name that belongs to the folder's present weights (or, where only
    rows were published, to the last ones that were tested); those of attacks may lie in another
    folder.

    Raises:
        InputError: the folder is no run, or was not attacked.
    """
    rows = results.read_rows(folder / "results.jsonl")
    weights = folder / "model.safetensors"
    tested = [row["victim"] for row in rows if row["name"] == "task"]
    if not weights.is_file() and not tested:
        raise InputError(f"{folder} is no finished run (no model.safetensors)")
    victim = sha256(weights) if weights.is_file() else tested[-1]
    if attacks not in (None, folder):
        rows += results.read_rows(attacks / "results.jsonl")
    found = {row["name"]: row for row in rows if row["victim"] == victim}
    if "task" not in found or len(found) == 1:
        raise InputError(f"{folder} was not attacked: run attack.py all --victim {folder}")
    return found


def _family(rows: Rows, family: str) -> list[dict[str, Any]]:
    measure = MEASURE[family][0]
    return [r for r in rows.values() if r.get("family") == family and measure in r["metrics"]]


def strongest(rows: Rows, family: str) -> tuple[str, dict[str, Any]] | None:
    """The strongest attack of a family: its name and the numbers of the family's measure."""
    measure, small = MEASURE[family]
    found = _family(rows, family)
    if not found:
        return None
    row = (min if small else max)(found, key=lambda r: r["metrics"][measure]["value"])
    return row["name"].removeprefix(f"{family} "), row["metrics"][measure]


# ------------------------------------------------------------------------------------- verdicts


def angle_verdict(rows: Rows) -> tuple[str, str]:
    """Fails: the strongest attack's error is below half of blind guessing. Withstood: above nine
    tenths of it."""
    found = strongest(rows, "angle")
    if found is None:
        return UNDECIDED, "no key was attacked"
    name, numbers = found
    blind = numbers["chance"]
    why = f"{numbers['value']:.3f} rad by {name}, blind guessing {blind:.3f}"
    if numbers["high"] < 0.5 * blind:
        return FAILS, why
    return (WITHSTOOD if numbers["low"] > 0.9 * blind else WEAKENED), why


def input_verdict(rows: Rows) -> tuple[str, str]:
    """Of PSNR above the mean image, what is left of an unprotected network's; and identification.

    Fails: more than half is left, or some attack identifies images ten times as often as chance.
    Withstood: less than 1 dB is left and identification is below three times chance. Undecided:
    the same attacks do not reach 3 dB on an unprotected network.
    """
    found, seen = strongest(rows, "inversion"), identified(rows)
    if found is None and seen is None:
        return UNDECIDED, "no inversion was run"
    told = (
        ""
        if seen is None
        else f"; {100 * seen['value']:.1f} % identified, chance "
        + (f"{100 * seen['chance']:.1f} %")
    )
    if seen is not None and seen["low"] > 10 * seen["chance"]:
        gap = "" if found is None else _gap(found)
        return FAILS, f"{gap}{told}".removeprefix("; ")
    if found is None:
        return UNDECIDED, f"no inversion was run{told}"
    numbers = found[1]
    if numbers.get("control") is None:
        return UNDECIDED, f"{_gap(found)}{told}; no positive control (--control)"
    room = numbers["control"] - numbers["floor"]
    if room < VALID_PSNR:
        return UNDECIDED, f"attack invalid: only {room:.1f} dB on the unprotected network"
    left = numbers["low"] - numbers["floor"]
    why = f"{_gap(found)}, {room:.1f} dB without protection{told}"
    if left > 0.5 * room:
        return FAILS, why
    quiet = seen is None or seen["high"] < 3 * seen["chance"]
    withstood = numbers["high"] - numbers["floor"] < 1 and quiet
    return (WITHSTOOD if withstood else WEAKENED), why


def identified(rows: Rows) -> dict[str, Any] | None:
    """How often the attack that identifies most finds the input among the candidates."""
    found = [
        row["metrics"]["top1"]
        for row in rows.values()
        if row.get("family") in ("span", "inversion") and "top1" in row["metrics"]
    ]
    return max(found, key=lambda numbers: numbers["value"], default=None)


def _gap(found: tuple[str, dict[str, Any]]) -> str:
    name, numbers = found
    return f"{numbers['value'] - numbers['floor']:.1f} dB above the mean image by {name}"


def property_verdict(rows: Rows) -> tuple[str, str]:
    """Of the error below blind guessing (with the victim's label known), what is left of an
    unprotected network's. Fails: more than half. Withstood: the interval reaches blind guessing."""
    found = strongest(rows, "property")
    if found is None:
        return UNDECIDED, "no hidden property, or none was attacked"
    name, numbers = found
    blind = min(numbers["chance"], numbers["given_label"])
    why = f"{100 * numbers['value']:.1f} % error by {name}, blind {100 * blind:.1f} %"
    if numbers.get("control") is None:
        return UNDECIDED, f"{why}; no positive control (--control)"
    room = blind - numbers["control"]
    why += f", {100 * numbers['control']:.1f} % without protection"
    if room < VALID_ERROR:
        return UNDECIDED, f"{why}: attack invalid, it fails there, too"
    if blind - numbers["high"] > 0.5 * room:
        return FAILS, why
    return (WITHSTOOD if numbers["high"] >= blind else WEAKENED), why


def accuracy_verdict(errors: Mapping[str, Errors]) -> tuple[str, str]:
    """What the rotated network keeps of the server's worth.

    ``errors`` are the task errors of the kinds original, additional, local and complex at one
    budget. Worth = error(local) - error(additional): what a network loses whose server does next
    to nothing. Holds: more than nine tenths of it is :func:`kept`. Fails: less than half.
    Undecided: the worth is so small that any network would look as good.
    """
    if missing := {"original", "additional", "local", "complex"} - {
        k for k, v in errors.items() if v
    }:
        return UNDECIDED, f"not trained: {', '.join(sorted(missing))}"
    loss = 100 * (_mean(errors["complex"]) - _mean(errors["original"]))
    worth = _mean(errors["local"]) - _mean(errors["additional"])
    why = f"{loss:+.1f} points of error beside original; the server is worth {100 * worth:.1f}"
    found = kept(errors["additional"], errors["local"], errors["complex"])
    if found is None:
        return UNDECIDED, f"{why}: too little to tell"
    share, low, high = found
    why += f", of which {100 * share:.0f} % [{100 * low:.0f}, {100 * high:.0f}] are kept"
    if low > 0.9:
        return HOLDS, why
    return (FAILS if high < 0.5 else PARTLY), why


def _mean(errors: Errors) -> float:
    return statistics.mean(numbers["value"] for numbers in errors)


def _variance(errors: Errors) -> float:
    """Of the mean over seeds: of the test images, and of the seeds where there are several."""
    count = len(errors)
    images = statistics.mean(((n["high"] - n["low"]) / 3.92) ** 2 for n in errors)
    seeds = statistics.variance(n["value"] for n in errors) if count > 1 else 0.0
    return (images + seeds) / count


def kept(additional: Errors, local: Errors, defended: Errors) -> tuple[float, float, float] | None:
    """The share of the server's worth that a defended network keeps, with its 95 % interval:
    (error(local) - error(defended)) / (error(local) - error(additional)).

    None where the worth is under a point or under three standard errors.
    """
    worth = _mean(local) - _mean(additional)
    if worth < max(0.01, 3 * math.sqrt(_variance(local) + _variance(additional))):
        return None
    share = (_mean(local) - _mean(defended)) / worth
    # Var[(l - c) / (l - a)], to first order.
    spread = _variance(defended) + share**2 * _variance(additional)
    error = math.sqrt(spread + (1 - share) ** 2 * _variance(local)) / worth
    return share, share - 1.96 * error, share + 1.96 * error


CLAIMS = {"angle": angle_verdict, "input": input_verdict, "property": property_verdict}
# The attacks that decide a claim.
FAMILIES = {"angle": ("angle",), "input": ("inversion", "span"), "property": ("property",)}


def judge(claim: str, rows: Rows) -> tuple[str, str]:
    """A claim's verdict and what it rests on, by the rules above.

    One strong attack breaks a claim; to have withstood, or to be weakened only, takes every attack
    that there is for such a network.
    """
    verdict, why = CLAIMS[claim](rows)
    if verdict in (WITHSTOOD, WEAKENED) and (missing := _not_run(rows, FAMILIES[claim])):
        return UNDECIDED, f"{why}; not run: {', '.join(missing)}"
    return verdict, why


def _not_run(rows: Rows, families: tuple[str, ...]) -> list[str]:
    net = from_dict(NetConfig, rows["task"]["config"]["net"])
    every = [a for a in ROSTER if a.family in families and applicable(a, net)]
    return [attack.name for attack in every if attack.name not in rows]


def verdicts(rows: Rows) -> list[str]:
    """One line per claim of the paper."""
    budgets = {r["config"]["budget"] for r in rows.values() if "budget" in r["config"]}
    preview = " (budget quick: a preview)" if budgets == {"quick"} else ""
    lines = []
    for claim in CLAIMS:
        verdict, why = judge(claim, rows)
        lines.append(f"claim '{claim} hidden': {verdict}{preview}: {why}")
    return lines


# --------------------------------------------------------------------------------------- tables


def attack_table(rows: Rows, title: str) -> Table:
    """Every attack beside blind answers, blends and the control; what looks wrong about it."""
    head = ("attack", "measure", "value", "blind", "blend", "control", "judged on", "flags")
    lines = []
    for family, (main, small) in MEASURE.items():
        best = None
        for row in _family(rows, family):
            for measure in dict.fromkeys((main, *_shown(family))):
                numbers = row["metrics"].get(measure)
                if numbers is None:
                    continue
                flags = list(row["flags"]) if measure == main else []
                if measure == main and "worst" not in row["name"]:
                    value = numbers["value"]
                    worse = best is not None and (value > 1.05 * best[0]) is small
                    if worse and abs(value - best[0]) > 0.05 * abs(best[0]):
                        flags.append(f"weaker than the cheaper {best[1]}")
                    if best is None or (value < best[0]) is small:
                        best = (value, row["name"])
                lines.append(_line(row, measure, numbers, flags))
    note = (
        "Value: mean over test images and draws of keys, 95 % interval over images. Blind: chance, "
        "or the mean image. Blend: the best constant blend of the images that share a group. "
        "Control: the same attack on a network without rotation."
    )
    return Table(title, head, lines, note)


def _shown(family: str) -> tuple[str, ...]:
    return {
        "span": ("top1_jpeg",),
        "inversion": ("rmse", "ssim", "lpips", "top1"),
        "property": ("balanced_accuracy", "tpr_at_1_fpr"),
    }.get(family, ())


def _line(
    row: dict[str, Any], measure: str, numbers: dict[str, Any], flags: list[str]
) -> tuple[str, ...]:
    def text(*keys: str) -> str:
        known = [numbers[k] for k in keys if numbers.get(k) is not None]
        return f"{known[0]:.4g}" if known else ""

    interval = f" [{numbers['low']:.4g}, {numbers['high']:.4g}]" if "low" in numbers else ""
    judged = f"{row['images']:,} images, {row['draws']} draws"
    return (
        row["name"], measure, f"{numbers['value']:.4g}{interval}", text("chance", "floor"),
        text("blend"), text("control"), judged, "; ".join(flags),
    )  # fmt: skip


def write_report(folder: Path, victim: Path) -> str:
    """Write ``report.html`` into ``folder``, where the attacks on ``victim`` put their rows;
    return the same as text."""
    rows = newest(victim, folder)
    net = from_dict(NetConfig, rows["task"]["config"]["net"])
    title = f"Attacks on {net.arch} {net.label}"
    table, lines = attack_table(rows, title), verdicts(rows)
    error = rows["task"]["metrics"]["error"]
    task = f"task error {100 * error['value']:.2f} % (chance {100 * error['chance']:.1f} %)"
    parts = ["<ul>", *(f"<li>{html.escape(line)}</li>" for line in lines), "</ul>"]
    parts += [f"<p>{html.escape(task)}</p>", table.as_html()]
    grid = folder / "examples" / "inversion.png"
    if grid.is_file():
        image = base64.b64encode(grid.read_bytes()).decode()
        parts.append(f'<img alt="reconstructions" src="data:image/png;base64,{image}">')
    with replacing(folder / "report.html") as temporary:
        temporary.write_text(page(title, parts))
    return "\n".join([table.as_text(), task, *lines, f"report: {folder / 'report.html'}"])


# ------------------------------------------------------------------------------------ comparison


def compare(folders: tuple[Path, ...]) -> Table:
    """Victims side by side: task error, and the strongest attack of each family."""
    head = ("victim", "task error", "angle error", "identified by span", "angle error, sent again",
            "PSNR", "property error")  # fmt: skip
    lines = []
    for folder in folders:
        rows = newest(folder)
        net = from_dict(NetConfig, rows["task"]["config"]["net"])
        error = rows["task"]["metrics"]["error"]["value"]
        cells = [f"{net.arch} {net.label}", f"{100 * error:.2f} %"]
        for family, (scale, unit) in UNITS.items():
            found = strongest(rows, family)
            if found is None:
                cells.append("not run")
                continue
            name, numbers = found
            blind = scale * numbers.get("chance", numbers.get("floor", 0.0))
            cells.append(f"{scale * numbers['value']:.3g} {unit} ({blind:.3g}) by {name}")
        lines.append(tuple(cells))
    return Table("Victims side by side", head, lines, "In brackets: blind guess, or mean image.")
