"""Features of one sign, which give the angle of a rotation away."""

from __future__ import annotations

import logging

from torch import Tensor

log = logging.getLogger("complexnn")
# Share of the absolute sum. 1 % is negative behind a leaky ReLU, which counts as one sign, and 15 %
# behind a GELU, which does not.
LEAST = 0.05


def one_signed(features: Tensor) -> bool:
    """Whether (nearly) all that ``features`` hold is of one sign: the other sign's numbers make
    less than 5 % of the absolute sum."""
    if features.is_meta:  # counted, not computed
        return False
    exact = features.detach().float()  # not every device has float64, and a share needs none
    absolute, total = exact.abs().sum(), exact.sum()
    return bool(absolute > 0 and (absolute - total.abs()) / 2 < LEAST * absolute)


def warn(where: str) -> None:
    """Say what is lost with features of one sign."""
    log.warning(
        "%s: nearly all released features have one sign, so at d = 2 all phases lie in a quarter "
        "turn that starts at the key, and the server reads it off without training; cut in front "
        "of the ReLU, behind a norm or a convolution",
        where,
    )
