"""Gate and norm with hand-derived backward passes: the hot spots of the server, in few passes over
memory. Their plain formulas stand in ``functional.py`` and ``layers.py``; tests compare the two.

Automatic differentiation of the formulas takes three to four times as long on a CPU, since it keeps
and re-reads every intermediate, and its gradient of a root is NaN at 0.

Second derivatives are those of the plain formulas. A backward pass that is itself to be
differentiated (``create_graph=True``) goes through :func:`_again`: in the hand-derived steps, the
saved intermediates would count as constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-20  # keeps 0 / 0 at 0 without touching any number that a float32 feature can have


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision widened, for sums of squares; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def exactly(x: Tensor) -> AbstractContextManager[None]:
    """Without autocast, on devices that have it."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Products summed over the parts: ``(B, d, C, *) -> (B, C, *)``."""
    first, *others = zip(x.unbind(dim=1), y.unbind(dim=1), strict=True)
    total = first[0] * first[1]
    for one, other in others:
        total.addcmul_(one, other)
    return total


def _again(plain: Callable[..., Tensor], grad: Tensor, *inputs: Tensor) -> list[Tensor | None]:
    """The gradients of a plain formula, which can be differentiated again: one per input, None for
    those that need none."""
    own = [x.view_as(x) for x in inputs]  # an input that is passed twice has two gradients
    wanted = [x for x in own if x.requires_grad]
    found = iter(torch.autograd.grad(plain(*own), wanted, grad, create_graph=True))
    return [next(found) if x.requires_grad else None for x in own]


def _refuse_processes() -> None:
    if processes() > 1:
        raise RuntimeError(
            "second derivatives (create_graph=True) through a norm in train mode are taken in one "
            "process only: the moments that processes share have none"
        )


def _plain_gate(x: Tensor, c: float | None) -> Tensor:
    """What :class:`Gate` computes."""
    length = Modulus.apply(at_least_float32(x))
    axes = tuple(range(3, x.dim())) or (2,)
    bound = length.mean(axes, keepdim=True) if c is None else torch.full_like(length, c)
    ratio = length / bound.masked_fill(bound < TINY, math.inf)  # 0 / 0 is 0
    return x * torch.where(ratio < 1, ratio, 1).to(x.dtype)


def _plain_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """What :class:`PowerNorm` computes without shortcut, in one process."""
    _refuse_processes()
    axes = tuple(axis for axis in range(x.dim()) if axis != 2)
    power = at_least_float32(x).square().mean(axes)
    return scaled(x, weight * torch.rsqrt(power + eps))


class Modulus(torch.autograd.Function):
    r""":math:`\|x\|` over the parts, ``(B, d, C, *) -> (B, 1, C, *)``; gradient 0 at 0, all
    higher derivatives, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = _dot(x, x).sqrt_().unsqueeze(1)
        ctx.save_for_backward(x, length)
        return length

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, length = ctx.saved_tensors
        if torch.is_grad_enabled():  # x and length are input and output: autograd knows them
            return x * (grad / length.masked_fill(length < TINY, math.inf))
        return x * (grad / length.clamp(min=TINY))


class Gate(torch.autograd.Function):
    r""":math:`x \min(\|x\| / c, 1)` with a number c, or with None: each channel's mean modulus."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, c: float | None) -> Tensor:
        wide = at_least_float32(x)
        length = _dot(wide, wide).sqrt_()
        ctx.axes = () if c is not None else tuple(range(2, length.dim())) or (1,)
        bound = c if c is not None else length.mean(ctx.axes, keepdim=True).clamp(min=TINY)
        ratio = length.div_(bound)
        factor = ratio.clamp(max=1)
        ctx.save_for_backward(x, ratio, factor, *([bound] if c is None else []))
        ctx.c = c
        return x * factor.to(x.dtype).unsqueeze(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, ratio, factor, *rest = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_again(lambda x: _plain_gate(x, ctx.c), grad, x), None
        bound = rest[0] if rest else ctx.c
        wide = at_least_float32(grad)
        # The factor's slope counts where the ratio is below 1: what threshold_backward lets
        # through, in one fast pass where a masked fill takes twenty times as long.
        open_ = torch.ops.aten.threshold_backward(_dot(wide, at_least_float32(x)), -ratio, -1.0)
        slope = open_ / bound
        if rest:
            count = ratio[0].numel() // ratio.shape[1] if ratio.dim() > 2 else ratio.shape[1]
            slope = slope - (slope * ratio).sum(ctx.axes, keepdim=True) / count
        along = slope.div_((ratio * bound).clamp_(min=TINY)).to(x.dtype)
        through = grad * factor.to(grad.dtype).unsqueeze(1)
        return through.addcmul_(x, along.unsqueeze(1)), None


def gated(x: Tensor, c: float, scale: Tensor | None = None) -> Tensor:
    """The gate, with channels scaled before it, where nothing is kept for a backward pass."""
    wide = at_least_float32(x)
    factor = _dot(wide, wide).sqrt_()
    if scale is None:
        factor.clamp_(max=c).mul_(1 / c)
    else:
        open_from = _along((c / scale.abs()).to(factor.dtype), factor)
        torch.minimum(factor, open_from, out=factor)
        factor.mul_(_along(scale * scale.abs() / c, factor))
    return x * factor.to(x.dtype).unsqueeze(1)


class PowerNorm(torch.autograd.Function):
    r""":math:`w_k x_k / \sqrt{E[x_k^2] + \epsilon}`, the mean over samples, parts, positions and
    processes, plus ``shortcut`` if there is one; returns the mean squares ``(C,)``, too, without
    gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, eps: float, shortcut: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        wide = at_least_float32(x)
        axes = tuple(axis for axis in range(x.dim()) if axis != 2)
        ctx.count = x.numel() // x.shape[2]
        power = all_reduced((wide * wide).sum(axes) / ctx.count)
        scale = torch.rsqrt(power + eps)
        ctx.save_for_backward(x, weight, scale)
        ctx.axes, ctx.eps = axes, eps
        ctx.mark_non_differentiable(power)
        return scaled(x, weight * scale, shortcut), power

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        added = grad if ctx.needs_input_grad[3] else None
        if torch.is_grad_enabled():
            found = _again(lambda x, weight: _plain_norm(x, weight, ctx.eps), grad, x, weight)
            return *found, None, added
        along = (at_least_float32(grad) * x).sum(ctx.axes)
        pull = all_reduced(along * weight * scale.pow(3)) / ctx.count
        through = grad * per_channel(weight * scale, grad)
        return through.addcmul_(x, per_channel(-pull, x)), along * scale, None, added


class CentredNorm(torch.autograd.Function):
    r"""Ordinary batch normalisation of ``(B, C, *)``, :math:`w_k (x_k - \mu_k) / \sqrt{\sigma^2_k +
    \epsilon} + b_k`, with moments over all processes; returns them, too, without gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = at_least_float32(x)
        ctx.axes = (0, *range(2, x.dim()))
        ctx.count = x.numel() // x.shape[1]
        sums = torch.stack([wide.sum(ctx.axes), (wide * wide).sum(ctx.axes)])
        mean, square = all_reduced(sums / ctx.count)
        variance = (square - mean * mean).clamp_(min=0)
        inverse = torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        scale = weight * inverse
        shift = _along((bias - mean * scale).to(x.dtype), x)
        return torch.addcmul(shift, x, _along(scale.to(x.dtype), x)), mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():

            def plain(x: Tensor, weight: Tensor) -> Tensor:
                _refuse_processes()
                return F.batch_norm(x, None, None, weight, training=True, eps=ctx.eps)

            total = at_least_float32(grad).sum(ctx.axes)
            return *_again(plain, grad, x, weight), total, None
        wide = at_least_float32(grad)
        total = wide.sum(ctx.axes)
        along = ((wide * x).sum(ctx.axes) - mean * total) * inverse
        every_total, every_along = all_reduced(torch.stack([total, along])) / ctx.count
        scale = weight * inverse
        pull = scale * inverse * every_along
        shift, scale, pull = (
            _along(v.to(x.dtype), x) for v in (pull * mean - scale * every_total, scale, pull)
        )
        return torch.addcmul(shift, grad, scale).addcmul_(x, -pull), along, total, None


class NormGate(torch.autograd.Function):
    r"""The norm and the gate behind it in one: :math:`y = s_k x_k \min(|s_k| \|x_k\| / c, 1)` with
    :math:`s_k = w_k / \sqrt{E[x_k^2] + \epsilon}`.

    The squared modulus is computed once for both. ``power`` are mean squares to use as they are, in
    eval mode; None: the batch's own, as in :class:`PowerNorm`. Returns y and the mean squares.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, eps: float, c: float, power: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        wide = at_least_float32(x)
        length = _dot(wide, wide)
        axes = (0, *range(2, length.dim()))
        ctx.count = x.numel() // x.shape[2] if power is None else None
        if power is None:
            power = all_reduced(length.sum(axes) / ctx.count)
        inverse = torch.rsqrt(power + eps)
        scale = weight * inverse
        # Kept negative, as the backward pass compares it.
        closed = length.sqrt_().mul_(_along(-scale.abs() / c, length)).clamp_(min=-1)
        ctx.save_for_backward(x, closed, weight, inverse)
        ctx.c, ctx.axes, ctx.eps = c, axes, eps
        ctx.mark_non_differentiable(power)
        return x * (closed * _along(-scale, closed)).to(x.dtype).unsqueeze(1), power

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, closed, weight, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():

            def plain(x: Tensor, weight: Tensor) -> Tensor:
                if ctx.count is None:  # eval mode, where the mean squares are constants
                    return _plain_gate(scaled(x, weight * inverse), ctx.c)
                return _plain_gate(_plain_norm(x, weight, ctx.eps), ctx.c)

            return *_again(plain, grad, x, weight), None, None, None
        scale = weight * inverse
        dot = _dot(at_least_float32(grad), at_least_float32(x))
        # Where the gate is not fully open, its factor f = -closed moves with scale and length.
        partly = torch.ops.aten.threshold_backward(dot, closed, -1.0)
        # Open: dy/ds = x. Partly: y = s |s| length x / c, so dy/ds = 2 f x.
        excess = torch.addcmul(partly, partly, closed, value=2)
        along = dot.sum(ctx.axes) - excess.sum(ctx.axes)
        # ds f / dx = s |s| x / (c length), and length = f c / |s|.
        inner = partly.div_(closed.clamp(max=-TINY)).mul_(
            _along(-scale * (scale / ctx.c).square(), partly)
        )
        if ctx.count is not None:
            pull = all_reduced(along * weight * inverse.pow(3)) / ctx.count
            inner.sub_(_along(pull, inner))
        through = grad * (closed * _along(-scale, closed)).to(grad.dtype).unsqueeze(1)
        through.addcmul_(x, inner.to(x.dtype).unsqueeze(1))
        return through, along * inverse, None, None, None


def _along(values: Tensor, lengths: Tensor) -> Tensor:
    """One value per channel, against ``(B, C, *)``."""
    return values.view(-1, *[1] * (lengths.dim() - 2))


def scaled(x: Tensor, scale: Tensor, shortcut: Tensor | None = None) -> Tensor:
    """Channel k of every part times ``scale[k]``, plus ``shortcut``, in one pass."""
    if shortcut is None:
        return x * per_channel(scale, x)
    return torch.addcmul(shortcut.to(x.dtype), x, per_channel(scale, x))


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """One value per channel, against ``(B, d, C, *)``."""
    return values.to(x.dtype).view(-1, *[1] * (x.dim() - 3))


def processes() -> int:
    """How many processes train together."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_initialized() else 1


def all_reduced(x: Tensor) -> Tensor:
    """Mean of ``x`` over all processes, without gradient."""
    if processes() == 1:
        return x
    total = x.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(total)
    return total.div_(processes())
