"""The attacks' configuration: what is asked of them, and what their attackers may spend."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from complexnn.config import at_least, check_choices, check_numbers, positive

Attack = Literal["angle", "span", "release", "intersection", "inversion", "property", "all"]
BudgetName = Literal["quick", "standard", "thorough"]
OWN = (None, "held-out")  # images of the victim's own data set, as an attacker's


@dataclass(frozen=True)
class Budget:
    """What the attackers of one victim may spend."""

    steps: int  # of training, for each network
    width: int  # channels of the decoders' first level and of the classifiers
    images: int  # test images that attacks are judged on, at most
    slow_images: int  # the same for attacks that search or optimise for each image
    slow_draws: int  # and their draws of keys and counterparts, at most
    iterations: int  # of an optimisation, for each start
    restarts: int  # starts from noise, beside the one from a decoder's answer
    repeats: int  # releases of one image, for an attacker who averages or intersects them


# Each has three to four times the steps of the one before. docs/attacks.md says how long they take,
# and how much an attack gains from more steps.
BUDGETS = {
    "quick": Budget(300, 16, 500, 50, 1, 100, 1, 4),
    "standard": Budget(1000, 24, 2000, 100, 2, 300, 1, 8),
    "thorough": Budget(4000, 32, 10_000, 500, 5, 1000, 3, 16),
}


@dataclass(frozen=True)
class AttackConfig:
    """Attack a trained network: recover its keys, its inputs and their hidden properties.
    ``attack.py compare RUN RUN ...`` puts attacked networks side by side."""

    attack: Positional[Attack]
    """angle, span, release, intersection, inversion, property, or all of them."""
    victim: Path
    """Run folder of the network to attack."""
    control: Path | None = None
    """Run folder of the unprotected network (kind additional): the positive control."""
    only: str | None = None
    """Only the attacks with this in their name, such as ica or dec(x); several as 'ica|dec(x)'."""
    budget: BudgetName = "standard"
    """What the attackers may spend; verdicts need standard. See docs/attacks.md."""
    output_dir: Path | None = None
    """Where rows, pictures and attackers go; None: the victim's folder or, for a victim in
    checkpoints/, its name in runs/published/."""
    data_dir: Path | None = None
    """Where the victim's data set lies now; None: where it was."""
    steps: int | None = None
    """Training steps of each attacker; None: the budget's."""
    capacity: float = 1.0
    """Factor on the widths of all attackers' networks."""
    batch_size: int = 128
    """Images per step."""
    lr: float = 2e-3  # chosen by hand
    """Peak of the one-cycle schedule (AdamW)."""
    draws: int = 5
    """Independent draws of the victim's keys and counterparts on the test images."""
    gallery: int = 1000
    """Candidates among which an image is to be identified."""
    limit_test: int | None = None
    """Judge on this many test images only, drawn with a fixed seed; None: the budget's."""
    auxiliary: str | None = None
    """The attacker's own images; None: those that the victim was trained on. held-out: images of
    the victim's data set that it was not trained on and that no attack is judged on. Or another
    data set's name, or a folder with train/<class>/* and test/<class>/*: then without labels."""
    auxiliary_limit: int | None = None
    """How many images the attacker has; None: all of them."""
    seed: int = 0
    """Seed of the attackers, their batches and all draws."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic in which the attackers' networks are trained; they are judged in fp32."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_numbers(self)
        at_least(self, 1, "draws")
        at_least(self, 2, "batch_size", "gallery")
        at_least(self, 1, "steps")
        at_least(self, 2, "limit_test")
        at_least(self, 10, "auxiliary_limit")  # a tenth of them validate the attacker's networks
        positive(self, "capacity", "lr")

    @property
    def run_dir(self) -> Path:
        return self.output_dir or results_of(self.victim)

    @property
    def has(self) -> str:
        """What distinguishes the attacker's images from all that the victim was trained on, for
        the names of its attacks; empty if nothing does."""
        if self.auxiliary is None and self.auxiliary_limit is None:
            return ""
        whose = Path(self.auxiliary).name if self.auxiliary else "training"
        count = f"{self.auxiliary_limit:,} " if self.auxiliary_limit else ""
        return f", {count}{whose} images"

    @property
    def resources(self) -> Budget:
        """The budget, with what the flags change about it."""
        resources = BUDGETS[self.budget]
        steps, images = self.steps or resources.steps, self.limit_test or resources.images
        slow = min(resources.slow_images, images)
        return dataclasses.replace(resources, steps=steps, images=images, slow_images=slow)


def results_of(victim: Path) -> Path:
    """Where new results about a victim go: into its folder, unless it was published (a folder above
    has a ``MANIFEST.json``), which leaves the repository's own files as they are."""
    for above in victim.absolute().parents:
        if (above / "MANIFEST.json").is_file():
            return Path("runs") / "published" / victim.absolute().relative_to(above)
    return victim
