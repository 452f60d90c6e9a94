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

from scipy import special

from complexnn import metrics
from complexnn.attacks import worst
from complexnn.attacks.roster import ROSTER, applicable
from complexnn.config import InputError, NetConfig
from complexnn.config_io import from_dict
from complexnn.runs import results
from complexnn.runs.checkpoint import replacing, sha256
from complexnn.runs.tables import (
    Table,
    page,
    percent,
)

Rows = dict[str, dict[str, Any]]
Errors = Sequence[Mapping[str, float]]  # task errors with their intervals, one for each seed

# The measure that a family is judged by, and whether small values mean a strong attack.
MEASURE = {
    "angle": ("angle_error", True),
    "span": ("top1", False),
    "release": ("angle_error", True),
    "intersection": ("angle_error", True),
    "inversion": ("psnr", False),
    "property": ("error", True),
}
UNITS = {
    "angle": (1, "rad"),
    "span": (100, "%"),
    "release": (1, "rad"),
    "intersection": (1, "rad"),
    "inversion": (1, "dB"),
    "property": (100, "%"),
}
SMALL = {"angle_error", "error", "rmse", "lpips"}  # measures of which less is a stronger attack
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


def _family(rows: Rows, family: str, measure: str) -> list[dict[str, Any]]:
    """The rows of a family that hold a measure, without a worst case of the old rule."""
    return [
        row
        for row in rows.values()
        if row.get("family") == family
        and measure in row["metrics"]
        and not worst.of_the_old_rule(row)
    ]


def own_images(row: dict[str, Any]) -> tuple[Any, Any]:
    """Which images the attacker had, and how many: nothing said, those of the victim's training."""
    return row["config"].get("auxiliary"), row["config"].get("auxiliary_limit")


def queries(rows: Rows) -> int:
    """Queries that share a key in the network that the rows belong to."""
    task = rows.get("task")
    return 1 if task is None else from_dict(NetConfig, task["config"]["net"]).queries


def fair(row: dict[str, Any], measure: str, sharing: int = 1) -> dict[str, Any]:
    """The numbers of a measure, a share's with Wilson's interval, and what they rest on: ``units``
    that stand or fall alone, which are the row's ``groups`` or, in rows that do not tell, its
    images / ``sharing``, the images under a key."""
    numbers = dict(row["metrics"][measure])
    numbers |= {"row": row, "measure": measure}
    numbers["units"] = row.get("groups", max(1, row["images"] // sharing))
    if measure in metrics.SHARES and "groups" not in row:
        ends = metrics.share_interval(numbers["value"], row["images"])
        numbers["low"], numbers["high"] = ends
    return numbers


def cautious(numbers: dict[str, Any]) -> dict[str, Any]:
    """The same with the interval that a verdict may rest on.

    Rows that tell their groups have intervals over groups. Elsewhere images that share a key may
    stand or fall together: a share gets Wilson's interval at as many trials as there are units; the
    interval of a mean is widened by the square root of images to a unit, and by Student's t.
    """
    row, units, value = numbers["row"], numbers["units"], numbers["value"]
    if "groups" in row:
        return numbers
    if numbers["measure"] in metrics.SHARES:
        low, high = metrics.share_interval(value, units)
    elif units == 1:
        low, high = -math.inf, math.inf
    else:
        wider = math.sqrt(row["images"] / units) * special.stdtrit(units - 1, 0.975) / 1.96
        low, high = (value + wider * (numbers[end] - value) for end in ("low", "high"))
    return numbers | {"low": low, "high": high}


def blind(numbers: Mapping[str, Any]) -> float:
    """What is reached without what was released: chance, or the mean image. Of a property the
    victim's label tells something, so the blind answer is the better of the two."""
    known = [numbers[k] for k in ("chance", "given_label") if numbers.get(k) is not None]
    return min(known) if known else numbers.get("floor", 0.0)


def _best(found: list[dict[str, Any]], measure: str, sharing: int) -> dict[str, Any] | None:
    """The numbers of the strongest of these rows.

    What counts is what an attack reaches beyond its blind answer, which is better where the truth
    chooses among several. Rows on as many images were judged on the same ones, the first of a fixed
    order: the mean decides. Between different images it is what an attack reaches at least, by its
    interval: no attack wins by the images that it happened to get.
    """
    sign, end = (-1, "high") if measure in SMALL else (1, "low")
    same: dict[int, dict[str, Any]] = {}
    for row in found:
        numbers = fair(row, measure, sharing)
        known = same.setdefault(row["images"], numbers)
        beyond = [n["value"] - blind(n) for n in (numbers, known)]
        if sign * (beyond[0] - beyond[1]) > 0:
            same[row["images"]] = numbers
    ahead = {images: sign * (n[end] - blind(n)) for images, n in same.items()}
    return same[max(ahead, key=ahead.__getitem__)] if ahead else None


def strongest(
    rows: Rows, family: str, measure: str | None = None
) -> tuple[str, dict[str, Any]] | None:
    """The strongest attack of a family: its name and the numbers of the family's measure, or of
    another one, as :func:`fair` gives them.

    The worst case is none of them: nobody can choose the best attack for each image without
    knowing the image.
    """
    measure = measure or MEASURE[family][0]
    found = [row for row in _family(rows, family, measure) if row["name"] != worst.NAME]
    best = _best(found, measure, queries(rows))
    return None if best is None else (best["row"]["name"].removeprefix(f"{family} "), best)


# ------------------------------------------------------------------------------------- verdicts


def angle_verdict(rows: Rows) -> tuple[str, str]:
    """Fails: the strongest attack's error is below half of blind guessing, or one batch suffices.
    Withstood: above nine tenths of it. Weakened: between, and below blind guessing."""
    found, broken = strongest(rows, "angle"), one_batch(rows)
    if found is None:
        return (FAILS, broken) if broken else (UNDECIDED, "no key was attacked")
    name, numbers = found[0], cautious(found[1])
    chance = numbers["chance"]
    why = f"{numbers['value']:.3f} rad by {name}, blind guessing {chance:.3f}"
    if broken:
        return FAILS, f"{broken}; group by group {why}"
    if numbers["high"] < 0.5 * chance:
        return FAILS, why
    if numbers["low"] > 0.9 * chance:
        return _withstood(numbers, why)
    return (WEAKENED, why) if numbers["high"] < chance else (UNDECIDED, why + TOO_FEW)


TOO_FEW = "; too few images to tell it from blind guessing"


def _withstood(numbers: Mapping[str, Any], why: str) -> tuple[str, str]:
    """Withstood, if what was judged is enough to say so."""
    if numbers["units"] < metrics.LEAST_GROUPS:
        least = metrics.LEAST_GROUPS
        return UNDECIDED, f"{why}; judged on {numbers['units']} images or groups, {least} needed"
    return WITHSTOOD, why


def one_batch(rows: Rows) -> str | None:
    """What the attack on all groups of a release found, if it found the directions of queries: its
    error, with groups that it could not solve at blind guessing, is below half of that."""
    found = strongest(rows, "release")
    if found is None or cautious(found[1])["high"] >= 0.5 * found[1]["chance"]:
        return None
    name, numbers = found
    share = numbers["row"]["metrics"].get("share")
    told = "" if share is None else f" in {100 * share['value']:.1f} % of the groups"
    return (
        f"one batch suffices: {numbers['value']:.2g} rad by {name}{told}, "
        f"blind guessing {numbers['chance']:.3f}"
    )


def input_verdict(rows: Rows) -> tuple[str, str]:
    """Of PSNR above the mean image, what is left of an unprotected network's; and identification.

    Fails: one batch gives directions away, more than half is left, or some attack identifies images
    ten times as often as chance. Withstood: less than 1 dB is left and identification is below
    three times chance. Weakened: more is left, or found more often than by chance. Undecided: the
    same attacks do not reach 3 dB on an unprotected network, or the images are too few to tell.
    """
    found, seen = strongest(rows, "inversion"), identified(rows)
    if broken := one_batch(rows):
        return FAILS, broken + ("" if found is None else f"; group by group {_gap(found)}")
    if found is None and seen is None:
        return UNDECIDED, "no inversion was run"
    told = ""
    if seen is not None:
        told = f"; {percent(seen)} % identified, chance {100 * seen['chance']:.1f} %"
        seen = cautious(seen)
    if seen is not None and seen["low"] > 10 * seen["chance"]:
        gap = "" if found is None else _gap(found)
        return FAILS, f"{gap}{told}".removeprefix("; ")
    if found is None:
        return UNDECIDED, f"no inversion was run{told}"
    numbers = cautious(found[1])
    if numbers.get("control") is None:
        return UNDECIDED, f"{_gap(found)}{told}; no positive control (--control)"
    room = numbers["control"] - numbers["floor"]
    if room < VALID_PSNR:
        return UNDECIDED, f"attack invalid: only {room:.1f} dB on the unprotected network"
    why = f"{_gap(found)}, {room:.1f} dB without protection{told}"
    low, high = (numbers[end] - numbers["floor"] for end in ("low", "high"))
    if low > 0.5 * room:
        return FAILS, why
    recognised = seen is not None and seen["low"] > seen["chance"]
    quiet = seen is None or seen["high"] < 3 * seen["chance"]
    if high < 1 and quiet:
        return _withstood(numbers, why)
    if recognised or (low > 0 and high >= 1):
        return WEAKENED, why
    return UNDECIDED, why + TOO_FEW


def identified(rows: Rows) -> dict[str, Any] | None:
    """How often the attack that identifies most finds the input among the candidates."""
    found = [row for family in ("span", "inversion") for row in _family(rows, family, "top1")]
    return _best(found, "top1", queries(rows))


def _gap(found: tuple[str, dict[str, Any]]) -> str:
    name, numbers = found
    return f"{numbers['value'] - numbers['floor']:.1f} dB above the mean image by {name}"


def property_verdict(rows: Rows) -> tuple[str, str]:
    """Of the error below blind guessing (with the victim's label known), what is left of an
    unprotected network's. Fails: more than half. Withstood: less than a tenth. Weakened: between,
    and below blind guessing."""
    found = strongest(rows, "property")
    if found is None:
        return UNDECIDED, "no hidden property, or none was attacked"
    name, numbers = found[0], cautious(found[1])
    start = blind(numbers)
    why = f"{100 * numbers['value']:.1f} % error by {name}, blind {100 * start:.1f} %"
    if numbers.get("control") is None:
        return UNDECIDED, f"{why}; no positive control (--control)"
    room = start - numbers["control"]
    why += f", {100 * numbers['control']:.1f} % without protection"
    if room < VALID_ERROR:
        return UNDECIDED, f"{why}: attack invalid, it fails there, too"
    if start - numbers["high"] > 0.5 * room:
        return FAILS, why
    if start - numbers["low"] < 0.1 * room:
        return _withstood(numbers, why)
    return (WEAKENED, why) if numbers["high"] < start else (UNDECIDED, why + TOO_FEW)


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
FAMILIES = {
    "angle": ("angle", "release"),
    "input": ("inversion", "span", "release"),
    "property": ("property",),
}


def judge(claim: str, rows: Rows) -> tuple[str, str]:
    """A claim's verdict and what it rests on, by the rules above.

    One strong attack breaks a claim; to have withstood, or to be weakened only, takes every attack
    that there is for such a network, as it is now.
    """
    verdict, why = CLAIMS[claim](rows)
    if verdict in (WITHSTOOD, WEAKENED) and (missing := _not_run(rows, FAMILIES[claim])):
        return UNDECIDED, f"{why}; not run: {', '.join(missing)}"
    return verdict, why


def _not_run(rows: Rows, families: tuple[str, ...]) -> list[str]:
    net = from_dict(NetConfig, rows["task"]["config"]["net"])
    every = [a for a in ROSTER if a.family in families and applicable(a, net)]
    return [
        attack.name + (" as it is now" if attack.name in rows else "")
        for attack in every
        if attack.name not in rows or rows[attack.name].get("version", 1) < attack.version
    ]


def marked(claim: str, rows: Rows) -> tuple[str, str]:
    """The same as :func:`judge`, the verdict called a preview if it rests on a quick budget.

    A claim fails by its strongest attacks; everything else rests on every attack.
    """
    verdict, why = judge(claim, rows)
    rests = [row for row in rows.values() if row.get("family") in FAMILIES[claim]]
    if verdict == FAILS:
        best = [strongest(rows, family) for family in FAMILIES[claim]]
        rests = [found[1]["row"] for found in best if found is not None]
    rests = [row for row in rests if verdict == FAILS or own_images(row) == (None, None)]
    if any(row["config"].get("budget") == "quick" for row in rests):
        verdict += " (budget quick: a preview)"
    return verdict, why


def verdicts(rows: Rows) -> list[str]:
    """One line per claim of the paper."""
    found = ((claim, *marked(claim, rows)) for claim in CLAIMS)
    return [f"claim '{claim} hidden': {verdict}: {why}" for claim, verdict, why in found]


# --------------------------------------------------------------------------------------- tables


def attack_table(rows: Rows, title: str) -> Table:
    """Every attack beside blind answers, blends and the control; what looks wrong about it."""
    head = ("attack", "measure", "value", "blind", "blend", "control", "judged on", "flags")
    lines = []
    sharing = queries(rows)
    for family, (main, _) in MEASURE.items():
        cheaper: list[dict[str, Any]] = []
        for row in _family(rows, family, main):
            for measure in dict.fromkeys((main, *_shown(family))):
                if measure in row["metrics"]:
                    flags = []
                    if measure == main:
                        flags = [*row["flags"], *_weaker(row, cheaper, main, sharing)]
                    lines.append(_line(row, measure, fair(row, measure, sharing), flags))
            if row["name"] != worst.NAME:
                cheaper.append(row)
    note = (
        "Value: mean over test images and draws of keys, 95 % interval over images, or over groups "
        "where images share a key. Blind: chance, or the mean image; of a property, the best guess "
        "of one who knows the network's label. Blend: the best constant blend of the images that "
        "share a group. Control: the same attack on a network without rotation."
    )
    return Table(title, head, lines, note)


def _weaker(
    row: dict[str, Any], cheaper: list[dict[str, Any]], measure: str, sharing: int
) -> list[str]:
    """A flag for an attack that is weaker than a cheaper one by 5 % and by its interval, made with
    the same images of the attacker's own: with fewer it may be weaker."""
    ahead = _best([r for r in cheaper if own_images(r) == own_images(row)], measure, sharing)
    if ahead is None or row["name"] == worst.NAME:
        return []
    own = fair(row, measure, sharing)
    mine, theirs = ({k: n[k] - blind(n) for k in ("value", "low", "high")} for n in (own, ahead))
    small = measure in SMALL
    apart = mine["low"] > theirs["high"] if small else mine["high"] < theirs["low"]
    if apart and abs(mine["value"] - theirs["value"]) > 0.05 * abs(ahead["value"]):
        return [f"weaker than the cheaper {ahead['row']['name']}"]
    return []


def _shown(family: str) -> tuple[str, ...]:
    return {
        "span": ("top1_jpeg",),
        "release": ("share",),
        "inversion": ("rmse", "ssim", "lpips", "top1"),
        "property": ("balanced_accuracy", "tpr_at_1_fpr"),
    }.get(family, ())


def _line(
    row: dict[str, Any], measure: str, numbers: dict[str, Any], flags: list[str]
) -> tuple[str, ...]:
    def text(key: str) -> str:
        return "" if numbers.get(key) is None else f"{numbers[key]:.4g}"

    interval = f" [{numbers['low']:.4g}, {numbers['high']:.4g}]" if "low" in numbers else ""
    known = any(numbers.get(k) is not None for k in ("chance", "floor"))
    beside = f"{blind(numbers):.4g}" if known else ""
    judged = f"{row['images']:,} images, {row['draws']} draws"
    return (
        row["name"], measure, f"{numbers['value']:.4g}{interval}", beside,
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
        temporary.write_text(page(title, parts), encoding="utf-8")
    return "\n".join([table.as_text(), task, *lines, f"report: {folder / 'report.html'}"])


# ------------------------------------------------------------------------------------ comparison


def compare(folders: tuple[Path, ...]) -> Table:
    """Victims side by side: task error, and the strongest attack of each family."""
    head = ("victim", "task error", "angle error", "identified by span", "angle error, one batch",
            "angle error, sent again", "PSNR", "property error")  # fmt: skip
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
            beside = scale * blind(numbers)
            cells.append(f"{scale * numbers['value']:.3g} {unit} ({beside:.3g}) by {name}")
        lines.append(tuple(cells))
    return Table("Victims side by side", head, lines, "In brackets: blind guess (of a "
                 "property, with the network's label known), or mean image.")  # fmt: skip
