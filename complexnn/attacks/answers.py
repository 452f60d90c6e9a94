"""What the attacker answers: one function for each attack of the roster.

Each takes the attacker, who owns networks and images, and what the server saw of the victim's
queries, and returns a set for each group. None takes a key, an image or a label of the victim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from complexnn.attacks import inversion, release, unmixing
from complexnn.attacks.attacker import Attacker
from complexnn.attacks.optimise import optimise
from complexnn.attacks.threat import Answer, Observation

CHUNK = 256  # groups that a network is shown at a time, where an attack sees a whole release

# ------------------------------------------------------------------------------------ directions


def directions(attacker: Attacker, observation: Observation, *, by: str) -> Answer:
    """Of an attack on the key, by its name."""
    return Answer(attacker.key_attacks[by](observation.released))


def intersection_directions(attacker: Attacker, observation: Observation) -> Answer:
    """Of queries that are sent several times."""
    return Answer(attacker.intersected(observation))


def release_directions(attacker: Attacker, observation: Observation) -> Answer:
    """Of the members that the groups of a release give away; zeros for the others."""
    released = observation.released
    rows = release.recover(released).directions.to(released)
    chunks = zip(rows.split(CHUNK), released.split(CHUNK), strict=True)
    critic = attacker.key_attacks.critic
    return Answer(torch.cat([unmixing.upright(r, x, critic) for r, x in chunks]))


# ----------------------------------------------------------------------------------------- span


def released(attacker: Attacker, observation: Observation) -> Answer:
    """The released parts as they are: they span the members."""
    return Answer(observation.released)


# --------------------------------------------------------------------------------------- images


@torch.no_grad()
def decoded(attacker: Attacker, observation: Observation) -> Answer:
    """dec(x): the queries' images."""
    return inversion.decoded(attacker.released_decoder, observation.released)


@torch.no_grad()
def decoded_sets(attacker: Attacker, observation: Observation) -> Answer:
    """dec(x) of all images of each group, decoys included."""
    return inversion.decoded(attacker.set_decoder, observation.released)


def reconstructions(attacker: Attacker, observation: Observation) -> Answer:
    """dec(a*)."""
    return attacker.reconstructions(observation.released)


def mean_decoded(attacker: Attacker, observation: Observation) -> Answer:
    """dec of a* averaged over releases of the same images."""
    features = attacker.mean_features(observation)
    return attacker.decoded(attacker.feature_decoder, features)


def query_free(attacker: Attacker, observation: Observation) -> Answer:
    """dec(x) by substitutes of the encoder."""
    decoder = attacker.substitute_decoder(observation.released)
    with torch.no_grad():
        chunks = observation.released.split(CHUNK)
        return Answer(torch.cat([inversion.decoded(decoder, x).values for x in chunks]))


def separated(attacker: Attacker, observation: Observation) -> Answer:
    """What the denoiser makes of the views that it separates."""
    return attacker.separated(observation.released)


def optimised(attacker: Attacker, observation: Observation, *, with_key: bool) -> Answer:
    """An image for every answer of the decoder, which it starts from, or from noise."""
    net, resources = attacker.knowledge.net, attacker.config.resources
    if not with_key:
        first = inversion.decoded(attacker.released_decoder, observation.released)
    elif attacker.rotated and attacker.key_attacks.sharpest == "dss":
        first = attacker.separated(observation.released)
    else:
        first = attacker.reconstructions(observation.released)
    starts, shown_by = first.values.flatten(0, 1), first.shown_by
    generator = torch.Generator().manual_seed(attacker.config.seed)
    noise = [
        torch.rand(starts.shape, generator=generator).to(starts) for _ in range(resources.restarts)
    ]
    groups, count = first.values.shape[:2]
    owner = torch.arange(groups, device=starts.device).repeat_interleave(count)
    images = optimise(
        net.features,
        observation.released[owner],
        [starts, *noise],
        None if shown_by is None else shown_by.flatten(0, 1).unsqueeze(1),
        iterations=resources.iterations,
    )
    return Answer(images.unflatten(0, (groups, count)), shown_by)


# ----------------------------------------------------------------------------- hidden properties


def classified(attacker: Attacker, observation: Observation, *, trained_on: str) -> Answer:
    """Logits of a classifier. One of raw images is shown reconstructions."""
    view = attacker.reconstructions if trained_on == "images" else attacker.views[trained_on]
    return attacker.decoded(attacker.classifier(trained_on), view(observation.released))


def nearest(attacker: Attacker, observation: Observation, *, neighbours: int) -> Answer:
    """Votes as logits, so that they are read like a network's."""
    view = attacker.features(observation.released)
    flat = view.values.flatten(0, 1).flatten(1).cpu().numpy()
    classes = torch.from_numpy(attacker.neighbours[neighbours].predict(flat))
    attributes = classes.dim() == 2
    votes = (
        classes.float() - 0.5 if attributes else F.one_hot(classes, len(attacker.classes)).float()
    )
    return Answer(votes.unflatten(0, view.values.shape[:2]), view.shown_by)
