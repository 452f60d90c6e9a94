"""The rules: from the rows about a network to a verdict on each claim of the paper.

They are written down in docs/attacks.md; they look at intervals, not at means, and call a claim
undecided where the attack was never shown to work.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from complexnn import metrics
from complexnn.attacks.roster import ROSTER, applicable
from complexnn.config import NetConfig
from complexnn.config_io import from_dict
from complexnn.report.ranking import (
    Best,
    Numbers,
    Row,
    Rows,
    blind,
    cautious,
    identified,
    own_images,
    strongest,
)
from complexnn.runs.tables import percent

Errors = Sequence[Mapping[str, float]]  # task errors with their intervals, one for each seed
Verdict = tuple[str, str]  # and what it rests on

VALID_PSNR = 3.0  # dB above the mean image that an attack must reach on an unprotected network
VALID_ERROR = 0.05  # error below blind guessing that a property attack must reach there
FAILS, WEAKENED, WITHSTOOD, UNDECIDED = "FAILS", "weakened", "withstood these attacks", "undecided"
HOLDS, PARTLY = "holds", "holds in part"
PREVIEW = " (budget quick: a preview)"
TOO_FEW = "; too few images to tell it from blind guessing"


def angle_verdict(rows: Rows) -> Verdict:
    """Fails: the strongest attack's error is below half of blind guessing, or one batch suffices.
    Withstood: above nine tenths of it. Weakened: between, and below blind guessing."""
    best, broken = strongest(rows, "angle"), one_batch(rows)
    if best is None:
        return (FAILS, broken) if broken else (UNDECIDED, "no key was attacked")
    name, numbers = best[0], cautious(best[1])
    chance = numbers["chance"]
    why = f"{numbers['value']:.3f} rad by {name}, blind guessing {chance:.3f}"
    if broken:
        return FAILS, f"{broken}; group by group {why}"
    if numbers["high"] < 0.5 * chance:
        return FAILS, why
    if numbers["low"] > 0.9 * chance:
        return _withstood(numbers, why)
    return (WEAKENED, why) if numbers["high"] < chance else (UNDECIDED, why + TOO_FEW)


def _withstood(numbers: Numbers, why: str) -> Verdict:
    """Withstood, if what was judged is enough to say so."""
    if numbers["units"] < metrics.LEAST_GROUPS:
        least = metrics.LEAST_GROUPS
        return UNDECIDED, f"{why}; judged on {numbers['units']} images or groups, {least} needed"
    return WITHSTOOD, why


def one_batch(rows: Rows) -> str | None:
    """What the attack on all groups of a release found, if it found the directions of queries: its
    error, with groups that it could not solve at blind guessing, is below half of that."""
    best = strongest(rows, "release")
    if best is None or cautious(best[1])["high"] >= 0.5 * best[1]["chance"]:
        return None
    name, numbers = best
    share = numbers["row"]["metrics"].get("share")
    told = "" if share is None else f" in {100 * share['value']:.1f} % of the groups"
    return (
        f"one batch suffices: {numbers['value']:.2g} rad by {name}{told}, "
        f"blind guessing {numbers['chance']:.3f}"
    )


def input_verdict(rows: Rows) -> Verdict:
    """Of PSNR above the mean image, what is left of an unprotected network's; and identification.

    Fails: one batch gives directions away, more than half is left, or some attack identifies images
    ten times as often as chance. Withstood: less than 1 dB is left and identification is below
    three times chance. Weakened: more is left, or found more often than by chance. Undecided: the
    same attacks do not reach 3 dB on an unprotected network, or the images are too few to tell.
    """
    inversion, share = strongest(rows, "inversion"), identified(rows)
    gap = "" if inversion is None else _gap(inversion)
    if broken := one_batch(rows):
        return FAILS, broken + (f"; group by group {gap}" if gap else "")
    if inversion is None and share is None:
        return UNDECIDED, "no inversion was run"
    shown = ""
    if share is not None:
        shown = f"; {percent(share)} % identified, chance {100 * share['chance']:.1f} %"
        share = cautious(share)
        if share["low"] > 10 * share["chance"]:
            return FAILS, f"{gap}{shown}".removeprefix("; ")
    if inversion is None:
        return UNDECIDED, f"no inversion was run{shown}"
    numbers = cautious(inversion[1])
    if numbers.get("control") is None:
        return UNDECIDED, f"{gap}{shown}; no positive control (--control)"
    room = numbers["control"] - numbers["floor"]
    if room < VALID_PSNR:
        return UNDECIDED, f"attack invalid: only {room:.1f} dB on the unprotected network"
    why = f"{gap}, {room:.1f} dB without protection{shown}"
    low, high = (numbers[end] - numbers["floor"] for end in ("low", "high"))
    if low > 0.5 * room:
        return FAILS, why
    recognised = share is not None and share["low"] > share["chance"]
    if high < 1 and (share is None or share["high"] < 3 * share["chance"]):
        return _withstood(numbers, why)
    if recognised or (low > 0 and high >= 1):
        return WEAKENED, why
    return UNDECIDED, why + TOO_FEW


def _gap(inversion: Best) -> str:
    name, numbers = inversion
    return f"{numbers['value'] - numbers['floor']:.1f} dB above the mean image by {name}"


def property_verdict(rows: Rows) -> Verdict:
    """Of the error below blind guessing (with the victim's label known), what is left of an
    unprotected network's. Fails: more than half. Withstood: less than a tenth. Weakened: between,
    and below blind guessing."""
    best = strongest(rows, "property")
    if best is None:
        return UNDECIDED, "no hidden property, or none was attacked"
    name, numbers = best[0], cautious(best[1])
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


def accuracy_verdict(errors: Mapping[str, Errors]) -> Verdict:
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
    share_kept = kept(errors["additional"], errors["local"], errors["complex"])
    if share_kept is None:
        return UNDECIDED, f"{why}: too little to tell"
    share, low, high = share_kept
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


def decide(claim: str, rows: Rows) -> Verdict:
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


def marked(claim: str, rows: Rows) -> Verdict:
    """The same as :func:`decide`, the verdict called a preview if it rests on a quick budget.

    A claim fails by its strongest attacks; everything else rests on every attack.
    """
    verdict, why = decide(claim, rows)
    if verdict == FAILS:
        every = [strongest(rows, family) for family in FAMILIES[claim]]
        decisive = [best[1]["row"] for best in every if best is not None]
    else:
        decisive = [
            row
            for row in rows.values()
            if row.get("family") in FAMILIES[claim] and own_images(row) == (None, None)
        ]
    return verdict + (PREVIEW if any(map(quick, decisive)) else ""), why


def quick(row: Row) -> bool:
    """Whether an attack was made with the budget that is good for a preview only."""
    return row["config"].get("budget") == "quick"
