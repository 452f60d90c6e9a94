"""What training adds to the task so that the released feature tells less.

A term knows one step of training and returns a loss with gradient to the encoder: the paper's
critic, and the training-time defences that it can be compared with.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from complexnn.config import TrainConfig
from complexnn.metrics import distance_correlation
from complexnn.networks.attack_networks import UNet
from complexnn.networks.critic import Critic
from complexnn.networks.key import Release
from complexnn.networks.registry import topology
from complexnn.rotation import functional as cF

# Channels after the critic's first layer: half of what it began with, for the sake of speed.
CRITIC_WIDTH = 16
# Angle, in rad, from a member to the furthest view that a denoiser learns from. Chosen by hand: in
# such a view cos 1.2 = 0.36 of the member is left, and at π/2 nothing would be.
WIDEST = 1.2
DECODER_WIDTH = 16  # channels of the decoder that is trained along, at full size; chosen by hand


class Step(NamedTuple):
    """One step as the terms see it."""

    number: int  # within the epoch
    images: Tensor
    release: Release  # what the network made of them


class Term:
    """A weighted loss beside the task's; some train a network of their own against the encoder."""

    name: str
    every = 1  # the term is there on every n-th step
    opponent: nn.Module | None = None
    optimiser: torch.optim.Optimizer | None = None

    def __init__(self, config: TrainConfig, weight: float) -> None:
        self.config, self.weight = config, weight

    def loss(self, step: Step, rng: Generator) -> Tensor | None:
        """Train the opponent on detached features, then return the encoder's term; None on steps
        without one."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What the term has learned so far, for a run that goes on."""
        if self.opponent is None:
            return {}
        return {
            "opponent": self.opponent.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved :meth:`state`."""
        if self.opponent is not None:
            self.opponent.load_state_dict(state["opponent"])
            self.optimiser.load_state_dict(state["optimiser"])

    def _update(self, loss: Tensor) -> None:
        """A step of the opponent down its own loss."""
        self.optimiser.zero_grad()
        loss.backward()
        cF.average_gradients(self.opponent)
        self.optimiser.step()


def make_terms(config: TrainConfig, device: torch.device) -> list[Term]:
    """The terms of a run; none for a network without rotation and defence."""
    terms: list[Term] = []
    if config.net.kind == "complex" and config.adversarial_weight > 0:
        terms.append(CriticTerm(config, device))
    if config.net.defence == "nopeek":
        terms.append(NoPeek(config, config.nopeek_weight))
    if config.net.defence == "decoder":
        terms.append(DecoderTerm(config, device))
    return terms


# ------------------------------------------------------------------ the paper's critic


def views(groups: int, dim: int, queries: int, wrong_keys: int, generator: Generator) -> Tensor:
    r"""What keys show of a group, as matrices on its parts: the right key's ``queries`` features,
    then ``wrong_keys`` for each of them from wrong keys.

    A wrong key shows :math:`a' = \sum_j u_j f_j` with a random unit vector u; at d = 2,
    :math:`a' = a\cos\Delta\theta - b\sin\Delta\theta`.

    Shape: ``(groups, queries * (1 + wrong_keys), dim)``.
    """
    count = queries * wrong_keys
    wrong = cF.draw_directions(groups * count, dim, generator).view(groups, count, dim)
    right = torch.eye(dim, dtype=wrong.dtype)[:queries].expand(groups, queries, dim)
    return torch.cat([right, wrong], dim=1)


def wasserstein_gap(critic: Critic, shown: Tensor, queries: int) -> Tensor:
    r""":math:`E[D(a)] - E[D(a')]`: the critic maximises it, the encoder minimises it.

    ``shown``: ``(G, queries * (1 + k), C, H, W)``, the true features first.
    """
    scores = critic(shown.flatten(0, 1)).view(shown.shape[:2])
    return scores[:, :queries].mean() - scores[:, queries:].mean()


def gradient_penalty(critic: Critic, shown: Tensor, queries: int, generator: Generator) -> Tensor:
    r""":math:`E[(\sqrt N\|\nabla D(z)\| - 1)^2]` at random points z between true and wrong features
    (Gulrajani et al. 2017, arXiv 1704.00028); one z per true feature.

    Deviation: the gradient's norm belongs to distances in root mean square per entry, so that the
    critic's scores, and with them the weight of the adversarial term, mean the same at any size of
    the feature map.
    """
    mix = cF.uniform((len(shown), queries, 1, 1, 1), generator).to(shown)
    true, wrong = (cF.first_parts(shown.narrow(1, i * queries, queries), queries) for i in (0, 1))
    z = torch.lerp(wrong, true, mix.flatten(0, 1)).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(z).sum(), z, create_graph=True)
    length = gradient.flatten(1).norm(dim=1) * gradient[0].numel() ** 0.5
    return (length - 1).square().mean()


class CriticTerm(Term):
    r"""The paper's WGAN: :math:`\min_g \max_D E[D(a) - D(a')]`.

    Deviation: encoder and critic step at the same time, from one evaluation of the critic, where
    the usual order evaluates the updated critic a second time.
    """

    name = "critic_gap"

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, config.adversarial_weight)
        self.every = config.critic_every
        channels, *size = topology(config.net).released
        self.opponent = Critic(channels, tuple(size), width=CRITIC_WIDTH).to(device)
        # The moments of Gulrajani et al. 2017, algorithm 1.
        self.optimiser = torch.optim.Adam(
            self.opponent.parameters(), lr=config.critic_lr, betas=(0.0, 0.9)
        )

    def loss(self, step: Step, rng: Generator) -> Tensor | None:
        config, parts = self.config, step.release.parts
        if step.number % self.every:
            return None
        groups, dim = parts.shape[:2]
        queries = config.net.queries
        wide = cF.at_least_float32(parts)
        matrix = views(groups, dim, queries, config.wrong_keys, rng).to(wide)
        shown = cF.rotate(wide.detach(), matrix).requires_grad_()
        for _ in range(config.critic_steps):
            gap, pull = self._critic_step(shown, queries, rng)
        # The views are linear in the parts, V f with fixed V, so the gap's gradient to the parts is
        # V^T times its gradient to the views, and no graph through the views is kept. What is
        # returned has the gap's value and that gradient.
        linear = (wide * cF.rotate(pull, matrix.mT)).sum()
        return linear - linear.detach() + gap

    def _critic_step(self, shown: Tensor, queries: int, rng: Generator) -> tuple[Tensor, Tensor]:
        """Update the critic; the gap before that, and its gradient to the features."""
        config, critic = self.config, self.opponent
        parameters = list(critic.parameters())
        gap = wasserstein_gap(critic, shown, queries)
        *gradients, pull = torch.autograd.grad(gap, [*parameters, shown])
        if config.critic_constraint == "gradient-penalty":
            penalty = gradient_penalty(critic, shown.detach(), queries, rng)
            (config.gradient_penalty * penalty).backward()
        # The critic climbs the gap and descends the penalty, whose gradient is there already.
        for parameter, gradient in zip(parameters, gradients, strict=True):
            previous = 0 if parameter.grad is None else parameter.grad
            parameter.grad = previous - gradient
        cF.average_gradients(critic)
        self.optimiser.step()
        self.optimiser.zero_grad()
        if config.critic_constraint == "weight-clipping":
            with torch.no_grad():
                for parameter in parameters:
                    parameter.clamp_(-config.clip_value, config.clip_value)
        return gap.detach(), pull


# ------------------------------------------------------------ defences to compare with


class NoPeek(Term):
    """Distance correlation of images and released features (Vepakomma et al. 2020,
    arXiv 2008.09161), driven down over each batch."""

    name = "distance_correlation"

    def loss(self, step: Step, rng: Generator) -> Tensor:
        hidden = step.release.key.members[:, : self.config.net.queries]
        released = cF.at_least_float32(step.release.released)
        return distance_correlation(step.images[hidden].flatten(1), released.flatten(1))


def near_members(
    place: Tensor, parts: int, generator: Generator, *, widest: float | None = None
) -> Tensor:
    r"""Unit vectors near members of a group of ``parts``,
    :math:`e_i\cos\varphi + r\sin\varphi`: r is a random mixture of the rest, and the angle is
    uniform up to ``widest``, by default ``WIDEST``.

    Shape: ``(G, n)``, the members' places, to ``(G, n, parts)``.
    """
    member = F.one_hot(place, parts).double()
    rest = cF.normal(tuple(member.shape), generator) * (1 - member)
    angle = (WIDEST if widest is None else widest) * cF.uniform((*place.shape, 1), generator)
    return angle.cos() * member + angle.sin() * F.normalize(rest, dim=-1)


class DecoderTerm(Term):
    r"""An inversion decoder that is trained along: the encoder maximises its error.

    :math:`\min_g \max_{dec} -\|dec(x) - I\|^2`, mean over pixels in [0, 1]. Packed queries come in
    no order, and dec(x) of many parts is a weak attacker: there it is a decoder of views near each
    member instead of x, as separation ends with them (:mod:`complexnn.attacks.dss`).
    """

    name = "decoder_fit"

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, config.decoder_weight)
        net = config.net
        channels, *_ = topology(net).released
        shown = 1 if net.queries > 1 else net.parts
        image = (net.in_channels, *net.image_size)
        self.opponent = UNet(shown * channels, image, width=DECODER_WIDTH).to(device)
        self.optimiser = torch.optim.AdamW(self.opponent.parameters(), lr=config.decoder_lr)

    def loss(self, step: Step, rng: Generator) -> Tensor:
        decoder = self.opponent
        shown, images = self._shown(step, rng)
        decoder.requires_grad_(True)
        self._update(F.mse_loss(decoder(shown.detach()).squeeze(1), images))
        decoder.requires_grad_(False)
        return -F.mse_loss(decoder(shown).squeeze(1), images)

    def _shown(self, step: Step, rng: Generator) -> tuple[Tensor, Tensor]:
        """What the decoder sees, and the images that it should make of it."""
        released, key, parts = step.release
        if self.config.net.queries == 1:
            return cF.at_least_float32(released).flatten(1, 2), step.images
        parts, members = cF.at_least_float32(parts), key.members
        place = torch.arange(members.shape[1]).expand(members.shape)
        near = near_members(place, parts.shape[1], rng).to(parts)
        return cF.rotate(parts, near).flatten(0, 1), step.images[members.flatten()]
