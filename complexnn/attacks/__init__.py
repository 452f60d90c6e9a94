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
  ``dss`` (with what they share in ``unmixing`` and ``whitening``), ``release`` and
  ``intersection`` (``bases``), ``span``, ``inversion``, ``optimise``, ``substitute``,
  ``inference``.

To add an attack of a family that is there:

1. Write a function of the attacker and an ``Observation`` in ``answers``, its work in a file of its
   own, and a line in ``roster.ROSTER``. The name begins with the family, which decides how the
   answer is scored. For an attack on the key, write a function of the released tensor instead: a
   line in ``KeyAttacks._by_name``, and one by ``_angle`` in the roster; if it searches for each
   group, its name in ``key_attacks.SLOW``.
2. A network of its own is a ``cached_property`` of ``Attacker`` (of ``KeyAttacks``, for the key),
   made by ``TrainedNetworks.get``; the roster's line names the property in ``needs``. If its file
   has another name, ``attacker.FILES`` says which. In ``commands.estimates``, ``_networks`` says
   how large it is, and ``_answer`` what an unusual answer costs; an unknown network is taken for
   a decoder of single maps.
3. Describe it in the table of docs/attacks.md.

A claim withstands, or is weakened, only under every attack that could decide it. So such a verdict
becomes undecided until the network has met the new attack, too.

A new family also needs its name in ``config_attack.Attack``, a function in ``scoring.SCORES``, a
blind answer in ``Baselines.chances`` and, in ``report``, its main measure
(``ranking.MEASURE``), its unit (``attack_tables.UNITS``) and, if it decides a claim, a place in
``verdicts.FAMILIES``.
"""
