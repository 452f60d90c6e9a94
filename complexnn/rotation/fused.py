r"""Gate and norm with hand-derived backward passes: the hot spots of the server, in few passes over
memory. Their plain formulas stand in ``functional.py`` and ``layers/``; tests compare the two.

Automatic differentiation of the formulas takes three to four times as long on a CPU, since it keeps
and re-reads every intermediate, and its gradient of a root is NaN at 0.

**Notation** of the comments. x is the input and g the gradient :math:`\partial L / \partial y` of
the output, both with parts j; :math:`\ell = \|x\|` is the modulus and :math:`g \cdot x` the product
summed over the parts. Both are one number for d parts, as is all that a gate keeps besides x.

**Second derivatives** are those of the plain formulas. A backward pass that is itself to be
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

from complexnn.rotation.processes import all_reduced, processes

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
    gradients = iter(torch.autograd.grad(plain(*own), wanted, grad, create_graph=True))
    return [next(gradients) if x.requires_grad else None for x in own]


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
        # dl/dx_j = x_j / l. At 0 the clamp makes that 0 / TINY = 0, one of the subgradients, where
        # the chain rule takes the root's infinite slope times 0.
        x, length = ctx.saved_tensors
        if torch.is_grad_enabled():  # x and length are input and output: autograd knows them
            return x * (grad / length.masked_fill(length < TINY, math.inf))
        return x * (grad / length.clamp(min=TINY))


class Gate(torch.autograd.Function):
    r""":math:`x \min(\|x\| / c, 1)` with a number c, or with None: each channel's mean modulus.

    Kept: x, the ratio :math:`q = \ell / c` and the factor :math:`f = \min(q, 1)`, so that the
    backward pass takes no root. It goes over the parts twice: for :math:`g \cdot x`, and for the
    result.
    """

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
        # y_j = f x_j, so dL/dx_j = f g_j + (g.x) df/dx_j, and df/dx_j = (df/dl) x_j / l: a multiple
        # of x beside a multiple of g.
        # Of a fixed c, df/dl = 1 / c where q < 1, else 0. What threshold_backward lets through is
        # g.x where -q > -1, in one fast pass where a masked fill takes twenty times as long.
        partly = torch.ops.aten.threshold_backward(_dot(wide, at_least_float32(x)), -ratio, -1.0)
        slope = partly / bound  # dL/dl by way of f
        if rest:
            # c is the mean of n moduli: dc/dl = 1 / n, and df/dc = -q / c where q < 1. So every
            # modulus of the channel gets -sum(slope q) / n more.
            count = ratio[0].numel() // ratio.shape[1] if ratio.dim() > 2 else ratio.shape[1]
            slope = slope - (slope * ratio).sum(ctx.axes, keepdim=True) / count
        along = slope.div_((ratio * bound).clamp_(min=TINY)).to(x.dtype)  # over l = q c
        through = grad * factor.to(grad.dtype).unsqueeze(1)
        return through.addcmul_(x, along.unsqueeze(1)), None


def gated(x: Tensor, c: float, scale: Tensor | None = None) -> Tensor:
    """The gate, with channels scaled before it, where nothing is kept for a backward pass."""
    wide = at_least_float32(x)
    factor = _dot(wide, wide).sqrt_()
    if scale is None:
        factor.clamp_(max=c).mul_(1 / c)
    else:
        # Of s x instead of x: s min(|s| l / c, 1) = s |s| / c min(l, c / |s|), so no map of s x is
        # ever written.
        open_from = _along((c / scale.abs()).to(factor.dtype), factor)
        torch.minimum(factor, open_from, out=factor)
        factor.mul_(_along(scale * scale.abs() / c, factor))
    return x * factor.to(x.dtype).unsqueeze(1)


class PowerNorm(torch.autograd.Function):
    r""":math:`w_k x_k / \sqrt{E[x_k^2] + \epsilon}`, the mean over samples, parts, positions and
    processes, plus ``shortcut`` if there is one; returns the mean squares ``(C,)``, too, without
    gradient.

    Kept: x, and w and :math:`v = (E[x^2] + \epsilon)^{-1/2}`, one number a channel each. The
    backward pass adds its multiple of x in place; automatic differentiation writes the gradient by
    way of the mean square as a map of its own, and keeps the wide copy of a half precise x, too.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, eps: float, shortcut: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        wide = at_least_float32(x)
        axes = tuple(axis for axis in range(x.dim()) if axis != 2)
        ctx.count = x.numel() // x.shape[2]
        power = all_reduced((wide * wide).sum(axes) / ctx.count)
        inverse = torch.rsqrt(power + eps)
        ctx.save_for_backward(x, weight, inverse)
        ctx.axes, ctx.eps = axes, eps
        ctx.mark_non_differentiable(power)
        return scaled(x, weight * inverse, shortcut), power

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        added = grad if ctx.needs_input_grad[3] else None
        if torch.is_grad_enabled():
            gradients = _again(lambda x, weight: _plain_norm(x, weight, ctx.eps), grad, x, weight)
            return *gradients, None, added
        # y = w v x with v = (p + eps)^-1/2, so dL/dw = v sum(g x), over all entries of the channel.
        # p is the mean of n squares: dp/dx = 2 x / n and dv/dp = -v^3 / 2, so
        # dL/dx = w v g - x w v^3 sum(g x) / n. With several processes p is the mean of their mean
        # squares, and L the mean of their losses, as they average their gradients: each gets the
        # mean of all sums over its own n.
        along = (at_least_float32(grad) * x).sum(ctx.axes)
        pull = all_reduced(along * weight * inverse.pow(3)) / ctx.count
        through = grad * per_channel(weight * inverse, grad)
        return through.addcmul_(x, per_channel(-pull, x)), along * inverse, None, added


class CentredNorm(torch.autograd.Function):
    r"""Ordinary batch normalisation of ``(B, C, *)``, :math:`w_k (x_k - \mu_k) / \sqrt{\sigma^2_k +
    \epsilon} + b_k`, with moments over all processes; returns them, too, without gradient.

    For several processes only, on CPUs as on GPUs; one process uses torch's own.
    """

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
        # y = w z + b with z = (x - mean) v and v = (variance + eps)^-1/2, so dL/db = sum(g) and
        # dL/dw = sum(g z). By way of the mean, dL/dx gets -w v E[g]; by way of the variance, of
        # derivative 2 (x - mean) / n, and dv/d(variance) = -v^3 / 2, it gets -w v z E[g z]. In all
        # w v g - pull x + (pull mean - w v E[g]) with pull = w v^2 E[g z]: z is not written again.
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

    The squared modulus is computed once for both, and the normalised map between them is never
    written. ``power`` are mean squares to use as they are, in eval mode; None: the batch's own, as
    in :class:`PowerNorm`. Returns y and the mean squares.

    Kept: x, w, :math:`v = (E[x^2] + \epsilon)^{-1/2}` and minus the gate's factor f, from which the
    modulus follows where it is needed: :math:`\ell = f c / |s|` where the gate is not open.
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
        # -f, negative because the backward pass compares it from below.
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
        # g.x where the gate is not fully open (-f > -1): there f moves with scale and modulus.
        partly = torch.ops.aten.threshold_backward(dot, closed, -1.0)
        # dL/ds. Open: y = s x, so dy/ds = x. Partly: y = s |s| l x / c, so dy/ds = 2 f x. The sum
        # of g.x over all places is too much by (1 - 2 f) g.x at the partly open ones.
        excess = torch.addcmul(partly, partly, closed, value=2)
        along = dot.sum(ctx.axes) - excess.sum(ctx.axes)
        # dL/dx at a fixed s is s f g + (g.x) d(s f)/dx, and where partly open
        # d(s f)/dx_j = s |s| x_j / (c l) = s (s / c)^2 x_j / f.
        inner = partly.div_(closed.clamp(max=-TINY)).mul_(
            _along(-scale * (scale / ctx.c).square(), partly)
        )
        if ctx.count is not None:
            # By way of s = w v, as in PowerNorm: dL/dw = v dL/ds, and -x w v^3 (dL/ds) / n.
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
