"""Attacks on released features. What an attack function takes is what its attacker knows.

The attacker knows the network (its weights are public) and has images of its own, the victim's
training images; it may encode those and keep the keys. Of a victim's query it gets ``released``
and nothing else (:mod:`complexnn.attacks.threat`).

Where to start reading, top to bottom:

- ``roster``: every attack in one table; ``answers`` has the functions in it.
- ``evaluation``: what is asked for becomes rows; ``target`` is a network under attack, ``trial``
  one attack on it, ``worst`` the best of all inversions, ``grid`` their picture.
- ``scoring``: how answers are compared with the truth; ``gallery`` and ``baselines`` are what
  stands beside them; ``user`` keeps the truth. No attack imports any of these.
- ``attacker``: the attacker's networks and their use; ``key_attacks`` those on the key; ``trained``
  keeps networks on disk; ``auxiliary`` says which images the attacker has, ``fitting`` how it
  trains on them.
- One file for each family: ``mean_feature``, ``phase``, ``ica``, ``regression``, ``critic_search``,
  ``dss`` (with what they share in ``keys`` and ``whitening``), ``release`` and ``intersection``
  (``bases``), ``span``, ``inversion``, ``optimise``, ``substitute``, ``inference``.
"""
