"""Networks: one definition per architecture, real or rotation-equivariant by a kit of layers.

Start with :mod:`~complexnn.networks.registry`, whose ``build`` puts a
:class:`~complexnn.networks.splitnet.SplitNet` together from

- an architecture: :mod:`~complexnn.networks.topology` says what it is; lenet, resnet, classic
  (VGG-16 and AlexNet) and thin are those there are, with the layers of a
  :mod:`~complexnn.networks.kit`;
- :mod:`~complexnn.networks.encoder` (normalisation, generator) and
  :mod:`~complexnn.networks.local_server` (the control).

What the device sends: :mod:`~complexnn.networks.splitnet`, with
:mod:`~complexnn.networks.counterparts`, :mod:`~complexnn.networks.pool`,
:mod:`~complexnn.networks.defences` and :mod:`~complexnn.networks.signs`. Networks of one's own:
:mod:`~complexnn.networks.partition` cuts them, :mod:`~complexnn.networks.revise` makes them
equivariant, on graphs of :mod:`~complexnn.networks.trace`. Beside the networks:
:mod:`~complexnn.networks.critic`, :mod:`~complexnn.networks.attack_networks`, and
:mod:`~complexnn.networks.costs`, which counts what each stretch costs.
"""
