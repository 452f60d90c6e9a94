"""What the victim learns of the classes: the classes themselves, or groups of them that hide them.

A grouping maps each class to its group. Some are built in; a user's is a JSON file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from complexnn.config import DataConfig, InputError
from complexnn.data.spec import Raw, Spec

PARITY = {str(digit): ("even", "odd")[digit % 2] for digit in range(10)}

FASHION_KINDS = {  # in the order of the labels
    "T-shirt": "clothes",
    "Trouser": "clothes",
    "Pullover": "clothes",
    "Dress": "clothes",
    "Coat": "clothes",
    "Sandal": "shoes",
    "Shirt": "clothes",
    "Sneaker": "shoes",
    "Bag": "bag",
    "Ankle boot": "shoes",
}

_ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
_VEHICLES = ("airplane", "automobile", "ship", "truck")
CIFAR10_KINDS = dict.fromkeys(_ANIMALS, "animal") | dict.fromkeys(_VEHICLES, "vehicle")

# The superclasses of CIFAR-100 (Krizhevsky 2009), by torchvision's names.
_SUPERCLASSES = {
    "aquatic mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food containers": "bottle bowl can cup plate",
    "fruit and vegetables": "apple mushroom orange pear sweet_pepper",
    "household electrical devices": "clock keyboard lamp telephone television",
    "household furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large carnivores": "bear leopard lion tiger wolf",
    "large man-made outdoor things": "bridge castle house road skyscraper",
    "large natural outdoor scenes": "cloud forest mountain plain sea",
    "large omnivores and herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium-sized mammals": "fox porcupine possum raccoon skunk",
    "non-insect invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles 1": "bicycle bus motorcycle pickup_truck train",
    "vehicles 2": "lawn_mower rocket streetcar tank tractor",
}
SUPERCLASSES = {c: group for group, names in _SUPERCLASSES.items() for c in names.split()}


@dataclass(frozen=True)
class Labelling:
    """What of the classes or attributes the victim learns, and what stays hidden."""

    labels: tuple[str, ...]
    classes: tuple[str, ...]
    split: Callable[[Tensor], tuple[Tensor, Tensor]]  # what a reader gives -> labels, classes


def labelling(config: DataConfig, spec: Spec, raw: Raw) -> Labelling:
    """What ``config`` asks the victim to learn of a data set.

    Raises:
        InputError: a grouping that is not there, or does not fit the classes.
    """
    if raw.hidden:
        if config.groups is not None:
            raise InputError(f"groups do not apply to the attributes of {config.dataset}")
        shown = [i for i in range(len(raw.classes)) if i not in raw.hidden]
        hidden = list(raw.hidden)
        return Labelling(
            tuple(raw.classes[i] for i in shown), tuple(raw.classes[i] for i in hidden),
            lambda attributes: (attributes[:, shown], attributes[:, hidden]),
        )  # fmt: skip
    if config.groups is None:
        return Labelling(raw.classes, raw.classes, lambda classes: (classes, classes))
    group_of = spec.groups.get(config.groups) or _read_grouping(config, spec)
    _check_grouping(config.groups, group_of, raw.classes)
    labels = tuple(sorted(set(group_of.values())))
    label_of = torch.tensor([labels.index(group_of[name]) for name in raw.classes])
    return Labelling(labels, raw.classes, lambda classes: (label_of[classes], classes))


def _read_grouping(config: DataConfig, spec: Spec) -> dict[str, str]:
    path = Path(config.groups)
    if not path.is_file():
        known = ", ".join(spec.groups) or "none"
        raise InputError(f"no groups file {path}; built-in groupings of {config.dataset}: {known}")
    try:
        group_of = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(group_of, dict) or not all(isinstance(v, str) for v in group_of.values()):
        raise InputError(f'{path} must map class names to group names: {{"cat": "animal", ...}}')
    return group_of


def _check_grouping(name: str, group_of: dict[str, str], classes: tuple[str, ...]) -> None:
    """Refuse a grouping of other classes, or one that leaves nothing to tell apart."""
    missing = [c for c in classes if c not in group_of]
    extra = [c for c in group_of if c not in classes]
    if missing or extra:
        raise InputError(
            f"groups {name} do not fit the classes: without a group: "
            f"{', '.join(missing) or 'none'}; unknown: {', '.join(extra) or 'none'}"
        )
    if len(set(group_of.values())) < 2:
        raise InputError(f"groups {name} put every class into one group; 2 are needed")
