"""How strong attacks become with more training steps: ``python -m complexnn.report budgets``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from complexnn.attacks import worst
from complexnn.config import InputError
from complexnn.config_attack import AttackConfig
from complexnn.config_io import from_dict
from complexnn.report.notes import NOT_RUN
from complexnn.report.ranking import MEASURE, Row
from complexnn.report.rows import newest, read
from complexnn.runs.tables import Table


class Attack(NamedTuple):
    """An attack on one network, under any budget."""

    name: str
    measure: str
    victim: str  # hash of the weights


class Budget(NamedTuple):
    """What an attacker may spend: how many times as wide a network, for how many steps."""

    capacity: float
    steps: int


def budget_table(folders: Iterable[Path]) -> Table:
    """Each attack's main measure under every budget it was run with, and what the last doubling
    of the steps changed, in the measure and, for angles, in the distance from blind guessing.
    Properties are counted as accuracy, since a doubling says little about a rare error.

    Raises:
        InputError: folders without attacks.
    """
    values, names, chance = _values(folders)
    every = {budget for of_attack in values.values() for budget in of_attack}
    grown = sorted(budget for budget in every if budget.capacity == 1)
    budgets = grown + sorted(every - set(grown))
    lines = []
    for attack, of_attack in values.items():
        cells = [f"{of_attack[b]:.4g}" if b in of_attack else NOT_RUN for b in budgets]
        last = [of_attack[b] for b in grown if b in of_attack][-2:]
        from_chance = [chance[attack] - value for value in last] if attack in chance else []
        on = f" ({names[attack.victim]})" if len(names) > 1 else ""
        lines.append(
            (attack.name + on, attack.measure, *cells, _growth(last), _growth(from_chance))
        )
    steps = [
        f"{b.steps:,} steps" + ("" if b.capacity == 1 else f", {b.capacity:g} times as wide")
        for b in budgets
    ]
    head = ("attack", "measure", *steps, "last doubling of steps", "in distance from chance")
    note = "angle_error: in rad, less is stronger. All other measures: more is stronger."
    return Table("Strength of attacks as their budget grows", head, lines, note)


def _values(
    folders: Iterable[Path],
) -> tuple[dict[Attack, dict[Budget, float]], dict[str, str], dict[Attack, float]]:
    """What each attack reached under each budget; the victims' names; blind guesses of angles."""
    folders = list(folders)
    attacks = [
        row
        for _, row in read(folders)
        if MEASURE.get(row.get("family", "")) in row["metrics"] and not worst.of_the_old_rule(row)
    ]
    if not attacks:
        raise InputError(f"no attacks in or below {', '.join(map(str, folders))}")
    values: dict[Attack, dict[Budget, float]] = defaultdict(dict)
    chance: dict[Attack, float] = {}
    for (attack, budget), row in newest(attacks, by=_place).items():
        numbers = row["metrics"][MEASURE[row["family"]]]
        accuracy = attack.measure == "accuracy"
        values[attack][budget] = 1 - numbers["value"] if accuracy else numbers["value"]
        if attack.measure == "angle_error":
            chance[attack] = numbers["chance"]
    return values, _names(attacks), chance


def _place(row: Row) -> tuple[Attack, Budget]:
    config = from_dict(AttackConfig, row["config"])
    measure = MEASURE[row["family"]]
    attack = Attack(row["name"], "accuracy" if measure == "error" else measure, row["victim"])
    return attack, Budget(config.capacity, config.resources.steps)


def _names(attacks: Iterable[Row]) -> dict[str, str]:
    """The folder's name of each victim; with its parents', if another one is called the same."""
    paths = {row["victim"]: Path(row["config"]["victim"]) for row in attacks}
    names = [path.name for path in paths.values()]
    return {
        victim: path.name if names.count(path.name) == 1 else path.as_posix()
        for victim, path in paths.items()
    }


def _growth(values: list[float]) -> str:
    return f"{100 * (values[1] / values[0] - 1):+.1f} %" if len(values) == 2 else ""
