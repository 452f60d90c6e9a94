"""Which attack is the strongest: the one place where attacks are ranked.

An attack counts by what it reaches beyond a blind answer, in the measure of its family. Rules and
reasons: docs/attacks.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from scipy import special

from complexnn import metrics
from complexnn.attacks import worst
from complexnn.config import NetConfig
from complexnn.config_io import from_dict

Row = dict[str, Any]  # what a run or an attack left
Rows = dict[str, Row]  # the rows about one network, by name
Numbers = dict[str, Any]  # value, low, high of a measure, and what stands beside them
Best = tuple[str, Numbers]  # an attack's name without its family, and its numbers

MEASURE = {
    "angle": "angle_error",
    "span": "top1",
    "release": "angle_error",
    "intersection": "angle_error",
    "inversion": "psnr",
    "property": "error",
}
SMALL = {"angle_error", "error"}  # measures of which less is a stronger attack


def of_family(rows: Rows, family: str, measure: str) -> list[Row]:
    """The rows of a family that hold a measure, without a worst case of the old rule."""
    return [
        row
        for row in rows.values()
        if row.get("family") == family
        and measure in row["metrics"]
        and not worst.of_the_old_rule(row)
    ]


def own_images(row: Row) -> tuple[Any, Any]:
    """Which images the attacker had, and how many: nothing said, those of the victim's training."""
    return row["config"].get("auxiliary"), row["config"].get("auxiliary_limit")


def queries(rows: Rows) -> int:
    """Queries that share a key in the network that the rows belong to."""
    task = rows.get("task")
    return 1 if task is None else from_dict(NetConfig, task["config"]["net"]).queries


def fair(row: Row, measure: str, sharing: int = 1) -> Numbers:
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


def cautious(numbers: Numbers) -> Numbers:
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
    # Rows call the blind answer of images "floor": the name that published rows have.
    return min(known) if known else numbers.get("floor", 0.0)


def best(rows: Iterable[Row], measure: str, sharing: int) -> Numbers | None:
    """The numbers of the strongest of these rows.

    What counts is what an attack reaches beyond its blind answer, which is better where the truth
    chooses among several. Rows on as many images were judged on the same ones, the first of a fixed
    order: the mean decides. Between different images it is what an attack reaches at least, by its
    interval: no attack wins by the images that it happened to get.
    """
    sign, end = (-1, "high") if measure in SMALL else (1, "low")
    by_images: dict[int, Numbers] = {}
    for row in rows:
        numbers = fair(row, measure, sharing)
        ahead = by_images.setdefault(row["images"], numbers)
        beyond = [n["value"] - blind(n) for n in (numbers, ahead)]
        if sign * (beyond[0] - beyond[1]) > 0:
            by_images[row["images"]] = numbers
    return max(by_images.values(), key=lambda n: sign * (n[end] - blind(n)), default=None)


def strongest(rows: Rows, family: str, measure: str | None = None) -> Best | None:
    """The strongest attack of a family, by the family's own measure: its name, and its numbers in
    that measure or in another one, as :func:`fair` gives them. None if none was made.

    The worst case is none of them: nobody can choose the best attack for each image without
    knowing the image.
    """
    own, sharing = MEASURE[family], queries(rows)
    shown = measure or own
    attacks = [
        row
        for row in of_family(rows, family, own)
        if row["name"] != worst.NAME and shown in row["metrics"]
    ]
    numbers = best(attacks, own, sharing)
    if numbers is None:
        return None
    row = numbers["row"]
    return row["name"].removeprefix(f"{family} "), fair(row, shown, sharing)


def identified(rows: Rows) -> Numbers | None:
    """How often the attack that identifies most finds the input among the candidates."""
    attacks = [row for family in ("span", "inversion") for row in of_family(rows, family, "top1")]
    return best(attacks, "top1", queries(rows))
