"""The algebra of features with parts: what commutes with their rotation, and what draws the keys.

Start with :mod:`~complexnn.rotation.functional`, which says what a feature is and holds the
formulas; :mod:`~complexnn.rotation.layers` are its modules. :mod:`~complexnn.rotation.fused` does
the gate and the norm in few passes over memory, with hand-derived gradients;
:mod:`~complexnn.rotation.equivariance` checks a network of one's own;
:mod:`~complexnn.rotation.processes` takes means over processes that train together.

Only these files index the axis of parts.
"""
