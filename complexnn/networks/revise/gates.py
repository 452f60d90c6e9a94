"""Activations: which gate stands for which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from complexnn.rotation import functional as cF
from complexnn.rotation import layers

Gate = Literal["mean", "fixed"]


@dataclass(frozen=True)
class Gates:
    """Constructors of the activations' forms, with one choice of the gate's c for all.

    docs/your-own-network.md has the formulas.
    """

    kind: Gate
    dim: int  # number of parts

    @property
    def c(self) -> float | None:
        """In units of one part; None: the mean over a sample."""
        return None if self.kind == "mean" else 1.0

    def relu(self, bound: float | None = None) -> nn.Module:
        """Of a ReLU, or of a ReLU6 with its bound."""
        plain = layers.MeanGate() if self.kind == "mean" else layers.SoftGate(self.dim**0.5)
        # A bound of 6 for one part is one of 6 sqrt(d) for the modulus of d.
        return plain if bound is None else nn.Sequential(plain, layers.Bound(bound * self.dim**0.5))

    def leaky(self, a: float | nn.Parameter) -> nn.Module:
        return layers.LeakyGate(self.relu(), a)

    def smooth(self, slope: str) -> nn.Module:
        return layers.SmoothGate(slope, self.c)

    def of_moduli(self, function: Callable) -> Callable:
        """A function of signed values, of what stands for them: an invariant."""
        c = self.c

        def of_moduli(x: Tensor) -> Tensor:
            return function(cF.signed_stand_in(x, c)).to(x.dtype)

        of_moduli.__name__ = of_moduli.__qualname__ = f"{function.__name__}_of_moduli"
        return of_moduli
