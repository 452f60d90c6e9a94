"""Rows as train.py and attack.py write them, made by hand."""

import json

from complexnn.config import DataConfig, NetConfig, TrainConfig
from complexnn.config_io import to_dict

CIFAR = DataConfig(dataset="cifar10")


def numbers(value, width=0.002, **beside):
    return {"value": value, "low": value - width, "high": value + width, **beside}


def rows_of(
    folder, *, net=None, data=CIFAR, error=0.09, attacks=(), about=None, budget="standard",
    device="cpu, 1 thread", **settings,
):  # fmt: skip
    """A finished run with attacks on it, each a name and its metrics."""
    config = TrainConfig(net=NetConfig(**(net or {})), data=data, **settings)
    made = {"victim": str(folder), "seconds": 60.0, "device": device}
    task = {
        "name": "task",
        "metrics": {"error": numbers(error, chance=0.9)},
        "config": to_dict(config),
    }
    rows = [task | made | ({} if about is None else {"data": about})]
    for name, measured in attacks:
        row = {"name": name, "family": name.split()[0], "metrics": measured, "images": 2000}
        rows.append(row | {"draws": 5, "flags": [], "config": {"budget": budget}} | made)
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "results.jsonl").write_text(text, encoding="utf-8")


def angle(value, name="ica"):
    return f"angle {name}", {"angle_error": numbers(value, chance=1.5708)}


def release(value, share):
    return "release", {"angle_error": numbers(value, chance=1.5708), "share": numbers(share)}


def inversion(rmse, psnr, name="dec(x)", top1=0.9):
    beside = {"floor": 12.0, "control": 30.0}
    return f"inversion {name}", {
        "rmse": numbers(rmse, floor=0.25), "psnr": numbers(psnr, **beside),
        "top1": numbers(top1, chance=0.001),
    }  # fmt: skip


def hidden(error, name="features", control=0.2):
    beside = {"chance": 0.99, "given_label": 0.8, "control": control}
    return f"property {name}", {"error": numbers(error, **beside)}


def find(table, *cells, at=0):
    """A row by its first cells, as a dictionary; runs of spaces count as one."""
    found = [row for row in table.rows if row[: len(cells)] == cells]
    return {head: " ".join(cell.split()) for head, cell in zip(table.head, found[at], strict=True)}
