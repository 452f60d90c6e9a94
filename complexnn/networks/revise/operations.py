"""What runs in the revised network beside the layers of :mod:`complexnn.rotation`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from complexnn.networks.revise.call import RevisionError
from complexnn.rotation import functional as cF
from complexnn.rotation import layers


class PerPart(nn.Module):
    """A linear layer of an ordinary network, applied to every part."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        name = type(layer).__name__
        digits = [int(d) for d in "123" if f"{d}d" in name]  # axes of positions of Conv2d, ...
        self.positions = 2 if isinstance(layer, nn.PixelShuffle) else next(iter(digits), None)

    def forward(self, x: Tensor) -> Tensor:
        # With an axis less, torch takes a batch for the channels of one sample.
        if self.positions is not None and x.dim() != 3 + self.positions:
            raise RevisionError(
                f"{type(self.layer).__name__} needs features (B, d, C, ...) with {self.positions} "
                f"axes of positions, got {tuple(x.shape)}"
            )
        return cF.per_part(self.layer, x)


# ----------------------------------------------------- plain axes: parts left out, samples moved


def plain_shape(x: Tensor, place: int) -> list[int]:
    """The shape of the plain tensor that ``x`` stands for, its samples on axis ``place``."""
    sizes = list(x.shape[2:])
    sizes.insert(place, x.shape[0])
    return sizes


def plain_size(x: Tensor, place: int, index: int) -> int:
    return plain_shape(x, place)[index]


def plain_rank(x: Tensor) -> int:
    return x.dim() - 1


def refuse_samples(x: Tensor, place: int, axes: Iterable[int]) -> None:
    """Refuse negative axes that turn out to be that of the samples."""
    rank = x.dim() - 1
    if any((a + rank if a < 0 else a) == place for a in axes):
        raise RevisionError(
            f"goes over the axis of samples of a tensor of {rank} axes; count axes from the front"
        )


def folded(
    function: Callable, before: int, after: int, axes: Iterable[int] = (), *, kept: bool = False
) -> Callable:
    """A function of plain tensors, for features ``(B, d, *)``: parts join the samples meanwhile.

    Args:
        function: moves, cuts or joins axes, and leaves that of the samples alone.
        before: plain axis of the samples in its argument.
        after: the same in its result, or in each of its results.
        axes: those that it works on; a negative one may turn out to hold the samples.
        kept: whether all axes up to that of the samples must stay, as in a reshape, which then
            leaves the samples apart.
    """

    def on_plain(x: Tensor, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, ...]:
        refuse_samples(x, before, axes)
        plain = x.flatten(0, 1).movedim(0, before)
        result = function(plain, *args, **kwargs)

        def unfolded(y: Tensor) -> Tensor:
            apart = y.dim() > after and y.shape[after] == plain.shape[before]
            if kept:
                apart = apart and y.shape[:before] == plain.shape[:before]
            if not apart:
                raise RevisionError(
                    f"a {name} to {tuple(y.shape)} mixes samples; keep them on an axis of their own"
                )
            return y.movedim(after, 0).unflatten(0, x.shape[:2])

        return unfolded(result) if isinstance(result, Tensor) else tuple(map(unfolded, result))

    name = function.__name__
    on_plain.__name__ = on_plain.__qualname__ = f"{name}_of_every_part"
    return on_plain


def reshaped(x: Tensor, sizes: list[int], place: int) -> Tensor:
    """To plain ``sizes``, whose entry ``place`` is the number of samples."""
    sizes = [*sizes[:place], x.shape[0] * x.shape[1], *sizes[place + 1 :]]
    return folded(torch.reshape, place, place, kept=True)(x, sizes)


def beside(constant: Tensor, x: Tensor, place: int) -> Tensor:
    """A stored tensor that is broadcast against the plain form of ``x``, as a feature of one
    part."""
    rank = x.dim() - 1
    sizes = (*[1] * (rank - constant.dim()), *constant.shape)
    if len(sizes) > rank or sizes[place] != 1:
        raise RevisionError(
            f"a stored tensor {tuple(constant.shape)} has an entry per sample, or more than the "
            f"{rank} axes of the feature; make it one for all samples"
        )
    return constant.reshape(sizes).movedim(place, 0).unsqueeze(1)


def scaled_by(x: Tensor, constant: Tensor, place: int) -> Tensor:
    return x * beside(constant, x, place)


def divided_by(x: Tensor, constant: Tensor, place: int) -> Tensor:
    return x / beside(constant, x, place)


def shifted_by(x: Tensor, constant: Tensor, place: int) -> Tensor:
    """For invariants only."""
    return x + beside(constant, x, place)


def product_of(x: Tensor, y: Tensor) -> Tensor:
    """A feature and an invariant, or two invariants, entry by entry."""
    return x * _like(x, y)


def matrix_product(x: Tensor, y: Tensor, of_features: bool) -> Tensor:
    """Of two features, summed over the parts; or of an invariant and either."""
    if min(x.dim(), y.dim()) < 4 or x.dim() != y.dim():
        raise RevisionError(
            f"a matrix product of features with {x.dim() - 1} and {y.dim() - 1} axes takes samples "
            "for a matrix; give both the same number of axes, 3 or more"
        )
    return cF.product(x, y) if of_features else x @ y


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **settings: Any
) -> Tensor:
    if mask is not None and mask.dim() == query.dim():  # an invariant
        mask = mask.squeeze(1)
    elif mask is not None:
        beside(mask, query, 0)  # is one for all samples
    return cF.attention(query, key, value, mask, **settings)


def masked(x: Tensor, mask: Tensor, value: float, place: int) -> Tensor:
    """For invariants only."""
    return x.masked_fill(beside(mask, x, place), value)


def layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None, eps: float | None, centre: bool, place: int
) -> Tensor:
    refuse_samples(x, place, range(-len(shape), 0))
    if list(x.shape[-len(shape) :]) != shape or x.dim() < 2 + len(shape):
        raise RevisionError(f"a norm over {tuple(shape)} got features {tuple(x.shape)}")
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return cF.layer_norm(x, len(shape), weight, eps, centre=centre)


def group_norm(x: Tensor, groups: int | None, weight: Tensor | None, eps: float) -> Tensor:
    """Without ``groups``: every channel alone."""
    return cF.group_norm(x, groups or x.shape[2], weight, eps)


def samples_in_front(x: Tensor, place: int, axes: int) -> Tensor:
    """Features whose samples are on axis ``place``, for a layer on the last ``axes`` axes."""
    refuse_samples(x, place, range(-axes, 0))
    return x


# ------------------------------------------------------------------------------ sums, joints


def sum_of(x: Tensor, y: Tensor) -> Tensor:
    """x + y, of features with the same number of axes: others would be lined up by their last."""
    return x + _like(x, y)


def difference_of(x: Tensor, y: Tensor) -> Tensor:
    return x - _like(x, y)


def _like(x: Tensor, y: Tensor) -> Tensor:
    if x.dim() != y.dim():
        raise RevisionError(
            f"a sum of features with {x.dim() - 1} and {y.dim() - 1} axes lines parts up with "
            "channels; use keepdim=True"
        )
    return y


class Attention(layers.MultiheadAttention):
    """Called and answering as :class:`torch.nn.MultiheadAttention`, without weights."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, None]:
        if query.dim() != 4:
            raise RevisionError(f"attention needs tokens (B, d, T, C), got {tuple(query.shape)}")
        if mask is not None and mask.dim() != 2:
            raise RevisionError(f"a mask {tuple(mask.shape)} has an entry per sample; use (T, T)")
        if mask is not None and mask.dtype == torch.bool:
            mask = ~mask  # nn.MultiheadAttention hides what is True
        return super().forward(query, key, value, mask), None


def concatenated(features: list[Tensor], axis: int) -> Tensor:
    place = axis + features[0].dim() if axis < 0 else axis
    if place < 2:
        raise RevisionError("concatenates along the batch; use dim=1")
    return torch.cat(features, place)


def mean_over(
    x: Tensor, axes: list[int], keep: bool, place: int = 0, total: bool = False
) -> Tensor:
    """The mean over plain axes, or the sum; not over samples."""
    refuse_samples(x, place, axes)
    behind = [a + x.dim() - 1 if a < 0 else a for a in axes]
    moved = [a + 2 if a < place else a + 1 for a in behind]
    return (torch.sum if total else torch.mean)(x, moved, keep)


def padded(x: Tensor, pad: list[int], mode: str) -> Tensor:
    if len(pad) > 2 * (x.dim() - 2):
        raise RevisionError("pads the batch; pad channels and positions")
    return cF.per_part(lambda part: F.pad(part, list(pad), mode), x)
