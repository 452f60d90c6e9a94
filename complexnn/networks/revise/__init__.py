"""Any ordinary network to its rotation-equivariant form.

:mod:`~complexnn.networks.revise.walk` goes through the plain network's graph, node by node, and
holds :func:`revise`. What becomes of a node stands in tables, one row a layer or call:

- :mod:`~complexnn.networks.revise.layer_rules` for modules (``nn.Conv2d``, ...),
- :mod:`~complexnn.networks.revise.call_rules` for functions and methods (``F.relu``, ...), with
  :mod:`~complexnn.networks.revise.sum_rules` (``+``, ``*``, ...),
  :mod:`~complexnn.networks.revise.attention` and
  :mod:`~complexnn.networks.revise.axis_rules` (``view``, ``permute``, ``chunk``, ...),
- :mod:`~complexnn.networks.revise.sizes` for what asks for shapes, and
  :mod:`~complexnn.networks.revise.constants` for stored tensors.

:mod:`~complexnn.networks.revise.call` says what is known of a node on the way: whether it is a
feature with parts, an invariant that no rotation changes, or a stored tensor.
:mod:`~complexnn.networks.revise.gates` chooses the forms of activations;
docs/your-own-network.md has their formulas.

To add a layer, write its rule, from the plain module or call to the new one, and add a row.
:mod:`~complexnn.networks.revise.operations` holds what runs in the revised network, if it is not a
layer of :mod:`complexnn.rotation`.
"""

from complexnn.networks.revise.call import RevisionError as RevisionError
from complexnn.networks.revise.walk import revise as revise
