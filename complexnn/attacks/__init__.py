"""Attacks on released features. What an attack function takes is what its attacker knows.

The attacker knows the network (its weights are public) and has images of its own, the victim's
training images; it may encode those and keep the keys. Of a victim's query it gets ``released``
and nothing else (:mod:`complexnn.attacks.threat`). Only ``user``, ``scoring`` and ``suite`` hold
the truth, and no attack imports them.
"""
