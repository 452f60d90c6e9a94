r"""Interactive offload: the linear layers of an ordinary network on a server that is not trusted.

The device keeps every bias and non-linearity. Before each linear layer it clips the d inputs of a
group to a known norm, puts k Gaussian decoys beside them, and sends :math:`X = Q (A; Z)` with a
fresh Haar key Q; the server returns :math:`X W^T`, and :math:`Q^T X W^T` holds the answers. Nothing
of the accuracy is lost but by the clipping; (ε, δ) follows by composition over the layers
(:mod:`complexnn.privacy`, docs/beyond.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from complexnn import functional as cF
from complexnn import privacy
from complexnn.config import InputError

Listener = Callable[[Tensor, Tensor, "Layer"], None]  # what was sent, the inputs behind it


class Guarantee(NamedTuple):
    """What holds for one query over all layers, and with which decoys."""

    epsilon: float
    delta: float
    ratio: float  # r, of squared norm to the decoys' variance: smaller costs precision, not work


PRESETS = {"private": Guarantee(1.0, 1e-6, 1e-3), "strict": Guarantee(0.1, 1e-9, 1e-4)}


class Layer(nn.Module):
    """A linear layer whose matrix product runs on the server.

    Args:
        layer: a convolution or fully connected layer.
        freedom: m, what the decoys leave of degrees of freedom: there are k = N + m - 1.
        ratio: r, the squared bound of an input's norm over the decoys' variance.
        generator: source of keys and decoys; None: the operating system's.
    """

    def __init__(
        self, layer: nn.Module, freedom: int, ratio: float, generator: Generator | None
    ) -> None:
        super().__init__()
        self.layer, self.freedom, self.ratio, self.generator = layer, freedom, ratio, generator
        self.bound = 0.0  # of an input's norm; grows while calibrating
        self.calibrating, self.listener = False, None
        self.inputs = self.outputs = 0  # numbers of one query

    @property
    def decoys(self) -> int:
        return self.inputs + self.freedom - 1

    @property
    def variance(self) -> float:
        """Of the decoys' entries: bound² / r."""
        return self.bound**2 / self.ratio

    def forward(self, x: Tensor) -> Tensor:
        if self.calibrating:
            self.bound = max(self.bound, x.flatten(1).norm(dim=1).max().item())
            return self.layer(x)
        self.inputs = x[0].numel()
        rows = self.clipped(x)
        noise = cF.normal((self.decoys, self.inputs), self.generator).to(rows)
        behind = torch.cat([rows, self.variance**0.5 * noise])
        key = cF.draw_rotations(1, len(behind), self.generator)[0].to(rows)
        sent = key @ behind
        if self.listener is not None:
            self.listener(sent, rows, self)
        returned = self._serve(sent.view(-1, *x.shape[1:]))
        self.outputs = returned[0].numel()
        answers = (key[:, : len(x)].mT @ returned.flatten(1)).view(len(x), *returned.shape[1:])
        bias = self.layer.bias
        return answers if bias is None else answers + bias.view(-1, *[1] * (answers.dim() - 2))

    def clipped(self, x: Tensor) -> Tensor:
        """Inputs scaled down to the bound, as rows: ``(d, ...) -> (d, N)``."""
        rows = x.flatten(1)
        return rows * (self.bound / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)).clamp(max=1)

    def _serve(self, sent: Tensor) -> Tensor:
        """The server's work: the layer without its bias."""
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return F.linear(sent, layer.weight)
        return layer._conv_forward(sent, layer.weight, None)


def offload(
    module: nn.Module,
    images: Tensor,
    guarantee: Guarantee,
    *,
    generator: Generator | None = None,
) -> nn.Module:
    """A copy of ``module`` that runs its linear layers on the server.

    Args:
        module: an ordinary network in eval mode: its linear layers each called once per input,
            no sample's output depending on another sample.
        images: inputs to calibrate on, ``(B, ...)``: each layer's bound is the largest norm that
            they reach there. Not queries: the bounds are public.
        guarantee: what holds for one query over all layers, such as ``PRESETS["private"]``.
        generator: source of keys and decoys; None: the operating system's.

    Raises:
        InputError: no linear layer, or no number of decoys that suffices.
    """
    copied = copy.deepcopy(module).eval()
    found = [n for n, m in copied.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if not found:
        raise InputError(f"{type(module).__name__} has no linear layer to offload")
    epsilon, delta, ratio = guarantee
    freedom = privacy.freedom_for(epsilon, delta, ratio, releases=len(found))
    for name in found:
        inner = Layer(copied.get_submodule(name), freedom, ratio, generator)
        parent, _, child = name.rpartition(".")
        setattr(copied.get_submodule(parent), child, inner)
    for layer in layers(copied):
        layer.calibrating = True
    with torch.no_grad():
        copied(images)
    for layer in layers(copied):
        layer.calibrating = False
    return copied


def layers(module: nn.Module) -> list[Layer]:
    """The offloaded layers of ``module``, in order."""
    return [m for m in module.modules() if isinstance(m, Layer)]


@dataclass(frozen=True)
class Cost:
    """Of one query at one layer: multiplications with their additions, and numbers sent."""

    plain: float  # the layer itself
    server: float
    device: float  # rotating there and back; drawing the key, of order (d + k)³ / d, is not in it
    traffic: float  # both ways


def cost(layer: Layer, group: int) -> Cost:
    """What a query of a group of ``group`` costs at ``layer``, once it was called."""
    parts = group + layer.decoys
    plain = float(layer.layer.weight[0].numel() * layer.outputs)
    return Cost(
        plain,
        plain * parts / group,
        parts * parts * layer.inputs / group + parts * layer.outputs,
        parts * (layer.inputs + layer.outputs) / group,
    )
