"""The worst case over a family of attacks: on each image the strongest, over images that all saw.

Attacks that search for each image see fewer of them than the others. A mean of minima over all
images would be that of the weaker attacks alone on most, and so weaker than the strongest attack.
As in AutoAttack (Croce and Hein 2020), every attack counts on one set of images.
"""

from __future__ import annotations

import csv
import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from complexnn import metrics
from complexnn.runs import checkpoint, results

log = logging.getLogger("complexnn")
NAME = "inversion worst case"
# Marks the rows that were made so; those without it averaged over images that few attacks saw.
RULE = "images that every attack saw"
MEASURES = {"rmse": min, "psnr": max, "ssim": max}  # and what the strongest attack has of them

PerImage = dict[int, dict[str, float]]


def of_the_old_rule(row: dict[str, Any]) -> bool:
    """Whether a row averages over images that few attacks saw: it belongs in no table."""
    return row["name"] == NAME and row.get("rule") != RULE


def slug(name: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^a-z0-9*]+", "-", name.lower()).strip("-").replace("*", "star")


def table_path(folder: Path, name: str) -> Path:
    """Where the numbers per image of an attack are kept."""
    return folder / "examples" / f"{slug(name)}.csv"


def write_table(path: Path, table: dict[str, Tensor], images: list[int] | None = None) -> None:
    """Measures per image, mean over the draws: a line per test image, the first ones or
    ``images``."""
    rows = torch.stack(list(table.values()), dim=1).tolist()
    with checkpoint.replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *table])
        for image, row in zip(images or range(len(rows)), rows, strict=True):
            writer.writerow([image, *(f"{value:.9g}" for value in row)])


def read_table(path: Path) -> PerImage:
    """The measures of :data:`MEASURES` of each image, and with which images it shared a group."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    kept = (*MEASURES, "group")
    return {int(line["image"]): {k: float(line[k]) for k in kept if k in line} for line in lines}


def common(tables: list[PerImage]) -> list[int]:
    """The images that every table has."""
    return sorted(set.intersection(*(set(table) for table in tables)))


def strongest(tables: list[PerImage], images: list[int]) -> dict[str, Tensor]:
    """The best value of each measure, image by image."""
    return {
        name: torch.tensor(
            [best(table[i][name] for table in tables) for i in images], dtype=torch.float64
        )
        for name, best in MEASURES.items()
    }


def _tables(folder: Path, rows: list[dict[str, Any]]) -> list[PerImage] | None:
    """The tables of a family's rows, as many images in each as its row says; else None."""
    tables = []
    for row in rows:
        path = table_path(folder, row["name"])
        tables.append(read_table(path) if path.is_file() else {})
        if len(tables[-1]) != row["images"]:  # published runs hold rows, not every image
            log.info("no worst case: %s does not hold the %d images of %s", path, row["images"],
                     row["name"])  # fmt: skip
            return None
    return tables


def _family(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [r for r in rows.values() if r.get("family") == "inversion" and r["name"] != NAME]


def append(
    folder: Path,
    rows: dict[str, dict[str, Any]],
    control: Path | None,
    beside: dict[str, dict[str, Any]],
) -> dict[str, Any] | None:
    """Append the row of the worst case over the inversions among ``rows``, which were made into
    ``folder``; ``beside``, made into ``control``, are judged by the same rule on the same images.

    Blind answers are those of the attack that saw these images only. None, and nothing written,
    without tables of every attack, or if the row is there already.
    """
    family = _family(rows)
    tables = _tables(folder, family)
    if not tables:
        return None
    images = common(tables)
    if not images:
        log.info("no worst case: no image was seen by every attack")
        return None
    narrowest = min(family, key=lambda row: row["images"])
    same = narrowest["images"] == len(images)
    best, first = strongest(tables, images), tables[family.index(narrowest)]
    groups = torch.tensor([first[i].get("group", i) for i in images])
    without = _beside(control, beside, images)
    measured = {}
    for name, values in best.items():
        low, high = metrics.mean_interval(values, groups=groups)
        measured[name] = {"value": values.mean().item(), "low": low, "high": high}
        for blind in ("floor", "blend"):
            if same and narrowest["metrics"][name].get(blind) is not None:
                measured[name][blind] = narrowest["metrics"][name][blind]
        measured[name]["control"] = without.get(name)
    row = {
        **narrowest, "name": NAME, "metrics": measured, "flags": [], "images": len(images),
        "rule": RULE, "attacks": [r["name"] for r in family], "seconds": 0.0,
    }  # fmt: skip
    row = json.loads(json.dumps(row))  # as it is read again
    if row in results.read_rows(folder / "results.jsonl"):
        return None
    write_table(table_path(folder, NAME), best, images)
    results.append_row(folder / "results.jsonl", row)
    return row


def _beside(
    control: Path | None, beside: dict[str, dict[str, Any]], images: list[int]
) -> dict[str, float]:
    """The worst case of an unprotected network on the same images; nothing if one is missing."""
    family = _family(beside)
    tables = _tables(control, family) if control is not None and family else None
    if not tables or not set(images) <= set(common(tables)):
        return {}
    return {name: values.mean().item() for name, values in strongest(tables, images).items()}
