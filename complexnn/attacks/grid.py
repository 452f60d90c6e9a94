"""A picture of what inversions made of test images that were drawn at random."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from complexnn import metrics
from complexnn.attacks import roster, scoring
from complexnn.attacks.fitting import together
from complexnn.attacks.roster import ROSTER
from complexnn.attacks.target import Target
from complexnn.attacks.trained import NotTrained
from complexnn.runs.pictures import keep_pixels, save_grid

PICTURES = 10  # columns of the grid


def draw(target: Target, control: Target | None) -> None:
    """A grid of random test images: what went in, and what each attack made of it that has its
    networks; none is trained for a picture."""
    seed, dim = target.config.seed, together(target.attacker.victim)
    generator = torch.Generator().manual_seed(seed)
    count = min(-(-max(PICTURES, 2 * dim) // dim) * dim, len(target.test))
    chosen = torch.randperm(len(target.test), generator=generator)[:count]
    inputs, made = _made(target, chosen)
    # On each image the best, as the worst case takes it.
    errors = torch.stack([metrics.rmse(images, inputs) for images in made.values()])
    picked = torch.stack(list(made.values()))[errors.argmin(dim=0), torch.arange(len(chosen))]
    rows = {"input": inputs, "worst case": picked, **made}
    if control is not None:
        _, beside = _made(control, chosen, only="inversion dec(x)")
        rows |= {f"{name} (control)": images for name, images in beside.items()}
    grid = {name: images[:PICTURES] for name, images in rows.items()}
    examples = target.folder / "examples"
    keep_pixels(examples / "inversion.safetensors", grid, target.victim_hash)
    title = f"{min(PICTURES, len(chosen))} test images drawn at random with seed {seed}"
    save_grid(examples / "inversion.png", grid, title)


def _made(
    target: Target, chosen: Tensor, *, only: str | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The chosen images as they were sent, and what each inversion, or one, made of them."""
    target.attacker.networks.may_train = False
    user = dataclasses.replace(target.user, images=target.test.subset(chosen))
    inputs, made = None, {}
    for attack in ROSTER:
        if attack.family != "inversion" or only not in (None, attack.name):
            continue
        if not roster.applicable(attack, target.attacker.victim):
            continue
        times = target.config.resources.repeats
        observation, truth = user.sends_whole(0, len(chosen), again=attack.again, times=times)
        inputs = truth.batch.images.cpu() if inputs is None else inputs
        try:
            answer = attack.answer(target.attacker, observation)
        except NotTrained:
            continue
        ordered = scoring.order_by_direction_or_image(answer, truth).detach().cpu()
        made[attack.name.removeprefix("inversion ")] = ordered
    return inputs, made
