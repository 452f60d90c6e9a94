r"""White-box inversion: search for images whose features explain what was released.

The encoder is public, so gradients reach the pixels. Two objectives, each per image and with total
variation added: with a direction û, optimised along from a key attack's estimate,
:math:`\|g(I) - \hat u \cdot x\|^2 / \|\hat u \cdot x\|^2`; without any key, one minus the squared
share of g(I) inside the span of the released parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from complexnn.attacks.span import own_shares
from complexnn.rotation import functional as cF
from complexnn.runs.progress import track

TV_WEIGHT = 0.02  # of the total variation beside a misfit in [0, 1]; chosen by hand


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels: ``(B, C, H, W) -> (B,)``."""
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean(dim=(1, 2, 3))
    across = (images[..., :, 1:] - images[..., :, :-1]).abs().mean(dim=(1, 2, 3))
    return down + across


@torch.enable_grad()
def optimise(
    encode: Callable[[Tensor], Tensor],
    released: Tensor,
    starts: Sequence[Tensor],
    directions: Tensor | None,
    *,
    iterations: int,
    lr: float = 0.03,
) -> Tensor:
    """The best images found, judged by the objective, which the attacker sees.

    Args:
        encode: images to features, frozen.
        released: ``(B, d, C', H', W')``, one group for each image that is looked for.
        starts: first guesses, each ``(B, C, H, W)``.
        directions: ``(B, 1, d)`` estimates to improve along with the images; None: without a key.
        iterations: steps of Adam for each start, with a falling rate.
        lr: first rate, in units of pixels; directions move at 0.3 of it. Both chosen by hand.
    """
    best, answer = None, None
    for number, start in enumerate(starts, start=1):
        images = start.detach().clone().clamp(0, 1).requires_grad_()
        free = None if directions is None else directions.detach().clone().requires_grad_()
        optimiser = torch.optim.Adam(
            [{"params": [images], "lr": lr}]
            + ([] if free is None else [{"params": [free], "lr": 0.3 * lr}])
        )
        rates = [group["lr"] for group in optimiser.param_groups]
        for step in track(range(iterations), iterations, f"optimise from start {number}"):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - step / iterations)
            misfit = _misfit(encode(images), released, free)
            loss = (misfit + TV_WEIGHT * total_variation(images)).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                images.clamp_(0, 1)
        with torch.no_grad():
            final = _misfit(encode(images), released, free)
            final = final + TV_WEIGHT * total_variation(images)
            if best is None:
                best, answer = final, images.detach()
            better = final < best
            best = torch.where(better, final, best)
            answer = torch.where(better.view(-1, 1, 1, 1), images.detach(), answer)
    return answer


def _misfit(features: Tensor, released: Tensor, directions: Tensor | None) -> Tensor:
    """Each image's distance from what was released, in [0, about 1]: ``(B,)``."""
    if directions is None:
        return 1 - own_shares(released, features).square()
    target = cF.rotate(released, F.normalize(directions, dim=-1)).squeeze(1)
    distance = (features - target).square().flatten(1).sum(dim=1)
    return distance / target.detach().square().flatten(1).sum(dim=1).clamp(min=1e-12)
