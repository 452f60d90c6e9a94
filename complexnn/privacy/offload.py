r"""Interactive offload: the linear layers of an ordinary network on a server that is not trusted.

The device keeps every bias and non-linearity. Before each linear layer it clips the d inputs of a
group to a known norm, puts k Gaussian decoys beside them, and sends :math:`X = Q (A; Z)` with a
fresh Haar key Q; the server returns :math:`X W^T`, and :math:`Q^T X W^T` holds the answers. Nothing
of the accuracy is lost but by the clipping; (ε, δ) follows by composition over all calls of layers
(:mod:`complexnn.privacy`, docs/beyond.md).

:func:`offload` makes a :class:`RemoteNetwork` of an ordinary one, and a :class:`RemoteLayer` of
each linear layer; :mod:`complexnn.privacy.audit` attacks what they send.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from complexnn import metrics, privacy
from complexnn.config import InputError
from complexnn.rotation import functional as cF
from complexnn.rotation.fused import exactly

# Called with what one call sent, (d + k, N), and the clipped inputs behind it, (d, N).
Observer = Callable[[Tensor, Tensor, "RemoteLayer"], None]
LINEAR = (nn.Linear.forward, nn.Conv2d.forward)  # a subclass with another forward may do anything


class Guarantee(NamedTuple):
    """What holds for one query over all releases, and with which decoys."""

    epsilon: float
    delta: float
    ratio: float  # r, of squared norm to the decoys' variance: smaller costs precision, not work


# ε = 1 and δ = 1e-6 are usual values, δ under one over the number of images of our data sets;
# strict leaves room for queries that are sent again. r: so much noise that up to twenty layers need
# 4 to 6 degrees of freedom (at r = 1, private takes 208 for twenty), so little that float32 bears
# it: an answer's rounding error grows as √(N/r), docs/beyond.md.
PRESETS = {"private": Guarantee(1.0, 1e-6, 1e-3), "strict": Guarantee(0.1, 1e-9, 1e-4)}


class CallSize(NamedTuple):
    """Numbers of one query in one call of a layer."""

    inputs: int
    outputs: int


class RemoteLayer(nn.Module):
    """A linear layer whose matrix product runs on the server.

    Args:
        layer: a convolution or fully connected layer.
        freedom: m, what the decoys leave of degrees of freedom: there are k = N + m - 1.
        ratio: r, the squared bound of an input's norm over the decoys' variance.
        generator: source of keys and decoys; None: the operating system's.
        bound: what the norms of inputs are clipped to.
        calls: what one forward of the network makes of the layer.
    """

    def __init__(
        self,
        layer: nn.Module,
        freedom: int,
        ratio: float,
        generator: Generator | None,
        *,
        bound: float,
        calls: list[CallSize],
    ) -> None:
        super().__init__()
        self.layer, self.freedom, self.ratio, self.generator = layer, freedom, ratio, generator
        self.bound, self.calls = bound, calls
        self.observer: Observer | None = None

    def decoys(self, inputs: int) -> int:
        """k = N + m - 1, for inputs of N numbers."""
        return inputs + self.freedom - 1

    @property
    def variance(self) -> float:
        """Of the decoys' entries: bound² / r."""
        return self.bound**2 / self.ratio

    def forward(self, x: Tensor) -> Tensor:
        _refuse_not_finite(x, f"the input of {self.layer} for query")
        # Autocast would round key, decoys and what is sent to a few bits.
        with exactly(x):
            return self._ask_server(cF.at_least_float32(x)).to(x.dtype)

    def _ask_server(self, x: Tensor) -> Tensor:
        """Hide the inputs in a rotated group, send it, and take the answers out of what returns."""
        inputs = self.clipped(x)
        noise = cF.normal((self.decoys(inputs.shape[1]), inputs.shape[1]), self.generator)
        group = torch.cat([inputs, self.variance**0.5 * noise.to(inputs)])
        key = cF.draw_rotations(1, len(group), self.generator)[0].to(inputs)
        sent = key @ group
        if self.observer is not None:
            self.observer(sent, inputs, self)
        returned = self._on_server(sent.view(-1, *x.shape[1:]))
        answers = (key[:, : len(x)].mT @ returned.flatten(1)).view(len(x), *returned.shape[1:])
        bias = self.layer.bias
        if bias is None:
            return answers
        return answers + (bias if isinstance(self.layer, nn.Linear) else bias[:, None, None])

    def clipped(self, x: Tensor) -> Tensor:
        """Inputs scaled down to the bound, as rows: ``(d, ...) -> (d, N)``. Rounding never leaves
        one above it."""
        rows = x.flatten(1)
        norms = _norms(x)
        # The scaled row is rounded to x's precision, its norm's sum of N squares to float64's.
        slack = torch.finfo(x.dtype).eps + rows.shape[1] * torch.finfo(torch.float64).eps
        factor = self.bound * (1 - slack) / norms.clamp(min=1e-300)
        scaled = (metrics.double(rows) * factor.unsqueeze(1)).to(rows)
        return torch.where((norms > self.bound).to(x.device).unsqueeze(1), scaled, rows)

    def _on_server(self, sent: Tensor) -> Tensor:
        """The server's work: the layer without its bias."""
        layer, weight = self.layer, self.layer.weight.to(sent.dtype)
        if isinstance(layer, nn.Linear):
            return F.linear(sent, weight)
        return layer._conv_forward(sent, weight, None)


def _norms(x: Tensor) -> Tensor:
    """Norm of each input, in float64: ``(B, ...) -> (B,)``."""
    return metrics.double(x.flatten(1)).norm(dim=1)


def _refuse_not_finite(x: Tensor, what: str) -> None:
    """Under one key, NaN and infinity would break every answer of the group."""
    broken = (~x.flatten(1).isfinite().all(dim=1)).nonzero().flatten().tolist()
    if broken:
        raise InputError(
            f"NaN or infinity in {what} {', '.join(map(str, broken[:10]))}"
            f"{', ...' if len(broken) > 10 else ''} of {len(x)}: leave it out of the group"
        )


class RemoteNetwork(nn.Module):
    """A network whose linear layers run on the server: what :func:`offload` returns.

    ``forward`` refuses with :class:`InputError` a query of NaN or infinity, by its index, and a
    network that calls layers in another way than it did on the images of the calibration: the
    guarantee would not hold.
    """

    def __init__(self, network: nn.Module, guarantee: Guarantee) -> None:
        super().__init__()
        self.network, self.guarantee = network, guarantee
        self._made: dict[RemoteLayer, int] = {}  # calls of each layer in this forward
        self._queries = 0
        for layer in remote_layers(network):
            layer.register_forward_pre_hook(self._count)

    @property
    def accountant(self) -> privacy.Accountant:
        """The history of one query that was sent once."""
        accountant = privacy.Accountant()
        for layer in remote_layers(self.network):
            accountant.step(freedom=layer.freedom, ratio=layer.ratio, releases=len(layer.calls))
        return accountant

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise InputError("an offloaded network runs in eval mode only: call eval() first")
        _refuse_not_finite(x, "query")
        self._made, self._queries = {}, len(x)
        return self.network(x)

    def _count(self, layer: RemoteLayer, given: tuple[Tensor]) -> None:
        """Before a layer's release: is it one that the accountant knows?"""
        made = self._made.get(layer, 0)
        known = layer.calls[made].inputs if made < len(layer.calls) else None
        _refuse_other_count(given[0], self._queries, layer.layer)
        if known != given[0][0].numel():
            raise InputError(
                f"{layer.layer} is called more often, or with inputs of another size, than on the "
                "images of the calibration: the decoys are counted for those calls"
            )
        self._made[layer] = made + 1


def _refuse_other_count(x: Tensor, queries: int, layer: nn.Module) -> None:
    if len(x) != queries:
        raise InputError(
            f"{layer} gets {len(x)} inputs for {queries} queries: only a layer that gets one "
            "input per query can be offloaded, since a query must move one part of its group"
        )


def offload(
    module: nn.Module,
    images: Tensor,
    guarantee: Guarantee,
    *,
    generator: Generator | None = None,
) -> RemoteNetwork:
    """A copy of ``module`` that runs its linear layers on the server.

    Every call of an ``nn.Linear`` or ``nn.Conv2d`` is a release of each query, and the decoys are
    enough for all of them together. What else multiplies by weights stays on the device.

    Args:
        module: an ordinary network in eval mode, or a single linear layer: no sample's output may
            depend on another sample, and each layer gets one input per sample.
        images: inputs to calibrate on, ``(B, ...)``: each layer's bound is the largest norm that
            they reach there. Not queries: the bounds are public.
        guarantee: what holds for one query over all releases, such as ``PRESETS["private"]``.
        generator: source of keys and decoys; None: the operating system's.

    Raises:
        InputError: no linear layer, a layer that gets more or fewer inputs than there are samples,
            NaN or infinity, or no number of decoys that suffices.
    """
    copied = copy.deepcopy(module).eval()
    calls, bounds = _calibrate(copied, images)
    if not calls:
        raise InputError(
            f"{type(module).__name__} has no linear layer to offload: it calls no nn.Linear or "
            "nn.Conv2d"
        )
    epsilon, delta, ratio = guarantee
    releases = sum(map(len, calls.values()))
    freedom = privacy.freedom_for(epsilon, delta, ratio, releases=releases)
    remote = {
        m: RemoteLayer(m, freedom, ratio, generator, bound=bounds[m], calls=calls[m]) for m in calls
    }
    if copied in remote:
        return RemoteNetwork(remote[copied], guarantee).eval()
    for name, inner in list(copied.named_modules(remove_duplicate=False)):
        if inner in remote:
            parent, _, child = name.rpartition(".")
            setattr(copied.get_submodule(parent), child, remote[inner])
    return RemoteNetwork(copied, guarantee).eval()


@torch.no_grad()
def _calibrate(
    module: nn.Module, images: Tensor
) -> tuple[dict[nn.Module, list[CallSize]], dict[nn.Module, float]]:
    """The calls of each linear layer in one forward, and the largest norm of its inputs."""
    _refuse_not_finite(images, "image of the calibration")
    calls: dict[nn.Module, list[CallSize]] = {}
    bounds: dict[nn.Module, float] = {}

    def note(layer: nn.Module, given: tuple[Tensor], answer: Tensor) -> None:
        _refuse_other_count(given[0], len(images), layer)
        _refuse_not_finite(given[0], f"input of {layer}, for image of the calibration")
        calls.setdefault(layer, []).append(CallSize(given[0][0].numel(), answer[0].numel()))
        bounds[layer] = max(bounds.get(layer, 0.0), _norms(given[0]).max().item())

    linear = [m for m in module.modules() if type(m).forward in LINEAR]
    hooks = [m.register_forward_hook(note) for m in linear]
    module(images)
    for hook in hooks:
        hook.remove()
    return calls, bounds


def remote_layers(module: nn.Module) -> list[RemoteLayer]:
    """Those of ``module``, in order."""
    return [m for m in module.modules() if isinstance(m, RemoteLayer)]


@dataclass(frozen=True)
class Cost:
    """Of one query at one layer: multiplications with their additions, and numbers sent."""

    plain: float  # the layer itself
    server: float
    device: float  # rotating there and back; drawing the key, of order (d + k)³ / d, is not in it
    traffic: float  # both ways


def cost_per_query(layer: RemoteLayer, group: int) -> Cost:
    """What a query of a group of ``group`` queries costs at ``layer``, over all its calls."""
    total = Cost(0.0, 0.0, 0.0, 0.0)
    for inputs, outputs in layer.calls:
        parts = group + layer.decoys(inputs)
        plain = float(layer.layer.weight[0].numel() * outputs)
        total = Cost(
            total.plain + plain,
            total.server + plain * parts / group,
            total.device + parts * parts * inputs / group + parts * outputs,
            total.traffic + parts * (inputs + outputs) / group,
        )
    return total
